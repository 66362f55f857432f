//! Vectors as arrays of constant length, which the compiler keeps in whatever vector registers the target has.

use crate::Simd;
use crate::simd::sealed::Sealed;

/// What the compilation target guarantees: SSE2 on x86-64, NEON on aarch64.
#[derive(Debug, Clone, Copy)]
pub struct Portable(pub(crate) ());

const LANES: usize = 4;

impl Sealed for Portable {}

impl Simd for Portable {
    const LANES: usize = LANES;
    const REGISTERS: usize = if cfg!(target_arch = "aarch64") { 32 } else { 16 };
    const FUSED: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));
    type F32 = [f32; LANES];
    type Words = [u32; LANES];
    type F64 = [f64; LANES / 2];

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F32 {
        [value; LANES]
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::F32 {
        // SAFETY: readable by this function's contract.
        unsafe { from.cast::<Self::F32>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, value: Self::F32, to: *mut f32) {
        // SAFETY: writable by this function's contract.
        unsafe { to.cast::<Self::F32>().write_unaligned(value) }
    }
    #[inline(always)]
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32 {
        std::array::from_fn(|i| self.scalar_mul_add(a[i], b[i], c[i]))
    }
    #[inline(always)]
    fn neg_mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32 {
        std::array::from_fn(|i| self.scalar_mul_add(-a[i], b[i], c[i]))
    }
    #[inline(always)]
    fn splat_word(self, value: u32) -> Self::Words {
        [value; LANES]
    }
    #[inline(always)]
    unsafe fn load_words(self, from: *const u32) -> Self::Words {
        // SAFETY: readable by this function's contract.
        unsafe { from.cast::<Self::Words>().read_unaligned() }
    }
    #[inline(always)]
    fn floats(self, words: Self::Words) -> Self::F32 {
        words.map(f32::from_bits)
    }
    #[inline(always)]
    fn first_i16(self, words: Self::Words) -> Self::F32 {
        words.map(|word| ((word << 16).cast_signed() >> 16) as f32)
    }
    #[inline(always)]
    fn second_i16(self, words: Self::Words) -> Self::F32 {
        words.map(|word| (word.cast_signed() >> 16) as f32)
    }
    #[inline(always)]
    fn dot_bf16(self, sum: Self::F32, a: Self::Words, b: Self::Words) -> Self::F32 {
        // A bfloat16 is the upper half of a float32. Products of two are exact, so that it does not matter whether
        // multiply-adds are fused.
        let first = |words: Self::Words| words.map(|word| f32::from_bits(word << 16));
        let second = |words: Self::Words| words.map(|word| f32::from_bits(word & 0xffff_0000));
        self.mul_add(first(a), first(b), self.mul_add(second(a), second(b), sum))
    }
    #[inline(always)]
    fn dot_u8_i8(self, sum: Self::Words, a: Self::Words, b: Self::Words) -> Self::Words {
        std::array::from_fn(|i| {
            let products = a[i].to_le_bytes().into_iter().zip(b[i].to_le_bytes());
            let dot: i32 = products.map(|(a, b)| i32::from(a) * i32::from(b.cast_signed())).sum();
            sum[i].wrapping_add(dot.cast_unsigned())
        })
    }
    #[inline(always)]
    fn integers_to_floats(self, words: Self::Words) -> Self::F32 {
        words.map(|word| word.cast_signed() as f32)
    }
    #[inline(always)]
    fn splat_f64(self, value: f64) -> Self::F64 {
        [value; LANES / 2]
    }
    #[inline(always)]
    unsafe fn load_f64(self, from: *const f64) -> Self::F64 {
        // SAFETY: readable by this function's contract.
        unsafe { from.cast::<Self::F64>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_f64(self, value: Self::F64, to: *mut f64) {
        // SAFETY: writable by this function's contract.
        unsafe { to.cast::<Self::F64>().write_unaligned(value) }
    }
    #[inline(always)]
    fn mul_add_f64(self, a: Self::F64, b: Self::F64, c: Self::F64) -> Self::F64 {
        std::array::from_fn(|i| self.scalar_mul_add_f64(a[i], b[i], c[i]))
    }
    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
}
