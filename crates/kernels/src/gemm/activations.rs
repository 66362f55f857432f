//! Activations in the precision of a product.

use danaus_simd::{Isa, Simd, Vectorized};

use crate::matrix::{Matrix, MatrixMut};

/// What weights and activations of a product are made of. Sums are float32, or int32 for 8-bit integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// float32: one to a word.
    F32,
    /// bfloat16, rounded to nearest even: two to a word, the first in the lower half.
    Bf16,
    /// 8-bit integers, four to a word, the first in the lowest byte. Weights are signed, with a scale for each output;
    /// activations unsigned (128 stands for zero), with a scale for each row of a block.
    Int8,
}

/// What 127 steps of an 8-bit activation start from.
const ZERO_POINT: f32 = 128.0;

/// Adding this rounds a float32 of magnitude below 2^22 to an integer, and leaves that integer in the low bits of the sum.
const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23

impl Precision {
    /// Values in a word of 32 bits.
    pub fn values_per_word(self) -> usize {
        match self {
            Precision::F32 => 1,
            Precision::Bf16 => 2,
            Precision::Int8 => 4,
        }
    }

    /// Words that `values` values take.
    pub fn words(self, values: usize) -> usize {
        values.div_ceil(self.values_per_word())
    }
}

/// Rows of activations as words of a precision: what [`multiply`](super::multiply) takes.
#[derive(Debug, Clone, Copy)]
pub struct Activations<'a> {
    pub(super) precision: Precision,
    /// `[rows, words]`
    pub(super) words: Matrix<'a, u32>,
    /// `[rows, 1]`: the value of a step of each row, for 8-bit integers.
    pub(super) scales: Option<Matrix<'a>>,
}

impl<'a> Activations<'a> {
    /// float32 activations `[rows, inputs]`, as they are.
    pub fn plain(x: Matrix<'a>) -> Self {
        Self { precision: Precision::F32, words: x.words(), scales: None }
    }

    /// Words `[rows, words]` that need no scale: of float32 or bfloat16 activations.
    ///
    /// # Panics
    /// Where the precision is 8-bit integers.
    pub fn words(precision: Precision, words: Matrix<'a, u32>) -> Self {
        assert!(precision != Precision::Int8, "8-bit activations have scales");
        Self { precision, words, scales: None }
    }

    /// Block `block` of what [`encode`] wrote: `words` is `[rows, blocks * words]`, `scales` `[rows, blocks]`.
    ///
    /// # Panics
    /// Where shapes disagree.
    pub fn encoded(
        precision: Precision,
        words: Matrix<'a, u32>,
        scales: Matrix<'a>,
        (block, blocks): (usize, usize),
    ) -> Self {
        let width = words.cols() / blocks;
        assert_eq!((width * blocks, scales.cols()), (words.cols(), blocks), "blocks");
        assert_eq!(words.rows(), scales.rows(), "rows");
        let words = words.columns(block * width, width);
        Self { precision, words, scales: Some(scales.columns(block, 1)) }
    }

    /// Rows `range`.
    ///
    /// # Panics
    /// Where there are fewer rows.
    pub fn slice(self, range: std::ops::Range<usize>) -> Self {
        let scales = self.scales.map(|scales| scales.slice(range.clone()));
        Self { words: self.words.slice(range), scales, ..self }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.words.rows()
    }
}

/// Rounds `x` `[rows, blocks * inputs]` to a precision other than float32: `words` is `[rows, blocks * W]` with W words for a
/// block's inputs, `scales` `[rows, blocks]`. Values that fill up a block's last word are zero (their weights are, too). A row
/// with a value that is not finite gets results that are not.
///
/// # Panics
/// Where shapes disagree, or the precision is float32 (see [`Activations::plain`]).
pub fn encode(
    isa: Isa,
    precision: Precision,
    x: Matrix<'_>,
    mut words: MatrixMut<'_, u32>,
    mut scales: MatrixMut<'_>,
) {
    let blocks = scales.cols();
    let inputs = x.cols() / blocks;
    assert_eq!(inputs * blocks, x.cols(), "blocks");
    assert_eq!((words.rows(), scales.rows()), (x.rows(), x.rows()), "rows");
    assert_eq!(words.cols(), blocks * precision.words(inputs), "words");
    let width = precision.words(inputs);
    for row in 0..x.rows() {
        let parts = x.row(row).chunks_exact(inputs).zip(words.row_mut(row).chunks_exact_mut(width));
        for ((x, words), scale) in parts.zip(scales.row_mut(row)) {
            match precision {
                Precision::F32 => panic!("float32 activations are used as they are"),
                Precision::Bf16 => isa.run(ToBf16 { x, words }),
                Precision::Int8 => *scale = isa.run(ToInt8 { x, words }),
            }
        }
    }
}

/// The bits of the bfloat16 nearest to `x`, ties to even; a NaN stays one.
#[inline(always)]
fn bf16_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1))) >> 16;
    if x.is_nan() { 0x7fc0 } else { rounded }
}

/// Writes values as bfloat16, two to a word, the first in the lower half; what fills up the last word is zero.
#[inline(always)]
pub(crate) fn pack_bf16(x: &[f32], words: &mut [u32]) {
    let pairs = x.chunks_exact(2);
    if let &[last] = pairs.remainder() {
        words[x.len() / 2] = bf16_bits(last);
    }
    for (word, pair) in words.iter_mut().zip(pairs) {
        *word = bf16_bits(pair[0]) | bf16_bits(pair[1]) << 16;
    }
}

/// Rounds a row of values to words of bfloat16; those that fill up the last word are zero.
pub(super) struct ToBf16<'a> {
    pub x: &'a [f32],
    pub words: &'a mut [u32],
}

impl Vectorized for ToBf16<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        pack_bf16(self.x, self.words);
    }
}

/// Rounds a row of values to words of unsigned 8-bit integers, 128 for zero. A value that is not finite makes the scale, and
/// with it the row's results, not finite.
struct ToInt8<'a> {
    x: &'a [f32],
    words: &'a mut [u32],
}

impl Vectorized for ToInt8<'_> {
    /// The value of a step.
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> f32 {
        let (steps, scale) = steps(self.x);
        pack_bytes(self.x, self.words, |x| (x * steps + (ROUND + ZERO_POINT)).to_bits() & 0xff);
        scale
    }
}

/// Rounds a row of finite values to words of signed 8-bit integers; those that fill up the last word are zero.
pub(super) struct ToSignedInt8<'a> {
    pub x: &'a [f32],
    pub words: &'a mut [u32],
}

impl Vectorized for ToSignedInt8<'_> {
    /// The value of a step, and the sum of the integers.
    type Output = (f32, i32);
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> (f32, i32) {
        let (steps, scale) = steps(self.x);
        let rounded = |x: f32| (x * steps + ROUND).to_bits();
        pack_bytes(self.x, self.words, |x| rounded(x) & 0xff);
        let sum = self.x.iter().map(|&x| rounded(x).wrapping_sub(ROUND.to_bits()).cast_signed()).sum();
        (scale, sum)
    }
}

/// Steps to a unit, and the value of a step, for 127 steps to the largest magnitude of `x`.
#[inline(always)]
fn steps(x: &[f32]) -> (f32, f32) {
    // As integers, magnitudes are in order, with infinity above all numbers and NaN above that.
    let largest = x.iter().fold(0, |largest, x| largest.max(x.to_bits() & 0x7fff_ffff));
    let largest = f32::from_bits(largest);
    let steps = if largest < 1e-30 { 0.0 } else { 127.0 / largest };
    (steps, if largest.is_finite() { largest / 127.0 } else { f32::NAN })
}

/// Packs a byte for each value, four to a word.
#[inline(always)]
fn pack_bytes(x: &[f32], words: &mut [u32], byte: impl Fn(f32) -> u32) {
    let quads = x.chunks_exact(4);
    let rest = quads.remainder();
    if let (false, Some(word)) = (rest.is_empty(), words.last_mut()) {
        *word = rest.iter().rev().fold(0, |word, &x| word << 8 | byte(x));
    }
    for (word, quad) in words.iter_mut().zip(quads) {
        *word = byte(quad[0]) | byte(quad[1]) << 8 | byte(quad[2]) << 16 | byte(quad[3]) << 24;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bfloat16_rounds_to_nearest_even() {
        let cases = [
            (1.0, 0x3f80),
            (-2.5, 0xc020),
            (f32::from_bits(0x3f80_8000), 0x3f80),
            (f32::from_bits(0x3f81_8000), 0x3f82),
            (f32::from_bits(0x3f80_8001), 0x3f81),
            (f32::INFINITY, 0x7f80),
            (f32::MAX, 0x7f80),
            (f32::NAN, 0x7fc0),
            (0.0, 0),
        ];
        for (x, bits) in cases {
            assert_eq!(bf16_bits(x), bits, "{x}");
        }
    }
}
