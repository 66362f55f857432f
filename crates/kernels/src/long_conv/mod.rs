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
use transform::{Points, Taps};

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

/// One filter over C channels, ready to convolve texts of one [`filter_length`].
///
/// The default one is empty: [`set`](LongFilter::set) fills it.
#[derive(Debug, Default)]
pub struct LongFilter {
    length: usize,
    channels: usize,
    isa: Option<Isa>,
    /// Panel by panel: taps `[2 * length - 1][lane]`, from the one on the last token to the one on the first, or a
    /// spectrum `[length][real, imaginary][lane]`.
    values: Buffer<f32>,
}

impl LongFilter {
    /// Makes this the filter of `length` taps a direction, for texts with that [`filter_length`], reusing its memory.
    ///
    /// `taps` are the forward and the reverse ones `[positions, C]`: those from `positions` on are zero. `skip` is `[C]`.
    /// The filter runs on `isa`.
    ///
    /// # Panics
    /// Where `length` is no [`filter_length`], the channels disagree or there are more taps than `length`.
    pub fn set(
        &mut self,
        isa: Isa,
        scratch: &mut ConvScratch,
        taps: [Matrix<'_>; 2],
        skip: &[f32],
        length: usize,
    ) {
        assert_eq!(filter_length(length), length, "length");
        for taps in taps {
            assert!(taps.cols() == skip.len() && taps.rows() <= length, "taps");
        }
        (self.length, self.channels, self.isa) = (length, skip.len(), Some(isa));
        self.values.resize(Self::values_for(length, skip.len()));
        isa.run(Set { values: &mut self.values, scratch, taps, skip, length });
    }

    /// Number of taps in each direction; 0 for an empty filter.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Memory that its values take.
    pub fn bytes(&self) -> usize {
        self.values.len() * size_of::<f32>()
    }

    /// Memory that a new filter of `length` taps over `channels` channels takes.
    pub fn bytes_for(length: usize, channels: usize) -> usize {
        Self::values_for(length, channels) * size_of::<f32>()
    }

    /// Whole cache lines of channels, whatever the vectors.
    fn values_for(length: usize, channels: usize) -> usize {
        panel_rows(length) * channels.next_multiple_of(WIDEST)
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
        assert_eq!(filter_length(x.rows()), self.length, "filter of a text");
        let isa = self.isa.expect("a filter with a length has one");
        isa.run(Convolve { filter: self, scratch, x, out, epilogue });
    }
}

/// Vectors of a panel of a filter.
fn panel_rows(length: usize) -> usize {
    if length <= DIRECT_TOKENS { 2 * length - 1 } else { 2 * length }
}

struct Set<'a> {
    /// Of [`LongFilter::values_for`] values.
    values: &'a mut [f32],
    scratch: &'a mut ConvScratch,
    taps: [Matrix<'a>; 2],
    skip: &'a [f32],
    length: usize,
}

impl Vectorized for Set<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { values, scratch, taps, skip, length } = self;
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
            // SAFETY: the panels follow each other, and there is room for all; the taps' rows are views of a vector's
            // width, or copies as wide.
            unsafe {
                let panel = values.as_mut_ptr().add(start * panel_rows(length));
                if length <= DIRECT_TOKENS {
                    direct::order_taps(simd, panel, taps);
                } else {
                    transform::spectrum(Plan::of(length), Points { simd, data: panel }, taps);
                }
            }
        }
    }
}

struct Convolve<'a> {
    filter: &'a LongFilter,
    scratch: &'a mut ConvScratch,
    x: Matrix<'a>,
    out: MatrixMut<'a>,
    epilogue: ConvEpilogue<'a>,
}

impl Vectorized for Convolve<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { filter, scratch, x, mut out, epilogue } = self;
        let (length, tokens) = (filter.length, x.rows());
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
            // SAFETY: the filter has a panel for each of these; `points` has room for one, apart from all else; the
            // text's and the sink's rows are views of a vector's width, or copies as wide.
            unsafe {
                let panel = filter.values.as_ptr().add(start * panel_rows(length));
                if length <= DIRECT_TOKENS {
                    direct::convolve(simd, panel, length, text, sink);
                } else {
                    let points = Points { simd, data: scratch.points.as_mut_ptr() };
                    transform::convolve(Plan::of(length), points, panel, text, sink);
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
