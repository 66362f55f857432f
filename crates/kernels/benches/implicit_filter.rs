//! Long filters' states and taps on one thread, with the CPU's best instruction set. Items are states or taps.

mod common;

use common::{CASE_TIME, values};
use danaus_kernels::gemm::{Activations, PackedWeight, Precision};
use danaus_kernels::{Buffer, FilterWindow, Matrix, MatrixMut, SineLayer, SineMlp, filter_taps};
use danaus_simd::Isa;
use divan::Bencher;
use divan::counter::ItemsCount;

/// Features of a position, states of one, and channels of a chunk.
const FEATURES: usize = 5;
/// See [`FEATURES`].
const WIDTH: usize = 128;
/// See [`FEATURES`].
const CHANNELS: usize = 48;

/// Positions of a task.
const POSITIONS: [usize; 2] = [64, 2048];

fn main() {
    divan::main();
}

/// Three sine layers, as the published models have them.
fn mlp() -> SineMlp {
    let layer = |inputs: usize| SineLayer::new(&values(WIDTH * inputs), &values(WIDTH), &[0.1; WIDTH]);
    SineMlp::new([FEATURES, WIDTH, WIDTH].map(layer).into())
}

/// The sine layers, in float64.
#[divan::bench(args = POSITIONS, max_time = CASE_TIME)]
fn states(bencher: Bencher<'_, '_>, positions: usize) {
    let (mlp, features) = (mlp(), values(positions * FEATURES));
    let mut out = Buffer::zeroed(positions * WIDTH);
    bencher.counter(ItemsCount::new(positions * WIDTH)).bench_local(|| {
        mlp.write_states(Isa::best(), Matrix::new(&features, FEATURES), MatrixMut::new(&mut out, WIDTH));
    });
}

/// The same, rounded to bfloat16.
#[divan::bench(args = POSITIONS, max_time = CASE_TIME)]
fn states_bf16(bencher: Bencher<'_, '_>, positions: usize) {
    let (mlp, features) = (mlp(), values(positions * FEATURES));
    let mut out = Buffer::zeroed(positions * WIDTH / 2);
    bencher.counter(ItemsCount::new(positions * WIDTH)).bench_local(|| {
        let out = MatrixMut::new(&mut out, WIDTH / 2);
        mlp.write_bf16_states(Isa::best(), Matrix::new(&features, FEATURES), out);
    });
}

/// Both directions' taps of a chunk from float32 states.
#[divan::bench(args = POSITIONS, max_time = CASE_TIME)]
fn taps(bencher: Bencher<'_, '_>, positions: usize) {
    let states: Vec<u32> = values(positions * WIDTH).iter().map(|x| x.to_bits()).collect();
    make(bencher, Precision::F32, &states, positions);
}

/// From bfloat16 ones.
#[divan::bench(args = POSITIONS, max_time = CASE_TIME)]
fn taps_bf16(bencher: Bencher<'_, '_>, positions: usize) {
    let mut states = vec![0; positions * WIDTH / 2];
    let features = values(positions * FEATURES);
    let out = MatrixMut::new(&mut states, WIDTH / 2);
    mlp().write_bf16_states(Isa::best(), Matrix::new(&features, FEATURES), out);
    make(bencher, Precision::Bf16, &states, positions);
}

fn make(bencher: Bencher<'_, '_>, precision: Precision, states: &[u32], positions: usize) {
    let isa = Isa::best();
    let weight = PackedWeight::new(isa, precision, &values(CHANNELS * WIDTH), CHANNELS, WIDTH);
    let states = Activations::words(precision, Matrix::new(states, precision.words(WIDTH)));
    let time: Vec<f32> = values(positions).iter().map(|time| time.abs()).collect();
    let window = FilterWindow { time: &time, deltas: &values(CHANNELS) };
    let mut out = [Buffer::zeroed(positions * CHANNELS), Buffer::zeroed(positions * CHANNELS)];
    bencher.counter(ItemsCount::new(2 * positions * CHANNELS)).bench_local(|| {
        let out = out.each_mut().map(|out| MatrixMut::new(out, CHANNELS));
        filter_taps(isa, [states, states], [&weight, &weight], window, out);
    });
}
