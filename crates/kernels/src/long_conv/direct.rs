//! The convolution of one panel (a vector of channels) of a short text as the sum that it is.

use danaus_simd::Simd;

use super::rows::{Rows, Sink};
use super::transform::Taps;

/// Convolves a text with `taps` `[2 * length - 1][lane]`, from the one on the last token to the one on the first, by tiles
/// of outputs: sixteen while there are as many, then eight, four, two and one, so that the work follows the text's length.
///
/// # Safety
/// The text is at most `length` long, the taps are readable, and `text` and `sink` are what their methods ask for.
#[inline(always)]
pub(super) unsafe fn convolve<S: Simd>(simd: S, taps: *const f32, length: usize, text: Rows, sink: Sink) {
    let tokens = text.count;
    // The taps that token 0 of a text is multiplied with, from the first output's on.
    // SAFETY: the caller's.
    let middle = unsafe { taps.add((length - 1) * S::LANES) };
    let mut first = 0;
    while first < tokens {
        // SAFETY: the caller's; a tile is within the text.
        unsafe {
            first += match tokens - first {
                16.. if S::REGISTERS >= 32 => tile::<S, 16>(simd, middle, first, text, sink),
                8.. => tile::<S, 8>(simd, middle, first, text, sink),
                4.. => tile::<S, 4>(simd, middle, first, text, sink),
                2.. => tile::<S, 2>(simd, middle, first, text, sink),
                _ => tile::<S, 1>(simd, middle, first, text, sink),
            };
        }
    }
}

/// The `N` outputs from `first` on. Returns N.
///
/// # Safety
/// As for [`convolve`]; the text has these rows.
#[inline(always)]
unsafe fn tile<S: Simd, const N: usize>(
    simd: S,
    middle: *const f32,
    first: usize,
    text: Rows,
    sink: Sink,
) -> usize {
    let mut sums = [simd.splat(0.0); N];
    let (mut row, mut taps) = (text.data, middle.wrapping_add(first * S::LANES));
    for _ in 0..text.count {
        // SAFETY: the caller's: the text's rows, each with the N taps from the one on output `first` on.
        unsafe {
            let x = simd.load(row);
            for (n, sum) in sums.iter_mut().enumerate() {
                *sum = simd.mul_add(simd.load(taps.add(n * S::LANES)), x, *sum);
            }
        }
        row = row.wrapping_add(text.stride);
        taps = taps.wrapping_sub(S::LANES);
    }
    for (n, &sum) in sums.iter().enumerate() {
        // SAFETY: the caller's.
        unsafe { sink.write(simd, first + n, sum) };
    }
    N
}

/// Writes taps in the order that [`convolve`] reads them in.
///
/// # Safety
/// There is room for `2 * length - 1` vectors at `to`, and the taps' rows are readable.
#[inline(always)]
pub(super) unsafe fn order_taps<S: Simd>(simd: S, to: *mut f32, taps: Taps) {
    let length = taps.length;
    // SAFETY: the caller's.
    unsafe {
        for p in 0..length - 1 {
            simd.store(taps.reverse.load(simd, length - 2 - p), to.add(p * S::LANES));
        }
        simd.store(simd.load(taps.first), to.add((length - 1) * S::LANES));
        for p in 1..length {
            simd.store(taps.forward.load(simd, p), to.add((length - 1 + p) * S::LANES));
        }
    }
}
