//! Long convolutions of a mixer's chunk of channels on one thread, with the CPU's best instruction set. Items are values
//! (tokens times channels).

mod common;

use common::{CASE_TIME, values};
use danaus_kernels::{
    Buffer, ConvEpilogue, ConvScratch, FilterForm, LongFilter, Matrix, MatrixMut, filter_length,
};
use danaus_simd::Isa;
use divan::Bencher;
use divan::counter::ItemsCount;

/// Channels of a chunk.
const CHANNELS: usize = 48;

/// Channels of the model, between the rows of its hidden states.
const HIDDEN: usize = 768;

/// Tokens of a text: around the change from the direct sum to the transform, and a power of two and what needs the next.
const TOKENS: [usize; 10] = [8, 16, 32, 33, 64, 128, 512, 1025, 2048, 8192];

fn main() {
    divan::main();
}

fn form(length: usize, compact: bool) -> FilterForm {
    FilterForm { isa: Isa::best(), length, compact }
}

fn filter(scratch: &mut ConvScratch, tokens: usize, compact: bool) -> LongFilter {
    let mut filter = LongFilter::default();
    let (taps, skip) = (values(tokens * CHANNELS), values(CHANNELS));
    let taps = Matrix::new(&taps, CHANNELS);
    filter.set(form(filter_length(tokens), compact), scratch, [taps, taps], &skip);
    filter
}

/// As the mixer has it: from the chunk's own `x1 | x2 | v` to its columns of the mixed states.
#[divan::bench(args = TOKENS, max_time = CASE_TIME)]
fn gated(bencher: Bencher<'_, '_>, tokens: usize) {
    let mut scratch = ConvScratch::default();
    let filter = filter(&mut scratch, tokens, false);
    let mut chunk = Buffer::zeroed(tokens * 3 * CHANNELS);
    chunk.copy_from_slice(&values(tokens * 3 * CHANNELS));
    let mut mixed = Buffer::zeroed(tokens * HIDDEN);
    bencher.counter(ItemsCount::new(tokens * CHANNELS)).bench_local(|| {
        let chunk = Matrix::new(&chunk, 3 * CHANNELS);
        let gate = ConvEpilogue::Gate(chunk.columns(CHANNELS, CHANNELS));
        let out = MatrixMut::new(&mut mixed, HIDDEN).columns(0, CHANNELS);
        filter.convolve(&mut scratch, chunk.columns(0, CHANNELS), out, gate);
    });
}

/// As the residual has it: from the columns of the hidden states, added to those of the mixed ones.
#[divan::bench(args = TOKENS, max_time = CASE_TIME)]
fn residual(bencher: Bencher<'_, '_>, tokens: usize) {
    add(bencher, tokens, false);
}

/// The same with a spectrum of 16-bit integers.
#[divan::bench(args = [64, 128, 512, 2048], max_time = CASE_TIME)]
fn residual_compact(bencher: Bencher<'_, '_>, tokens: usize) {
    add(bencher, tokens, true);
}

fn add(bencher: Bencher<'_, '_>, tokens: usize, compact: bool) {
    let mut scratch = ConvScratch::default();
    let filter = filter(&mut scratch, tokens, compact);
    let mut hidden = Buffer::zeroed(tokens * HIDDEN);
    hidden.copy_from_slice(&values(tokens * HIDDEN));
    let mut mixed = Buffer::zeroed(tokens * HIDDEN);
    bencher.counter(ItemsCount::new(tokens * CHANNELS)).bench_local(|| {
        let x = Matrix::new(&hidden, HIDDEN).columns(0, CHANNELS);
        let out = MatrixMut::new(&mut mixed, HIDDEN).columns(0, CHANNELS);
        filter.convolve(&mut scratch, x, out, ConvEpilogue::Add);
    });
}

/// A filter made from its taps: its spectrum where it is longer than the direct sum's.
#[divan::bench(args = [32, 128, 512, 2048, 8192], max_time = CASE_TIME)]
fn from_taps(bencher: Bencher<'_, '_>, length: usize) {
    make(bencher, length, false);
}

/// The same, its spectrum rounded to 16-bit integers.
#[divan::bench(args = [128, 512, 2048], max_time = CASE_TIME)]
fn compact_from_taps(bencher: Bencher<'_, '_>, length: usize) {
    make(bencher, length, true);
}

fn make(bencher: Bencher<'_, '_>, length: usize, compact: bool) {
    let mut scratch = ConvScratch::default();
    let mut filter = LongFilter::default();
    let (taps, skip) = (values(length * CHANNELS), values(CHANNELS));
    bencher.counter(ItemsCount::new(2 * length * CHANNELS)).bench_local(|| {
        let taps = Matrix::new(&taps, CHANNELS);
        filter.set(form(length, compact), &mut scratch, [taps, taps], &skip);
    });
}
