//! Convolutions by segments, on views, against their float64 twins, on every instruction set of this machine.

mod common;
#[path = "common/views.rs"]
mod views;

use common::{assert_close, bits, values, wide};
use danaus_kernels::{
    Matrix, MatrixMut, SegmentRows, ShortFilter, Texts, add_segments, convolve_segments, reference,
    segment_means, short_conv_gate, steady_conv_gate,
};
use danaus_simd::Isa;
use proptest::prelude::*;
use views::{bf16, in_a_view, widely, widened};

/// Ends of segments of `size` tokens; the first one is shorter.
fn edges(first: usize, size: usize, count: usize) -> Vec<usize> {
    std::iter::once(0).chain((0..count).map(|index| first + index * size)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn means_and_sums_by_segment_agree(
        first in 1usize..6, size in 1usize..7, count in 1usize..6, channels in 1usize..70, shift in 0usize..18, seed: u64,
    ) {
        let edges = edges(first.min(size), size, count);
        let rows = edges[count];
        let (x, gate) = (values(seed, rows * channels), values(seed ^ 1, rows * channels));
        let sums = values(seed ^ 2, count * channels);
        let [wide_x, wide_gate, wide_sums] = [&x, &gate, &sums].map(|x| widely(x, channels, shift, f32::NAN));
        for isa in Isa::available() {
            let means = in_a_view(&vec![f32::NAN; count * channels], channels, shift, |out| {
                segment_means(isa, view(&wide_x, shift, channels), &edges, size, out);
            });
            let expected = reference::segment_means(&wide(&x), &edges, size, channels);
            assert_close(&means, &expected, 1e-6, "means");
            for gated in [false, true] {
                let gate_view = gated.then(|| view(&wide_gate, shift, channels));
                let out = in_a_view(&x, channels, shift, |out| {
                    add_segments(isa, out, view(&wide_sums, shift, channels), &edges, gate_view);
                });
                let segment = |row: usize| edges[1..].iter().position(|&end| row < end).unwrap();
                let far: Vec<f64> = (0..rows * channels)
                    .map(|index| f64::from(sums[segment(index / channels) * channels + index % channels]))
                    .collect();
                let gate = gated.then(|| wide(&gate));
                let expected = reference::add_far_field(&wide(&x), &far, gate.as_deref());
                assert_close(&out, &expected, 1e-6, "sums");
            }
        }
    }

    #[test]
    fn convolutions_of_segments_agree(
        targets in 0usize..9, sources in 0usize..9, to in -4isize..5, from in -4isize..5,
        channels in 1usize..70, shift in 0usize..18, seed: u64,
    ) {
        // The first row, so that none is before the taps' beginning.
        let least = |count: usize, step: isize| (count.saturating_sub(1) as isize * step).min(0).unsigned_abs();
        let rows = SegmentRows { first: least(targets, to) + least(sources, from), to, from };
        let most = |count: usize, step: isize| (count.saturating_sub(1) as isize * step).max(0) as usize;
        let count = rows.first + most(targets, to) + most(sources, from) + 1;
        let taps = bf16(&values(seed, count * channels));
        let (states, out) = (values(seed ^ 1, sources * channels), values(seed ^ 2, targets * channels));
        let (wide_taps, taps_stride) = widely(&taps, channels, shift, 0x7FC0);
        let (wide_states, states_stride) = widely(&states, channels, shift, f32::NAN);
        let expected = reference::convolve_segments(
            &wide(&out),
            &wide(&widened(&taps)),
            &wide(&states),
            |target, source| rows.row(target, source),
            channels,
        );
        for isa in Isa::available() {
            let sums = in_a_view(&out, channels, shift, |out| {
                let taps = Matrix::new(&wide_taps[shift..], taps_stride).columns(1, channels);
                let states = Matrix::new(&wide_states[shift..], states_stride).columns(1, channels);
                convolve_segments(isa, out, taps, states, rows);
            });
            assert_close(&sums, &expected, 3e-6, "convolution");
            prop_assert!(sources > 0 || bits(&sums) == bits(&out));
        }
    }

    /// With the departures of the tokens before it, a token that stands alone is what it is among them.
    #[test]
    fn steady_convolutions_are_those_of_tokens_among_others(n in 1usize..50, shift in 0usize..18, seed: u64) {
        let channels = 3 * n;
        let tokens = values(seed, 3 * channels);
        let filter = ShortFilter::new(&values(seed ^ 1, 3 * channels), &values(seed ^ 2, channels));
        let [before, previous, current] = [0, 1, 2].map(|row| &tokens[row * channels..][..channels]);
        let mut departure = vec![f32::NAN; channels];
        filter.departure(before, previous, current, &mut departure);
        let departures = bf16(&departure);
        for isa in Isa::available() {
            let mut among = tokens.clone();
            let texts: Texts = [3].into_iter().collect();
            short_conv_gate(isa, MatrixMut::new(&mut among, channels), &texts, &filter);
            let alone = in_a_view(current, channels, shift, |x| {
                let part = |index: usize| Matrix::new(&departures[index * n..(index + 1) * n], n);
                steady_conv_gate(isa, x, [part(0), part(1), part(2)], &filter);
            });
            // Departures were cut to eight bits, and v's error is multiplied by x1.
            assert_close(&alone, &wide(&among[2 * channels..]), 0.1, "steady");
        }
    }
}

/// What [`widely`] made of `channels` columns.
fn view((memory, stride): &(Vec<f32>, usize), shift: usize, channels: usize) -> Matrix<'_> {
    Matrix::new(&memory[shift..], *stride).columns(1, channels)
}

#[test]
fn segments_of_other_shapes_are_refused() {
    let refused = |run: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err();
    let isa = Isa::best();
    let x = [1.0; 12];
    let means = |edges: &[usize], cols| {
        let mut out = [0.0; 6];
        segment_means(isa, Matrix::new(&x, 3), edges, 2, MatrixMut::new(&mut out, cols));
    };
    assert!(!refused(&|| means(&[0, 2, 4], 3)));
    assert!(refused(&|| means(&[0, 4], 3)) && refused(&|| means(&[0, 2, 5], 3)));
    assert!(refused(&|| means(&[0, 1, 2, 4], 2)));
    let add = |edges: &[usize], gate: &[f32]| {
        let mut out = [0.0; 12];
        let values = Matrix::new(&x[..6], 3);
        add_segments(isa, MatrixMut::new(&mut out, 3), values, edges, Some(Matrix::new(gate, 3)));
    };
    assert!(!refused(&|| add(&[0, 2, 4], &x)));
    assert!(refused(&|| add(&[0, 4], &x)) && refused(&|| add(&[0, 2, 4], &x[..9])));
    let convolve = |first, cols| {
        let mut out = [0.0; 6];
        let rows = SegmentRows { first, to: 1, from: -1 };
        convolve_segments(
            isa,
            MatrixMut::new(&mut out, cols),
            Matrix::new(&[0; 9], 3),
            Matrix::new(&x[..6], 3),
            rows,
        );
    };
    assert!(!refused(&|| convolve(1, 3)));
    assert!(refused(&|| convolve(0, 3)) && refused(&|| convolve(2, 3)) && refused(&|| convolve(1, 2)));
}
