//! Tiles: a few rows times a panel, with all sums in registers.

use std::ptr;

use danaus_simd::Simd;
#[cfg(target_arch = "x86_64")]
use danaus_simd::TileDot;

/// The most rows of a tile whose sums are in vectors, and the most outputs of a panel, on any instruction set.
pub(super) const MAX_ROWS: usize = 9;
/// See [`MAX_ROWS`].
pub(super) const MAX_PANEL: usize = 48;

/// The most rows of any tile: of matrix tiles.
pub(super) const MOST_ROWS: usize = 32;

/// Sums of a tile's products, row by row.
pub(super) type Sums = [[f32; MAX_PANEL]; MOST_ROWS];

/// Vectors of a panel: with the rows of [`Dot::ROWS`], their sums, a step's words and a broadcast fill the registers.
#[inline(always)]
const fn panel_vectors<S: Simd>() -> usize {
    if S::REGISTERS == 32 && S::LANES == 16 { 3 } else { 2 }
}

/// Outputs of a panel.
#[inline(always)]
pub(super) const fn panel_width<S: Simd>() -> usize {
    panel_vectors::<S>() * S::LANES
}

/// How a precision multiplies words and sums their products.
pub(super) trait Dot<S: Simd> {
    /// `LANES` sums.
    type Sum: Copy;
    /// The most rows of a tile.
    const ROWS: usize;
    /// How matrix tiles do the same, if they do.
    #[cfg(target_arch = "x86_64")]
    const TILES: Option<TileDot> = None;
    /// Whether sums start from values of the weight's own.
    const STARTS: bool = false;
    /// What a sum starts from; `from` points to `LANES` int32 values where the precision needs them.
    ///
    /// # Safety
    /// For [`Int8`], they are readable.
    unsafe fn start(simd: S, from: *const i32) -> Self::Sum;
    /// `sum` and the products of a word's values.
    fn step(simd: S, sum: Self::Sum, activations: S::Words, weights: S::Words) -> Self::Sum;
    /// The sums as float32.
    fn finish(simd: S, sum: Self::Sum) -> S::F32;
}

/// Sums of float32 products.
pub(super) struct F32;
/// Sums of bfloat16 products, in float32.
pub(super) struct Bf16;
/// Sums of products of 8-bit integers, in int32.
pub(super) struct Int8;

impl<S: Simd> Dot<S> for F32 {
    type Sum = S::F32;
    const ROWS: usize = if S::LANES == 16 {
        8
    } else if S::LANES == 8 {
        6
    } else {
        4
    };
    #[inline(always)]
    unsafe fn start(simd: S, _: *const i32) -> S::F32 {
        simd.splat(0.0)
    }
    #[inline(always)]
    fn step(simd: S, sum: S::F32, activations: S::Words, weights: S::Words) -> S::F32 {
        simd.mul_add(simd.floats(activations), simd.floats(weights), sum)
    }
    #[inline(always)]
    fn finish(_: S, sum: S::F32) -> S::F32 {
        sum
    }
}

impl<S: Simd> Dot<S> for Bf16 {
    type Sum = S::F32;
    #[cfg(target_arch = "x86_64")]
    const TILES: Option<TileDot> = Some(TileDot::Bf16);
    const ROWS: usize = if S::LANES == 16 { 9 } else { 4 };
    #[inline(always)]
    unsafe fn start(simd: S, _: *const i32) -> S::F32 {
        simd.splat(0.0)
    }
    #[inline(always)]
    fn step(simd: S, sum: S::F32, activations: S::Words, weights: S::Words) -> S::F32 {
        simd.dot_bf16(sum, activations, weights)
    }
    #[inline(always)]
    fn finish(_: S, sum: S::F32) -> S::F32 {
        sum
    }
}

impl<S: Simd> Dot<S> for Int8 {
    type Sum = S::Words;
    #[cfg(target_arch = "x86_64")]
    const TILES: Option<TileDot> = Some(TileDot::Int8);
    const STARTS: bool = true;
    const ROWS: usize = if S::LANES == 16 { 9 } else { 4 };
    #[inline(always)]
    unsafe fn start(simd: S, from: *const i32) -> S::Words {
        // SAFETY: readable by this function's contract.
        unsafe { simd.load_words(from.cast()) }
    }
    #[inline(always)]
    fn step(simd: S, sum: S::Words, activations: S::Words, weights: S::Words) -> S::Words {
        simd.dot_u8_i8(sum, activations, weights)
    }
    #[inline(always)]
    fn finish(simd: S, sum: S::Words) -> S::F32 {
        simd.integers_to_floats(sum)
    }
}

/// One panel of a weight.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    /// `[steps][panel]`
    pub words: &'a [u32],
    /// `[panel]` for 8-bit integers, else empty.
    pub starts: &'a [i32],
    /// Where a line is prefetched at each step: somewhere in the next panel, or in this one, where it changes nothing.
    pub ahead: *const u8,
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// Products of `rows` (at most [`Dot::ROWS`], each `steps` words) with a panel.
#[inline(always)]
pub(super) fn tile<S: Simd, D: Dot<S>>(simd: S, rows: &[&[u32]], panel: Panel<'_>, sums: &mut Sums) {
    // Arms that the instruction set has no registers for are never compiled.
    match rows.len() {
        1 => shaped::<S, D, 1>(simd, rows, panel, sums),
        2 => shaped::<S, D, 2>(simd, rows, panel, sums),
        3 => shaped::<S, D, 3>(simd, rows, panel, sums),
        4 => shaped::<S, D, 4>(simd, rows, panel, sums),
        5 if D::ROWS >= 5 => shaped::<S, D, 5>(simd, rows, panel, sums),
        6 if D::ROWS >= 6 => shaped::<S, D, 6>(simd, rows, panel, sums),
        7 if D::ROWS >= 7 => shaped::<S, D, 7>(simd, rows, panel, sums),
        8 if D::ROWS >= 8 => shaped::<S, D, 8>(simd, rows, panel, sums),
        9 if D::ROWS >= 9 => shaped::<S, D, 9>(simd, rows, panel, sums),
        count => panic!("a tile of {count} rows"),
    }
}

#[inline(always)]
fn shaped<S: Simd, D: Dot<S>, const ROWS: usize>(
    simd: S,
    rows: &[&[u32]],
    panel: Panel<'_>,
    sums: &mut Sums,
) {
    match panel_vectors::<S>() {
        2 => sized::<S, D, ROWS, 2>(simd, rows, panel, sums),
        _ => sized::<S, D, ROWS, 3>(simd, rows, panel, sums),
    }
}

#[inline(always)]
fn sized<S: Simd, D: Dot<S>, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    rows: &[&[u32]],
    panel: Panel<'_>,
    sums: &mut Sums,
) {
    let width = VECTORS * S::LANES;
    let steps = panel.words.len() / width;
    assert!(rows.len() == ROWS && rows.iter().all(|row| row.len() == steps));
    assert!(panel.words.len() == steps * width);
    assert_eq!(panel.starts.len(), if D::STARTS { width } else { 0 });
    assert!(ROWS <= MAX_ROWS && width <= MAX_PANEL);
    let rows: [*const u32; ROWS] = std::array::from_fn(|r| rows[r].as_ptr());
    let starts = if panel.starts.is_empty() { ptr::null() } else { panel.starts.as_ptr() };
    // SAFETY: where they are read, `starts` has a value for each sum, asserted above, of which each vector reads its part.
    let mut start = [unsafe { D::start(simd, starts) }; VECTORS];
    for (v, start) in start.iter_mut().enumerate() {
        // SAFETY: as above.
        *start = unsafe { D::start(simd, starts.wrapping_add(v * S::LANES)) };
    }
    let mut totals = [start; ROWS];
    let (mut words, mut ahead) = (panel.words.as_ptr(), panel.ahead);
    for k in 0..steps {
        simd.prefetch(ahead);
        ahead = ahead.wrapping_add(LINE);
        let mut weights = [simd.splat_word(0); VECTORS];
        for (v, weights) in weights.iter_mut().enumerate() {
            // SAFETY: step `k` of `steps` in a panel that has that many, by the assertions above; likewise each row.
            *weights = unsafe { simd.load_words(words.add(v * S::LANES)) };
        }
        words = words.wrapping_add(width);
        for (totals, row) in totals.iter_mut().zip(rows) {
            // SAFETY: as above.
            let activation = simd.splat_word(unsafe { *row.add(k) });
            for (total, &weights) in totals.iter_mut().zip(&weights) {
                *total = D::step(simd, *total, activation, weights);
            }
        }
    }
    for (totals, sums) in totals.iter().zip(sums) {
        for (v, &total) in totals.iter().enumerate() {
            // SAFETY: `VECTORS` vectors fit `MAX_PANEL` values, asserted above.
            unsafe { simd.store(D::finish(simd, total), sums.as_mut_ptr().add(v * S::LANES)) };
        }
    }
}
