//! The small model that comes with the program: `models/builtin` says what it is.

use std::path::Path;

use crate::LoadedModel;
use crate::bytes::Bytes;
use crate::config::ConfigFile;
use crate::error::LoadError;
use crate::load::{described, load_bytes};

/// What to call it.
pub(crate) const NAME: &str = "builtin";

/// Its `config.json` and its checkpoint, where this build has them.
#[cfg(feature = "builtin-model")]
const FILES: Option<(&str, &[u8])> = Some((
    include_str!("../../../models/builtin/config.json"),
    include_bytes!("../../../models/builtin/model.safetensors"),
));
#[cfg(not(feature = "builtin-model"))]
const FILES: Option<(&str, &[u8])> = None;

/// Loads it; its tensors stay where they are in the program.
pub(crate) fn load() -> Result<LoadedModel, LoadError> {
    let (config, checkpoint) = FILES.ok_or(LoadError::NoBuiltin)?;
    let path = Path::new(NAME);
    let config = ConfigFile::parse(config)
        .map_err(|error| LoadError::Config { path: path.join("config.json"), error })?;
    let path = path.join("model.safetensors");
    described(NAME.to_owned(), config, |config| {
        load_bytes(config, Bytes::Program(checkpoint), &path)
            .map_err(|error| LoadError::Checkpoint { path, error })
    })
}
