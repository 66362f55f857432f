//! LayerNorm, the short convolution, means and far fields on views, against their float64 twins, on every instruction set of this machine.

mod common;
#[path = "common/views.rs"]
mod views;

use common::{assert_close, bits, values, wide};
use danaus_kernels::{
    Matrix, MatrixMut, ShortFilter, Texts, layer_norm, mean_rows, reference, short_conv, short_conv_gate,
};
use danaus_simd::Isa;
use proptest::prelude::*;
use views::{in_a_view, widely};

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn norms_agree(rows in 1usize..20, channels in 1usize..300, shift in 0usize..18, offset in -50f32..50.0, seed: u64) {
        let x: Vec<f32> = values(seed, rows * channels).iter().map(|x| x + offset).collect();
        let (weight, bias) = (values(seed ^ 1, channels), values(seed ^ 2, channels));
        let expected = reference::layer_norm(&wide(&x), &wide(&weight), &wide(&bias), 1e-3);
        let mut all = Vec::new();
        for isa in Isa::available() {
            let out = in_a_view(&x, channels, shift, |x| layer_norm(isa, x, &weight, &bias, 1e-3));
            // The mean's own rounding is of the offset's size, and the scale magnifies it up to 30 times.
            assert_close(&out, &expected, 1e-5 + 1e-5 * f64::from(offset.abs()), isa.name());
            all.push(bits(&out));
        }
        prop_assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "instruction sets differ");
    }

    #[test]
    fn short_convolutions_agree(
        lengths in prop::collection::vec(0usize..9, 1..6),
        channels in 1usize..70,
        shift in 0usize..18,
        seed: u64,
    ) {
        let texts: Texts = lengths.iter().copied().collect();
        // Rows beyond the texts are left alone.
        let rows = texts.rows() + 1;
        let x = values(seed, rows * channels);
        let (weight, bias) = (values(seed ^ 1, channels * 3), values(seed ^ 2, channels));
        let filter = ShortFilter::new(&weight, &bias);
        let mut expected: Vec<f64> = texts.iter().flat_map(|text| {
            let x = wide(&x[text.start * channels..text.end * channels]);
            reference::short_conv(&x, &wide(&weight), &wide(&bias))
        }).collect();
        expected.extend(wide(&x[texts.rows() * channels..]));
        for isa in Isa::available() {
            let out = in_a_view(&x, channels, shift, |x| short_conv(isa, x, &texts, &filter));
            assert_close(&out, &expected, 1e-6, isa.name());
        }
    }

    #[test]
    fn the_gate_is_a_convolution_and_a_product(
        lengths in prop::collection::vec(0usize..9, 1..6),
        n in 1usize..60,
        shift in 0usize..18,
        seed: u64,
    ) {
        let texts: Texts = lengths.iter().copied().collect();
        let x = values(seed, texts.rows() * 3 * n);
        let filter = ShortFilter::new(&values(seed ^ 1, 9 * n), &values(seed ^ 2, 3 * n));
        for isa in Isa::available() {
            let mut expected = x.clone();
            short_conv(isa, MatrixMut::new(&mut expected, 3 * n), &texts, &filter);
            for row in expected.chunks_exact_mut(3 * n) {
                let (x1, v) = row.split_at_mut(2 * n);
                v.iter_mut().zip(x1).for_each(|(v, x1)| *v *= *x1);
            }
            let out = in_a_view(&x, 3 * n, shift, |x| short_conv_gate(isa, x, &texts, &filter));
            prop_assert_eq!(bits(&out), bits(&expected));
        }
    }

    #[test]
    fn means_agree(rows in 1usize..40, channels in 1usize..70, shift in 0usize..18, offset in -50f32..50.0, seed: u64) {
        let x: Vec<f32> = values(seed, rows * channels).iter().map(|x| x + offset).collect();
        let expected = reference::mean_rows(&wide(&x), channels);
        let (memory, stride) = widely(&x, channels, shift, f32::NAN);
        let mut all = Vec::new();
        for isa in Isa::available() {
            let mut out = vec![f32::NAN; channels];
            mean_rows(isa, Matrix::new(&memory[shift..], stride).columns(1, channels), &mut out);
            assert_close(&out, &expected, 6e-8, isa.name());
            all.push(bits(&out));
        }
        prop_assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "instruction sets differ");
    }
}

#[test]
fn a_mean_of_what_is_not_finite_is_not_and_others_are() {
    for (isa, bad) in
        Isa::available().into_iter().flat_map(|isa| [f32::NAN, f32::INFINITY].map(|bad| (isa, bad)))
    {
        let (channels, mut out) = (37, [0.0; 37]);
        let mut x = values(1, 5 * channels);
        x[3 * channels + 20] = bad;
        mean_rows(isa, Matrix::new(&x, channels), &mut out);
        assert!(out.iter().enumerate().all(|(channel, x)| x.is_finite() == (channel != 20)), "{isa}, {bad}");
    }
}

#[test]
#[should_panic = "tokens and channels"]
fn there_is_no_mean_of_no_tokens() {
    mean_rows(Isa::best(), Matrix::new(&[], 3), &mut [0.0; 3]);
}

#[test]
fn values_that_are_not_finite_stay_in_their_text_or_row() {
    let (channels, n) = (36, 12);
    let texts: Texts = [3, 4, 3].into_iter().collect();
    let filter = ShortFilter::new(&values(1, 3 * channels), &values(2, channels));
    for isa in Isa::available() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let clean = values(3, texts.rows() * channels);
            let mut x = clean.clone();
            x[4 * channels..5 * channels].fill(bad);
            let run = |x: &[f32]| in_a_view(x, channels, 0, |x| short_conv_gate(isa, x, &texts, &filter));
            let (expected, out) = (run(&clean), run(&x));
            for (row, (out, expected)) in
                out.chunks_exact(channels).zip(expected.chunks_exact(channels)).enumerate()
            {
                let reached = (4..7).contains(&row);
                assert_eq!(out[..n].iter().any(|x| !x.is_finite()), reached, "row {row}");
                assert!(reached || bits(out) == bits(expected), "row {row}");
            }
            let (weight, bias) = (values(4, channels), values(5, channels));
            layer_norm(isa, MatrixMut::new(&mut x, channels), &weight, &bias, 1e-5);
            for (row, x) in x.chunks_exact(channels).enumerate() {
                assert_eq!(x.iter().all(|x| x.is_finite()), row != 4, "row {row}");
            }
        }
        layer_norm(isa, MatrixMut::new(&mut [], 3), &[1.0; 3], &[0.0; 3], 1e-5);
        short_conv(
            isa,
            MatrixMut::new(&mut [], 3),
            &Texts::default(),
            &ShortFilter::new(&[0.0; 9], &[0.0; 3]),
        );
    }
}

#[test]
#[should_panic = "channels and rows"]
fn texts_beyond_the_matrix_are_refused() {
    let texts: Texts = [2, 2].into_iter().collect();
    let filter = ShortFilter::new(&[0.0; 9], &[0.0; 3]);
    short_conv_gate(Isa::best(), MatrixMut::new(&mut [0.0; 9], 3), &texts, &filter);
}
