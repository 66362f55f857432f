//! A `config.json` in the first line, and a checkpoint, safetensors or PyTorch, in the rest.

#![no_main]

use danaus_fuzz::{assert_readable, load};
use danaus_model::ConfigFile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let json = String::from_utf8_lossy(&data[..end]);
    let config = match ConfigFile::parse(&json) {
        Ok(config) => config,
        Err(error) => return assert_readable(&error.to_string()),
    };
    match data.get(end + 1..) {
        Some(checkpoint) => load(config, checkpoint),
        None => {
            let _ = config.into_config().inspect_err(|error| assert_readable(&error.to_string()));
        }
    }
});
