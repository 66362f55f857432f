//! The file of far fields: what was written is read, whatever else is there is refused with its reason.

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{
    DIGEST, backend, bits, embed, far_field_store, golden_ids, prepared, smooth_model, with_header,
    with_metadata,
};
use danaus_engine::padding::{Bin, FarFields, Store, StoreError};
use danaus_engine::{Backend, CpuBackend, Padding, Pooling};
use serde_json::{Value, json};

fn small_backend() -> CpuBackend {
    backend(&smooth_model())
}

/// A store that holds the small model's far fields.
fn written(folder: &str) -> (Store, Arc<FarFields>) {
    let store = far_field_store(folder, 1e-3);
    let far_fields = prepared(&small_backend(), 1e-3);
    store.write(&far_fields).unwrap();
    (store, far_fields)
}

/// Asserts that a store's file is refused, with its name and `reason`.
#[track_caller]
fn assert_unusable(store: &Store, reason: &str) {
    let error = store.read().expect_err("a file that must be refused");
    assert!(matches!(&error, StoreError::Unusable { path, .. } if path == store.path()), "{error:?}");
    let message = error.to_string();
    let start = format!("{} cannot be used: ", store.path().display());
    assert!(message.starts_with(&start) && message[start.len()..].contains(reason), "{message}");
}

fn names(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    names.map(|name| name.into_string().unwrap()).collect()
}

#[test]
fn what_was_written_is_read() {
    let (store, far_fields) = written("roundtrip");
    let read = store.read().unwrap();
    assert_eq!((read.bound(), read.max_tokens(), read.bytes()), (1e-3, 300, far_fields.bytes()));
    assert!(read.bins().count() > 3);
    let lengths = |bin: &Bin| (bin.shortest, bin.longest, bin.window, bin.probes);
    assert!(read.bins().map(lengths).eq(far_fields.bins().map(lengths)));
    for (read, written) in read.bins().zip(far_fields.bins()) {
        for (read, written) in read.errors.iter().zip(written.errors) {
            assert!((read - written).abs() <= 1e-15 * written, "{read} was {written}");
        }
    }
    let (computed, mapped) = (small_backend(), small_backend());
    for bin in far_fields.bins() {
        let values = |far_fields: &FarFields| {
            let window = far_fields.window(bin.longest, 0.05, Pooling::Mean).expect("a window");
            let far_field = window.far_field.expect("a far field");
            let (values, scales) = far_field.values();
            (values.to_vec(), bits(scales))
        };
        assert!(values(&read) == values(&far_fields), "{bin:?}");
    }
    computed.set_far_fields(far_fields);
    mapped.set_far_fields(Arc::new(read));
    for tokens in [2, 3, 8, 20, 77, 128, 200] {
        let vector =
            |backend: &CpuBackend| bits(&embed(backend, &golden_ids(tokens), Pooling::Mean, Padding::Fast));
        assert_eq!(vector(&mapped), vector(&computed), "{tokens} tokens");
    }
}

/// A window that serves several ranges is in the file, and in memory, once.
#[test]
fn shared_windows_are_stored_once() {
    let store = far_field_store("shared", 1e-4);
    let backend = small_backend();
    let far_fields = prepared(&backend, 1e-4);
    store.write(&far_fields).unwrap();
    let windows: Vec<_> = far_fields.bins().map(|bin| (bin.window, bin.sketch)).collect();
    let distinct: std::collections::BTreeSet<_> = windows.iter().collect();
    assert!(distinct.len() < windows.len() && distinct.len() > 2, "{windows:?}");
    let (mut names, mut bytes) = (Vec::new(), 0);
    with_metadata(&store, |metadata, data| {
        names = metadata.as_object().unwrap().keys().cloned().collect();
        bytes = data.len();
    });
    let count = |part: &str| names.iter().filter(|name| name.starts_with(part)).count();
    assert_eq!(count("far_field."), 2 * distinct.len(), "{names:?}");
    assert_eq!(count("sketch."), 2 * distinct.iter().filter(|(_, sketch)| *sketch > 0).count(), "{names:?}");
    let read = store.read().unwrap();
    assert_eq!((far_fields.bytes(), read.bytes()), (bytes, bytes));
    assert!(read.bins().eq(far_fields.bins()));
    // Whatever text a window is for, its far field is the same one.
    for fields in [&*far_fields, &read] {
        let mut seen = std::collections::BTreeSet::new();
        for (tokens, pooling) in (2..=150).flat_map(|tokens| Pooling::ALL.map(|pooling| (tokens, pooling))) {
            let Some(window) = fields.window(tokens, 0.1, pooling) else { continue };
            seen.insert((window.rows, window.far_field.map(|far_field| Arc::as_ptr(&far_field))));
        }
        assert_eq!(seen.len(), distinct.len(), "{seen:?}");
    }
    // What was read is written again as it was.
    store.write(&far_fields).unwrap();
    let file = std::fs::read(store.path()).unwrap();
    store.write(&store.read().unwrap()).unwrap();
    assert!(std::fs::read(store.path()).unwrap() == file);
}

#[test]
fn a_store_is_a_file_of_any_name_or_one_in_a_folder() {
    let store = far_field_store("places", 1e-3);
    let folder = store.path().parent().unwrap();
    store.check_writable().unwrap();
    assert!(folder.is_dir() && names(folder).is_empty(), "trying leaves nothing");
    store.write(&prepared(&small_backend(), 1e-3)).unwrap();
    let named = folder.join("any name");
    let file = store.at(&named);
    assert_eq!(file.path(), named);
    assert_eq!(file, Store::file(&named, DIGEST, "f32", 1e-3));
    assert!(matches!(file.read(), Err(StoreError::Missing(_))));
    std::fs::copy(store.path(), &named).unwrap();
    assert_eq!(file.read().unwrap().bytes(), store.read().unwrap().bytes());
    assert_unusable(&Store::file(&named, DIGEST, "f32", 1e-2), "of another model, dtype or bound");
    // In a folder it has its own name.
    assert_eq!(file.at(folder), store);
    assert_eq!(Store::file(Path::new("name"), DIGEST, "f32", 1e-3).path(), Path::new("name"));
    // A folder below a file cannot be made.
    let error = file.at(&named.join("below")).check_writable().unwrap_err().to_string();
    assert!(error.contains(&named.display().to_string()), "{error}");
}

/// Bounds of any number of digits: one that is read as another would never find its file again.
#[test]
fn a_bound_finds_its_own_file() {
    let folder = far_field_store("bounds", 1e-3).path().parent().unwrap().to_owned();
    let far_fields = prepared(&small_backend(), 1e-3);
    let bounds = [1e-6, 1e-3, 0.00123, 1.0, 1.0 / 3.0, 2e-4f64.sqrt(), 0.000_123_456_789_012_345];
    for bound in bounds {
        let store = Store::new(&folder, DIGEST, "f32", bound);
        store.write(&far_fields).unwrap();
        assert_eq!(store.read().unwrap_or_else(|error| panic!("{bound}: {error}")).bound(), bound);
    }
    assert_eq!(names(&folder).len(), bounds.len(), "a file for each bound");
}

#[test]
fn a_file_that_is_not_there_is_missing() {
    let store = far_field_store("missing", 1e-3);
    let error = store.read().unwrap_err();
    assert!(matches!(&error, StoreError::Missing(path) if path == store.path()), "{error:?}");
    assert_eq!(error.to_string(), format!("{} does not exist", store.path().display()));
    assert!(!store.path().parent().unwrap().exists(), "reading makes no folder");
    std::fs::create_dir_all(store.path()).unwrap();
    assert_unusable(&store, "");
}

#[test]
fn files_of_other_models_dtypes_and_bounds_are_not_confused() {
    let (store, _) = written("others");
    let folder = store.path().parent().unwrap();
    // As much of it as the name has is the same.
    let twin = format!("{}ffff", &DIGEST[..16]);
    assert_unusable(&Store::new(folder, &twin, "f32", 1e-3), "of another model, dtype or bound");
    for other in [
        Store::new(folder, &DIGEST.replace('0', "f"), "f32", 1e-3),
        Store::new(folder, DIGEST, "bf16", 1e-3),
        Store::new(folder, DIGEST, "f32", 1e-4),
    ] {
        assert!(matches!(other.read(), Err(StoreError::Missing(_))), "{other:?}");
        std::fs::copy(store.path(), other.path()).unwrap();
        assert_unusable(&other, "of another model, dtype or bound");
    }
    store.read().unwrap();
}

#[test]
fn a_file_that_was_cut_or_changed_is_refused() {
    let (store, far_fields) = written("damaged");
    let file = std::fs::read(store.path()).unwrap();
    let cut = (0..file.len()).step_by(file.len() / 200).chain([1, 7, 8, 9, file.len() - 2, file.len() - 1]);
    for length in cut {
        std::fs::write(store.path(), &file[..length]).unwrap();
        assert_unusable(&store, "");
    }
    std::fs::write(store.path(), [&file[..], b"\0"].concat()).unwrap();
    assert_unusable(&store, "");
    let header = 8 + u64::from_le_bytes(*file.first_chunk().unwrap()) as usize;
    for place in [header, header + 1, (header + file.len()) / 2, file.len() - 1] {
        for bit in [0, 7] {
            let mut changed = file.clone();
            changed[place] ^= 1 << bit;
            std::fs::write(store.path(), changed).unwrap();
            assert_unusable(&store, "its contents are damaged");
        }
    }
    // The container's own notes are not the digest's: where one changed, the rest must still be what was written.
    for place in (0..header).step_by(5) {
        let mut changed = file.clone();
        changed[place] ^= 4;
        std::fs::write(store.path(), changed).unwrap();
        if let Ok(read) = store.read() {
            assert_eq!(read.bytes(), far_fields.bytes());
            assert!(read.bins().map(|bin| bin.window).eq(far_fields.bins().map(|bin| bin.window)));
        }
    }
    std::fs::write(store.path(), &file).unwrap();
    store.read().unwrap();
}

#[test]
fn what_is_no_such_file_is_refused_with_the_reason() {
    let (store, _) = written("garbage");
    let of_json = |json: &str| [&(json.len() as u64).to_le_bytes(), json.as_bytes()].concat();
    for (content, reason) in [
        (Vec::new(), ""),
        (b"no safetensors".to_vec(), "no safetensors file"),
        (vec![0; 8], "no safetensors file"),
        (vec![0xff; 64], "no safetensors file"),
        (of_json("{"), "no safetensors file"),
        (of_json("[]"), "no safetensors file"),
        (of_json("{}"), "it holds no far fields"),
        (of_json(r#"{"__metadata__": {"format": "pt"}}"#), "it holds no far fields"),
        (of_json(r#"{"__metadata__": {"danaus_far_fields": ""}}"#), "of another version"),
        (of_json(r#"{"__metadata__": {"danaus_far_fields": "{}"}}"#), "of another version"),
        (of_json(r#"{"__metadata__": {"danaus_far_fields": "0 {}"}}"#), "of another version"),
    ] {
        std::fs::write(store.path(), &content).unwrap();
        assert_unusable(&store, reason);
    }
}

#[test]
fn headers_that_lie_are_refused() {
    let (store, far_fields) = written("lies");
    type Edit = fn(&mut Value);
    let edits: [(Edit, &str); 16] = [
        (|header| header["bins"][1]["longest"] = json!(5000), "do not fit a window of"),
        (|header| header["version"] = json!(header["version"].as_u64().unwrap() + 1), "of version "),
        (|header| header["version"] = json!(0), "of version 0"),
        (|header| header["version"] = json!("1"), "of another version"),
        (|header| header["bins"][1]["errors"] = json!([0.0, 0.0]), "of another version"),
        (|header| header["bins"][1]["errors"] = json!([null, 0.0, 0.0]), "of another version"),
        (|header| header["bins"][0]["window"] = json!(40), "far_field.0 has another shape"),
        (|header| header["bins"][0]["window"] = json!(9), "do not fit a window of 9"),
        (|header| header["bins"][0]["step"] = json!(0), "do not fit a window of"),
        (|header| header["bins"][0]["step"] = json!(77), "far_field.0 has another shape"),
        (|header| header["bins"][0]["rows"] = json!(47), "sketch.0 has another shape"),
        (
            |header| header["bins"][0]["sketch"] = json!(47),
            "a window of 16 and 47 rows has another's far field",
        ),
        (
            |header| header["bins"][1]["fields"] = json!(0),
            "a window of 32 and 32 rows has another's far field",
        ),
        (|header| header["max_tokens"] = json!(200), "running_sums has another shape"),
        (|header| header["layers"] = json!(1), "running_sums has another shape"),
        (
            |header| {
                let bins = header["bins"].as_array_mut().unwrap();
                bins.push(bins[0].clone());
                bins.last_mut().unwrap()["fields"] = json!(99);
            },
            " is missing",
        ),
    ];
    for (edit, reason) in edits {
        store.write(&far_fields).unwrap();
        with_header(&store, edit);
        assert_unusable(&store, reason);
    }
    for name in [
        "far_field.0",
        "far_field.0.scales",
        "sketch.0",
        "sketch.0.scales",
        "running_sums",
        "running_sums.scales",
    ] {
        store.write(&far_fields).unwrap();
        with_metadata(&store, |metadata, _| {
            let values = metadata.as_object_mut().unwrap().remove(name).unwrap();
            metadata["another"] = values;
        });
        assert_unusable(&store, &format!("{name} is missing"));
    }
}

#[test]
fn a_file_is_replaced_as_a_whole_and_leaves_nothing_beside_it() {
    let (store, far_fields) = written("replaced");
    let folder = store.path().parent().unwrap();
    let name = store.path().file_name().unwrap().to_str().unwrap();
    assert_eq!(names(folder), [name]);
    // The old file, still mapped while another takes its place.
    let old = store.read().unwrap();
    store.write(&prepared(&small_backend(), 1e-12)).unwrap();
    assert_eq!(names(folder), [name]);
    assert_eq!(store.read().unwrap().bins().count(), 0);
    let values = |far_fields: &FarFields| {
        let far_field = far_fields.window(20, 0.05, Pooling::Mean).unwrap().far_field.unwrap();
        let (values, scales) = far_field.values();
        (values.to_vec(), bits(scales))
    };
    assert!(values(&old) == values(&far_fields));
    // Where it cannot be written, neither.
    std::fs::remove_file(store.path()).unwrap();
    std::fs::create_dir(store.path()).unwrap();
    let error = store.write(&far_fields).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot write {}", store.path().display())), "{error}");
    assert_eq!(names(folder), [name]);
    std::fs::remove_dir(store.path()).unwrap();
    std::fs::remove_dir(folder).unwrap();
    std::fs::write(folder, "a file, no folder").unwrap();
    let error = store.write(&far_fields).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot write {}", folder.display())), "{error}");
}
