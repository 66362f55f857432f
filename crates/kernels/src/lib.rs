//! The numerical kernels of Monarch Mixer on CPUs: matrix products, convolutions, gates, norms.
//!
//! Kernels are functions of views, on the calling thread; [`Compute`] has the threads that share a pass's tasks. Safe outside,
//! unsafe inside: views that interleave in memory, the thread pool, and the vectors of inner loops. Nothing here knows the
//! model: kernels take matrices, taps and weights.
//!
//! Activations are row-major `[token, channel]`, the texts of a batch end to end. Every kernel computes a row's (or a
//! text's) result by the same operations in the same order whatever else is in the batch and however many threads share
//! the work: on one instruction set, results are the same bits.
//!
//! The module `wgpu`, where the feature of that name is on, has the same for GPUs.
//!
//! Each kernel has a naive float64 twin in [`reference`](mod@reference), and `tests/` compares the two on every instruction set of
//! the machine.

mod buffer;
mod cells;
mod compute;
#[cfg(feature = "cuda")]
pub mod cuda;
mod far_field;
pub mod gemm;
mod implicit_filter;
mod layer_norm;
mod long_conv;
mod math;
mod matrix;
mod mean;
mod peaks;
mod pool;
pub mod reference;
mod short_conv;
mod texts;
#[cfg(feature = "wgpu")]
pub mod wgpu;

pub use buffer::{Buffer, Word};
pub use cells::{cell_means, convolve_cells};
pub use compute::Compute;
pub use far_field::add_interpolated;
pub use implicit_filter::{FilterWindow, SineLayer, SineMlp, filter_taps};
pub use layer_norm::layer_norm;
pub use long_conv::{ConvEpilogue, ConvScratch, FilterForm, LongFilter, filter_length};
pub use matrix::{Matrix, MatrixMut};
pub use mean::mean_rows;
pub use peaks::{Caches, Peaks, Rates, measure as measure_peaks};
pub use short_conv::{ShortFilter, short_conv, short_conv_gate, steady_conv_gate};
pub use texts::Texts;
