//! What danaus computes with on this machine, model or none.

use danaus_kernels::{Compute, Peaks};
use danaus_simd::Isa;

use crate::{BackendOptions, EngineError};

/// Threads and instruction set as `options` ask for them.
///
/// # Errors
/// An instruction set that the CPU does not have, or threads that the system refuses.
pub(crate) fn compute(options: &BackendOptions) -> Result<Compute, EngineError> {
    let isa = match &options.instruction_set {
        Some(name) => Isa::by_name(name).map_err(|error| EngineError::Unsupported(error.to_string()))?,
        None => Isa::best(),
    };
    let available = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = options.threads.unwrap_or_else(available).max(1);
    Compute::new(isa, threads).map_err(|error| {
        EngineError::Unsupported(format!("{threads} compute threads cannot be started: {error}"))
    })
}

/// Measures what the CPU reaches with these options' threads and instruction set, in one to two seconds: the peaks that
/// a pass's speed is a share of.
///
/// # Errors
/// An instruction set that the CPU does not have, or threads that the system refuses.
pub fn measure_peaks(options: &BackendOptions) -> Result<Peaks, EngineError> {
    Ok(danaus_kernels::measure_peaks(&compute(options)?))
}
