//! Choosing where a model is computed.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use danaus_model::LoadedModel;

use crate::names::{self, Named};
use crate::{Backend, EngineError, Profile, gpu};

/// Where to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    /// The first of these that this build and this machine have: CUDA, a GPU that Metal or Vulkan drives, the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// An NVIDIA GPU: that of the number that its driver gives it, or the first one.
    Cuda(Option<u32>),
    /// An Apple GPU.
    Metal,
    /// Any maker's GPU with a Vulkan driver.
    Vulkan,
}

/// The type of weights and activations in the matrix products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dtype {
    /// The device's own choice: float16 on GPUs that have it, bfloat16 on CPUs that multiply it; else float32.
    #[default]
    Auto,
    /// float32.
    F32,
    /// bfloat16, with sums in float32: for the CPU.
    Bf16,
    /// float16, with sums in float32: for GPUs.
    F16,
    /// 8-bit integers: weights with a scale for each output, activations with one for each row of a block. Never chosen by
    /// itself: it is the fastest and the least accurate.
    Int8,
}

impl Device {
    /// The names that [`FromStr`] takes, for messages.
    const NAMES: &'static str = "auto, cpu, cuda, cuda:N, metal, vulkan";
}

impl FromStr for Device {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        let numbered = || name.strip_prefix("cuda:")?.parse().ok();
        match name {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(None)),
            // What PyTorch calls it.
            "metal" | "mps" => Ok(Self::Metal),
            "vulkan" => Ok(Self::Vulkan),
            _ => numbered()
                .map(|index| Self::Cuda(Some(index)))
                .ok_or_else(|| format!("unknown device {name:?}: expected one of {}", Self::NAMES)),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(None) => f.write_str("cuda"),
            Self::Cuda(Some(index)) => write!(f, "cuda:{index}"),
            Self::Metal => f.write_str("metal"),
            Self::Vulkan => f.write_str("vulkan"),
        }
    }
}

impl Named for Dtype {
    const WHAT: &'static str = "dtype";
    const TABLE: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("f32", Self::F32),
        ("bf16", Self::Bf16),
        ("f16", Self::F16),
        ("int8", Self::Int8),
    ];
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
    /// Where to count the time of each stage on the CPU, if anywhere.
    pub profile: Option<Arc<Profile>>,
    /// Beside a GPU: texts of fewer rows are computed on the CPU. `None` to measure which those are.
    pub crossover: Option<usize>,
    /// Where what was measured of this machine is kept, so that it is the same at the next start; `None` to keep nothing.
    pub cache_dir: Option<PathBuf>,
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
            crossover: None,
            cache_dir: None,
        }
    }
}

impl BackendOptions {
    /// Whether this build, and this machine as far as a glance tells, can compute so: to be asked before a model is
    /// downloaded and loaded.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`], which says what to do.
    pub fn check(&self) -> Result<(), EngineError> {
        gpu::check(self)
    }
}

/// Makes the backend that `options` ask for. A GPU that [`Device::Auto`] finds but cannot trust is passed over with a warning,
/// one that is not there without.
///
/// # Errors
/// A device or dtype that this build or this machine does not have, or that fails its self-test where it was asked for by name;
/// a model that cannot be computed with; threads that the system refuses.
pub fn load_backend(model: &LoadedModel, options: &BackendOptions) -> Result<Arc<dyn Backend>, EngineError> {
    gpu::choose(model, options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_read_in_both_directions() {
        for (name, device) in [
            ("auto", Device::Auto),
            ("cpu", Device::Cpu),
            ("cuda", Device::Cuda(None)),
            ("cuda:0", Device::Cuda(Some(0))),
            ("cuda:11", Device::Cuda(Some(11))),
            ("metal", Device::Metal),
            ("vulkan", Device::Vulkan),
        ] {
            assert_eq!((name.parse(), device.to_string()), (Ok(device), name.to_owned()));
        }
        assert_eq!("mps".parse(), Ok(Device::Metal));
        for name in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "metal:0", "CUDA"] {
            let expected =
                format!("unknown device {name:?}: expected one of auto, cpu, cuda, cuda:N, metal, vulkan");
            assert_eq!(name.parse::<Device>(), Err(expected));
        }
    }
}
