//! The long convolution: bidirectional, exact, per channel.
//!
//! `y[i] = sum_{j<=i} forward[i-j] x[j] + sum_{j>i} reverse[j-i-1] x[j] + skip x[i]`
//!
//! Short texts are convolved directly, longer ones by FFT. A text of T tokens uses the filter of
//! [`filter_length`]`(T)` taps: a function of T alone, so that its result never depends on what else was computed. The FFT
//! has twice that length, so nothing wraps around. It is `rustfft`'s, which picks the CPU's instructions by itself: a
//! [`Compute`] for another instruction set does not change it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use danaus_simd::{Lanes, Simd, Vectorized};
use realfft::num_complex::Complex32;
use realfft::{ComplexToReal, RealFftPlanner, RealToComplex};

use crate::compute::Compute;
use crate::matrix::{Matrix, MatrixMut};
use crate::old::implicit_filter::FilterTaps;
use crate::shared::SharedMatrix;
use crate::texts::Texts;

/// The longest text that is convolved directly: below it, the direct sum is both faster and simpler than an FFT.
const DIRECT_TOKENS: usize = 32;

/// Channels that one task takes: 64 bytes of a row, a cache line.
const CHANNELS_PER_TASK: usize = 16;

/// Values between the channels of a task's buffer beyond their length, so that channels of a length that is a power of
/// two do not all fall into the same cache sets.
const CHANNEL_GAP: usize = 16;

/// Number of taps in each direction of the filter that a text of `tokens` tokens uses.
pub fn filter_length(tokens: usize) -> usize {
    tokens.next_power_of_two().max(DIRECT_TOKENS)
}

/// FFT plans, made once for each length, each by a planner of its own: one that has planned other lengths before may
/// build upon those, and a text's bits must not depend on what came before it.
#[derive(Default)]
pub struct FftPlans {
    plans: Mutex<HashMap<usize, FftPlan>>,
}

/// Forward and inverse transform of one length.
#[derive(Clone)]
struct FftPlan {
    forward: Arc<dyn RealToComplex<f32>>,
    inverse: Arc<dyn ComplexToReal<f32>>,
}

impl FftPlans {
    fn plan(&self, length: usize) -> FftPlan {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || {
            let mut planner = RealFftPlanner::new();
            FftPlan { forward: planner.plan_fft_forward(length), inverse: planner.plan_fft_inverse(length) }
        };
        plans.entry(length).or_insert_with(make).clone()
    }
}

impl fmt::Debug for FftPlans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FftPlans")
    }
}

/// A filter over C channels, ready to convolve texts of one [`filter_length`].
pub struct LongFilter {
    length: usize,
    skip: Vec<f32>,
    form: Form,
}

enum Form {
    /// Taps `[2 * length - 1, C]`, from the one on the last token to the one on the first.
    Direct(Vec<f32>),
    Spectral(Spectra),
}

struct Spectra {
    /// `[C, length + 1]`, divided by the FFT's length.
    values: Vec<Complex32>,
    forward: Arc<dyn RealToComplex<f32>>,
    inverse: Arc<dyn ComplexToReal<f32>>,
}

impl fmt::Debug for LongFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LongFilter").field("length", &self.length).field("bytes", &self.bytes()).finish()
    }
}

impl LongFilter {
    /// The filter of `length` taps a direction, for texts with that [`filter_length`]. `taps` may hold fewer positions
    /// (as many as the model has): the rest are zero. `skip` is `[C]`.
    ///
    /// # Panics
    /// Where `length` is no [`filter_length`] or the channels disagree.
    pub fn new(compute: &Compute, plans: &FftPlans, taps: &FilterTaps, skip: &[f32], length: usize) -> Self {
        assert_eq!(filter_length(length), length, "length");
        assert!(!skip.is_empty() && taps.forward.len().is_multiple_of(skip.len()), "channels");
        assert_eq!(taps.forward.len(), taps.reverse.len(), "taps");
        let form = if length <= DIRECT_TOKENS {
            Form::Direct(direct_taps(taps, skip.len(), length))
        } else {
            Form::Spectral(Spectra::new(compute, plans, taps, skip.len(), length))
        };
        Self { length, skip: skip.to_vec(), form }
    }

    /// Memory it takes.
    pub fn bytes(&self) -> usize {
        Self::bytes_for(self.length, self.skip.len())
    }

    /// Memory that a filter of `length` taps over `channels` channels takes.
    pub fn bytes_for(length: usize, channels: usize) -> usize {
        let values = if length <= DIRECT_TOKENS { 2 * length - 1 } else { 2 * (length + 1) };
        (values + 1) * channels * size_of::<f32>()
    }
}

fn direct_taps(taps: &FilterTaps, channels: usize, length: usize) -> Vec<f32> {
    let mut direct = vec![0.0; (2 * length - 1) * channels];
    let positions = (taps.forward.len() / channels).min(length);
    for p in 0..positions {
        let forward = (length - 1 + p) * channels;
        direct[forward..forward + channels].copy_from_slice(&taps.forward[p * channels..(p + 1) * channels]);
        if p + 1 < length {
            let reverse = (length - 2 - p) * channels;
            direct[reverse..reverse + channels]
                .copy_from_slice(&taps.reverse[p * channels..(p + 1) * channels]);
        }
    }
    direct
}

impl Spectra {
    fn new(compute: &Compute, plans: &FftPlans, taps: &FilterTaps, channels: usize, length: usize) -> Self {
        let n = 2 * length;
        let FftPlan { forward, inverse } = plans.plan(n);
        let positions = (taps.forward.len() / channels).min(length);
        let stride = n + CHANNEL_GAP;
        let mut values = vec![Complex32::default(); channels * (length + 1)];
        let slots = values.chunks_mut(CHANNELS_PER_TASK * (length + 1)).map(Mutex::new);
        let slots: Vec<Mutex<&mut [Complex32]>> = slots.collect();
        compute.for_each(slots.len(), |task| {
            let start = task * CHANNELS_PER_TASK;
            let count = CHANNELS_PER_TASK.min(channels - start);
            let tap = |taps: &[f32], p: usize, c: usize| taps[p * channels + start + c] / n as f32;
            // All channels of a position at once: they share cache lines.
            let mut kernels = vec![0.0; count * stride];
            for p in 0..positions {
                for c in 0..count {
                    kernels[c * stride + p] = tap(&taps.forward, p, c);
                    // The tap at distance `length` reaches no token of a text this filter is for.
                    if p + 1 < length {
                        kernels[c * stride + n - 1 - p] = tap(&taps.reverse, p, c);
                    }
                }
            }
            let mut slot = slots[task].lock().unwrap_or_else(PoisonError::into_inner);
            let mut scratch = forward.make_scratch_vec();
            for (kernel, slot) in kernels.chunks_exact_mut(stride).zip(slot.chunks_exact_mut(length + 1)) {
                forward
                    .process_with_scratch(&mut kernel[..n], slot, &mut scratch)
                    .expect("lengths agree with the plan");
            }
        });
        drop(slots);
        Self { values, forward, inverse }
    }
}

/// Convolves every text of a batch: `x` and `out` are `[tokens, C]`, and `filters` holds one filter per text, of
/// its [`filter_length`].
///
/// # Panics
/// Where shapes disagree or a filter has another length than its text needs.
pub fn long_conv(
    compute: &Compute,
    x: Matrix<'_>,
    texts: &Texts,
    filters: &[Arc<LongFilter>],
    out: MatrixMut<'_>,
) {
    let out = SharedMatrix::new(out);
    let channels = x.cols();
    assert!((out.rows(), out.cols()) == (x.rows(), channels) && filters.len() == texts.len(), "shapes");
    assert!(texts.rows() <= x.rows(), "rows");
    for (text, filter) in texts.iter().zip(filters) {
        assert_eq!(
            (filter.length, filter.skip.len()),
            (filter_length(text.len()), channels),
            "filter of a text"
        );
    }
    let cuts = channels.div_ceil(CHANNELS_PER_TASK);
    compute.for_each(texts.len() * cuts, |task| {
        let start = task % cuts * CHANNELS_PER_TASK;
        let channels = start..(start + CHANNELS_PER_TASK).min(channels);
        let text = texts.range(task / cuts);
        let filter = &*filters[task / cuts];
        let task = Task { x, out: &out, text, channels, skip: &filter.skip };
        match &filter.form {
            Form::Direct(taps) => compute.isa().run(Direct { task, taps, length: filter.length }),
            Form::Spectral(spectra) => spectra.convolve(compute, task),
        }
    });
}

/// One text's tokens in a range of channels.
struct Task<'a> {
    x: Matrix<'a>,
    out: &'a SharedMatrix<'a>,
    text: Range<usize>,
    channels: Range<usize>,
    skip: &'a [f32],
}

impl<'a> Task<'a> {
    /// The inputs of token `i` of the text.
    #[inline(always)]
    fn input(&self, i: usize) -> &'a [f32] {
        &self.x.row(self.text.start + i)[self.channels.clone()]
    }

    /// The outputs of token `i` of the text: one token's at a time.
    #[inline(always)]
    fn output(&mut self, i: usize) -> &mut [f32] {
        // SAFETY: tasks have different texts, which are disjoint, or disjoint channels; and the result borrows the task,
        // of which there is one.
        unsafe { self.out.row(self.text.start + i, self.channels.start, self.channels.len()) }
    }
}

struct Direct<'a> {
    task: Task<'a>,
    taps: &'a [f32],
    length: usize,
}

impl Vectorized for Direct<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { mut task, taps, length } = self;
        let (stride, start, width) = (task.skip.len(), task.channels.start, task.channels.len());
        let load = |row: &[f32]| {
            let mut lanes = Lanes::<CHANNELS_PER_TASK>::splat(0.0);
            lanes.0[..width].copy_from_slice(&row[..width]);
            lanes
        };
        for i in 0..task.text.len() {
            let mut sum = Lanes::splat(0.0);
            for j in 0..task.text.len() {
                let tap = &taps[(length - 1 + i - j) * stride + start..];
                sum = if width == CHANNELS_PER_TASK {
                    sum.add_product(simd, Lanes::load(tap), Lanes::load(task.input(j)))
                } else {
                    sum.add_product(simd, load(tap), load(task.input(j)))
                };
            }
            let sum = sum.add_product(simd, load(&task.skip[start..]), load(task.input(i)));
            task.output(i).copy_from_slice(&sum.0[..width]);
        }
    }
}

thread_local! {
    /// A task's channels as sequences, a spectrum, and the FFT's scratch: kept by each thread between tasks.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

#[derive(Default)]
struct Scratch {
    sequences: Vec<f32>,
    spectrum: Vec<Complex32>,
    fft: Vec<Complex32>,
}

impl Spectra {
    fn convolve(&self, compute: &Compute, mut task: Task<'_>) {
        let n = self.forward.len();
        let stride = n + CHANNEL_GAP;
        SCRATCH.with_borrow_mut(|scratch| {
            let fft_length = self.forward.get_scratch_len().max(self.inverse.get_scratch_len());
            scratch.sequences.resize(stride * CHANNELS_PER_TASK, 0.0);
            scratch.spectrum.resize(self.forward.complex_len(), Complex32::default());
            scratch.fft.resize(fft_length, Complex32::default());
            let Scratch { sequences, spectrum, fft } = scratch;
            gather(&task, sequences, stride, n);
            for (sequence, channel) in sequences.chunks_exact_mut(stride).zip(task.channels.clone()) {
                self.convolve_channel(compute, channel, &mut sequence[..n], spectrum, fft);
            }
            scatter(&mut task, sequences, stride);
        });
    }

    /// Convolves one sequence (zero-padded to the FFT's length) with one channel's filter, in place.
    fn convolve_channel(
        &self,
        compute: &Compute,
        channel: usize,
        sequence: &mut [f32],
        spectrum: &mut [Complex32],
        scratch: &mut [Complex32],
    ) {
        let (forward, inverse) = (&self.forward, &self.inverse);
        let forward_scratch = &mut scratch[..forward.get_scratch_len()];
        forward
            .process_with_scratch(sequence, spectrum, forward_scratch)
            .expect("lengths agree with the plan");
        let bins = spectrum.len();
        compute.isa().run(Product(spectrum, &self.values[channel * bins..(channel + 1) * bins]));
        // Both ends of a real sequence's spectrum are real; only a non-finite input makes them otherwise.
        spectrum[0].im = 0.0;
        spectrum[bins - 1].im = 0.0;
        let inverse_scratch = &mut scratch[..inverse.get_scratch_len()];
        inverse
            .process_with_scratch(spectrum, sequence, inverse_scratch)
            .expect("lengths agree with the plan");
    }
}

/// Copies a task's inputs `[tokens, channels]` to sequences `[channels, n]` that are `stride` apart, zero-padded.
fn gather(task: &Task<'_>, sequences: &mut [f32], stride: usize, n: usize) {
    let tokens = task.text.len();
    for i in 0..tokens {
        for (c, &x) in task.input(i).iter().enumerate() {
            sequences[c * stride + i] = x;
        }
    }
    for sequence in sequences.chunks_exact_mut(stride) {
        sequence[tokens..n].fill(0.0);
    }
}

/// Copies sequences back to a task's outputs, adding the skip connection.
fn scatter(task: &mut Task<'_>, sequences: &[f32], stride: usize) {
    let skip = &task.skip[task.channels.clone()];
    for i in 0..task.text.len() {
        let input = task.input(i);
        let terms = task.output(i).iter_mut().zip(input).zip(skip).enumerate();
        for (c, ((y, &x), &skip)) in terms {
            *y = sequences[c * stride + i] + skip * x;
        }
    }
}

/// `spectrum[k] *= filter[k]`
struct Product<'a>(&'a mut [Complex32], &'a [Complex32]);

impl Vectorized for Product<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        assert_eq!(self.0.len(), self.1.len());
        self.0.iter_mut().zip(self.1).for_each(|(x, h)| *x *= h);
    }
}
