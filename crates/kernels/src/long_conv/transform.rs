//! The convolution of one panel (a vector of channels) as a product of polynomials modulo `z^length - i`.
//!
//! Going down the tree of a [`Plan`], a node's polynomial is reduced modulo the factors of its modulus; at the leaves,
//! whose factors are of first degree, it is multiplied with the filter's; and on the way up the factors' residues are put
//! together again. That is a Fourier transform without its bit reversal: every node has one root, so that its twiddle
//! factors are the same for all of its points.

// Iterators over small arrays of vectors keep the compiler from holding them in registers without AVX: 1.4 to 1.8 times the
// time.
#![allow(clippy::needless_range_loop)]

use danaus_simd::Simd;

use super::WIDEST;
use super::butterfly::{Complex, dft};
use super::plan::{LEAF, Level, Plan};
use super::rows::{Rows, Sink};

/// How many rows ahead of their turn a text's and its results' are asked for, in texts of so many tokens that the
/// processor's own foresight, which ends with the page, is of no help.
const ROWS_AHEAD: usize = 8;
/// See [`ROWS_AHEAD`].
const LONG: usize = 2048;

/// How many points ahead of their turn a filter's are asked for: two pages.
const FILTER_AHEAD: usize = 64;

/// Points `[point][real, imaginary][lane]`.
#[derive(Clone, Copy)]
pub(super) struct Points<S: Simd> {
    pub(super) simd: S,
    pub(super) data: *mut f32,
}

impl<S: Simd> Points<S> {
    /// Values that a point takes.
    pub(super) const VALUES: usize = 2 * S::LANES;

    /// The points from `start` on that are `step` apart.
    ///
    /// # Safety
    /// They are readable and initialised.
    #[inline(always)]
    unsafe fn load<const R: usize>(self, start: usize, step: usize) -> [Complex<S>; R] {
        let mut v = [Complex::zero(self.simd); R];
        for k in 0..R {
            // SAFETY: the caller's.
            unsafe {
                let point = self.data.add((start + k * step) * Self::VALUES);
                v[k] = Complex { re: self.simd.load(point), im: self.simd.load(point.add(S::LANES)) };
            }
        }
        v
    }

    /// Writes to the points from `start` on that are `step` apart.
    ///
    /// # Safety
    /// They are writable.
    #[inline(always)]
    unsafe fn store<const R: usize>(self, start: usize, step: usize, v: &[Complex<S>; R]) {
        for k in 0..R {
            // SAFETY: the caller's.
            unsafe {
                let point = self.data.add((start + k * step) * Self::VALUES);
                self.simd.store(v[k].re, point);
                self.simd.store(v[k].im, point.add(S::LANES));
            }
        }
    }

    /// The points from `index` on.
    ///
    /// # Safety
    /// There are as many.
    #[inline(always)]
    unsafe fn from(self, index: usize) -> Self {
        // SAFETY: the caller's.
        Self { data: unsafe { self.data.add(index * Self::VALUES) }, ..self }
    }
}

/// What the leaves are multiplied with on the way.
pub(super) trait Factor<S: Simd>: Copy {
    /// Whether there is anything: without it, the way ends at the leaves.
    const PRODUCT: bool;
    /// The points of the leaf that starts at point `start`.
    ///
    /// # Safety
    /// There are as many points.
    unsafe fn leaf(self, simd: S, start: usize) -> [Complex<S>; LEAF];
    /// Asks for the points of the leaf that starts at point `start`, which need not exist.
    fn prefetch(self, simd: S, start: usize);
}

/// Nothing.
#[derive(Clone, Copy)]
struct Nothing;

/// A spectrum `[point][real, imaginary][lane]`.
#[derive(Clone, Copy)]
pub(super) struct Spectrum(pub(super) *const f32);

/// A spectrum in 16-bit integers: a float32 per lane, the value of a step, then words `[point][lane]` with the real part in
/// the lower half and the imaginary part in the upper.
#[derive(Clone, Copy)]
pub(super) struct CompactSpectrum(pub(super) *const u32);

impl<S: Simd> Factor<S> for Nothing {
    const PRODUCT: bool = false;
    #[inline(always)]
    unsafe fn leaf(self, simd: S, _: usize) -> [Complex<S>; LEAF] {
        [Complex::zero(simd); LEAF]
    }
    #[inline(always)]
    fn prefetch(self, _: S, _: usize) {}
}

impl<S: Simd> Factor<S> for Spectrum {
    const PRODUCT: bool = true;
    #[inline(always)]
    unsafe fn leaf(self, simd: S, start: usize) -> [Complex<S>; LEAF] {
        // SAFETY: the caller's; the points are only read.
        unsafe { Points { simd, data: self.0.cast_mut() }.load::<LEAF>(start, 1) }
    }
    #[inline(always)]
    fn prefetch(self, simd: S, start: usize) {
        for line in (0..LEAF * Points::<S>::VALUES).step_by(WIDEST) {
            simd.prefetch(self.0.wrapping_add(start * Points::<S>::VALUES + line).cast());
        }
    }
}

impl<S: Simd> Factor<S> for CompactSpectrum {
    const PRODUCT: bool = true;
    #[inline(always)]
    unsafe fn leaf(self, simd: S, start: usize) -> [Complex<S>; LEAF] {
        let mut v = [Complex::zero(simd); LEAF];
        // SAFETY: the steps are there, and may be any bits.
        let step = unsafe { simd.load(self.0.cast()) };
        for k in 0..LEAF {
            // SAFETY: the caller's.
            let words = unsafe { simd.load_words(self.0.add((1 + start + k) * S::LANES)) };
            let (re, im) = (simd.first_i16(words), simd.second_i16(words));
            v[k] = Complex { re: simd.mul(step, re), im: simd.mul(step, im) };
        }
        v
    }
    #[inline(always)]
    fn prefetch(self, simd: S, start: usize) {
        for line in (0..LEAF * S::LANES).step_by(WIDEST) {
            simd.prefetch(self.0.wrapping_add((1 + start) * S::LANES + line).cast());
        }
    }
}

/// What the tree's root is given.
#[derive(Clone, Copy)]
pub(super) enum Source {
    /// A text: real, of at most as many rows as there are points.
    Text(Rows),
    /// A filter's taps.
    Taps(Taps),
}

/// The taps of a filter of `length` points: the real parts are the forward ones; the imaginary parts, which the modulus
/// takes for `z^length` and above, the reverse ones from the last to the first, negative since `z^(2 length)` is -1.
#[derive(Clone, Copy)]
pub(super) struct Taps {
    pub(super) forward: Rows,
    pub(super) reverse: Rows,
    /// The first forward tap and the skip connection together.
    pub(super) first: *const f32,
    pub(super) length: usize,
}

impl Taps {
    /// # Safety
    /// As for [`Rows::load`]; and `first` is a readable vector.
    #[inline(always)]
    unsafe fn load<S: Simd>(self, simd: S, index: usize) -> Complex<S> {
        let scale = simd.splat(1.0 / self.length as f32);
        // SAFETY: the caller's.
        unsafe {
            if index == 0 {
                // The reverse tap beside it, at distance `length`, reaches no token.
                return Complex { re: simd.mul(scale, simd.load(self.first)), im: simd.splat(0.0) };
            }
            let re = self.forward.load(simd, index);
            let im = self.reverse.load(simd, self.length - 1 - index);
            Complex { re: simd.mul(scale, re), im: simd.mul(simd.splat(-1.0 / self.length as f32), im) }
        }
    }
}

/// Transforms a text, multiplies it with a filter and transforms it back, by way of `points`.
///
/// # Safety
/// `points` are as many as the plan's, writable; `filter` as many, made by [`spectrum`]; `text` and `sink` are what their
/// methods ask for.
#[inline(always)]
pub(super) unsafe fn convolve<S: Simd, F: Factor<S>>(
    plan: &Plan,
    points: Points<S>,
    filter: F,
    text: Rows,
    sink: Sink,
) {
    // SAFETY: the caller's.
    unsafe {
        first_level(plan, points, Source::Text(text));
        descend(plan, points, filter);
        match plan.top.radix {
            4 => last_level::<S, 4>(plan, points, sink),
            6 => last_level::<S, 6>(plan, points, sink),
            8 => last_level::<S, 8>(plan, points, sink),
            _ => unreachable!(),
        }
    }
}

/// Transforms a filter's taps to `points`.
///
/// # Safety
/// `points` are as many as the plan's, writable; `taps` are what their methods ask for.
#[inline(always)]
pub(super) unsafe fn spectrum<S: Simd>(plan: &Plan, points: Points<S>, taps: Taps) {
    // SAFETY: the caller's.
    unsafe {
        first_level(plan, points, Source::Taps(taps));
        descend(plan, points, Nothing);
    }
}

/// # Safety
/// `points` are as many as the plan's, writable; the source is what its methods ask for.
#[inline(always)]
unsafe fn first_level<S: Simd>(plan: &Plan, points: Points<S>, source: Source) {
    // SAFETY: the caller's.
    unsafe {
        match plan.top.radix {
            4 => root::<S, 4>(plan, points, source),
            6 => root::<S, 6>(plan, points, source),
            8 => root::<S, 8>(plan, points, source),
            _ => unreachable!(),
        }
    }
}

/// The root's butterflies, from where the source lies.
///
/// # Safety
/// As for [`first_level`].
#[inline(always)]
unsafe fn root<S: Simd, const R: usize>(plan: &Plan, points: Points<S>, source: Source) {
    let simd = points.simd;
    let (child, twiddles) = (plan.length() / R, plan.top.twiddles(0));
    for j in 0..child {
        let mut v = [Complex::zero(simd); R];
        // SAFETY: the caller's; every index is less than R * child, the plan's length.
        unsafe {
            match source {
                Source::Text(rows) => {
                    if plan.length() >= LONG {
                        (0..R).for_each(|k| rows.prefetch(simd, k * child + j + ROWS_AHEAD));
                    }
                    v[0].re = rows.load(simd, j);
                    for k in 1..R {
                        let x = rows.load(simd, k * child + j);
                        let twiddle = Complex::twiddle(simd, twiddles, k - 1);
                        v[k] = Complex { re: simd.mul(x, twiddle.re), im: simd.mul(x, twiddle.im) };
                    }
                }
                Source::Taps(taps) => {
                    v[0] = taps.load(simd, j);
                    for k in 1..R {
                        let twiddle = Complex::twiddle(simd, twiddles, k - 1);
                        v[k] = taps.load(simd, k * child + j).mul::<false>(simd, twiddle);
                    }
                }
            }
            dft::<S, R, false>(simd, &mut v);
            points.store(j, child, &v);
        }
    }
}

/// The root's butterflies on the way back: the real parts, to where the results go.
///
/// # Safety
/// `points` are as many as the plan's, readable; the sink is what its method asks for.
#[inline(always)]
unsafe fn last_level<S: Simd, const R: usize>(plan: &Plan, points: Points<S>, sink: Sink) {
    let simd = points.simd;
    let (child, twiddles) = (plan.length() / R, plan.top.twiddles(0));
    // Results beyond the text are of no use.
    for j in 0..child.min(sink.count) {
        // SAFETY: the caller's; every index is less than R * child, the plan's length.
        unsafe {
            if plan.length() >= LONG {
                (0..R).for_each(|k| sink.prefetch(simd, k * child + j + ROWS_AHEAD));
            }
            let mut v = points.load::<R>(j, child);
            dft::<S, R, true>(simd, &mut v);
            sink.write(simd, j, v[0].re);
            for k in 1..R {
                let twiddle = Complex::twiddle(simd, twiddles, k - 1);
                let re = simd.mul_add(v[k].im, twiddle.im, simd.mul(v[k].re, twiddle.re));
                sink.write(simd, k * child + j, re);
            }
        }
    }
}

/// All levels but the root, depth first: a node's points stay in the nearest cache that holds them while its descendants
/// are worked on. With a product, multiplied with the filter at the leaves and up again; else only down.
///
/// # Safety
/// As for [`convolve`].
#[inline(always)]
unsafe fn descend<S: Simd, F: Factor<S>>(plan: &Plan, points: Points<S>, filter: F) {
    let length = plan.length();
    let block = plan.middle.last().map_or(length, |level| level.points);
    for start in (0..length).step_by(block) {
        let end = start + block;
        // SAFETY: the caller's; nodes and leaves are within the plan's length, which their sizes divide.
        unsafe {
            for level in plan.middle.iter().filter(|level| start.is_multiple_of(level.points)) {
                node::<S, false>(level, start / level.points, points);
            }
            leaves::<S, F>(&plan.leaves, start..end, points, filter);
            if !F::PRODUCT {
                continue;
            }
            for level in plan.middle.iter().rev().filter(|level| end.is_multiple_of(level.points)) {
                node::<S, true>(level, end / level.points - 1, points);
            }
        }
    }
}

/// # Safety
/// The node's points are readable and writable.
#[inline(always)]
unsafe fn node<S: Simd, const INVERSE: bool>(level: &Level, index: usize, points: Points<S>) {
    // SAFETY: the caller's.
    unsafe {
        let points = points.from(index * level.points);
        match level.radix {
            4 => butterflies::<S, 4, INVERSE>(level, index, points),
            8 => butterflies::<S, 8, INVERSE>(level, index, points),
            _ => unreachable!(),
        }
    }
}

/// # Safety
/// The node's points are readable and writable.
#[inline(always)]
unsafe fn butterflies<S: Simd, const R: usize, const INVERSE: bool>(
    level: &Level,
    index: usize,
    points: Points<S>,
) {
    let simd = points.simd;
    let (child, twiddles) = (level.points / R, level.twiddles(index));
    for j in 0..child {
        // SAFETY: the caller's; every index is less than R * child, the node's points.
        unsafe {
            let mut v = points.load::<R>(j, child);
            butterfly::<S, R, INVERSE>(simd, &mut v, twiddles);
            points.store(j, child, &v);
        }
    }
}

/// A node's butterfly: twiddle factors and transform, or the inverse transform and the factors' conjugates.
///
/// # Safety
/// There are R - 1 twiddle factors.
#[inline(always)]
unsafe fn butterfly<S: Simd, const R: usize, const INVERSE: bool>(
    simd: S,
    v: &mut [Complex<S>; R],
    twiddles: *const f32,
) {
    if INVERSE {
        dft::<S, R, INVERSE>(simd, v);
    }
    for k in 1..R {
        // SAFETY: the caller's.
        let twiddle = unsafe { Complex::twiddle(simd, twiddles, k - 1) };
        v[k] = v[k].mul::<INVERSE>(simd, twiddle);
    }
    if !INVERSE {
        dft::<S, R, INVERSE>(simd, v);
    }
}

/// The leaves of the points in `range`: with a product, there and back, multiplied with the filter in between.
///
/// # Safety
/// The points are readable and writable, and the filter has as many.
#[inline(always)]
unsafe fn leaves<S: Simd, F: Factor<S>>(
    level: &Level,
    range: std::ops::Range<usize>,
    points: Points<S>,
    filter: F,
) {
    let simd = points.simd;
    let mut twiddles = level.twiddles(range.start / LEAF);
    for start in range.step_by(LEAF) {
        // SAFETY: the caller's.
        unsafe {
            filter.prefetch(simd, start + FILTER_AHEAD);
            let mut v = points.load::<LEAF>(start, 1);
            butterfly::<S, LEAF, false>(simd, &mut v, twiddles);
            if F::PRODUCT {
                let h = filter.leaf(simd, start);
                for k in 0..LEAF {
                    v[k] = v[k].mul::<false>(simd, h[k]);
                }
                butterfly::<S, LEAF, true>(simd, &mut v, twiddles);
            }
            points.store(start, 1, &v);
            twiddles = twiddles.add(2 * (LEAF - 1));
        }
    }
}
