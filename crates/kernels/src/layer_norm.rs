//! LayerNorm over the channels of each token.

use danaus_simd::{Lanes, Simd, Vectorized};

use crate::compute::Compute;
use crate::elementwise::for_each_row;
use crate::matrix::MatrixMut;

/// Lanes of the partial sums, the same on every instruction set.
const LANES: usize = 16;

/// `x[i] = (x[i] - mean(x[i])) / sqrt(variance(x[i]) + epsilon) * weight + bias`, row by row, in place.
/// `x` is `[tokens, C]`, `weight` and `bias` `[C]`.
///
/// # Panics
/// Where the channels disagree.
pub fn layer_norm(compute: &Compute, x: MatrixMut<'_>, weight: &[f32], bias: &[f32], epsilon: f32) {
    assert!(x.cols() == weight.len() && x.cols() == bias.len(), "channels");
    for_each_row(compute, x, |_, row| Row { row, weight, bias, epsilon });
}

struct Row<'a> {
    row: &'a mut [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    epsilon: f32,
}

impl Vectorized for Row<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let count = self.row.len() as f32;
        let mean = sum(self.row, |x| x) / count;
        let variance = sum(self.row, |x| (x - mean) * (x - mean)) / count;
        let scale = 1.0 / (variance + self.epsilon).sqrt();
        for ((x, weight), bias) in self.row.iter_mut().zip(self.weight).zip(self.bias) {
            *x = (*x - mean) * scale * weight + bias;
        }
    }
}

/// Sum of `f` over `values`: lane by lane, then the lanes in order, then the rest.
#[inline(always)]
fn sum(values: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    let mut lanes = Lanes::<LANES>::splat(0.0);
    for chunk in chunks {
        for (lane, &x) in lanes.0.iter_mut().zip(chunk) {
            *lane += f(x);
        }
    }
    lanes.0.iter().copied().chain(rest.iter().map(|&x| f(x))).sum()
}
