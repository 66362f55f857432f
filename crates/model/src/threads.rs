//! How many threads loading takes.

use std::io;

/// Loads, makes and hashes models on `count` threads from now on, in the whole process; on as many as the process may use
/// where this is never called.
///
/// # Errors
/// Threads that the system refuses; or where models were loaded before, and the number stays what it was.
pub fn use_threads(count: usize) -> io::Result<()> {
    rayon::ThreadPoolBuilder::new().num_threads(count.max(1)).build_global().map_err(io::Error::other)
}
