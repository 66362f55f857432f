//! The short convolution: depthwise, causal, three taps.

use std::ops::Range;

use danaus_simd::{Simd, Vectorized};

use crate::compute::Compute;
use crate::matrix::MatrixMut;
use crate::shared::SharedMatrix;
use crate::texts::Texts;

/// Columns that one task takes: 1 KB of a row.
const COLUMNS_PER_TASK: usize = 256;

/// Taps and bias of a short convolution over C channels.
#[derive(Debug, Clone)]
pub struct ShortFilter {
    /// Taps on the token two before, one before, and the current one; each `[C]`.
    taps: [Vec<f32>; 3],
    bias: Vec<f32>,
}

impl ShortFilter {
    /// `weight` is `[C, 3]`, the last tap on the current token; `bias` `[C]`.
    ///
    /// # Panics
    /// Where `weight` has not three values for each of `bias`.
    pub fn new(weight: &[f32], bias: &[f32]) -> Self {
        assert_eq!(weight.len(), 3 * bias.len(), "three taps a channel");
        let tap = |k: usize| weight.iter().skip(k).step_by(3).copied().collect();
        Self { taps: [tap(0), tap(1), tap(2)], bias: bias.to_vec() }
    }
}

/// `x[i] = w0 * x[i-2] + w1 * x[i-1] + w2 * x[i] + bias`, channel by channel, in place; nothing crosses from one text to
/// the next. `x` is `[tokens, C]`.
///
/// # Panics
/// Where the texts have more rows than the matrix or the channels disagree.
pub fn short_conv(compute: &Compute, x: MatrixMut<'_>, texts: &Texts, filter: &ShortFilter) {
    let x = SharedMatrix::new(x);
    assert!(x.cols() == filter.bias.len() && texts.rows() <= x.rows(), "channels and rows");
    let cuts = x.cols().div_ceil(COLUMNS_PER_TASK);
    compute.for_each(texts.len() * cuts, |task| {
        let start = task % cuts * COLUMNS_PER_TASK;
        let columns = start..(start + COLUMNS_PER_TASK).min(x.cols());
        compute.isa().run(Columns { x: &x, text: texts.range(task / cuts), columns, filter });
    });
}

/// One text's tokens in a range of columns.
struct Columns<'a> {
    x: &'a SharedMatrix<'a>,
    text: Range<usize>,
    columns: Range<usize>,
    filter: &'a ShortFilter,
}

impl Vectorized for Columns<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let (start, count) = (self.columns.start, self.columns.len());
        let [w0, w1, w2] = self.filter.taps.each_ref().map(|tap| &tap[self.columns.clone()]);
        let bias = &self.filter.bias[self.columns.clone()];
        // SAFETY: tasks have different texts, which are disjoint, or disjoint columns; and the rows held at a time are different ones.
        let row = |i: usize| unsafe { self.x.row(i, start, count) };
        // From the last token to the first, so that a token's predecessors still hold their inputs.
        for i in self.text.clone().rev() {
            let current = row(i);
            let age = i - self.text.start;
            if age >= 2 {
                let (before, previous) = (row(i - 2), row(i - 1));
                for c in 0..count {
                    current[c] = before[c] * w0[c] + previous[c] * w1[c] + current[c] * w2[c] + bias[c];
                }
            } else if age == 1 {
                let previous = row(i - 1);
                for c in 0..count {
                    current[c] = previous[c] * w1[c] + current[c] * w2[c] + bias[c];
                }
            } else {
                for c in 0..count {
                    current[c] = current[c] * w2[c] + bias[c];
                }
            }
        }
    }
}
