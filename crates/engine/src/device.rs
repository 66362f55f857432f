//! Choosing where a model is computed.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use danaus_model::LoadedModel;

use crate::names::{self, Named};
use crate::{Backend, CpuBackend, EngineError, Profile};

/// Where to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    /// The fastest device that this build and this machine have.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
    /// An Apple GPU.
    Metal,
}

/// The type of weights and activations in the matrix products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dtype {
    /// bfloat16 where the device computes with it, else float32.
    #[default]
    Auto,
    /// float32.
    F32,
    /// bfloat16, with sums in float32.
    Bf16,
    /// 8-bit integers: weights with a scale for each output, activations with one for each row of a block. Never chosen by
    /// itself: it is the fastest and the least accurate.
    Int8,
}

impl Device {
    /// Whether this build can compute there: to be asked before a model is downloaded and loaded.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`], which says what to do.
    pub fn check(self) -> Result<(), EngineError> {
        match self {
            Device::Auto | Device::Cpu => Ok(()),
            Device::Cuda | Device::Metal => Err(EngineError::Unsupported(format!(
                "device {self} was asked for, but this build of danaus computes on the CPU only: use --device cpu or auto"
            ))),
        }
    }
}

impl Named for Device {
    const WHAT: &'static str = "device";
    const TABLE: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("cpu", Self::Cpu), ("cuda", Self::Cuda), ("metal", Self::Metal)];
}

impl FromStr for Device {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        names::parse(name)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        names::write(*self, f)
    }
}

impl Named for Dtype {
    const WHAT: &'static str = "dtype";
    const TABLE: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("f32", Self::F32), ("bf16", Self::Bf16), ("int8", Self::Int8)];
}

impl FromStr for Dtype {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        names::parse(name)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        names::write(*self, f)
    }
}

/// How to make a backend.
#[derive(Debug, Clone)]
pub struct BackendOptions {
    /// Where to compute.
    pub device: Device,
    /// The type of the matrix products.
    pub dtype: Dtype,
    /// CPU threads; `None` for as many as the process may use (affinity and cgroup limits count).
    pub threads: Option<usize>,
    /// Memory for filters kept between passes, in bytes; filters beyond it are computed anew in each pass.
    pub filter_cache_bytes: usize,
    /// Instruction set by name (`avx512`, `avx2`, `portable`); `None` for the CPU's best.
    pub instruction_set: Option<String>,
    /// Where to count the time of each stage, if anywhere.
    pub profile: Option<Arc<Profile>>,
}

impl Default for BackendOptions {
    fn default() -> Self {
        Self {
            device: Device::Auto,
            dtype: Dtype::Auto,
            threads: None,
            filter_cache_bytes: 1 << 30,
            instruction_set: None,
            profile: None,
        }
    }
}

/// Makes the backend that `options` ask for.
///
/// # Errors
/// A device that this build does not have, a model that cannot be computed with, or threads that the system refuses.
pub fn load_backend(model: &LoadedModel, options: &BackendOptions) -> Result<Arc<dyn Backend>, EngineError> {
    options.device.check()?;
    Ok(Arc::new(CpuBackend::new(model, options)?))
}
