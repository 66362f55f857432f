//! The gate of the MLP.

use danaus_simd::{Simd, Vectorized};

use crate::compute::Compute;
use crate::elementwise::for_each_row;
use crate::math::gelu;
use crate::matrix::{Matrix, MatrixMut};

/// `out[i][j] = gelu(x[i][j]) * x[i][I + j]`: `x` is `[tokens, 2I]`, `out` `[tokens, I]`.
///
/// # Panics
/// Where shapes disagree.
pub fn gelu_gate(compute: &Compute, x: Matrix<'_>, out: MatrixMut<'_>) {
    assert_eq!((x.rows(), x.cols()), (out.rows(), 2 * out.cols()), "shape of the input");
    for_each_row(compute, out, |row, out| Row { x: x.row(row), out });
}

struct Row<'a> {
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Vectorized for Row<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (activated, gate) = self.x.split_at(self.out.len());
        for ((out, &a), gate) in self.out.iter_mut().zip(activated).zip(gate) {
            *out = gelu(simd, a) * gate;
        }
    }
}
