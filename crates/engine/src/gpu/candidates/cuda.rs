//! NVIDIA GPUs.

use danaus_model::LoadedModel;

use super::{Opened, Unavailable};
use crate::gpu::cuda::{CudaAccelerator, CudaOptions, CudaUnavailable, Element, devices};
use crate::{BackendOptions, Device, Dtype};

impl From<CudaUnavailable> for Unavailable {
    fn from(unavailable: CudaUnavailable) -> Self {
        match unavailable {
            CudaUnavailable::Absent(reason) => Self::Absent(reason),
            CudaUnavailable::Failed(reason) => Self::Broken(reason),
        }
    }
}

/// Whether there is such a GPU: without a model, and quickly.
pub(super) fn find(options: &BackendOptions) -> Result<(), Unavailable> {
    let (index, count) = (index(options), devices()?.len());
    if index >= count {
        return Err(Unavailable::Absent(format!("there is no NVIDIA GPU {index}: the driver has {count}")));
    }
    Ok(())
}

/// A model on the GPU that `options` ask for.
pub(super) fn open(model: &LoadedModel, options: &BackendOptions) -> Opened {
    // The other dtypes are none of this candidate's.
    let element = if options.dtype == Dtype::F32 { Element::F32 } else { Element::F16 };
    Ok(Box::new(CudaAccelerator::new(model, &CudaOptions { index: index(options), element })?))
}

/// The number of the GPU.
fn index(options: &BackendOptions) -> usize {
    match options.device {
        Device::Cuda(Some(index)) => usize::try_from(index).unwrap_or(usize::MAX),
        _ => 0,
    }
}
