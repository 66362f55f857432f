//! LayerNorm, the short convolution, means and far fields on one thread, with the CPU's best instruction set. Items are values (tokens times
//! channels).

mod common;

use common::{CASE_TIME, values};
use danaus_kernels::{
    Buffer, Matrix, MatrixMut, ShortFilter, Texts, add_interpolated, convolve_cells, layer_norm, mean_rows,
    short_conv, short_conv_gate,
};
use danaus_simd::Isa;
use divan::Bencher;
use divan::counter::ItemsCount;

/// Channels of the model.
const HIDDEN: usize = 768;

/// Columns of a mixer's chunk: x1, x2 and v of 48 channels.
const CHUNK: usize = 3 * 48;

/// Tokens of a text.
const TOKENS: [usize; 4] = [8, 32, 512, 2048];

fn main() {
    divan::main();
}

/// Values of a matrix that starts at a cache line, as the engine's do.
fn matrix(count: usize) -> Buffer<f32> {
    let mut matrix = Buffer::zeroed(count);
    matrix.copy_from_slice(&values(count));
    matrix
}

/// Rows that stay in the level-2 cache, as in the engine's row tasks.
#[divan::bench(args = [1, 96], max_time = CASE_TIME)]
fn norm(bencher: Bencher<'_, '_>, rows: usize) {
    let (mut x, weight, bias) = (matrix(rows * HIDDEN), matrix(HIDDEN), matrix(HIDDEN));
    bencher
        .counter(ItemsCount::new(rows * HIDDEN))
        .bench_local(|| layer_norm(Isa::best(), MatrixMut::new(&mut x, HIDDEN), &weight, &bias, 1e-5));
}

/// A kernel of a chunk's short convolution.
type ShortConv = fn(Isa, MatrixMut<'_>, &Texts, &ShortFilter);

fn time(bencher: Bencher<'_, '_>, tokens: usize, kernel: ShortConv) {
    let texts: Texts = [tokens].into_iter().collect();
    // Taps small enough that the values stay normal when the convolution is applied again and again.
    let taps: Vec<f32> = values(3 * CHUNK).iter().map(|tap| 0.3 * tap).collect();
    let filter = ShortFilter::new(&taps, &values(CHUNK));
    let mut x = matrix(tokens * CHUNK);
    bencher
        .counter(ItemsCount::new(tokens * CHUNK))
        .bench_local(|| kernel(Isa::best(), MatrixMut::new(&mut x, CHUNK), &texts, &filter));
}

/// The convolution alone.
#[divan::bench(args = TOKENS, max_time = CASE_TIME)]
fn short_convolution(bencher: Bencher<'_, '_>, tokens: usize) {
    time(bencher, tokens, short_conv);
}

/// With the gate after it.
#[divan::bench(args = TOKENS, max_time = CASE_TIME)]
fn short_convolution_and_gate(bencher: Bencher<'_, '_>, tokens: usize) {
    time(bencher, tokens, short_conv_gate);
}

/// The mean over a text's tokens.
#[divan::bench(args = TOKENS, max_time = CASE_TIME)]
fn mean(bencher: Bencher<'_, '_>, tokens: usize) {
    let (x, mut out) = (matrix(tokens * HIDDEN), matrix(HIDDEN));
    bencher
        .counter(ItemsCount::new(tokens * HIDDEN))
        .bench_local(|| mean_rows(Isa::best(), Matrix::new(&x, HIDDEN), &mut out));
}

/// A far field added to a chunk's columns of the mixed states, as the residual has it and through the mixer's gate.
#[divan::bench(args = ["plain", "gated"], max_time = CASE_TIME)]
fn far_field_of_512_tokens(bencher: Bencher<'_, '_>, name: &str) {
    let (tokens, channels) = (512, CHUNK / 3);
    let far = matrix(tokens * channels);
    let (mut out, chunk) = (matrix(tokens * HIDDEN), matrix(tokens * CHUNK));
    let knots: Vec<_> = (0..tokens as isize).collect();
    bencher.counter(ItemsCount::new(tokens * channels)).bench_local(|| {
        let far = Matrix::new(&far, channels);
        let gate = (name == "gated").then(|| Matrix::new(&chunk, CHUNK).columns(channels, channels));
        let out = MatrixMut::new(&mut out, HIDDEN).columns(0, channels);
        add_interpolated(Isa::best(), out, &knots, far, gate);
    });
}

/// What the cells of a text of so many tokens, of a model of 2,048, add to a chunk's convolution: 96 of them behind the window. Items
/// are pairs of a cell and a result, times channels.
#[divan::bench(args = [16, 512], max_time = CASE_TIME)]
fn cells(bencher: Bencher<'_, '_>, tokens: isize) {
    let channels = CHUNK / 3;
    // The sums of all of a model's chunks, which no cache holds.
    let chunks = 2 * 12 * HIDDEN / channels;
    let rows: Vec<_> = (0..2049).collect();
    let sums: Vec<i16> = values(2049 * channels).iter().map(|x| (x * 3e4) as i16).collect();
    let sums = sums.repeat(chunks);
    let mut chunk = 0;
    let inside = (tokens / 2).min(64);
    let edges: Vec<_> = (-inside..0).chain((0..97).map(|edge| edge * 8)).collect();
    let targets: Vec<_> = (0..96).map(|target| target * 8 + 4).collect();
    let (jumps, mut out) = (matrix(edges.len() * channels), matrix(targets.len() * channels));
    bencher.counter(ItemsCount::new(edges.len() * targets.len() * channels)).bench_local(|| {
        let out = MatrixMut::new(&mut out, channels);
        let jumps = Matrix::new(&jumps, channels);
        let sums = Matrix::new(&sums, channels).slice(2049 * chunk..2049 * (chunk + 1));
        chunk = (chunk + 1) % chunks;
        convolve_cells(Isa::best(), out, (sums, &rows), (&targets, &edges), jumps);
    });
}
