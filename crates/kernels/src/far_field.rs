//! Adding what padding far away contributes to a long convolution: a stored sequence, through the gate or as it is.

use danaus_simd::{Isa, Simd, Vectorized};

use crate::matrix::{Matrix, MatrixMut};

/// `out += far * gate`, or `out += far` without a gate; `far` are the bits of bfloat16 values. All are `[tokens, C]`, and the
/// work is done on the calling thread.
///
/// # Panics
/// Where the shapes disagree.
pub fn add_far_field(isa: Isa, out: MatrixMut<'_>, far: Matrix<'_, u16>, gate: Option<Matrix<'_>>) {
    assert!(far.rows() == out.rows() && far.cols() == out.cols(), "shapes");
    if let Some(gate) = gate {
        assert!(gate.rows() == out.rows() && gate.cols() == out.cols(), "shape of the gate");
    }
    isa.run(Add { out, far, gate });
}

struct Add<'a> {
    out: MatrixMut<'a>,
    far: Matrix<'a, u16>,
    gate: Option<Matrix<'a>>,
}

impl Vectorized for Add<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        for row in 0..self.out.rows() {
            let values = self.out.row_mut(row).iter_mut().zip(self.far.row(row));
            match &self.gate {
                Some(gate) => values
                    .zip(gate.row(row))
                    .for_each(|((out, &far), &gate)| *out = simd.scalar_mul_add(widened(far), gate, *out)),
                None => values.for_each(|(out, &far)| *out += widened(far)),
            }
        }
    }
}

/// The bfloat16 value of these bits.
#[inline(always)]
fn widened(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}
