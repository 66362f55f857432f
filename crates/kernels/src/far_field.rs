//! Adding a sequence that is known at some positions, and linear in between, to a long convolution's result.

use danaus_simd::{Isa, Simd, Vectorized};

use crate::matrix::{Matrix, MatrixMut};

/// `out[t] += value[t] * gate[t]` (without a gate, `+= value[t]`), where `value[t]` lies on the line between the `values` `[K, C]` at
/// the two of `knots` around position t, which are in ascending order; `out` and the gate are `[tokens, C]`. Computed on the calling thread.
///
/// # Panics
/// Where the shapes disagree, or a position of `out` is outside the knots.
pub fn add_interpolated(
    isa: Isa,
    out: MatrixMut<'_>,
    knots: &[isize],
    values: Matrix<'_>,
    gate: Option<Matrix<'_>>,
) {
    if out.rows() == 0 {
        return;
    }
    assert!(values.rows() == knots.len() && values.cols() == out.cols(), "a value for each knot");
    let around = knots.first().zip(knots.last());
    let around = around.is_some_and(|(&first, &last)| first <= 0 && last + 1 >= out.rows() as isize);
    assert!(around, "knots around all positions");
    if let Some(gate) = gate {
        assert!(gate.rows() == out.rows() && gate.cols() == out.cols(), "shape of the gate");
    }
    isa.run(Add { out, knots, values, gate });
}

struct Add<'a> {
    out: MatrixMut<'a>,
    knots: &'a [isize],
    values: Matrix<'a>,
    gate: Option<Matrix<'a>>,
}

impl Vectorized for Add<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let mut knot = 0;
        for row in 0..self.out.rows() {
            let position = row as isize;
            while self.knots.get(knot + 1).is_some_and(|&next| next <= position) {
                knot += 1;
            }
            let from = self.knots[knot];
            let (low, high, share) = match self.knots.get(knot + 1) {
                Some(&to) if from < position => {
                    let share = (position - from) as f32 / (to - from) as f32;
                    (self.values.row(knot), self.values.row(knot + 1), share)
                }
                _ => (self.values.row(knot), self.values.row(knot), 0.0),
            };
            let value = move |(&low, &high): (&f32, &f32)| simd.scalar_mul_add(share, high - low, low);
            let out = self.out.row_mut(row).iter_mut().zip(low.iter().zip(high));
            match &self.gate {
                Some(gate) => out
                    .zip(gate.row(row))
                    .for_each(|((out, pair), &gate)| *out = simd.scalar_mul_add(value(pair), gate, *out)),
                None => out.for_each(|(out, pair)| *out += value(pair)),
            }
        }
    }
}
