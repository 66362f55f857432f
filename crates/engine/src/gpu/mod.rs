//! GPUs: what they do of a backend's work, and who sees to it that it is done right.

mod accelerator;
#[cfg(feature = "cuda")]
pub mod cuda;

pub use accelerator::{Accelerator, Description, DeviceError, PaddedText, Pooled};
