//! Fixed-size groups of float32 values that the compiler keeps in vector registers.

use crate::Simd;

/// `N` float32 lanes. Operations are plain loops of constant length over an aligned array: inside
/// [`Isa::run`](crate::Isa::run) they become vector instructions, on any architecture.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(64))]
pub struct Lanes<const N: usize>(pub [f32; N]);

impl<const N: usize> Lanes<N> {
    /// All lanes equal.
    #[inline(always)]
    pub fn splat(value: f32) -> Self {
        Self([value; N])
    }

    /// The first `N` values of `source`.
    ///
    /// # Panics
    /// Where `source` has fewer.
    #[inline(always)]
    pub fn load(source: &[f32]) -> Self {
        let mut lanes = [0.0; N];
        lanes.copy_from_slice(&source[..N]);
        Self(lanes)
    }

    /// `self + a * b`, lane by lane, with [`Simd::scalar_mul_add`]'s rounding.
    #[inline(always)]
    pub fn add_product<S: Simd>(self, simd: S, a: Self, b: Self) -> Self {
        Self(std::array::from_fn(|lane| simd.scalar_mul_add(a.0[lane], b.0[lane], self.0[lane])))
    }
}
