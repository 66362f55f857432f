//! LayerNorm over the channels of each token.

use danaus_simd::{Isa, Simd, Vectorized};

use crate::matrix::MatrixMut;

/// `x[i] = (x[i] - mean(x[i])) / sqrt(variance(x[i]) + epsilon) * weight + bias`, row by row, in place, on the
/// calling thread. `x` is `[tokens, C]`, `weight` and `bias` `[C]`. The bits are the same on every instruction set.
///
/// # Panics
/// Where the channels disagree.
pub fn layer_norm(isa: Isa, x: MatrixMut<'_>, weight: &[f32], bias: &[f32], epsilon: f32) {
    assert!(x.cols() == weight.len() && x.cols() == bias.len(), "channels");
    isa.run(Rows { x, weight, bias, epsilon });
}

struct Rows<'a> {
    x: MatrixMut<'a>,
    weight: &'a [f32],
    bias: &'a [f32],
    epsilon: f32,
}

impl Vectorized for Rows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let count = self.x.cols() as f32;
        for row in 0..self.x.rows() {
            let row = self.x.row_mut(row);
            let mean = sum_of(simd, row, Value) / count;
            let variance = sum_of(simd, row, SquareAround(mean)) / count;
            let scale = 1.0 / (variance + self.epsilon).sqrt();
            for ((x, weight), bias) in row.iter_mut().zip(self.weight).zip(self.bias) {
                *x = (*x - mean) * scale * weight + bias;
            }
        }
    }
}

/// Partial sums of a row: enough that additions need not wait for each other.
const PARTIAL_SUMS: usize = 32;

/// What is summed.
trait Term {
    fn vector<S: Simd>(self, simd: S, x: S::F32) -> S::F32;
    fn scalar(self, x: f32) -> f32;
}

#[derive(Clone, Copy)]
struct Value;

impl Term for Value {
    #[inline(always)]
    fn vector<S: Simd>(self, _: S, x: S::F32) -> S::F32 {
        x
    }
    #[inline(always)]
    fn scalar(self, x: f32) -> f32 {
        x
    }
}

/// The square of the difference from this.
#[derive(Clone, Copy)]
struct SquareAround(f32);

impl Term for SquareAround {
    #[inline(always)]
    fn vector<S: Simd>(self, simd: S, x: S::F32) -> S::F32 {
        let difference = simd.sub(x, simd.splat(self.0));
        simd.mul(difference, difference)
    }
    #[inline(always)]
    fn scalar(self, x: f32) -> f32 {
        (x - self.0) * (x - self.0)
    }
}

/// Sum of a term over `values`: every 32nd into one partial sum, the partial sums in a tree, then the rest in order.
/// (Left to itself, the compiler shuffles arrays of partial sums about: hence the vectors.)
#[inline(always)]
fn sum_of<S: Simd>(simd: S, values: &[f32], term: impl Term + Copy) -> f32 {
    /// Vectors of the narrowest instruction set that hold the partial sums.
    const MOST: usize = PARTIAL_SUMS / 4;
    let (chunks, rest) = values.as_chunks::<PARTIAL_SUMS>();
    let mut count = PARTIAL_SUMS / S::LANES;
    let mut sums = [simd.splat(0.0); MOST];
    for chunk in chunks {
        for (i, sum) in sums.iter_mut().enumerate().take(count) {
            // SAFETY: `count` vectors are a chunk.
            let x = unsafe { simd.load(chunk.as_ptr().add(i * S::LANES)) };
            *sum = simd.add(*sum, term.vector(simd, x));
        }
    }
    while count > 1 {
        count /= 2;
        for i in 0..count {
            sums[i] = simd.add(sums[i], sums[i + count]);
        }
    }
    let mut lanes = [0.0; PARTIAL_SUMS];
    assert!(S::LANES <= PARTIAL_SUMS);
    // SAFETY: as many lanes as a vector has, by the assertion.
    unsafe { simd.store(sums[0], lanes.as_mut_ptr()) };
    let mut width = S::LANES;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
    }
    rest.iter().fold(lanes[0], |sum, &x| sum + term.scalar(x))
}
