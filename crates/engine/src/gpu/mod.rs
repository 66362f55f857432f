//! GPUs: what they do of a backend's work, and who sees to it that it is done right.

mod accelerator;
mod candidates;
#[cfg(feature = "cuda")]
pub mod cuda;
mod examine;
#[cfg(test)]
#[path = "../../tests/common/faulty.rs"]
mod faulty;
mod guard;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod runs;
#[cfg(feature = "wgpu")]
pub mod wgpu;

pub use accelerator::{Accelerator, Description, DeviceError, PaddedText, Pooled};
pub use candidates::Unavailable;
pub(crate) use candidates::{check, check_cpu, choose};
pub use examine::{Examined, Found, examine};
pub use guard::{Crossover, Distrust, GuardOptions, GuardedBackend, Measured, ProbeResult, SelfTest};
#[cfg(any(feature = "cuda", feature = "wgpu"))]
use runs::runs;
