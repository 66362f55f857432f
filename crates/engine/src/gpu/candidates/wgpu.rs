//! GPUs that Metal or Vulkan drives.

use danaus_model::LoadedModel;

use super::{Opened, Unavailable};
use crate::gpu::wgpu::{Api, WgpuAccelerator, WgpuOptions, list_adapters};
use crate::{BackendOptions, Device, Dtype};

/// Whether there is such a GPU: without a model, and quickly.
pub(super) fn find(options: &BackendOptions) -> Result<(), Unavailable> {
    let found = list_adapters(api(options));
    match found.iter().any(|adapter| adapter.device_type != "CPU") {
        true => Ok(()),
        false => Err(Unavailable::Absent("there is no GPU with a driver for it".to_owned())),
    }
}

/// A model on the GPU that `options` ask for.
pub(super) fn open(model: &LoadedModel, options: &BackendOptions) -> Opened {
    find(options)?;
    let wanted = WgpuOptions {
        backends: api(options),
        allow_cpu: false,
        // By itself, half precision where the GPU has it.
        f16: (options.dtype != Dtype::Auto).then_some(options.dtype == Dtype::F16),
        cache_dir: options.cache_dir.clone(),
    };
    Ok(Box::new(WgpuAccelerator::new(model, &wanted).map_err(Unavailable::Broken)?))
}

/// The interfaces to look at.
fn api(options: &BackendOptions) -> Api {
    match options.device {
        Device::Metal => Api::Metal,
        Device::Vulkan => Api::Vulkan,
        _ => Api::Any,
    }
}
