//! Which GPUs may compute, and which of them does.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use danaus_model::LoadedModel;

use super::guard::panic_message;
use super::{Accelerator, Description, Distrust, GuardOptions, GuardedBackend};
use crate::{Backend, BackendOptions, CpuBackend, Device, Dtype, EngineError};

/// Why a GPU cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// There is none, or nothing on this machine that drives it: nothing to be told where no GPU was asked for.
    #[error("{0}")]
    Absent(String),
    /// It is there, but it failed: something to be told in any case.
    #[error("{0}")]
    Broken(String),
}

/// A model on a GPU, or why not.
type Opened = Result<Box<dyn Accelerator>, Unavailable>;

/// A way to compute on GPUs.
pub(super) struct Candidate {
    /// The interface, for people.
    pub name: &'static str,
    /// Whether it is meant by this device.
    serves: fn(Device) -> bool,
    /// What its products can be computed in.
    dtypes: &'static [Dtype],
    /// Whether there is such a GPU: without a model, and quickly.
    find: fn(&BackendOptions) -> Result<(), Unavailable>,
    /// Puts a model on it.
    open: fn(&LoadedModel, &BackendOptions) -> Opened,
}

/// In the order in which they are tried.
pub(super) const CANDIDATES: &[Candidate] = &[
    #[cfg(feature = "cuda")]
    Candidate {
        name: "CUDA",
        serves: |device| matches!(device, Device::Auto | Device::Cuda(_)),
        dtypes: &[Dtype::Auto, Dtype::F32, Dtype::Bf16],
        find: super::cuda::find,
        open: super::cuda::open,
    },
    #[cfg(feature = "wgpu")]
    Candidate {
        name: "Metal or Vulkan",
        serves: |device| matches!(device, Device::Auto | Device::Metal | Device::Vulkan),
        dtypes: &[Dtype::Auto, Dtype::F32, Dtype::F16],
        find: super::wgpu::find,
        open: super::wgpu::open,
    },
];

impl Candidate {
    pub fn fits(&self, options: &BackendOptions) -> bool {
        (self.serves)(options.device) && self.dtypes.contains(&options.dtype)
    }

    fn find(&self, options: &BackendOptions) -> Result<(), Unavailable> {
        unpanicked(|| (self.find)(options))
    }

    pub fn open(&self, model: &LoadedModel, options: &BackendOptions) -> Opened {
        unpanicked(|| (self.open)(model, options))
    }
}

/// What `work` says, or what its panic does: libraries of drivers are not beyond it.
fn unpanicked<T>(work: impl FnOnce() -> Result<T, Unavailable>) -> Result<T, Unavailable> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(Unavailable::Broken(format!("panic: {}", panic_message(panic.as_ref())))))
}

/// See [`BackendOptions::check`].
pub(crate) fn check(options: &BackendOptions) -> Result<(), EngineError> {
    check_among(CANDIDATES, options)
}

/// See [`load_backend`](crate::load_backend).
pub(crate) fn choose(model: &LoadedModel, options: &BackendOptions) -> Result<Arc<dyn Backend>, EngineError> {
    choose_among(CANDIDATES, model, options)
}

fn check_among(candidates: &[Candidate], options: &BackendOptions) -> Result<(), EngineError> {
    let BackendOptions { device, dtype, .. } = options;
    match device {
        Device::Cpu => return check_cpu(*dtype),
        Device::Auto if *dtype == Dtype::F16 => {
            let found = candidates.iter().any(|one| one.fits(options) && one.find(options).is_ok());
            return if found { Ok(()) } else { check_cpu(*dtype) };
        }
        Device::Auto => return Ok(()),
        Device::Cuda(_) | Device::Metal | Device::Vulkan => {}
    }
    let candidate = candidates.iter().find(|candidate| (candidate.serves)(*device));
    let candidate =
        candidate.ok_or_else(|| asked_for(*device, "this build of danaus cannot compute there"))?;
    if !candidate.dtypes.contains(dtype) {
        let known: Vec<_> = candidate.dtypes.iter().map(Dtype::to_string).collect();
        return Err(EngineError::Unsupported(format!(
            "dtype {dtype} was asked for, but the device {device} computes in others: use one of --dtype {}, or --device cpu",
            known.join(", ")
        )));
    }
    candidate.find(options).map_err(|reason| asked_for(*device, &reason))
}

/// Whether the CPU backend has that dtype.
pub(crate) fn check_cpu(dtype: Dtype) -> Result<(), EngineError> {
    if dtype != Dtype::F16 {
        return Ok(());
    }
    let message =
        "dtype f16 is for GPUs that Metal or Vulkan drives, and there is none: use --dtype auto, bf16 or f32";
    Err(EngineError::Unsupported(message.to_owned()))
}

/// A device that was asked for by name and cannot be had.
fn asked_for(device: Device, reason: impl std::fmt::Display) -> EngineError {
    EngineError::Unsupported(format!(
        "device {device} was asked for, but {reason}: use --device cpu or auto (danaus doctor says more)"
    ))
}

fn choose_among(
    candidates: &[Candidate],
    model: &LoadedModel,
    options: &BackendOptions,
) -> Result<Arc<dyn Backend>, EngineError> {
    check_among(candidates, options)?;
    for candidate in candidates.iter().filter(|candidate| candidate.fits(options)) {
        match guarded(candidate, model, options)? {
            Ok(backend) if options.device == Device::Auto && backend.is_slower() => {
                tracing::info!(interface = candidate.name, "the CPU is faster than the GPU at every length");
            }
            Ok(backend) => return Ok(Arc::new(backend)),
            Err(reason) if options.device != Device::Auto => return Err(asked_for(options.device, reason)),
            Err(Unavailable::Absent(reason)) => {
                tracing::debug!(interface = candidate.name, reason, "there is no such GPU");
            }
            Err(Unavailable::Broken(reason)) => {
                tracing::warn!(interface = candidate.name, reason, "a GPU cannot be used: see danaus doctor");
            }
        }
    }
    Ok(Arc::new(CpuBackend::new(model, options)?))
}

/// The model on a candidate's GPU, once that has shown that it computes what the CPU does.
fn guarded(
    candidate: &Candidate,
    model: &LoadedModel,
    options: &BackendOptions,
) -> Result<Result<GuardedBackend, Unavailable>, EngineError> {
    let accelerator = match candidate.open(model, options) {
        Ok(accelerator) => accelerator,
        Err(unavailable) => return Ok(Err(unavailable)),
    };
    let cpu = CpuBackend::new(model, &beside(accelerator.description(), options))?;
    let name = accelerator.description().name.clone();
    match GuardedBackend::new(cpu, accelerator, &GuardOptions::from(options)) {
        Ok(backend) => Ok(Ok(backend)),
        Err(Distrust::Cpu(error)) => Err(error),
        Err(Distrust::Device(reason)) => {
            Ok(Err(Unavailable::Broken(format!("{name} is not trusted: {reason}"))))
        }
    }
}

/// Options of the CPU backend beside a GPU: in the dtype that is nearest to it.
pub(super) fn beside(gpu: &Description, options: &BackendOptions) -> BackendOptions {
    let dtype = if gpu.dtype == "f32" { Dtype::F32 } else { Dtype::Auto };
    BackendOptions { dtype, ..options.clone() }
}
