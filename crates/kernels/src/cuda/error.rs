//! What can go wrong with a GPU.

use std::fmt;

use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;

/// Why something was not done on a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CudaError {
    /// No driver, or no such device: nothing is wrong, there is just no GPU.
    Absent(String),
    /// Not enough of its memory is free.
    OutOfMemory(String),
    /// The driver or the device failed.
    Failed(String),
}

impl CudaError {
    /// The driver's error, while `doing` something.
    pub(super) fn driver(doing: &str, error: DriverError) -> Self {
        let message = format!("{doing}: {error}");
        if error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            Self::OutOfMemory(message)
        } else {
            Self::Failed(message)
        }
    }
}

impl fmt::Display for CudaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Absent(message) | Self::OutOfMemory(message) | Self::Failed(message)) = self;
        f.write_str(message)
    }
}

impl std::error::Error for CudaError {}
