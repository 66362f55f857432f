//! Matrix products of the 80M model's shapes on one thread, with the CPU's best instruction set. Items are operations (a
//! multiply-add is two): Gitem/s are GFLOP/s, to be compared with `danaus bench --roofline`.
//!
//! Each pass takes the next of as many copies of the weight as fill the caches, since in a model every layer has its own.

mod common;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};

use common::{CASE_TIME, ROWS, values};
use danaus_kernels::gemm::{
    Activations, Epilogue, GatedOutput, PackedWeight, Precision, encode, multiply, multiply_gated,
};
use danaus_kernels::{Buffer, Matrix, MatrixMut};
use danaus_simd::Isa;
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};

/// Bytes of a weight's copies together.
const WEIGHT_BYTES: usize = 64 << 20;

/// Inputs and outputs: a mixer chunk's `in_linear`, `out_linear`, a block of the MLP up and down.
const SHAPES: [(usize, usize); 4] = [(768, 144), (768, 768), (192, 1536), (768, 192)];

#[derive(Clone, Copy)]
struct Case {
    inputs: usize,
    outputs: usize,
    rows: usize,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}, {} rows", self.inputs, self.outputs, self.rows)
    }
}

fn cases() -> impl Iterator<Item = Case> {
    SHAPES.into_iter().flat_map(|(inputs, outputs)| ROWS.map(|rows| Case { inputs, outputs, rows }))
}

fn main() {
    divan::main();
}

#[divan::bench(args = cases(), max_time = CASE_TIME)]
fn f32(bencher: Bencher<'_, '_>, case: Case) {
    product(bencher, Precision::F32, case);
}

#[divan::bench(args = cases(), max_time = CASE_TIME)]
fn bf16(bencher: Bencher<'_, '_>, case: Case) {
    product(bencher, Precision::Bf16, case);
}

#[divan::bench(args = cases(), max_time = CASE_TIME)]
fn int8(bencher: Bencher<'_, '_>, case: Case) {
    product(bencher, Precision::Int8, case);
}

/// Two products of 192 -> 768 with GELU and the gate between them, as the MLP has them.
#[divan::bench(args = ROWS, max_time = CASE_TIME)]
fn gated_bf16(bencher: Bencher<'_, '_>, rows: usize) {
    let case = Case { inputs: 192, outputs: 768, rows };
    let (weights, input) = (weights(Precision::Bf16, case), Input::new(Precision::Bf16, case));
    let mut out = Buffer::zeroed(rows * case.outputs / 2);
    bencher.counter(ItemsCount::new(4 * rows * case.inputs * case.outputs)).bench_local(|| {
        let output = GatedOutput::Bf16(MatrixMut::new(&mut out, case.outputs / 2));
        let a = input.activations();
        multiply_gated((a, weights.next()), (a, weights.next()), output);
    });
}

/// GELU and gate, in products of one input, which cost next to nothing themselves: items are outputs.
#[divan::bench(args = ["f32", "bf16"], max_time = CASE_TIME)]
fn gelu_and_gate_96_rows_of_768(bencher: Bencher<'_, '_>, output: &str) {
    let case = Case { inputs: 1, outputs: 768, rows: 96 };
    let pack = || PackedWeight::new(Isa::best(), Precision::F32, &values(case.outputs), case.outputs, 1);
    let (weights, input) = ([pack(), pack()], Input::new(Precision::F32, case));
    let (mut plain, mut words) =
        (Buffer::zeroed(case.rows * case.outputs), Buffer::zeroed(case.rows * case.outputs / 2));
    bencher.counter(ItemsCount::new(case.rows * case.outputs)).bench_local(|| {
        let output = match output {
            "f32" => GatedOutput::F32(MatrixMut::new(&mut plain, case.outputs)),
            _ => GatedOutput::Bf16(MatrixMut::new(&mut words, case.outputs / 2)),
        };
        let a = input.activations();
        multiply_gated((a, &weights[0]), (a, &weights[1]), output);
    });
}

/// Activations brought to a precision: items are values.
#[divan::bench(args = ["bf16", "int8"], max_time = CASE_TIME)]
fn encoding_128_rows_of_768(bencher: Bencher<'_, '_>, name: &str) {
    let precision = if name == "bf16" { Precision::Bf16 } else { Precision::Int8 };
    let (rows, cols) = (128, 768);
    let (x, width) = (values(rows * cols), precision.words(cols));
    let (mut words, mut scales) = (Buffer::zeroed(rows * width), Buffer::zeroed(rows));
    bencher.counter(ItemsCount::new(rows * cols)).bench_local(|| {
        let (words, scales) = (MatrixMut::new(&mut words, width), MatrixMut::new(&mut scales, 1));
        encode(Isa::best(), precision, Matrix::new(black_box(&x), cols), words, scales);
    });
}

fn product(bencher: Bencher<'_, '_>, precision: Precision, case: Case) {
    let (weights, input) = (weights(precision, case), Input::new(precision, case));
    let bias = values(case.outputs);
    let mut out = Buffer::zeroed(case.rows * case.outputs);
    bencher.counter(ItemsCount::new(2 * case.rows * case.inputs * case.outputs)).bench_local(|| {
        let out = MatrixMut::new(&mut out, case.outputs);
        multiply(weights.next(), input.activations(), out, Epilogue::Bias(&bias));
    });
}

/// Activations in a precision.
struct Input {
    precision: Precision,
    plain: Buffer<f32>,
    cols: usize,
    words: Buffer<u32>,
    scales: Buffer<f32>,
}

impl Input {
    fn new(precision: Precision, case: Case) -> Self {
        let (rows, cols, width) = (case.rows, case.inputs, precision.words(case.inputs));
        let mut plain = Buffer::zeroed(rows * cols);
        plain.copy_from_slice(&values(rows * cols));
        let (mut words, mut scales) = (Buffer::zeroed(rows * width), Buffer::zeroed(rows));
        if precision != Precision::F32 {
            let (words, scales) = (MatrixMut::new(&mut words, width), MatrixMut::new(&mut scales, 1));
            encode(Isa::best(), precision, Matrix::new(&plain, cols), words, scales);
        }
        Self { precision, plain, cols, words, scales }
    }

    fn activations(&self) -> Activations<'_> {
        if self.precision == Precision::F32 {
            return Activations::plain(Matrix::new(&self.plain, self.cols));
        }
        let words = Matrix::new(&self.words, self.precision.words(self.cols));
        Activations::encoded(self.precision, words, Matrix::new(&self.scales, 1), (0, 1))
    }
}

/// Copies of a packed weight, taken in turns.
struct Weights {
    copies: Vec<PackedWeight>,
    next: AtomicUsize,
}

impl Weights {
    fn next(&self) -> &PackedWeight {
        &self.copies[self.next.fetch_add(1, Ordering::Relaxed) % self.copies.len()]
    }
}

/// The weights of a shape: packed once for all numbers of rows.
fn weights(precision: Precision, Case { inputs, outputs, .. }: Case) -> &'static Weights {
    type Key = (usize, usize, usize);
    static PACKED: LazyLock<Mutex<HashMap<Key, &'static Weights>>> = LazyLock::new(Mutex::default);
    let make = || {
        let weight = PackedWeight::new(Isa::best(), precision, &values(inputs * outputs), outputs, inputs);
        let count = WEIGHT_BYTES.div_ceil(weight.bytes());
        &*Box::leak(Box::new(Weights { copies: vec![weight; count], next: AtomicUsize::new(0) }))
    };
    let key = (precision.values_per_word(), inputs, outputs);
    PACKED.lock().expect("nothing panics under this lock").entry(key).or_insert_with(make)
}
