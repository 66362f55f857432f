//! Adding a sequence that is known at some positions, and linear in between, to a long convolution's result.

use danaus_simd::{Isa, Simd, Vectorized};

use crate::matrix::{Matrix, MatrixMut};

/// A stored value.
pub trait Stored: Copy {
    /// The value as float32.
    fn widened(self) -> f32;
}

impl Stored for f32 {
    #[inline(always)]
    fn widened(self) -> f32 {
        self
    }
}

/// The bits of a bfloat16 value.
impl Stored for u16 {
    #[inline(always)]
    fn widened(self) -> f32 {
        f32::from_bits(u32::from(self) << 16)
    }
}

/// Where the knots of a sequence are: knot k is at position `first + k * step`, but for the last one, which is at `last` at the
/// latest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Knots {
    /// The first knot's position, at most 0.
    pub first: isize,
    /// Positions from a knot to the next one, at least 1.
    pub step: usize,
    /// The last knot's position.
    pub last: isize,
}

impl Knots {
    /// Number of knots.
    pub fn count(self) -> usize {
        ((self.last - self.first).max(0) as usize).div_ceil(self.step) + 1
    }

    /// The position of a knot.
    pub fn position(self, knot: usize) -> isize {
        (self.first + (knot * self.step) as isize).min(self.last)
    }
}

/// `out[t] += value[t] * gate[t]` (without a gate, `+= value[t]`), where `value[t]` lies on the line between the values `[K, C]`
/// of the two knots around position t; `out` and the gate are `[tokens, C]`. Computed on the calling thread.
///
/// # Panics
/// Where the shapes disagree, or a position of `out` is outside the knots.
pub fn add_interpolated<T: Stored>(
    isa: Isa,
    out: MatrixMut<'_>,
    knots: Knots,
    values: Matrix<'_, T>,
    gate: Option<Matrix<'_>>,
) {
    if out.rows() == 0 {
        return;
    }
    assert!(values.rows() == knots.count() && values.cols() == out.cols(), "a value for each knot");
    assert!(knots.first <= 0 && knots.last + 1 >= out.rows() as isize, "knots around all positions");
    if let Some(gate) = gate {
        assert!(gate.rows() == out.rows() && gate.cols() == out.cols(), "shape of the gate");
    }
    isa.run(Add { out, knots, values, gate });
}

struct Add<'a, T> {
    out: MatrixMut<'a>,
    knots: Knots,
    values: Matrix<'a, T>,
    gate: Option<Matrix<'a>>,
}

impl<T: Stored> Vectorized for Add<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        for row in 0..self.out.rows() {
            let knot = (row as isize - self.knots.first) as usize / self.knots.step;
            let (from, to) = (self.knots.position(knot), self.knots.position(knot + 1));
            let share = (row as isize - from) as f32 / (to - from).max(1) as f32;
            let low = self.values.row(knot);
            let high = if share > 0.0 { self.values.row(knot + 1) } else { low };
            let between = low.iter().zip(high);
            let value = move |(low, high): (&T, &T)| {
                let (low, high) = (low.widened(), high.widened());
                simd.scalar_mul_add(share, high - low, low)
            };
            let out = self.out.row_mut(row).iter_mut().zip(between);
            match &self.gate {
                Some(gate) => out
                    .zip(gate.row(row))
                    .for_each(|((out, pair), &gate)| *out = simd.scalar_mul_add(value(pair), gate, *out)),
                None => out.for_each(|(out, pair)| *out += value(pair)),
            }
        }
    }
}
