//! AVX-512 and AVX2 vectors.
//!
//! Every method of a token runs instructions that the token's existence proves the CPU to have: tokens are made by
//! [`Isa::run`](crate::Isa::run) alone. That is the reason for each unsafe block here that has no other.

#![allow(clippy::undocumented_unsafe_blocks)] // the reason is above, once

use std::arch::x86_64::*;

use crate::Simd;
use crate::simd::sealed::Sealed;

/// AVX-512 F, BW, DQ and VL, with BF16 and VNNI.
#[derive(Debug, Clone, Copy)]
pub struct Avx512(());

impl Avx512 {
    /// # Safety
    /// The CPU has the instructions.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        Self(())
    }
}

impl Sealed for Avx512 {}

impl Simd for Avx512 {
    const LANES: usize = 16;
    const REGISTERS: usize = 32;
    const FUSED: bool = true;
    type F32 = __m512;
    type Words = __m512i;
    type F64 = __m512d;

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        unsafe { _mm512_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(self, value: __m512, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, value) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn neg_mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fnmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn splat_word(self, value: u32) -> __m512i {
        unsafe { _mm512_set1_epi32(value.cast_signed()) }
    }
    #[inline(always)]
    unsafe fn load_words(self, from: *const u32) -> __m512i {
        unsafe { _mm512_loadu_si512(from.cast()) }
    }
    #[inline(always)]
    fn floats(self, words: __m512i) -> __m512 {
        unsafe { _mm512_castsi512_ps(words) }
    }
    #[inline(always)]
    fn first_i16(self, words: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_srai_epi32::<16>(_mm512_slli_epi32::<16>(words))) }
    }
    #[inline(always)]
    fn second_i16(self, words: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_srai_epi32::<16>(words)) }
    }
    #[inline(always)]
    fn dot_bf16(self, sum: __m512, a: __m512i, b: __m512i) -> __m512 {
        // SAFETY: besides the instruction, two types of 512 bits without invalid values.
        unsafe {
            let [a, b] = [a, b].map(|words| std::mem::transmute::<__m512i, __m512bh>(words));
            _mm512_dpbf16_ps(sum, a, b)
        }
    }
    #[inline(always)]
    fn dot_u8_i8(self, sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(sum, a, b) }
    }
    #[inline(always)]
    fn integers_to_floats(self, words: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(words) }
    }
    #[inline(always)]
    fn splat_f64(self, value: f64) -> __m512d {
        unsafe { _mm512_set1_pd(value) }
    }
    #[inline(always)]
    unsafe fn load_f64(self, from: *const f64) -> __m512d {
        unsafe { _mm512_loadu_pd(from) }
    }
    #[inline(always)]
    unsafe fn store_f64(self, value: __m512d, to: *mut f64) {
        unsafe { _mm512_storeu_pd(to, value) }
    }
    #[inline(always)]
    fn mul_add_f64(self, a: __m512d, b: __m512d, c: __m512d) -> __m512d {
        unsafe { _mm512_fmadd_pd(a, b, c) }
    }
    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
}

/// AVX2 and FMA.
#[derive(Debug, Clone, Copy)]
pub struct Avx2(());

impl Avx2 {
    /// # Safety
    /// The CPU has the instructions.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        Self(())
    }
}

impl Sealed for Avx2 {}

impl Simd for Avx2 {
    const LANES: usize = 8;
    const REGISTERS: usize = 16;
    const FUSED: bool = true;
    type F32 = __m256;
    type Words = __m256i;
    type F64 = __m256d;

    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        unsafe { _mm256_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(self, value: __m256, to: *mut f32) {
        unsafe { _mm256_storeu_ps(to, value) }
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn neg_mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fnmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn splat_word(self, value: u32) -> __m256i {
        unsafe { _mm256_set1_epi32(value.cast_signed()) }
    }
    #[inline(always)]
    unsafe fn load_words(self, from: *const u32) -> __m256i {
        unsafe { _mm256_loadu_si256(from.cast()) }
    }
    #[inline(always)]
    fn floats(self, words: __m256i) -> __m256 {
        unsafe { _mm256_castsi256_ps(words) }
    }
    #[inline(always)]
    fn first_i16(self, words: __m256i) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(_mm256_srai_epi32::<16>(_mm256_slli_epi32::<16>(words))) }
    }
    #[inline(always)]
    fn second_i16(self, words: __m256i) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(_mm256_srai_epi32::<16>(words)) }
    }
    #[inline(always)]
    fn dot_bf16(self, sum: __m256, a: __m256i, b: __m256i) -> __m256 {
        // A bfloat16 is the upper half of a float32.
        let high = self.splat_word(0xffff_0000);
        let first = |words| unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words)) };
        let second = |words| unsafe { _mm256_castsi256_ps(_mm256_and_si256(words, high)) };
        self.mul_add(first(a), first(b), self.mul_add(second(a), second(b), sum))
    }
    #[inline(always)]
    fn dot_u8_i8(self, sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
        // `vpmaddubsw` saturates at 16 bits: widen to 16 bits first, even bytes and odd ones apart.
        unsafe {
            let even = _mm256_madd_epi16(
                _mm256_and_si256(a, _mm256_set1_epi16(0xff)),
                _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(b)),
            );
            let odd = _mm256_madd_epi16(_mm256_srli_epi16::<8>(a), _mm256_srai_epi16::<8>(b));
            _mm256_add_epi32(sum, _mm256_add_epi32(even, odd))
        }
    }
    #[inline(always)]
    fn integers_to_floats(self, words: __m256i) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(words) }
    }
    #[inline(always)]
    fn splat_f64(self, value: f64) -> __m256d {
        unsafe { _mm256_set1_pd(value) }
    }
    #[inline(always)]
    unsafe fn load_f64(self, from: *const f64) -> __m256d {
        unsafe { _mm256_loadu_pd(from) }
    }
    #[inline(always)]
    unsafe fn store_f64(self, value: __m256d, to: *mut f64) {
        unsafe { _mm256_storeu_pd(to, value) }
    }
    #[inline(always)]
    fn mul_add_f64(self, a: __m256d, b: __m256d, c: __m256d) -> __m256d {
        unsafe { _mm256_fmadd_pd(a, b, c) }
    }
    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
}
