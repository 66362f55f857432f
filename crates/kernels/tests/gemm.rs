//! Matrix products against float64, in every precision on every instruction set of this machine.

mod common;

use common::{assert_close, bits, values, wide};
use danaus_kernels::gemm::{
    Activations, Epilogue, GatedOutput, PackedWeight, Precision, encode, multiply, multiply_gated,
};
use danaus_kernels::{Buffer, Matrix, MatrixMut, reference};
use danaus_simd::Isa;
use proptest::prelude::*;

const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::Int8];

/// Activations of `blocks` blocks in a precision.
struct Encoded {
    precision: Precision,
    plain: Vec<f32>,
    cols: usize,
    blocks: usize,
    words: Buffer<u32>,
    scales: Buffer<f32>,
}

impl Encoded {
    fn new(isa: Isa, precision: Precision, x: &[f32], cols: usize, blocks: usize) -> Self {
        let rows = x.len() / cols;
        let width = blocks * precision.words(cols / blocks);
        let (mut words, mut scales) = (Buffer::zeroed(rows * width), Buffer::zeroed(rows * blocks));
        words.fill(u32::MAX);
        if precision != Precision::F32 {
            let (words, scales) = (MatrixMut::new(&mut words, width), MatrixMut::new(&mut scales, blocks));
            encode(isa, precision, Matrix::new(x, cols), words, scales);
        }
        Self { precision, plain: x.to_vec(), cols, blocks, words, scales }
    }

    fn block(&self, block: usize) -> Activations<'_> {
        let width = self.cols / self.blocks;
        if self.precision == Precision::F32 {
            return Activations::plain(Matrix::new(&self.plain, self.cols).columns(block * width, width));
        }
        let words = Matrix::new(&self.words, self.blocks * self.precision.words(width));
        Activations::encoded(
            self.precision,
            words,
            Matrix::new(&self.scales, self.blocks),
            (block, self.blocks),
        )
    }
}

/// What a value becomes in a precision, `largest` being the largest magnitude of those that share its scale.
fn rounded(precision: Precision, x: f32, largest: f32) -> f64 {
    match precision {
        Precision::F32 => f64::from(x),
        Precision::Bf16 => {
            f64::from(f32::from_bits((x.to_bits() + 0x7fff + (x.to_bits() >> 16 & 1)) & 0xffff_0000))
        }
        Precision::Int8 => {
            let steps = if largest < 1e-30 { 0.0 } else { 127.0 / largest };
            f64::from((x * steps).round_ties_even()) * f64::from(largest / 127.0)
        }
    }
}

/// Rows (of `width` values each) as a precision has them.
fn rounded_rows(precision: Precision, x: &[f32], width: usize) -> Vec<f64> {
    let row = |row: &[f32]| {
        let largest = row.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        row.iter().map(|&x| rounded(precision, x, largest)).collect::<Vec<_>>()
    };
    x.chunks(width).flat_map(row).collect()
}

/// Any number, and often one that matrix tiles take.
fn inputs() -> impl Strategy<Value = usize> {
    prop_oneof![2 => 1usize..100, 1 => (1usize..4).prop_map(|tiles| 64 * tiles)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn products_agree(rows in 0usize..210, inputs in inputs(), outputs in 1usize..150, epilogue in 0..3, seed: u64) {
        let (x, w) = (values(seed, rows * inputs), values(seed ^ 1, outputs * inputs));
        let (bias, residual) = (values(seed ^ 2, outputs), values(seed ^ 3, rows * outputs));
        for precision in PRECISIONS {
            let (wide_x, wide_w) = (rounded_rows(precision, &x, inputs), rounded_rows(precision, &w, inputs));
            let added = if epilogue == 0 { vec![0.0; outputs] } else { wide(&bias) };
            let mut expected = reference::linear(&wide_x, &wide_w, &added, inputs);
            if epilogue == 2 {
                expected.iter_mut().zip(&residual).for_each(|(x, &r)| *x += f64::from(r));
            }
            for isa in Isa::available() {
                let weight = PackedWeight::new(isa, precision, &w, outputs, inputs);
                let a = Encoded::new(isa, precision, &x, inputs, 1);
                // Rows further apart than they are long.
                let mut out = vec![f32::NAN; rows * (outputs + 3)];
                let epilogue = match epilogue {
                    0 => Epilogue::Store,
                    1 => Epilogue::Bias(&bias),
                    _ => Epilogue::BiasResidual(&bias, Matrix::new(&residual, outputs)),
                };
                multiply(&weight, a.block(0), MatrixMut::new(&mut out, outputs + 3).columns(2, outputs), epilogue);
                let got: Vec<f32> = out.chunks(outputs + 3).flat_map(|row| row[2..2 + outputs].to_vec()).collect();
                assert_close(&got, &expected, 1e-5, &format!("{} {precision:?}", isa.name()));
                prop_assert!(out.chunks(outputs + 3).all(|row| row[0].is_nan() && row[outputs + 2].is_nan()));
            }
        }
    }

    #[test]
    fn gated_block_diagonal_products_agree(rows in 1usize..40, blocks in 1usize..4, p in 1usize..40, q in 1usize..120, seed: u64) {
        // Each row's blocks are scaled apart.
        let x = values(seed, rows * blocks * p);
        let weights = [1, 2].map(|i| values(seed ^ i, blocks * q * p));
        for precision in PRECISIONS {
            let wide_x = rounded_rows(precision, &x, p);
            let [activated, gate] = [0, 1].map(|i| reference::block_diagonal(&wide_x, &rounded_rows(precision, &weights[i], p), blocks, p));
            let expected: Vec<f64> = activated.iter().zip(&gate).map(|(&a, g)| reference::gelu(a) * g).collect();
            for isa in Isa::available() {
                let a = Encoded::new(isa, precision, &x, blocks * p, blocks);
                for block in 0..blocks {
                    let pack = |i: usize| PackedWeight::new(isa, precision, &weights[i][block * q * p..(block + 1) * q * p], q, p);
                    let (activated, gate) = (pack(0), pack(1));
                    let column = |row: usize| &expected[row * blocks * q + block * q..][..q];
                    let expected: Vec<f64> = (0..rows).flat_map(column).copied().collect();
                    let (a, what) = (a.block(block), format!("{} {precision:?}", isa.name()));
                    let (out, words) = gated(q, (a, &activated), (a, &gate));
                    assert_close(&out, &expected, 2e-5, &what);
                    let half = |(i, &x): (usize, &f32)| (words[i / q * q.div_ceil(2) + i % q / 2] >> (16 * (i % q % 2)) & 0xffff, x);
                    for (got, x) in out.iter().enumerate().map(half) {
                        prop_assert_eq!(f64::from(f32::from_bits(got << 16)), rounded(Precision::Bf16, x, 0.0));
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_the_others(rows in 2usize..210, inputs in inputs(), outputs in 1usize..120, seed: u64) {
        let (x, w) = (values(seed, rows * inputs), values(seed ^ 1, outputs * inputs));
        for (isa, precision) in Isa::available().into_iter().flat_map(|isa| PRECISIONS.map(|precision| (isa, precision))) {
            let weight = PackedWeight::new(isa, precision, &w, outputs, inputs);
            let product = |x: &[f32]| {
                let mut out = vec![f32::NAN; x.len() / inputs * outputs];
                let a = Encoded::new(isa, precision, x, inputs, 1);
                multiply(&weight, a.block(0), MatrixMut::new(&mut out, outputs), Epilogue::Store);
                out
            };
            let (all, row) = (product(&x), seed as usize % rows);
            let alone = product(&x[row * inputs..(row + 1) * inputs]);
            prop_assert_eq!(bits(&alone), bits(&all[row * outputs..(row + 1) * outputs]));
        }
    }
}

/// Rows around the edges of every instruction set's tiles (of up to 9 rows, or 16 or 32) and blocks (of 96).
const EDGE_ROWS: [usize; 32] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 16, 17, 18, 19, 27, 28, 31, 32, 33, 64, 65, 95, 96, 97,
    105, 191, 192, 193,
];
/// Outputs around the edges of every instruction set's vectors and panels, of up to two panels.
const EDGE_OUTPUTS: [usize; 24] =
    [1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 47, 48, 49, 63, 64, 65, 96, 97];
/// Inputs around the edges of every precision's words, and of matrix tiles' 16 words.
const EDGE_INPUTS: [usize; 15] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 31, 32, 33, 64, 65, 192];
const MOST_ROWS: usize = EDGE_ROWS[EDGE_ROWS.len() - 1];
const MOST_OUTPUTS: usize = EDGE_OUTPUTS[EDGE_OUTPUTS.len() - 1];

/// Every number of rows and outputs at the edges, as a corner of the largest product.
fn edges() -> impl Iterator<Item = (usize, usize)> {
    EDGE_ROWS.into_iter().flat_map(|rows| EDGE_OUTPUTS.map(|outputs| (rows, outputs)))
}

/// The corner of a matrix with [`MOST_OUTPUTS`] columns.
fn corner<T: Copy>(matrix: &[T], (rows, outputs): (usize, usize)) -> Vec<T> {
    matrix.chunks_exact(MOST_OUTPUTS).take(rows).flat_map(|row| &row[..outputs]).copied().collect()
}

/// Products of every size around every edge, without a draw: each with every epilogue as the inputs go by, into a view that
/// starts where no vector does.
#[test]
fn products_of_every_size_around_an_edge_agree() {
    for (inputs, precision) in EDGE_INPUTS.into_iter().flat_map(|inputs| PRECISIONS.map(|p| (inputs, p))) {
        let (x, w) = (values(1, MOST_ROWS * inputs), values(2, MOST_OUTPUTS * inputs));
        let (bias, residual) = (values(3, MOST_OUTPUTS), values(4, MOST_ROWS * MOST_OUTPUTS));
        let [wide_x, wide_w] = [&x, &w].map(|values| rounded_rows(precision, values, inputs));
        let expected = reference::linear(&wide_x, &wide_w, &[0.0; MOST_OUTPUTS], inputs);
        for (isa, outputs) in Isa::available().into_iter().flat_map(|isa| EDGE_OUTPUTS.map(|n| (isa, n))) {
            let weight = PackedWeight::new(isa, precision, &w[..outputs * inputs], outputs, inputs);
            for rows in EDGE_ROWS {
                let a = Encoded::new(isa, precision, &x[..rows * inputs], inputs, 1);
                let residual = corner(&residual, (rows, outputs));
                let kind = (rows + outputs + inputs) % 3;
                let epilogue = match kind {
                    0 => Epilogue::Store,
                    1 => Epilogue::Bias(&bias[..outputs]),
                    _ => Epilogue::BiasResidual(&bias[..outputs], Matrix::new(&residual, outputs)),
                };
                let stride = outputs + 3;
                let mut out = vec![f32::NAN; rows * stride];
                multiply(&weight, a.block(0), MatrixMut::new(&mut out, stride).columns(1, outputs), epilogue);
                for (row, out) in out.chunks_exact(stride).enumerate() {
                    let added = |n| [0.0, bias[n], bias[n] + residual[row * outputs + n]][kind];
                    let exact = expected[row * MOST_OUTPUTS..].iter().enumerate();
                    let exact = exact.take(outputs).map(|(n, x)| x + f64::from(added(n)));
                    let what = format!("{isa} {precision:?}, {rows} x {inputs} -> {outputs}, row {row}");
                    assert_close(&out[1..=outputs], &exact.collect::<Vec<_>>(), 1e-5, &what);
                    assert!(out[0].is_nan() && out[outputs + 1..].iter().all(|x| x.is_nan()), "{what}");
                }
            }
        }
    }
}

/// The same for gated products, whose two outputs must be the same but for their precision.
#[test]
fn gated_products_of_every_size_around_an_edge_agree() {
    for (inputs, precision) in
        [1, 3, 4, 8, 33, 64].into_iter().flat_map(|inputs| PRECISIONS.map(|p| (inputs, p)))
    {
        let x = values(1, MOST_ROWS * inputs);
        let weights = [2, 3].map(|seed| values(seed, MOST_OUTPUTS * inputs));
        let wide_x = rounded_rows(precision, &x, inputs);
        let [activated, gate] = weights.each_ref().map(|w| {
            let wide_w = rounded_rows(precision, w, inputs);
            reference::linear(&wide_x, &wide_w, &[0.0; MOST_OUTPUTS], inputs)
        });
        let expected: Vec<f64> = activated.iter().zip(&gate).map(|(&a, g)| reference::gelu(a) * g).collect();
        for (isa, (rows, outputs)) in
            Isa::available().into_iter().flat_map(|isa| edges().map(move |e| (isa, e)))
        {
            let pack = |i: usize| {
                PackedWeight::new(isa, precision, &weights[i][..outputs * inputs], outputs, inputs)
            };
            let a = Encoded::new(isa, precision, &x[..rows * inputs], inputs, 1);
            let (out, words) = gated(outputs, (a.block(0), &pack(0)), (a.block(0), &pack(1)));
            let what = format!("{isa} {precision:?}, {rows} x {inputs} -> {outputs}");
            assert_close(&out, &corner(&expected, (rows, outputs)), 2e-5, &what);
            for (out, words) in out.chunks(outputs).zip(words.chunks(outputs.div_ceil(2))) {
                let halves = words.iter().flat_map(|word| [word & 0xffff, word >> 16]);
                let padded = out.iter().copied().chain([0.0]).take(2 * words.len());
                for (half, x) in halves.zip(padded) {
                    let half = f64::from(f32::from_bits(half << 16));
                    assert_eq!(half, rounded(Precision::Bf16, x, 0.0), "{what}");
                }
            }
        }
    }
}

/// Both outputs of a gated product.
fn gated(
    outputs: usize,
    activated: (Activations<'_>, &PackedWeight),
    gate: (Activations<'_>, &PackedWeight),
) -> (Vec<f32>, Vec<u32>) {
    let (rows, width) = (gate.0.rows(), outputs.div_ceil(2));
    let (mut out, mut words) = (vec![f32::NAN; rows * outputs], vec![u32::MAX; rows * width]);
    multiply_gated(activated, gate, GatedOutput::F32(MatrixMut::new(&mut out, outputs)));
    multiply_gated(activated, gate, GatedOutput::Bf16(MatrixMut::new(&mut words, width)));
    (out, words)
}

/// In a gated product, too: where the values that are activated, the gate's, or both are not finite.
#[test]
fn values_that_are_not_finite_stay_in_their_row_of_a_gate() {
    let (rows, inputs, outputs, bad_row) = (11, 20, 50, 4);
    let clean = values(1, rows * inputs);
    for (isa, precision) in
        Isa::available().into_iter().flat_map(|isa| PRECISIONS.map(|precision| (isa, precision)))
    {
        let pack = |seed| PackedWeight::new(isa, precision, &values(seed, outputs * inputs), outputs, inputs);
        let (activated, gate) = (pack(2), pack(3));
        let encode = |x: &[f32]| Encoded::new(isa, precision, x, inputs, 1);
        let good = encode(&clean);
        let (expected, expected_words) = gated(outputs, (good.block(0), &activated), (good.block(0), &gate));
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = clean.clone();
            x[bad_row * inputs + 7] = value;
            let bad = encode(&x);
            for (a, g) in [(&bad, &bad), (&good, &bad), (&bad, &good)] {
                let (out, words) = gated(outputs, (a.block(0), &activated), (g.block(0), &gate));
                let what = format!("{isa} {precision:?}, {value}");
                for (row, got) in out.chunks_exact(outputs).enumerate() {
                    let columns = row * outputs..(row + 1) * outputs;
                    let same = bits(got) == bits(&expected[columns.clone()]);
                    let halves = columns.start / 2..columns.end / 2;
                    let same_words = words[halves.clone()] == expected_words[halves.clone()];
                    if row != bad_row {
                        assert!(same && same_words, "{what}: row {row}");
                        continue;
                    }
                    // GELU of minus infinity is zero: that is as finite as it should be.
                    let zero = |x: f32| std::ptr::eq(g, &good) && x.abs() < 1e-15;
                    assert!(got.iter().all(|&x| !x.is_finite() || zero(x)), "{what}: {got:?}");
                    let halves = words[halves].iter().flat_map(|word| [word << 16, word & 0xffff_0000]);
                    let kept =
                        halves.zip(got).all(|(half, x)| f32::from_bits(half).is_finite() == x.is_finite());
                    assert!(kept, "{what}: bfloat16 outputs");
                }
            }
        }
    }
}

#[test]
fn values_that_are_not_finite_stay_in_their_row() {
    let (rows, inputs, outputs) = (11, 20, 30);
    let mut x = values(1, rows * inputs);
    x[3 * inputs + 2] = f32::NAN;
    x[5 * inputs] = f32::INFINITY;
    x[9 * inputs + 19] = f32::NEG_INFINITY;
    for (isa, precision) in
        Isa::available().into_iter().flat_map(|isa| PRECISIONS.map(|precision| (isa, precision)))
    {
        let weight = PackedWeight::new(isa, precision, &values(2, outputs * inputs), outputs, inputs);
        let a = Encoded::new(isa, precision, &x, inputs, 1);
        let mut out = vec![0.0; rows * outputs];
        multiply(&weight, a.block(0), MatrixMut::new(&mut out, outputs), Epilogue::Store);
        for (row, out) in out.chunks_exact(outputs).enumerate() {
            let finite = ![3, 5, 9].contains(&row);
            assert!(out.iter().all(|y| y.is_finite() == finite), "row {row}, {} {precision:?}", isa.name());
        }
    }
}

/// Rows of zeros, and of values too small to scale.
#[test]
fn rows_without_magnitude_are_zero() {
    for isa in Isa::available() {
        let weight = PackedWeight::new(isa, Precision::Int8, &values(2, 7 * 5), 7, 5);
        let x = [[0.0; 5], [1e-40; 5]].concat();
        let a = Encoded::new(isa, Precision::Int8, &x, 5, 1);
        let mut out = vec![f32::NAN; 14];
        multiply(&weight, a.block(0), MatrixMut::new(&mut out, 7), Epilogue::Store);
        assert!(out.iter().all(|y| y.abs() < 1e-30), "{out:?}");
    }
}

#[test]
#[should_panic = "precision"]
fn halves_of_a_gate_in_two_precisions_are_refused() {
    let isa = Isa::best();
    let (plain, bytes) = (
        Encoded::new(isa, Precision::F32, &[1.0; 8], 4, 1),
        Encoded::new(isa, Precision::Int8, &[1.0; 8], 4, 1),
    );
    let pack = |precision| PackedWeight::new(isa, precision, &[1.0; 12], 3, 4);
    let mut out = [0.0; 6];
    let out = GatedOutput::F32(MatrixMut::new(&mut out, 3));
    multiply_gated((plain.block(0), &pack(Precision::F32)), (bytes.block(0), &pack(Precision::Int8)), out);
}
