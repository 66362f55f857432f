//! Damaged files: an error or a model, never a panic.

use std::path::Path;
use std::sync::OnceLock;

use danaus_model::{ConfigFile, ModelConfig, load_checkpoint};
use proptest::prelude::*;

use crate::common::{FIXTURES, fixture};

/// Both files of each fixture, with its configuration.
fn files() -> &'static [(ModelConfig, Vec<u8>)] {
    static FILES: OnceLock<Vec<(ModelConfig, Vec<u8>)>> = OnceLock::new();
    FILES.get_or_init(|| {
        let read = |name: &str, file: &str| {
            let json = std::fs::read_to_string(fixture(name).join("config.json")).unwrap();
            let config = ConfigFile::parse(&json).unwrap().into_config().unwrap();
            (config, std::fs::read(fixture(name).join(file)).unwrap())
        };
        FIXTURES
            .iter()
            .flat_map(|(name, _)| [read(name, "model.safetensors"), read(name, "pytorch_model.bin")])
            .collect()
    })
}

/// Loads a file with those bytes; the result does not matter. Loading without a configuration makes every size come from
/// the file.
fn load(config: &ModelConfig, bytes: &[u8]) -> bool {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let stated = load_checkpoint(config.clone(), file.path());
    let silent = load_checkpoint(ConfigFile::parse("{}").unwrap(), file.path());
    if let Err(error) = &stated {
        assert!(error.to_string().len() < 3000, "{error}");
    }
    stated.is_ok() || silent.is_ok()
}

/// Bytes of the file's structure rather than of its data: the header of a safetensors file, and the pickle and the
/// directory of a PyTorch file.
fn structure(bytes: &[u8]) -> Vec<usize> {
    if bytes.starts_with(b"PK") {
        let is_header = |window: &[u8]| window == b"PK\x01\x02";
        let directory = bytes.windows(4).position(is_header).unwrap();
        (0..40_000.min(directory)).chain(directory..bytes.len()).collect()
    } else {
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        (0..8 + header).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn changed_bytes(which in 0usize..6, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let (config, bytes) = &files()[which];
        let places = structure(bytes);
        let mut bytes = bytes.clone();
        for (place, value) in changes {
            bytes[*place.get(&places)] = value;
        }
        load(config, &bytes);
    }

    #[test]
    fn changed_digits(which in 0usize..6, changes in prop::collection::vec((any::<prop::sample::Index>(), b'0'..=b'9'), 1..4)) {
        let (config, bytes) = &files()[which];
        let places: Vec<usize> = structure(bytes).into_iter().filter(|at| bytes[*at].is_ascii_digit()).collect();
        let mut bytes = bytes.clone();
        for (place, value) in changes {
            bytes[*place.get(&places)] = value;
        }
        load(config, &bytes);
    }

    #[test]
    fn cut_short(which in 0usize..6, end in any::<prop::sample::Index>()) {
        let (config, bytes) = &files()[which];
        let end = end.index(bytes.len());
        prop_assert!(!load(config, &bytes[..end]), "a file cut at {} loads", end);
    }

    #[test]
    fn a_piece_removed_or_repeated(which in 0usize..6, start in any::<prop::sample::Index>(), length in 1usize..5000, repeat in any::<bool>()) {
        let (config, bytes) = &files()[which];
        let start = start.index(bytes.len());
        let end = (start + length).min(bytes.len());
        let mut changed = bytes[..if repeat { end } else { start }].to_vec();
        changed.extend_from_slice(&bytes[if repeat { start } else { end }..]);
        load(config, &changed);
    }

    #[test]
    fn garbage(start in prop::sample::select(vec![&b"PK\x03\x04"[..], b"\x10\0\0\0\0\0\0\0{", b""]), rest in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(!load(&files()[0].0, &[start, &rest].concat()));
    }
}

/// The beginning of each section is where lengths and offsets are, so every cut near one is tried.
#[test]
fn cut_at_every_section() {
    for (config, bytes) in files() {
        let mut cuts: Vec<usize> = (0..64).chain(bytes.len() - 64..bytes.len()).collect();
        let sections = bytes.windows(2).enumerate().filter(|(_, window)| window == b"PK").map(|(at, _)| at);
        cuts.extend(sections.step_by(7).flat_map(|at| [at, at + 1, at + 30]).filter(|at| *at < bytes.len()));
        for cut in cuts {
            assert!(!load(config, &bytes[..cut]), "a file cut at {cut} loads");
        }
    }
    assert!(load_checkpoint(files()[0].0.clone(), Path::new("/")).is_err());
}
