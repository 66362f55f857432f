//! What a kernel may ask of an instruction set: vectors of 32-bit lanes and a few operations on them.

/// The operations of one instruction set, for code that is written once for all of them.
///
/// A value is a token: it exists only inside [`Isa::run`](crate::Isa::run), on a CPU that has the instructions. Kernels
/// that are plain loops over slices need no more than being compiled for the instruction set; those that must keep values
/// in registers (tiles of matrix products, butterflies of transforms) use the vectors.
///
/// `Words` are lanes of 32 bits that hold one float32, two bfloat16 or 16-bit integers, or four 8-bit integers, the first in the
/// low bits.
///
/// Only this crate implements it: unsafe code relies on its constants and on what its methods read and write.
pub trait Simd: Copy + Send + Sync + sealed::Sealed {
    /// 32-bit lanes of a vector.
    const LANES: usize;
    /// Vector registers.
    const REGISTERS: usize;
    /// Whether a multiply-add rounds once.
    const FUSED: bool;
    /// `LANES` float32 values.
    type F32: Copy;
    /// `LANES` words, or int32 values.
    type Words: Copy;
    /// `LANES / 2` float64 values.
    type F64: Copy;

    /// All lanes equal.
    fn splat(self, value: f32) -> Self::F32;
    /// `LANES` values from `from`, which need not be aligned.
    ///
    /// # Safety
    /// They are readable and initialised.
    unsafe fn load(self, from: *const f32) -> Self::F32;
    /// Writes `LANES` values to `to`, which need not be aligned.
    ///
    /// # Safety
    /// They are writable.
    unsafe fn store(self, value: Self::F32, to: *mut f32);
    /// `a + b`
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a - b`
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b`
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b + c`
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// `c - a * b`
    fn neg_mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;

    /// All words equal.
    fn splat_word(self, value: u32) -> Self::Words;
    /// `LANES` words from `from`, which need not be aligned.
    ///
    /// # Safety
    /// They are readable and initialised.
    unsafe fn load_words(self, from: *const u32) -> Self::Words;
    /// The words' bits as float32 values.
    fn floats(self, words: Self::Words) -> Self::F32;
    /// The first (lower) of the two signed 16-bit integers of each word.
    fn first_i16(self, words: Self::Words) -> Self::F32;
    /// The second (upper) of the two signed 16-bit integers of each word.
    fn second_i16(self, words: Self::Words) -> Self::F32;
    /// `(sum + a[1] * b[1]) + a[0] * b[0]` of the two bfloat16 values of each word, rounded after each addition: what
    /// AVX-512's instruction does, so that all instruction sets have the same bits. Only whether denormals count is the
    /// instruction set's own.
    fn dot_bf16(self, sum: Self::F32, a: Self::Words, b: Self::Words) -> Self::F32;
    /// `sum` plus the products of the four unsigned 8-bit integers of each word of `a` and the four signed ones of `b`,
    /// exactly (as long as the sum fits int32).
    fn dot_u8_i8(self, sum: Self::Words, a: Self::Words, b: Self::Words) -> Self::Words;
    /// int32 values as float32.
    fn integers_to_floats(self, words: Self::Words) -> Self::F32;

    /// All lanes equal.
    fn splat_f64(self, value: f64) -> Self::F64;
    /// `LANES / 2` values from `from`, which need not be aligned.
    ///
    /// # Safety
    /// They are readable and initialised.
    unsafe fn load_f64(self, from: *const f64) -> Self::F64;
    /// Writes `LANES / 2` values to `to`, which need not be aligned.
    ///
    /// # Safety
    /// They are writable.
    unsafe fn store_f64(self, value: Self::F64, to: *mut f64);
    /// `a * b + c`
    fn mul_add_f64(self, a: Self::F64, b: Self::F64, c: Self::F64) -> Self::F64;

    /// Asks for the cache line at `address` (any address) to be brought close.
    fn prefetch(self, address: *const u8);

    /// `a * b + c` of single values: fused where the CPU has the instruction, else rounded twice (a call of libm's `fma`
    /// would be 100 times slower).
    #[inline(always)]
    fn scalar_mul_add(self, a: f32, b: f32, c: f32) -> f32 {
        if Self::FUSED { a.mul_add(b, c) } else { a * b + c }
    }
    /// [`scalar_mul_add`](Simd::scalar_mul_add) in float64.
    #[inline(always)]
    fn scalar_mul_add_f64(self, a: f64, b: f64, c: f64) -> f64 {
        if Self::FUSED { a.mul_add(b, c) } else { a * b + c }
    }
}

pub(crate) mod sealed {
    /// Of the instruction sets' tokens alone.
    pub trait Sealed {}
}
