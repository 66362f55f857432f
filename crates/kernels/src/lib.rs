//! The numerical kernels of Monarch Mixer on CPUs: matrix products, convolutions, gates, norms.
//!
//! Safe slices outside. Unsafe inside are the threads that write disjoint parts of one matrix (`shared`, and the kernels
//! that use it) and one load in the matrix product's inner loop. Nothing here knows the model: kernels take matrices, taps
//! and weights.
//!
//! Activations are row-major `[token, channel]`, the texts of a batch end to end. Every kernel computes a row's (or a
//! text's) result by the same operations in the same order whatever else is in the batch and however many threads share
//! the work: on one instruction set, results are the same bits.
//!
//! Each kernel has a naive float64 twin in [`reference`](mod@reference), and `tests/against_reference.rs` compares the two on every
//! instruction set of the machine.

mod activation;
mod buffer;
mod compute;
mod elementwise;
pub mod gemm;
mod implicit_filter;
mod layer_norm;
mod long_conv;
mod math;
mod matrix;
pub mod old;
mod peaks;
mod pool;
pub mod reference;
mod shared;
mod short_conv;
mod texts;

pub use activation::gelu_gate;
pub use buffer::{Buffer, Word};
pub use compute::Compute;
pub use elementwise::{add_product, product};
pub use implicit_filter::{FilterWindow, SineLayer, SineMlp, filter_taps};
pub use layer_norm::{layer_norm, layer_norm_rows};
pub use long_conv::{ConvEpilogue, ConvScratch, LongFilter, filter_length};
pub use matrix::{Matrix, MatrixMut};
pub use peaks::{Caches, Peaks, Rates, measure as measure_peaks};
pub use short_conv::{ShortFilter, short_conv, short_conv_gate, short_conv_in_place};
pub use texts::Texts;
