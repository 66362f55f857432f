//! GPUs: what they do of a backend's work, and who sees to it that it is done right.

mod accelerator;
#[cfg(feature = "wgpu")]
pub mod wgpu;

pub use accelerator::{Accelerator, Description, DeviceError, PaddedText, Pooled};
