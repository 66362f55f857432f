//! The kernels once more, in float64 and as literally as the maths reads: what the fast ones are tested against.
//!
//! Matrices are row-major slices with the number of columns beside them. Nothing outside tests calls these.

mod functions;

pub use functions::{
    FilterMlp, SineLayer, add_interpolated, block_diagonal, cell_means, convolve_cells, filter_taps, gelu,
    layer_norm, linear, long_conv, mean_rows, short_conv,
};
