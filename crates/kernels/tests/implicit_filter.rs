//! Long filters' taps against their float64 twin, on every instruction set of this machine.

mod common;

use common::{assert_close, bits, values, wide};
use danaus_kernels::gemm::{Activations, PackedWeight, Precision};
use danaus_kernels::{FilterWindow, Matrix, MatrixMut, SineLayer, SineMlp, filter_taps, reference};
use danaus_simd::Isa;
use proptest::prelude::*;

/// An MLP of two sine layers with frequencies up to `frequency`, and its twin without a projection.
fn mlp(seed: u64, inputs: usize, width: usize, frequency: f64) -> (SineMlp, reference::FilterMlp) {
    let layers = (0..2).map(|i| {
        let from = [inputs, width + 3][i as usize];
        let to = [width + 3, width][i as usize];
        let weight = values(seed ^ i, to * from);
        let bias = values(seed ^ (10 + i), to);
        let frequency: Vec<f64> =
            values(seed ^ (20 + i), to).iter().map(|&f| frequency * f64::from(f)).collect();
        let twin =
            reference::SineLayer { weight: wide(&weight), bias: wide(&bias), frequency: frequency.clone() };
        (SineLayer::new(&weight, &bias, &frequency), twin)
    });
    let (layers, twins) = layers.unzip();
    (SineMlp::new(layers), reference::FilterMlp { sine_layers: twins, output: Vec::new() })
}

/// The twin's states: its taps under a projection that is the identity and a window that is 1.
fn twin_states(mut twin: reference::FilterMlp, features: &[f32], positions: usize, width: usize) -> Vec<f64> {
    twin.output = (0..width * width).map(|at| f64::from(u8::from(at / width == at % width))).collect();
    reference::filter_taps(&twin, &wide(features), &vec![0.0; positions], &vec![0.0; width])
}

fn states(isa: Isa, mlp: &SineMlp, features: Matrix<'_>) -> Vec<f32> {
    let mut out = vec![f32::NAN; features.rows() * mlp.states()];
    mlp.write_states(isa, features, MatrixMut::new(&mut out, mlp.states()));
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn states_agree(positions in 1usize..150, inputs in 1usize..7, width in 1usize..40, seed: u64) {
        let (mlp, twin) = mlp(seed, inputs, width, 10.0);
        let features = values(seed ^ 31, positions * inputs);
        let expected = twin_states(twin, &features, positions, width);
        for isa in Isa::available() {
            let got = states(isa, &mlp, Matrix::new(&features, inputs));
            assert_close(&got, &expected, 7e-8, isa.name());
            // bfloat16 is the same rounded once more, to the nearest even.
            let mut words = vec![u32::MAX; positions * width.div_ceil(2)];
            mlp.write_bf16_states(isa, Matrix::new(&features, inputs), MatrixMut::new(&mut words, width.div_ceil(2)));
            for (words, states) in words.chunks_exact(width.div_ceil(2)).zip(got.chunks_exact(width)) {
                let halves: Vec<u32> = words.iter().flat_map(|word| [word & 0xffff, word >> 16]).collect();
                for (&half, &state) in halves.iter().zip(states) {
                    let bits = state.to_bits();
                    let below = bits & 0xffff;
                    let up = below > 0x8000 || below == 0x8000 && bits & 0x1_0000 != 0;
                    prop_assert_eq!(half, (bits >> 16) + u32::from(up));
                }
                prop_assert!(halves[width..].iter().all(|&half| half == 0));
            }
        }
    }

    #[test]
    fn a_position_does_not_depend_on_the_others(positions in 2usize..150, width in 1usize..40, seed: u64) {
        let inputs = 5;
        let (mlp, _) = mlp(seed, inputs, width, 30.0);
        let features = values(seed ^ 31, positions * inputs);
        for isa in Isa::available() {
            let all = states(isa, &mlp, Matrix::new(&features, inputs));
            let start = seed as usize % positions;
            let some = states(isa, &mlp, Matrix::new(&features, inputs).slice(start..positions));
            prop_assert_eq!(bits(&all[start * width..]), bits(&some));
        }
    }

    #[test]
    fn taps_agree(positions in 1usize..220, order in 1usize..40, channels in 1usize..60, seed: u64) {
        let states: [Vec<f32>; 2] = [seed, seed ^ 1].map(|seed| values(seed, positions * order));
        let weights: [Vec<f32>; 2] = [seed ^ 2, seed ^ 3].map(|seed| values(seed, channels * order).iter().map(|w| 0.1 * w).collect());
        let time: Vec<f32> = values(seed ^ 4, positions).iter().map(|t| t.abs()).collect();
        let deltas: Vec<f32> = values(seed ^ 5, channels).iter().map(|d| 20.0 * d).collect();
        for isa in Isa::available() {
            let packed = weights.each_ref().map(|w| PackedWeight::new(isa, Precision::F32, w, channels, order));
            let mut memory = vec![f32::NAN; positions * 2 * (channels + 1)];
            let mut halves = MatrixMut::new(&mut memory, 2 * (channels + 1)).split_columns(channels + 1).into_iter();
            let out = std::array::from_fn(|_| halves.next().unwrap().columns(0, channels));
            let inputs = states.each_ref().map(|states| Activations::plain(Matrix::new(states, order)));
            let window = FilterWindow { time: &time, deltas: &deltas };
            filter_taps(isa, inputs, packed.each_ref(), window, out);
            for direction in 0..2 {
                let mut expected = reference::linear(&wide(&states[direction]), &wide(&weights[direction]), &vec![0.0; channels], order);
                for (row, time) in expected.chunks_exact_mut(channels).zip(wide(&time)) {
                    row.iter_mut().zip(wide(&deltas)).for_each(|(x, delta)| *x *= (-time * delta.abs()).exp());
                }
                let taps = Matrix::new(&memory, 2 * (channels + 1)).columns(direction * (channels + 1), channels + 1);
                let got: Vec<f32> = (0..positions).flat_map(|p| &taps.row(p)[..channels]).copied().collect();
                assert_close(&got, &expected, 1e-6, isa.name());
                prop_assert!((0..positions).all(|p| taps.row(p)[channels].is_nan()), "wrote outside the view");
            }
        }
    }
}

/// Sines of arguments beyond the fast reduction, and of what is no number.
#[test]
fn sines_of_large_and_undefined_arguments_are_right() {
    let (mlp, _) = mlp(5, 3, 20, 1e7);
    let mut features = values(6, 40 * 3);
    for isa in Isa::available() {
        let got = states(isa, &mlp, Matrix::new(&features, 3));
        assert!(got.iter().all(|x| x.abs() <= 1.0));
        // A second layer magnifies the first one's rounding to anything; the first alone is what can be compared.
        let first = SineMlp::new(vec![SineLayer::new(&[1.0], &[0.0], &[1e7])]);
        for &feature in &features {
            let got = states(isa, &first, Matrix::new(&[feature], 1))[0];
            assert!((f64::from(got) - (1e7 * f64::from(feature)).sin()).abs() < 1e-7);
        }
    }
    features[7 * 3] = f32::NAN;
    features[9 * 3] = f32::INFINITY;
    for isa in Isa::available() {
        let got = states(isa, &mlp, Matrix::new(&features, 3));
        for (position, states) in got.chunks_exact(20).enumerate() {
            assert_eq!(states.iter().all(|x| x.is_finite()), position != 7 && position != 9, "{position}");
        }
    }
}

/// States that are not finite spoil the taps of their position and direction, and no others.
#[test]
fn taps_of_undefined_states_stay_at_their_position() {
    let (positions, order, channels) = (100, 9, 50);
    let clean = values(1, positions * order);
    let window = FilterWindow { time: &vec![0.5; positions], deltas: &vec![1.0; channels] };
    for (isa, bad) in
        Isa::available().into_iter().flat_map(|isa| [f32::NAN, f32::INFINITY].map(|bad| (isa, bad)))
    {
        let weight = PackedWeight::new(isa, Precision::F32, &values(2, channels * order), channels, order);
        let mut states = clean.clone();
        states[97 * order + 4] = bad;
        let states = [&clean, &states].map(|states| Activations::plain(Matrix::new(states, order)));
        let mut taps = [vec![0.0; positions * channels], vec![0.0; positions * channels]];
        let out = taps.each_mut().map(|taps| MatrixMut::new(taps, channels));
        filter_taps(isa, states, [&weight, &weight], window, out);
        for (at, (forward, reverse)) in taps[0].iter().zip(&taps[1]).enumerate() {
            let same = forward.is_finite() && forward.to_bits() == reverse.to_bits();
            assert!(if at / channels == 97 { !reverse.is_finite() } else { same }, "{isa}, {bad}: [{at}]");
        }
    }
}

/// bfloat16 states and weights: the same product with both rounded.
#[test]
fn bfloat16_taps_are_products_of_rounded_values() {
    let (positions, order, channels) = (150, 31, 50);
    let (mlp, twin) = mlp(1, 5, order, 10.0);
    let features = values(2, positions * 5);
    let weight: Vec<f32> = values(3, channels * order).iter().map(|w| 0.02 * w).collect();
    let expected = twin_states(twin, &features, positions, order);
    let expected = reference::linear(&expected, &wide(&weight), &vec![0.0; channels], order);
    for isa in Isa::available() {
        let mut words = vec![u32::MAX; positions * order.div_ceil(2)];
        mlp.write_bf16_states(isa, Matrix::new(&features, 5), MatrixMut::new(&mut words, order.div_ceil(2)));
        let states = || Activations::words(Precision::Bf16, Matrix::new(&words, order.div_ceil(2)));
        let packed = PackedWeight::new(isa, Precision::Bf16, &weight, channels, order);
        let mut taps = [vec![f32::NAN; positions * channels], vec![f32::NAN; positions * channels]];
        let out = taps.each_mut().map(|taps| MatrixMut::new(taps, channels));
        let window = FilterWindow { time: &vec![1.0; positions], deltas: &vec![0.0; channels] };
        filter_taps(isa, [states(), states()], [&packed, &packed], window, out);
        assert_eq!(taps[0], taps[1]);
        assert_close(&taps[0], &expected, 5e-4, isa.name());
    }
}
