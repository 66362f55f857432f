//! What danaus asks of the machine below Rust's type system: instruction sets and memory-mapped files.
//!
//! One of the two crates of the workspace that may hold unsafe code (the other is `danaus-kernels`).

mod isa;
mod mapped_file;
mod portable;
mod simd;
#[cfg(target_arch = "x86_64")]
mod tiles;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use isa::{Isa, IsaParseError, Vectorized};
pub use mapped_file::MappedFile;
pub use simd::Simd;
#[cfg(target_arch = "x86_64")]
pub use tiles::{TILE_OUTPUTS, TILE_ROWS, TILE_WORDS, TileDot, Tiles};
