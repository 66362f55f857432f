//! Which GPUs may compute, and which of them does.

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "wgpu")]
mod wgpu;

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
pub(super) type Opened = Result<Box<dyn Accelerator>, Unavailable>;

/// A way to compute on GPUs.
pub(super) struct Candidate {
    /// The interface, for people.
    pub name: &'static str,
    /// Whether it is meant by this device.
    pub serves: fn(Device) -> bool,
    /// What its products can be computed in.
    pub dtypes: &'static [Dtype],
    /// Whether there is such a GPU: without a model, and quickly.
    pub find: fn(&BackendOptions) -> Result<(), Unavailable>,
    /// Puts a model on it.
    pub open: fn(&LoadedModel, &BackendOptions) -> Opened,
}

/// In the order in which they are tried.
pub(super) const CANDIDATES: &[Candidate] = &[
    #[cfg(feature = "cuda")]
    Candidate {
        name: "CUDA",
        serves: |device| matches!(device, Device::Auto | Device::Cuda(_)),
        dtypes: &[Dtype::Auto, Dtype::F32, Dtype::F16],
        find: cuda::find,
        open: cuda::open,
    },
    #[cfg(feature = "wgpu")]
    Candidate {
        name: "Metal or Vulkan",
        serves: |device| matches!(device, Device::Auto | Device::Metal | Device::Vulkan),
        dtypes: &[Dtype::Auto, Dtype::F32, Dtype::F16],
        find: wgpu::find,
        open: wgpu::open,
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
    let message = "dtype f16 is for GPUs, and there is none: use --dtype auto, bf16 or f32";
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

#[cfg(test)]
mod tests {
    use danaus_model::{ModelConfig, synthetic};

    use super::*;
    use crate::gpu::faulty::{Control, Fault, Faulty};

    fn absent<T>() -> Result<T, Unavailable> {
        Err(Unavailable::Absent("there is no such driver".to_owned()))
    }

    fn broken<T>() -> Result<T, Unavailable> {
        Err(Unavailable::Broken("the driver is too old".to_owned()))
    }

    fn works(model: &LoadedModel, _: &BackendOptions) -> Opened {
        Ok(Faulty::open(model, Dtype::F32).0)
    }

    fn computes_nonsense(model: &LoadedModel, _: &BackendOptions) -> Opened {
        let control = Control::default();
        control.fault(Fault::Wrong);
        Ok(Faulty::with_control(model, Dtype::F32, &control).0)
    }

    fn is_slow(model: &LoadedModel, _: &BackendOptions) -> Opened {
        let control = Control::default();
        control.slow(std::time::Duration::from_millis(20));
        Ok(Faulty::with_control(model, Dtype::F32, &control).0)
    }

    const CUDA: Candidate = Candidate {
        name: "CUDA",
        serves: |device| matches!(device, Device::Auto | Device::Cuda(_)),
        dtypes: &[Dtype::Auto, Dtype::F32, Dtype::F16],
        find: |_| absent(),
        open: |_, _| absent(),
    };

    const WGPU: Candidate = Candidate {
        name: "Metal or Vulkan",
        serves: |device| matches!(device, Device::Auto | Device::Metal | Device::Vulkan),
        dtypes: &[Dtype::Auto, Dtype::F32, Dtype::F16],
        find: |_| Ok(()),
        open: works,
    };

    fn options(device: &str, dtype: Dtype) -> BackendOptions {
        let (device, threads) = (device.parse().unwrap(), Some(1));
        BackendOptions { device, dtype, threads, crossover: Some(0), ..BackendOptions::default() }
    }

    /// The device that is chosen, or why none is.
    fn chosen(candidates: &[Candidate], options: &BackendOptions) -> Result<&'static str, String> {
        let config = ModelConfig {
            hidden_size: 32,
            intermediate_size: 32,
            num_hidden_layers: 1,
            hyena_filter_order: 8,
            ..ModelConfig::m2_bert_80m(64)
        };
        match choose_among(candidates, &synthetic(&config, 1), options) {
            Ok(backend) => Ok(backend.info().device),
            Err(EngineError::Unsupported(reason)) => Err(reason),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn auto_takes_the_first_gpu_that_serves_and_else_the_cpu() {
        let auto = options("auto", Dtype::Auto);
        let with = |open: fn(&LoadedModel, &BackendOptions) -> Opened| Candidate { open, ..WGPU };
        assert_eq!(chosen(&[CUDA, WGPU], &auto), Ok("metal"));
        assert_eq!(chosen(&[], &auto), Ok("cpu"));
        for open in [|_: &_, _: &_| absent(), |_: &_, _: &_| broken(), computes_nonsense] {
            assert_eq!(chosen(&[CUDA, with(open)], &auto), Ok("cpu"));
            assert_eq!(chosen(&[with(open), WGPU], &auto), Ok("metal"), "the next one");
        }
        assert_eq!(chosen(&[with(|_, _| panic!("a driver's"))], &auto), Ok("cpu"));
        assert_eq!(chosen(&[WGPU], &options("cpu", Dtype::Auto)), Ok("cpu"));
    }

    #[test]
    fn auto_leaves_out_a_gpu_that_is_slower_at_every_length() {
        let measured = |device| BackendOptions { crossover: None, ..options(device, Dtype::Auto) };
        let slow = [Candidate { open: is_slow, ..WGPU }];
        assert_eq!(chosen(&slow, &measured("auto")), Ok("cpu"));
        assert_eq!(chosen(&slow, &measured("metal")), Ok("metal"), "it was asked for");
    }

    #[test]
    fn a_device_that_was_asked_for_is_that_one_or_an_error() {
        let advice = "use --device cpu or auto (danaus doctor says more)";
        let metal = options("metal", Dtype::Auto);
        assert_eq!(chosen(&[CUDA, WGPU], &metal), Ok("metal"));
        let nonsense = Candidate { open: computes_nonsense, ..WGPU };
        let reason = chosen(&[CUDA, nonsense], &metal).unwrap_err();
        let start = "device metal was asked for, but Faulty 1 is not trusted: it failed its self-test: 1 tokens in 1 rows: ";
        assert!(reason.starts_with(start) && reason.ends_with(advice), "{reason}");
        let broken = Candidate { open: |_, _| broken(), ..WGPU };
        let expected = format!("device metal was asked for, but the driver is too old: {advice}");
        assert_eq!(chosen(&[broken], &metal), Err(expected));
        let panics = Candidate { find: |_| panic!("a driver's"), ..WGPU };
        let expected = format!("device metal was asked for, but panic: a driver's: {advice}");
        assert_eq!(chosen(&[panics], &metal), Err(expected));
        for device in ["cuda", "cuda:1"] {
            let expected = format!("device {device} was asked for, but there is no such driver: {advice}");
            assert_eq!(chosen(&[CUDA, WGPU], &options(device, Dtype::Auto)), Err(expected));
        }
        let expected =
            format!("device vulkan was asked for, but this build of danaus cannot compute there: {advice}");
        assert_eq!(chosen(&[CUDA], &options("vulkan", Dtype::Auto)), Err(expected));
    }

    #[test]
    fn a_dtype_is_for_the_devices_that_have_it() {
        let chosen = |device, dtype| chosen(&[CUDA, WGPU], &options(device, dtype));
        assert_eq!((chosen("auto", Dtype::F32), chosen("auto", Dtype::F16)), (Ok("metal"), Ok("metal")));
        assert_eq!((chosen("auto", Dtype::Bf16), chosen("auto", Dtype::Int8)), (Ok("cpu"), Ok("cpu")));
        for (device, dtype, dtypes) in [
            ("cuda", Dtype::Bf16, "auto, f32, f16"),
            ("cuda", Dtype::Int8, "auto, f32, f16"),
            ("vulkan", Dtype::Bf16, "auto, f32, f16"),
            ("metal", Dtype::Int8, "auto, f32, f16"),
        ] {
            let expected = format!(
                "dtype {dtype} was asked for, but the device {device} computes in others: use one of --dtype \
                 {dtypes}, or --device cpu"
            );
            assert_eq!(chosen(device, dtype), Err(expected));
        }
        let reason = chosen("cpu", Dtype::F16).unwrap_err();
        assert!(reason.contains("use --dtype auto, bf16 or f32"), "{reason}");
        let f16 = options("auto", Dtype::F16);
        assert_eq!(self::chosen(&[CUDA], &f16), Err(reason.clone()));
        let none = Candidate { find: |_| absent(), open: |_, _| absent(), ..WGPU };
        assert_eq!(self::chosen(&[CUDA, none], &f16), Err(reason));
    }
}
