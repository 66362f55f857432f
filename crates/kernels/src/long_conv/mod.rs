//! The long convolution: bidirectional, exact, per channel.
//!
//! `y[i] = sum_{j<=i} forward[i-j] x[j] + sum_{j>i} reverse[j-i-1] x[j] + skip x[i]`
//!
//! The channels of a vector (a panel) are convolved together, in the order `[token, channel]` that texts have: no
//! transposition, no shuffle. Texts of up to [`DIRECT_TOKENS`] tokens are convolved by the sum above, longer ones as a
//! product of polynomials modulo `z^(2 L) + 1`, where L is the filter's length, at least the text's: what wraps around
//! falls on results that no token has. Both factors being real, a product modulo `z^L - i` says everything: the
//! coefficients from `z^L` on are the imaginary parts of those below (right-angle convolution, Nussbaumer 1981). A text
//! has none of those and only real parts of the result are wanted, so that its padding costs neither memory nor time.
//!
//! A text of T tokens uses the filter of [`filter_length`]`(T)` taps: a function of T alone, so that its result never
//! depends on what else was computed. The skip connection is part of the first forward tap.

mod butterfly;
mod direct;
mod plan;
mod rows;
mod transform;

use danaus_simd::{Isa, Simd, Vectorized};

use crate::buffer::Buffer;
use crate::matrix::{Matrix, MatrixMut};
use plan::Plan;
use rows::{Finish, Rows, Sink};
use transform::{CompactSpectrum, Points, Spectrum, Taps};

/// The longest text that is convolved by the sum: below it, that is both faster and simpler.
const DIRECT_TOKENS: usize = 32;

/// Lanes of the widest vector.
const WIDEST: usize = 16;

/// The longest text whose filter is a power of two in any case. Beyond, three quarters of one will do too: that saves up
/// to a quarter of the work. Below, it would save little, and twice as many lengths of spectra would be kept.
const POWERS_OF_TWO: usize = 2048;

/// Number of taps in each direction of the filter that a text of `tokens` tokens uses: a power of two, at least 32, or
/// beyond 2,048 three quarters of one.
pub fn filter_length(tokens: usize) -> usize {
    let power = tokens.next_power_of_two().max(DIRECT_TOKENS);
    let shorter = power / 4 * 3;
    if tokens > POWERS_OF_TWO && tokens <= shorter { shorter } else { power }
}

/// What becomes of the results `y` of a convolution.
#[derive(Debug, Clone, Copy)]
pub enum ConvEpilogue<'a> {
    /// `out = y`
    Store,
    /// `out = y * gate`, of the same shape.
    Gate(Matrix<'a>),
    /// `out += y`
    Add,
}

/// Memory that convolutions use, kept between them: one for each thread.
#[derive(Debug, Default)]
pub struct ConvScratch {
    points: Buffer<f32>,
    /// Copies of the last channels' inputs and results where they are fewer than a vector's.
    inputs: [Buffer<f32>; 2],
    results: Buffer<f32>,
}

/// What a filter is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilterForm {
    /// Where it runs.
    pub isa: Isa,
    /// Taps in each direction, a [`filter_length`].
    pub length: usize,
    /// Whether its spectrum is kept as 16-bit integers with a scale for each channel, in half the memory. (A filter that is
    /// convolved by the sum never is.)
    pub compact: bool,
}

impl FilterForm {
    /// Memory that a new filter over `channels` channels takes.
    pub fn bytes(self, channels: usize) -> usize {
        self.words(channels) * size_of::<u32>()
    }

    /// Words of a filter: whole cache lines of channels, whatever the vectors.
    fn words(self, channels: usize) -> usize {
        self.panel_rows() * channels.next_multiple_of(WIDEST)
    }

    /// Vectors of a panel of a filter.
    fn panel_rows(self) -> usize {
        match self.length {
            length if length <= DIRECT_TOKENS => 2 * length - 1,
            length if self.compact => 1 + length,
            length => 2 * length,
        }
    }
}

/// One filter over C channels, ready to convolve texts of one [`filter_length`].
///
/// The default one is empty: [`set`](LongFilter::set) fills it.
#[derive(Debug, Default)]
pub struct LongFilter {
    form: Option<FilterForm>,
    channels: usize,
    /// Panel by panel: taps `[2 * length - 1][lane]`, from the one on the last token to the one on the first, or a
    /// [`Spectrum`] or [`CompactSpectrum`]. Bits of float32, but for the last.
    words: Buffer<u32>,
}

impl LongFilter {
    /// Makes this a filter for texts of the form's length, reusing its memory.
    ///
    /// `taps` are the forward and the reverse ones `[positions, C]`: those from `positions` on are zero. `skip` is `[C]`.
    ///
    /// # Panics
    /// Where the form's length is no [`filter_length`], the channels disagree or there are more taps than that.
    pub fn set(&mut self, form: FilterForm, scratch: &mut ConvScratch, taps: [Matrix<'_>; 2], skip: &[f32]) {
        assert_eq!(filter_length(form.length), form.length, "length");
        for taps in taps {
            assert!(taps.cols() == skip.len() && taps.rows() <= form.length, "taps");
        }
        self.words.resize(form.words(skip.len()));
        (self.form, self.channels) = (Some(form), skip.len());
        form.isa.run(Set { words: &mut self.words, form, scratch, taps, skip });
    }

    /// Number of taps in each direction; 0 for an empty filter.
    pub fn length(&self) -> usize {
        self.form.map_or(0, |form| form.length)
    }

    /// Memory that it takes.
    pub fn bytes(&self) -> usize {
        self.words.len() * size_of::<u32>()
    }

    /// Convolves one text, adding the skip connection: `x` and `out` are `[tokens, C]`.
    ///
    /// # Panics
    /// Where shapes disagree or the text needs a filter of another length.
    pub fn convolve(
        &self,
        scratch: &mut ConvScratch,
        x: Matrix<'_>,
        out: MatrixMut<'_>,
        epilogue: ConvEpilogue<'_>,
    ) {
        let shape = (x.rows(), self.channels);
        assert!((x.rows(), x.cols()) == shape && (out.rows(), out.cols()) == shape, "shapes");
        if let ConvEpilogue::Gate(gate) = epilogue {
            assert_eq!((gate.rows(), gate.cols()), shape, "gate");
        }
        if x.rows() == 0 {
            return;
        }
        assert_eq!(filter_length(x.rows()), self.length(), "filter of a text");
        let form = self.form.expect("a filter with a length has one");
        form.isa.run(Convolve { words: &self.words, form, scratch, x, out, epilogue });
    }
}

struct Set<'a> {
    /// As many as the form says.
    words: &'a mut [u32],
    form: FilterForm,
    scratch: &'a mut ConvScratch,
    taps: [Matrix<'a>; 2],
    skip: &'a [f32],
}

impl Vectorized for Set<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { words, form, scratch, taps, skip } = self;
        let length = form.length;
        for start in (0..skip.len()).step_by(S::LANES) {
            let width = S::LANES.min(skip.len() - start);
            let mut first = [0.0; WIDEST];
            let forward = taps[0];
            for lane in 0..width {
                let tap = if forward.rows() > 0 { forward.row(0)[start + lane] } else { 0.0 };
                first[lane] = tap + skip[start + lane];
            }
            let mut rows = [Rows { data: first.as_ptr(), stride: 0, count: 0 }; 2];
            for (i, rows) in rows.iter_mut().enumerate() {
                *rows = input::<S>(&mut scratch.inputs[i], taps[i], start);
            }
            let [forward, reverse] = rows;
            let taps = Taps { forward, reverse, first: first.as_ptr(), length };
            let panel = &mut words[start * form.panel_rows()..][..S::LANES * form.panel_rows()];
            let data = panel.as_mut_ptr().cast::<f32>();
            // SAFETY: the panel has room for all, and float32 may have any bits; the taps' rows are views of a vector's
            // width, or copies as wide.
            unsafe {
                if length <= DIRECT_TOKENS {
                    direct::order_taps(simd, data, taps);
                } else if form.compact {
                    scratch.points.resize(Points::<S>::VALUES * length);
                    let points = Points { simd, data: scratch.points.as_mut_ptr() };
                    transform::spectrum(Plan::of(length), points, taps);
                    compact::<S>(&scratch.points, panel);
                } else {
                    transform::spectrum(Plan::of(length), Points { simd, data }, taps);
                }
            }
        }
    }
}

/// Rounds a [`Spectrum`] to a [`CompactSpectrum`]. A channel with a value that is not finite gets a scale that is not.
#[inline(always)]
fn compact<S: Simd>(spectrum: &[f32], words: &mut [u32]) {
    // Adding this rounds a float32 of magnitude below 2^22 to an integer, and leaves that in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23
    // As integers, magnitudes are in order, with infinity above all numbers and NaN above that.
    let mut largest = [0; WIDEST];
    for values in spectrum.chunks_exact(S::LANES) {
        let pairs = largest.iter_mut().zip(values);
        pairs.for_each(|(largest, x)| *largest = (*largest).max(x.to_bits() & 0x7fff_ffff));
    }
    let (steps, words) = words.split_at_mut(S::LANES);
    let mut per_step = [0.0; WIDEST];
    for ((step, per_step), &largest) in steps.iter_mut().zip(&mut per_step).zip(&largest) {
        let largest = f32::from_bits(largest);
        let value = if largest.is_finite() { largest / 32_767.0 } else { f32::NAN };
        (*step, *per_step) = (value.to_bits(), if largest < 1e-30 { 0.0 } else { 32_767.0 / largest });
    }
    let rounded = |x: f32, per_step: f32| (x * per_step + ROUND).to_bits() & 0xffff;
    for (point, words) in spectrum.chunks_exact(2 * S::LANES).zip(words.chunks_exact_mut(S::LANES)) {
        let (re, im) = point.split_at(S::LANES);
        let parts = words.iter_mut().zip(re).zip(im).zip(&per_step);
        parts.for_each(|(((word, &re), &im), &step)| *word = rounded(re, step) | (rounded(im, step) << 16));
    }
}

struct Convolve<'a> {
    words: &'a [u32],
    form: FilterForm,
    scratch: &'a mut ConvScratch,
    x: Matrix<'a>,
    out: MatrixMut<'a>,
    epilogue: ConvEpilogue<'a>,
}

impl Vectorized for Convolve<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { words, form, scratch, x, mut out, epilogue } = self;
        let (length, tokens) = (form.length, x.rows());
        scratch.points.resize(Points::<S>::VALUES * length);
        for start in (0..x.cols()).step_by(S::LANES) {
            let whole = start + S::LANES <= x.cols();
            let text = input::<S>(&mut scratch.inputs[0], x, start);
            let sink = if whole {
                Sink::of(out.reborrow(), start, S::LANES, epilogue)
            } else {
                scratch.results.resize(tokens * S::LANES);
                Sink {
                    data: scratch.results.as_mut_ptr(),
                    stride: S::LANES,
                    count: tokens,
                    finish: Finish::Store,
                }
            };
            let panel = words[start * form.panel_rows()..][..S::LANES * form.panel_rows()].as_ptr();
            // SAFETY: the panel is whole; `points` has room for as many, apart from all else; the text's and the sink's
            // rows are views of a vector's width, or copies as wide.
            unsafe {
                let points = Points { simd, data: scratch.points.as_mut_ptr() };
                if length <= DIRECT_TOKENS {
                    direct::convolve(simd, panel.cast(), length, text, sink);
                } else if form.compact {
                    transform::convolve(Plan::of(length), points, CompactSpectrum(panel), text, sink);
                } else {
                    transform::convolve(Plan::of(length), points, Spectrum(panel.cast()), text, sink);
                }
            }
            if !whole {
                finish(&scratch.results, S::LANES, start, out.reborrow(), epilogue);
            }
        }
    }
}

/// The vectors that start at column `start` of `matrix`: where they are, or a copy in `copy` where there are fewer columns.
#[inline(always)]
fn input<S: Simd>(copy: &mut Buffer<f32>, matrix: Matrix<'_>, start: usize) -> Rows {
    let width = matrix.cols() - start;
    if width >= S::LANES {
        return Rows::of(matrix, start, S::LANES);
    }
    let count = matrix.rows();
    copy.resize(count * S::LANES);
    for (row, to) in copy.chunks_exact_mut(S::LANES).enumerate() {
        to[..width].copy_from_slice(&matrix.row(row)[start..]);
        to[width..].fill(0.0);
    }
    Rows { data: copy.as_ptr(), stride: S::LANES, count }
}

/// Copies the last channels' results, in rows of `lanes` values, to the columns from `start` on.
#[inline(always)]
fn finish(results: &[f32], lanes: usize, start: usize, mut out: MatrixMut<'_>, epilogue: ConvEpilogue<'_>) {
    for (row, results) in (0..out.rows()).zip(results.chunks_exact(lanes)) {
        let out = &mut out.row_mut(row)[start..];
        for (lane, (out, &y)) in out.iter_mut().zip(results).enumerate() {
            match epilogue {
                ConvEpilogue::Store => *out = y,
                ConvEpilogue::Gate(gate) => *out = y * gate.row(row)[start + lane],
                ConvEpilogue::Add => *out += y,
            }
        }
    }
}
