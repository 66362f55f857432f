//! Sequences that are constant within cells, or linear between knots, on views, against their float64 twins, on every instruction set
//! of this machine.

mod common;
#[path = "common/views.rs"]
mod views;

use common::{assert_close, bits, values, wide};
use danaus_kernels::{
    Matrix, MatrixMut, ShortFilter, Texts, add_interpolated, cell_means, convolve_cells, reference,
    short_conv_gate, steady_conv_gate,
};
use danaus_simd::Isa;
use proptest::prelude::*;
use views::{in_a_view, widely};

/// What [`widely`] made of `channels` columns.
fn view<T: Copy>((memory, stride): &(Vec<T>, usize), shift: usize, channels: usize) -> Matrix<'_, T> {
    Matrix::new(&memory[shift..], *stride).columns(1, channels)
}

/// Adds `stored` to `out`, both `channels` wide, on views.
fn interpolated(
    isa: Isa,
    out: &[f32],
    knots: &[isize],
    stored: &[f32],
    gate: Option<&[f32]>,
    (channels, shift): (usize, usize),
) -> Vec<f32> {
    let stored = widely(stored, channels, shift, f32::NAN);
    let gate = gate.map(|gate| widely(gate, channels, shift, f32::NAN));
    in_a_view(out, channels, shift, |out| {
        let gate = gate.as_ref().map(|gate| view(gate, shift, channels));
        add_interpolated(isa, out, knots, view(&stored, shift, channels), gate);
    })
}

/// Positions from `first` on, these steps apart.
fn ascending(first: isize, steps: &[isize]) -> Vec<isize> {
    let mut positions = vec![first];
    steps.iter().for_each(|step| positions.push(positions[positions.len() - 1] + step));
    positions
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_lies_between_knots_agrees(
        before in 0isize..9, steps in prop::collection::vec(1isize..9, 0..9), beyond in -1isize..9,
        channels in 1usize..70, shift in 0usize..18, seed: u64,
    ) {
        let knots = ascending(-before, &steps);
        let rows = (knots[knots.len() - 1] - beyond).max(0) as usize;
        let positions: Vec<_> = knots.iter().map(|&knot| knot as f64).collect();
        let (out, gate) = (values(seed, rows * channels), values(seed ^ 1, rows * channels));
        let stored = values(seed ^ 2, knots.len() * channels);
        for gated in [None, Some(&gate[..])] {
            let wide_gate = gated.map(wide);
            let twin =
                reference::add_interpolated(&wide(&out), &positions, &wide(&stored), wide_gate.as_deref(), channels);
            for isa in Isa::available() {
                let sum = interpolated(isa, &out, &knots, &stored, gated, (channels, shift));
                assert_close(&sum, &twin, 1e-6, isa.name());
            }
        }
    }

    #[test]
    fn means_agree(
        before in 0isize..5, sizes in prop::collection::vec(5isize..12, 1..9),
        channels in 1usize..70, shift in 0usize..18, seed: u64,
    ) {
        let edges = ascending(-before, &sizes);
        let (rows, cells) = (edges[sizes.len()] as usize, sizes.len());
        let x = values(seed, rows * channels);
        let wide_x = widely(&x, channels, shift, f32::NAN);
        for isa in Isa::available() {
            let means = in_a_view(&vec![f32::NAN; cells * channels], channels, shift, |out| {
                cell_means(isa, view(&wide_x, shift, channels), &edges, out);
            });
            assert_close(&means, &reference::cell_means(&wide(&x), &edges, channels), 1e-6, "means");
        }
    }

    /// Sums by jumps at the edges are those over all positions.
    #[test]
    fn convolutions_of_cells_agree(
        sizes in prop::collection::vec(1isize..6, 0..9), start in -5isize..5,
        targets in prop::collection::vec(-20isize..40, 0..9), channels in 1usize..70, shift in 0usize..18, seed: u64,
    ) {
        const ZERO: usize = 80;
        let edges = ascending(start, &sizes);
        // Taps of so few digits that their sums are integers of 16 bits, in units of 1/64.
        let unit = 1.0 / 64.0;
        let taps: Vec<f32> = values(seed, (2 * ZERO + 1) * channels).iter().map(|x| (x * 60.0).round() * unit).collect();
        let tap = |distance: isize, channel: usize| {
            f64::from(taps[(ZERO as isize + distance) as usize * channels + channel])
        };
        // The sums of each distance are in a row of their own, in another order.
        let rows: Vec<u32> = (0..=2 * ZERO as u32).rev().collect();
        let mut sums = vec![0i16; taps.len()];
        for channel in 0..channels {
            let mut sum = 0.0;
            for (taps, &row) in taps.chunks_exact(channels).zip(&rows) {
                sum += taps[channel] / unit;
                sums[row as usize * channels + channel] = sum as i16;
            }
        }
        let states = values(seed ^ 1, sizes.len() * channels);
        let state = |cell: usize, channel: usize| states.get(cell * channels + channel).copied().unwrap_or(0.0);
        let jumps: Vec<f32> = (0..edges.len() * channels).map(|index| {
            let (edge, channel) = (index / channels, index % channels);
            let before = edge.checked_sub(1).map_or(0.0, |cell| state(cell, channel));
            (state(edge, channel) - before) * unit
        }).collect();
        let out = values(seed ^ 2, targets.len() * channels);
        let expected: Vec<f64> = targets.iter().enumerate().flat_map(|(index, &target)| {
            let added = reference::convolve_cells(target, &edges, &wide(&states), tap, channels);
            added.into_iter().enumerate().map(|(channel, added)| added + f64::from(out[index * channels + channel])).collect::<Vec<_>>()
        }).collect();
        let (wide_sums, wide_jumps) = (widely(&sums, channels, shift, i16::MAX), widely(&jumps, channels, shift, f32::NAN));
        for isa in Isa::available() {
            let sum = in_a_view(&out, channels, shift, |out| {
                let sums = (view(&wide_sums, shift, channels), &rows[..]);
                convolve_cells(isa, out, sums, (&targets, &edges), view(&wide_jumps, shift, channels));
            });
            assert_close(&sum, &expected, 1e-4, isa.name());
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
        for isa in Isa::available() {
            let mut among = tokens.clone();
            let texts: Texts = [3].into_iter().collect();
            short_conv_gate(isa, MatrixMut::new(&mut among, channels), &texts, &filter);
            let alone = in_a_view(current, channels, shift, |x| {
                let part = |index: usize| Matrix::new(&departure[index * n..(index + 1) * n], n);
                steady_conv_gate(isa, x, [part(0), part(1), part(2)], &filter);
            });
            assert_close(&alone, &wide(&among[2 * channels..]), 1e-5, "steady");
        }
    }
}

#[test]
fn a_value_that_is_not_finite_stays_between_its_knots() {
    let (rows, channels) = (9, 37);
    let knots = [0, 2, 4, 6, 8];
    let (out, gate) = (values(1, rows * channels), values(2, rows * channels));
    let clean = values(3, knots.len() * channels);
    for isa in Isa::available() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            // Channel 3 of the knot at position 4.
            let mut stored = clean.clone();
            stored[2 * channels + 3] = bad;
            for gate in [None, Some(&gate[..])] {
                let add = |stored: &[f32]| interpolated(isa, &out, &knots, stored, gate, (channels, 0));
                for (index, (sum, expected)) in add(&stored).iter().zip(add(&clean)).enumerate() {
                    let reached = (3..=5).contains(&(index / channels)) && index % channels == 3;
                    let same = sum.to_bits() == expected.to_bits();
                    assert!(if reached { !sum.is_finite() } else { same }, "{bad}, [{index}]: {sum}");
                }
            }
        }
        // No rows: nothing to read.
        add_interpolated(isa, MatrixMut::new(&mut [], 3), &knots, Matrix::new(&[0.0; 15], 3), None);
    }
}

#[test]
fn other_shapes_are_refused() {
    let refused = |run: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err();
    let isa = Isa::best();
    let x = [1.0; 12];
    let means = |rows: usize, cols, edges: &[isize]| {
        let mut out = [0.0; 9];
        cell_means(isa, Matrix::new(&x, 3), edges, MatrixMut::new(&mut out[..rows * 3], cols));
    };
    assert!(!refused(&|| means(2, 3, &[0, 2, 4])));
    let edges = [0, 2, 4];
    assert!(
        refused(&|| means(1, 3, &edges))
            && refused(&|| means(3, 3, &edges))
            && refused(&|| means(2, 2, &edges))
    );
    assert!(refused(&|| means(2, 3, &[0, 2, 5])) && refused(&|| means(2, 3, &[0, 2, 3])));
    let add = |last: isize, values: &[f32], gate: &[f32]| {
        let mut out = [0.0; 12];
        let (values, gate) = (Matrix::new(values, 3), Matrix::new(gate, 3));
        add_interpolated(isa, MatrixMut::new(&mut out, 3), &[0, 2, last], values, Some(gate));
    };
    assert!(!refused(&|| add(3, &x[..9], &x)) && !refused(&|| add(4, &x[..9], &x)));
    assert!(refused(&|| add(3, &x[..6], &x)) && refused(&|| add(2, &x[..9], &x)));
    assert!(refused(&|| add(3, &x[..9], &x[..9])));
    let convolve = |rows: &[u32], cols, edges: &[isize]| {
        let mut out = [0.0; 6];
        let sums = (Matrix::new(&[0; 9], 3), rows);
        let jumps = Matrix::new(&x[..6], 3);
        convolve_cells(isa, MatrixMut::new(&mut out, cols), sums, (&[0, 1], edges), jumps);
    };
    let rows = [0, 1, 2];
    assert!(!refused(&|| convolve(&rows, 3, &[0, 1])));
    assert!(refused(&|| convolve(&[1], 3, &[0, 1])) && refused(&|| convolve(&[0, 1, 3], 3, &[0, 1])));
    assert!(refused(&|| convolve(&rows, 2, &[0, 1])) && refused(&|| convolve(&rows, 3, &[0])));
}

/// The bits do not depend on the instruction set's width, only on whether it fuses.
#[test]
fn sums_over_edges_are_in_order() {
    let (channels, edges) = (40, [0, 2, 3]);
    let sums: Vec<i16> = (0..20 * channels as i16).collect();
    let (jumps, out) = (values(1, 3 * channels), values(2, 2 * channels));
    let run = |isa: Isa, channels: std::ops::Range<usize>| {
        let mut result = out.clone();
        let columns = |all: Matrix<'_, i16>| all.columns(channels.start, channels.len()).to_vec();
        let sums = columns(Matrix::new(&sums, 40));
        let jumps = Matrix::new(&jumps, 40).columns(channels.start, channels.len()).to_vec();
        let mut view = MatrixMut::new(&mut result, 40).columns(channels.start, channels.len());
        let width = channels.len();
        convolve_cells(
            isa,
            view.reborrow(),
            (Matrix::new(&sums, width), &(0..17).collect::<Vec<_>>()),
            (&[1, 5], &edges),
            Matrix::new(&jumps, width),
        );
        view.view().to_vec()
    };
    for isa in Isa::available() {
        let whole = run(isa, 0..40);
        let parts = [run(isa, 0..7), run(isa, 7..40)];
        for row in 0..2 {
            let whole = &whole[row * 40..][..40];
            assert_eq!(bits(&whole[..7]), bits(&parts[0][row * 7..][..7]));
            assert_eq!(bits(&whole[7..]), bits(&parts[1][row * 33..][..33]));
        }
    }
}
