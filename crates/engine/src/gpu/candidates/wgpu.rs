//! GPUs that Metal or Vulkan drives.

use danaus_model::LoadedModel;

use super::{Opened, Unavailable};
use crate::BackendOptions;

/// Whether there is such a GPU: without a model, and quickly.
pub(super) fn find(_: &BackendOptions) -> Result<(), Unavailable> {
    Err(Unavailable::Absent("this build has neither Metal nor Vulkan".to_owned()))
}

/// A model on the GPU that `options` ask for.
pub(super) fn open(_: &LoadedModel, options: &BackendOptions) -> Opened {
    find(options)?;
    Err(Unavailable::Broken("it cannot be used yet".to_owned()))
}
