//! The pickle inside a PyTorch checkpoint, in a sound archive with the storages that the seeds name.

#![no_main]

use std::io::{Cursor, Write};

use danaus_fuzz::load;
use danaus_model::ConfigFile;
use libfuzzer_sys::fuzz_target;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// Bytes of each storage, the largest that the seeds need. What they hold does not matter: zeros.
const STORAGES: [(&str, usize); 3] = [("0", 13_120), ("1", 64), ("2", 8)];

fuzz_target!(|pickle: &[u8]| {
    load(ConfigFile::parse("{}").expect("a configuration"), &archive(pickle));
});

fn archive(pickle: &[u8]) -> Vec<u8> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    let mut add = |name: &str, content: &[u8]| {
        archive.start_file(name, options).expect("an entry");
        archive.write_all(content).expect("memory");
    };
    add("model/data.pkl", pickle);
    for (key, length) in STORAGES {
        add(&format!("model/data/{key}"), &vec![0; length]);
    }
    archive.finish().expect("an archive").into_inner()
}
