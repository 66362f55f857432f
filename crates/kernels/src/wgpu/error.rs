//! Why a device has no result.

use std::fmt;

/// Why a device has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GpuError {
    /// There is not enough memory; less may do.
    OutOfMemory(String),
    /// The device or its driver failed, or did not answer in time: nothing more can be expected of it.
    Failed(String),
}

impl fmt::Display for GpuError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GpuError::OutOfMemory(what) => write!(f, "out of GPU memory: {what}"),
            GpuError::Failed(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for GpuError {}
