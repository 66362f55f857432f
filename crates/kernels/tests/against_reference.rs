//! Every kernel against its float64 twin, on every instruction set of this machine, and bit for bit against itself: alone
//! or in a batch, on one thread or several.

use std::sync::Arc;

use danaus_kernels::old::{
    Epilogue, FftPlans, FilterMlp, FilterTaps, LongFilter, PackedWeight, SineLayer, filter_length, long_conv,
};
use danaus_kernels::{
    Compute, Matrix, MatrixMut, ShortFilter, Texts, add_product, gelu_gate, layer_norm, product, reference,
    short_conv,
};
use danaus_simd::Isa;
use proptest::prelude::*;

/// Weight, bias and frequencies of a sine layer.
type Sine = (Vec<f32>, Vec<f32>, Vec<f32>);

/// Every instruction set, on one thread and on three.
fn machines() -> Vec<Compute> {
    let sets = Isa::available().into_iter();
    sets.flat_map(|isa| [1, 3].map(|threads| Compute::new(isa, threads).unwrap())).collect()
}

/// Values in [-1, 1) from a multiplicative generator: reproducible and cheap.
fn values(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

#[track_caller]
fn assert_close(got: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(got) - expected).abs();
        assert!(error <= tolerance * expected.abs().max(1.0), "{what}: [{i}] is {got}, expected {expected}");
    }
}

/// Runs `kernel` on every machine, with outputs that start as garbage, and checks the first result against `expected`
/// and the threads against each other.
#[track_caller]
fn check(count: usize, tolerance: f64, expected: &[f64], kernel: impl Fn(&Compute, &mut [f32])) {
    let mut last: Option<(&str, Vec<f32>)> = None;
    for compute in machines() {
        let mut out = vec![f32::NAN; count];
        kernel(&compute, &mut out);
        let name = compute.isa().name();
        assert_close(&out, expected, tolerance, name);
        if let Some((isa, one_thread)) = last.filter(|(isa, _)| *isa == name) {
            assert!(bits(&one_thread) == bits(&out), "{isa}: threads change bits");
        }
        last = Some((name, out));
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// Texts of the given lengths, end to end.
fn pack(lengths: &[usize]) -> Texts {
    lengths.iter().copied().collect()
}

fn long_filters(
    compute: &Compute,
    taps: &FilterTaps,
    skip: &[f32],
    lengths: &[usize],
) -> Vec<Arc<LongFilter>> {
    let plans = FftPlans::default();
    let filter = |&n: &usize| Arc::new(LongFilter::new(compute, &plans, taps, skip, filter_length(n)));
    lengths.iter().map(filter).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn products_agree(rows in 1usize..200, inputs in 1usize..100, outputs in 1usize..150, seed: u64) {
        let (a, w) = (values(seed, rows * inputs), values(seed ^ 1, outputs * inputs));
        let (bias, residual) = (values(seed ^ 2, outputs), values(seed ^ 3, rows * outputs));
        let product = reference::linear(&wide(&a), &wide(&w), &wide(&bias), inputs);
        let expected: Vec<f64> = product.iter().zip(&residual).map(|(x, &r)| x + f64::from(r)).collect();
        check(rows * outputs, 1e-5, &expected, |compute, out| {
            let weight = PackedWeight::new(compute, &w, outputs, inputs);
            out.copy_from_slice(&residual);
            let epilogue = Epilogue::BiasResidual(&bias);
            weight.multiply(compute, Matrix::new(&a, inputs), MatrixMut::new(out, outputs), epilogue);
        });
    }

    #[test]
    fn products_with_a_bias_agree(rows in 1usize..60, inputs in 1usize..50, outputs in 1usize..110, seed: u64) {
        let (a, w, bias) = (values(seed, rows * inputs), values(seed ^ 1, outputs * inputs), values(seed ^ 2, outputs));
        let expected = reference::linear(&wide(&a), &wide(&w), &wide(&bias), inputs);
        check(rows * outputs, 1e-5, &expected, |compute, out| {
            let weight = PackedWeight::new(compute, &w, outputs, inputs);
            let (a, out) = (Matrix::new(&a, inputs), MatrixMut::new(out, outputs));
            weight.multiply(compute, a, out, Epilogue::Bias(&bias));
        });
    }

    #[test]
    fn block_diagonal_products_agree(rows in 1usize..40, blocks in 1usize..5, p in 1usize..30, q in 1usize..60, seed: u64) {
        let (x, w) = (values(seed, rows * blocks * p), values(seed ^ 1, blocks * q * p));
        let expected = reference::block_diagonal(&wide(&x), &wide(&w), blocks, p);
        check(rows * blocks * q, 1e-5, &expected, |compute, out| {
            for (block, w) in w.chunks_exact(q * p).enumerate() {
                let weight = PackedWeight::new(compute, w, q, p);
                let a = Matrix::new(&x, blocks * p).columns(block * p, p);
                let out = MatrixMut::new(out, blocks * q).columns(block * q, q);
                weight.multiply(compute, a, out, Epilogue::Store);
            }
        });
    }

    #[test]
    fn a_row_of_a_product_does_not_depend_on_the_others(rows in 2usize..120, inputs in 1usize..80, outputs in 1usize..120, seed: u64) {
        let (a, w) = (values(seed, rows * inputs), values(seed ^ 1, outputs * inputs));
        for compute in machines() {
            let weight = PackedWeight::new(&compute, &w, outputs, inputs);
            let mut all = vec![0.0; rows * outputs];
            weight.multiply(&compute, Matrix::new(&a, inputs), MatrixMut::new(&mut all, outputs), Epilogue::Store);
            let row = seed as usize % rows;
            let mut alone = vec![0.0; outputs];
            let a = Matrix::new(&a[row * inputs..(row + 1) * inputs], inputs);
            weight.multiply(&compute, a, MatrixMut::new(&mut alone, outputs), Epilogue::Store);
            prop_assert_eq!(bits(&alone), bits(&all[row * outputs..(row + 1) * outputs]));
        }
    }

    #[test]
    fn long_convolutions_agree(lengths in prop::collection::vec(prop_oneof![1usize..40, 1usize..300], 1..4), channels in 1usize..40, seed: u64) {
        let positions = lengths.iter().copied().max().unwrap();
        let tokens: usize = lengths.iter().sum();
        let x = values(seed, tokens * channels);
        let scaled = |seed| values(seed, positions * channels).iter().map(|tap| tap * 0.1).collect::<Vec<_>>();
        let taps = FilterTaps { forward: scaled(seed ^ 1), reverse: scaled(seed ^ 2) };
        let skip = values(seed ^ 3, channels);
        let expected: Vec<f64> = pack(&lengths).iter().flat_map(|text| {
            let x = wide(&x[text.start * channels..text.end * channels]);
            reference::long_conv(&x, &wide(&taps.forward), &wide(&taps.reverse), &wide(&skip))
        }).collect();
        check(tokens * channels, 2e-6, &expected, |compute, out| {
            let filters = long_filters(compute, &taps, &skip, &lengths);
            long_conv(compute, Matrix::new(&x, channels), &pack(&lengths), &filters, MatrixMut::new(out, channels));
        });
    }

    #[test]
    fn short_convolutions_agree(lengths in prop::collection::vec(1usize..9, 1..5), channels in 1usize..600, seed: u64) {
        let tokens: usize = lengths.iter().sum();
        let (x, weight, bias) = (values(seed, tokens * channels), values(seed ^ 1, channels * 3), values(seed ^ 2, channels));
        let expected: Vec<f64> = pack(&lengths).iter().flat_map(|text| {
            reference::short_conv(&wide(&x[text.start * channels..text.end * channels]), &wide(&weight), &wide(&bias))
        }).collect();
        check(x.len(), 1e-6, &expected, |compute, out| {
            out.copy_from_slice(&x);
            let filter = ShortFilter::new(&weight, &bias);
            short_conv(compute, MatrixMut::new(out, channels), &pack(&lengths), &filter);
        });
    }

    #[test]
    fn norms_gates_and_elementwise_operations_agree(rows in 1usize..150, channels in 1usize..100, seed: u64) {
        let (x, weight, bias) = (values(seed, rows * channels), values(seed ^ 1, channels), values(seed ^ 2, channels));
        let expected = reference::layer_norm(&wide(&x), &wide(&weight), &wide(&bias), 1e-3);
        check(x.len(), 1e-5, &expected, |compute, out| {
            out.copy_from_slice(&x);
            layer_norm(compute, MatrixMut::new(out, channels), &weight, &bias, 1e-3);
        });
        let gated: Vec<f32> = values(seed ^ 3, rows * channels * 2).iter().map(|x| 4.0 * x).collect();
        check(x.len(), 1e-6, &reference::gelu_gate(&wide(&gated), channels), |compute, out| {
            gelu_gate(compute, Matrix::new(&gated, 2 * channels), MatrixMut::new(out, channels));
        });
        let (factor, addend) = (values(seed ^ 4, x.len()), values(seed ^ 5, x.len()));
        let expected: Vec<f64> = (0..x.len()).map(|i| f64::from(x[i]) * f64::from(factor[i]) * f64::from(factor[i]) + f64::from(addend[i])).collect();
        check(x.len(), 1e-6, &expected, |compute, out| {
            product(compute, Matrix::new(&x, channels), Matrix::new(&factor, channels), MatrixMut::new(out, channels));
            add_product(compute, MatrixMut::new(out, channels), Matrix::new(&factor, channels), Matrix::new(&addend, channels));
        });
    }

    #[test]
    fn filter_taps_agree(positions in 1usize..150, order in 1usize..40, channels in 1usize..60, seed: u64) {
        let inputs = 5;
        let widths = [inputs, order];
        let parts: Vec<_> = (0..2).map(|i| (
            values(seed ^ i, order * widths[i as usize]),
            values(seed ^ (10 + i), order),
            values(seed ^ (20 + i), order).iter().map(|f| 10.0 * f).collect::<Vec<f32>>(),
        )).collect();
        let output: Vec<f32> = values(seed ^ 30, channels * order).iter().map(|w| 0.02 * w).collect();
        let (features, time, deltas) = (values(seed ^ 31, positions * inputs), values(seed ^ 32, positions), values(seed ^ 33, channels));
        let time: Vec<f32> = time.iter().map(|t| t.abs()).collect();
        let layer = |(w, b, f): &Sine| reference::SineLayer { weight: wide(w), bias: wide(b), frequency: wide(f) };
        let mlp = reference::FilterMlp { sine_layers: parts.iter().map(layer).collect(), output: wide(&output) };
        let expected = reference::filter_taps(&mlp, &wide(&features), &wide(&time), &wide(&deltas));
        check(positions * channels, 1e-7, &expected, |compute, out| {
            let layer = |(w, b, f): &Sine| SineLayer::new(w, b, &wide(f));
            let mlp = FilterMlp {
                sine_layers: parts.iter().map(layer).collect(),
                output: PackedWeight::new(compute, &output, channels, order),
            };
            out.copy_from_slice(&mlp.taps(compute, Matrix::new(&features, inputs), &time, &deltas));
        });
    }
}

/// Sizes around every power of two that an FFT could trip over, and texts that must not see their neighbours.
#[test]
fn a_text_convolves_alike_alone_and_between_neighbours() {
    let channels = 17;
    for tokens in [1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 129, 511, 513] {
        let x = values(7, tokens * channels);
        let taps = FilterTaps { forward: values(8, 600 * channels), reverse: values(9, 600 * channels) };
        let skip = values(10, channels);
        for compute in machines() {
            let run = |lengths: &[usize], x: &[f32]| {
                let mut out = vec![f32::NAN; x.len()];
                let filters = long_filters(&compute, &taps, &skip, lengths);
                let (x, texts) = (Matrix::new(x, channels), pack(lengths));
                long_conv(&compute, x, &texts, &filters, MatrixMut::new(&mut out, channels));
                out
            };
            let alone = run(&[tokens], &x);
            let neighbour = vec![f32::INFINITY; 40 * channels];
            let batch = run(&[40, tokens, 40], &[&neighbour[..], &x, &neighbour].concat());
            assert_eq!(
                bits(&alone),
                bits(&batch[40 * channels..(40 + tokens) * channels]),
                "{tokens} tokens"
            );
        }
    }
}

/// A NaN in one text reaches that text alone; an empty batch is no work.
#[test]
fn non_finite_values_stay_in_their_row() {
    for compute in machines() {
        let (rows, channels) = (9, 20);
        let mut x = values(1, rows * channels);
        x[3 * channels + 2] = f32::NAN;
        x[5 * channels] = f32::INFINITY;
        let weight = PackedWeight::new(&compute, &values(2, 30 * channels), 30, channels);
        let mut out = vec![0.0; rows * 30];
        weight.multiply(&compute, Matrix::new(&x, channels), MatrixMut::new(&mut out, 30), Epilogue::Store);
        for (row, out) in out.chunks_exact(30).enumerate() {
            assert_eq!(out.iter().all(|y| y.is_finite()), row != 3 && row != 5, "row {row}");
        }
        layer_norm(
            &compute,
            MatrixMut::new(&mut x, channels),
            &values(3, channels),
            &values(4, channels),
            1e-5,
        );
        for (row, x) in x.chunks_exact(channels).enumerate() {
            assert_eq!(x.iter().all(|y| y.is_finite()), row != 3 && row != 5, "row {row}");
        }
        weight.multiply(&compute, Matrix::new(&[], channels), MatrixMut::new(&mut [], 30), Epilogue::Store);
        long_conv(
            &compute,
            Matrix::new(&[], channels),
            &Texts::default(),
            &[],
            MatrixMut::new(&mut [], channels),
        );
    }
}
