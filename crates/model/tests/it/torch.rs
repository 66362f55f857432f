//! PyTorch's files: those that torch.save wrote, and pickles that it never would.

use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use danaus_model::{Weights, load_checkpoint};
use half::{bf16, f16};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::common::{assert_same, bits, logged, small_config, tensors};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

#[test]
fn the_small_configuration_is_that_of_the_files() {
    let config = danaus_model::read_config(&data("small.json")).unwrap().into_config().unwrap();
    let small = small_config();
    assert_eq!(config, small);
}

/// The tensors that are in all of the files.
fn same_tensors() -> Weights {
    load_checkpoint(small_config(), &data("small.safetensors")).unwrap().1
}

#[test]
fn what_torch_saved_loads() {
    let expected = same_tensors();
    for name in ["module.pt", "nested.pt", "strided.pt", "one-storage.pt"] {
        let (loaded, log) = logged(|| load_checkpoint(small_config(), &data(name)));
        let (_, weights) = loaded.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(log, "", "{name}");
        assert_same(&weights, &expected);
    }
}

#[test]
fn what_torch_saved_in_half_precision_loads() {
    let (_, weights) = load_checkpoint(small_config(), &data("half.pt")).unwrap();
    let (half, full) = (tensors(&weights), tensors(&same_tensors()));
    let mut seen = [false; 2];
    for (name, tensor) in full {
        let round = |round: fn(f32) -> f32| {
            tensor.to_vec().into_iter().map(|x| round(x).to_bits()).collect::<Vec<_>>()
        };
        let got = bits(&half[&name]);
        let (as_f16, as_bf16) = (round(|x| f16::from_f32(x).to_f32()), round(|x| bf16::from_f32(x).to_f32()));
        assert!(got == as_f16 || got == as_bf16, "{name}");
        seen[usize::from(got == as_f16)] = true;
    }
    assert_eq!(seen, [true; 2]);
}

fn error(file: &Path) -> String {
    let message = load_checkpoint(small_config(), file).unwrap_err().to_string();
    message.strip_prefix(&format!("{}: ", file.display())).unwrap().to_owned()
}

#[test]
fn what_torch_saved_and_is_no_dictionary_of_weights_is_refused() {
    let cases = [
        (
            "legacy.pt",
            "a checkpoint in PyTorch's old format (a bare pickle, from before version 1.6), which is not supported; convert it",
        ),
        (
            "namespace.pt",
            "the PyTorch file asks for argparse.Namespace, which a file of tensors does not need",
        ),
        ("whole-module.pt", "the PyTorch file asks for torch.nn.modules.linear.Linear, which"),
        ("list.pt", "a damaged or unusual PyTorch file: its data.pkl, at byte"),
    ];
    for (name, expected) in cases {
        let error = error(&data(name));
        assert!(error.starts_with(expected), "{error}");
    }
    assert!(error(&data("list.pt")).ends_with("it holds no dictionary of tensors, as a state dict is one"));
    let double = error(&data("double.pt"));
    assert!(double.ends_with("has type float64: expected float32, float16 or bfloat16"), "{double}");
}

/// A zip file of stored entries.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in entries {
        writer.start_file(*name, options).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn error_of(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.bin");
    std::fs::write(&file, bytes).unwrap();
    error(&file)
}

fn error_of_pickle(pickle: &[u8]) -> String {
    error_of(&archive(&[("archive/data.pkl", pickle), ("archive/data/0", &[0; 64])]))
}

/// The pickle of a dictionary with one tensor `w` in storage `0`, as torch.save writes it.
fn pickle(storage: &str, elements: u8, offset: u8, shape: &[u8], strides: &[u8]) -> Vec<u8> {
    named_pickle("w", storage, (elements, offset), (shape, strides))
}

fn named_pickle(
    name: &str,
    storage: &str,
    (elements, offset): (u8, u8),
    (shape, strides): (&[u8], &[u8]),
) -> Vec<u8> {
    let mut pickle = b"\x80\x02}X".to_vec();
    pickle.extend_from_slice(&(name.len() as u32).to_le_bytes());
    pickle.extend_from_slice(name.as_bytes());
    pickle.extend_from_slice(b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storage");
    pickle.extend_from_slice(format!("ctorch\n{storage}\n").as_bytes());
    pickle.extend_from_slice(b"X\x01\0\0\x000X\x03\0\0\0cpuK");
    pickle.extend_from_slice(&[elements, b't', b'Q', b'K', offset]);
    for sizes in [shape, strides] {
        pickle.push(b'(');
        sizes.iter().for_each(|size| pickle.extend_from_slice(&[b'K', *size]));
        pickle.push(b't');
    }
    pickle.extend_from_slice(b"\x89ccollections\nOrderedDict\n)RtRs.");
    pickle
}

#[test]
fn a_pickle_of_one_tensor_is_read() {
    let error = error_of_pickle(&pickle("FloatStorage", 16, 2, &[3, 2], &[4, 1]));
    assert!(error.contains("tensors of an M2-BERT model are missing"), "{error}");
    for class in ["HalfStorage", "BoolStorage", "ComplexDoubleStorage"] {
        let elements = match class {
            "HalfStorage" => 32,
            "BoolStorage" => 64,
            _ => 4,
        };
        let error = error_of_pickle(&pickle(class, elements, 0, &[1], &[1]));
        assert!(error.contains("are missing"), "{class}: {error}");
    }
}

#[test]
fn tensors_beyond_their_storage_are_refused() {
    let beyond = "tensor w reaches beyond its data: the file is damaged";
    let shape = |offset, shape: &[u8], strides: &[u8]| {
        error_of_pickle(&pickle("FloatStorage", 16, offset, shape, strides))
    };
    assert_eq!(shape(0, &[17], &[1]), beyond);
    assert_eq!(shape(1, &[16], &[1]), beyond);
    assert_eq!(shape(0, &[2, 2], &[15, 2]), beyond);
    assert_eq!(shape(17, &[0], &[1]), beyond);
    assert!(shape(16, &[0], &[1]).contains("are missing"));
    assert!(shape(0, &[2, 2], &[14, 1]).contains("are missing"));
    assert!(shape(0, &[2, 2], &[1]).contains("a tensor of shape [2, 2] has strides [1]"));
    assert!(shape(0, &[1; 9], &[1; 9]).contains("a tensor has 9 dimensions: expected 8 at most"));
    let elements = error_of_pickle(&pickle("FloatStorage", 15, 0, &[1], &[1]));
    assert!(
        elements.contains("tensor w: its storage 0 has 64 bytes, and 15 elements of 4 bytes are described"),
        "{elements}"
    );
    let lost = error_of(&archive(&[("a/data.pkl", &pickle("FloatStorage", 16, 0, &[1], &[1]))]));
    assert!(lost.contains("tensor w: its storage 0 is not in the archive"), "{lost}");
}

/// Else a file of a kilobyte could ask for gigabytes.
#[test]
fn a_tensor_that_repeats_its_storage_is_refused() {
    let name = "embeddings.word_embeddings.weight";
    for strides in [[0, 0], [0, 1]] {
        let repeated = named_pickle(name, "FloatStorage", (16, 0), (&[40, 8], &strides));
        let expected = format!("tensor {name} has 320 elements and a storage of 16, which it repeats: ");
        let error = error_of_pickle(&repeated);
        assert!(error.starts_with(&expected) && error.contains("call contiguous() on it"), "{error}");
    }
}

#[test]
fn names_that_no_tensor_needs_are_refused_and_nothing_is_run() {
    for (module, name) in [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("torch", "load"),
        ("torch._utils", "_rebuild_tensor"),
        ("collections", "Counter"),
        ("torch.nn.modules.linear", "Linear"),
        ("torch", "FloatStorage2"),
    ] {
        let call = format!("\x02c{module}\n{name}\n(X\x04\0\0\0truetR.");
        let error = error_of_pickle(&[&[0x80], call.as_bytes()].concat());
        assert!(error.starts_with(&format!("the PyTorch file asks for {module}.{name}, which")), "{error}");
    }
    let stacked = error_of_pickle(b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93.");
    assert!(stacked.starts_with("the PyTorch file asks for os.system"), "{stacked}");
    let long = [b"\x80\x02c".as_slice(), &[b'x'; 100_000], b"\ny\n."].concat();
    assert!(error_of_pickle(&long).len() < 400);
}

#[test]
fn instructions_that_describe_no_tensor_are_refused() {
    let cases: [(&[u8], &str); 22] = [
        (b"", "at byte 0: it ends in the middle of an instruction"),
        (b"\x80", "it ends in the middle of an instruction"),
        (b"\x80\x01.", "protocol 1: expected 2 to 5"),
        (b"\x80\x02.", "the stack is empty"),
        (b"\x80\x02}", "it ends in the middle of an instruction"),
        (b"\x80\x02}.", "it holds no dictionary of tensors"),
        (b"\x80\x02(.", "the stack is empty"),
        (b"\x80\x02t.", "the stack has no mark"),
        (b"\x80\x02\x87.", "the stack is empty"),
        (b"\x80\x02h\x07.", "slot 7 of the memo is empty"),
        (b"\x80\x02q\x07.", "the stack is empty"),
        (b"\x80\x02}K\x01u.", "the stack has no mark"),
        (b"\x80\x02}(K\x01u.", "a key of a dictionary has no value"),
        (b"\x80\x02](K\x01K\x01u.", "items are set in what is not a dictionary"),
        (b"\x80\x02}K\x01a.", "something is appended to what is not a list"),
        (b"\x80\x02X\xff\xff\xff\xffab.", "it ends in the middle of an instruction"),
        (b"\x80\x02X\x01\0\0\0\xff.", "a text is not UTF-8"),
        (b"\x80\x02}b.", "attributes are set on what is not a dictionary"),
        (b"\x80\x02\x8a\x09123456789.", "a whole number of 9 bytes"),
        (b"\x80\x02}}R.", "a call without a name and a tuple"),
        (b"\x80\x02)Q.", "a reference to something outside the pickle is not one to a storage"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.", "a tensor is described by other arguments"),
    ];
    for (pickle, expected) in cases {
        let error = error_of_pickle(pickle);
        assert!(error.contains("its data.pkl, at byte") && error.contains(expected), "{pickle:?}: {error}");
    }
    for code in (0u8..=255).filter(|code| {
        !b"().NJKMGXRQ}]aeusbtqrhjc\x80\x85\x86\x87\x88\x89\x8a\x8c\x93\x94\x95".contains(code)
    }) {
        let error = error_of_pickle(&[0x80, 2, code, b'.']);
        assert!(error.contains(&format!("instruction 0x{code:02x}")), "{error}");
    }
}

#[test]
fn hostile_pickles_end_in_an_error() {
    let nested = [b"\x80\x02".as_slice(), b")".as_slice(), &[0x85; 1 << 20], b"."].concat();
    assert!(error_of_pickle(&nested).contains("it holds no dictionary of tensors"));
    let cyclic = b"\x80\x02}q\0X\x05\0\0\0modelh\0s.";
    assert!(error_of_pickle(cyclic).contains("it holds no dictionary of tensors"));
    // Twenty levels of a tuple of two references to the level below: a million values if it were ever unfolded.
    let mut doubling = b"\x80\x02)".to_vec();
    (0..20).for_each(|_| doubling.extend_from_slice(b"q\0h\0\x86"));
    doubling.push(b'.');
    assert!(error_of_pickle(&doubling).contains("it holds no dictionary of tensors"));
    // A long name under which a hundred thousand tensors are set.
    let mut names = b"\x80\x02}X\0\0\x10\0".to_vec();
    names.extend_from_slice(&vec![b'n'; 1 << 20]);
    names.extend_from_slice(b"q\x010");
    assert!(error_of_pickle(&names).contains("instruction 0x30 ('0')"));
    let big = vec![b'N'; (8 << 20) + 1];
    assert!(error_of_pickle(&big).contains("it has more than 8388608 bytes"));
}

#[test]
fn odd_archives_are_refused() {
    let good = pickle("FloatStorage", 16, 0, &[1], &[1]);
    let two = error_of(&archive(&[("a/data.pkl", &good), ("b/data.pkl", &good)]));
    assert!(two.contains("it holds both a/data.pkl and b/data.pkl"), "{two}");
    let none = error_of(&archive(&[("a/other", &good)]));
    assert!(none.contains("it is a zip file without an entry data.pkl"), "{none}");
    let big = error_of(&archive(&[("a/data.pkl", &good), ("a/byteorder", b"big"), ("a/data/0", &[0; 64])]));
    assert!(big.contains("its byte order is \"big\": expected \"little\""), "{big}");
    let rootless = error_of(&archive(&[("data.pkl", &good), ("data/0", &[0; 64])]));
    assert!(rootless.contains("are missing"), "{rootless}");
}

/// Patches the compression method of an entry in both of its headers, as a zip bomb has it.
#[test]
fn compressed_entries_are_refused_and_not_unpacked() {
    let good = pickle("FloatStorage", 16, 0, &[1], &[1]);
    let plain = archive(&[("a/data.pkl", &good), ("a/data/0", &[0; 64])]);
    for (name, method_at) in [("a/data.pkl", 0usize), ("a/data/0", 1)] {
        let mut bytes = plain.clone();
        for (signature, offset) in [(b"PK\x03\x04", 8), (b"PK\x01\x02", 10)] {
            let at: Vec<usize> =
                bytes.windows(4).enumerate().filter(|(_, w)| w == signature).map(|(i, _)| i).collect();
            bytes[at[method_at] + offset] = 8;
        }
        let error = error_of(&bytes);
        assert!(error.contains(&format!("entry {name}")), "{error}");
    }
}
