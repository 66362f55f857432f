//! The mean over a text's tokens.

use danaus_simd::{Isa, Simd, Vectorized};

use crate::matrix::Matrix;

/// Means of the columns of `x` `[tokens, C]`, to `out` `[C]`, on the calling thread. Summed in float64 in the order of the
/// tokens: the bits are the same on every instruction set.
///
/// # Panics
/// Where there are no tokens or the channels disagree.
pub fn mean_rows(isa: Isa, x: Matrix<'_>, out: &mut [f32]) {
    assert!(x.rows() > 0 && x.cols() == out.len(), "tokens and channels");
    isa.run(Mean { x, out });
}

struct Mean<'a> {
    x: Matrix<'a>,
    out: &'a mut [f32],
}

impl Vectorized for Mean<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let mut sums = vec![0.0; self.out.len()];
        for row in 0..self.x.rows() {
            sums.iter_mut().zip(self.x.row(row)).for_each(|(sum, &x)| *sum += f64::from(x));
        }
        let tokens = self.x.rows() as f64;
        self.out.iter_mut().zip(sums).for_each(|(out, sum)| *out = (sum / tokens) as f32);
    }
}
