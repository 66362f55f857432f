//! A sketch of the padding behind a window: a few of its positions that stand for all, computed with each text.
//!
//! The padding's states in a recorded pass are known everywhere. Those in another text's pass differ, and a sketch follows that
//! difference at one position of each cell through the layers, as if the cell's other positions differed likewise.

use std::ops::Range;
use std::sync::Arc;

use danaus_kernels::{Matrix, MatrixMut, convolve_cells};
use danaus_simd::{Isa, MappedFile};

use super::far_field::{Knots, add_at, coarsest, energy};
use super::record::{Place, WindowRecord};
use super::running_sums::{BranchSums, RunningSums};
use super::values::{Values, quantize, restore};
use super::{Cells, FarField};

/// Rows of a sketch's constants for each of its positions in a layer: how far x1, x2 and v depart from a steady short convolution, and
/// what each of the two long convolutions has over that of the cells.
pub(crate) const CONSTANTS: usize = 5;

/// A sketch's constants, as 8-bit integers with a scale for each row: `[layer, 5, rows, H]`.
#[derive(Debug, Clone)]
pub struct Sketch {
    sums: Arc<RunningSums>,
    cells: Cells,
    values: Values<i8>,
    /// `[layer, 5, rows]`
    scales: Values<f32>,
}

/// The jumps of a sequence at the edges of cells with these values `[cells, n]`, before and behind which it is zero, in units of
/// `scales` `[n]`: `[cells + 1, n]`.
pub(crate) fn jumps(values: &[f32], scales: &[f32]) -> Vec<f32> {
    let width = scales.len();
    let cells = values.len() / width;
    let mut jumps = vec![0.0; (cells + 1) * width];
    for (edge, jumps) in jumps.chunks_exact_mut(width).enumerate() {
        if edge < cells {
            let behind = &values[edge * width..][..width];
            jumps.iter_mut().zip(behind).for_each(|(jump, value)| *jump += value);
        }
        if edge > 0 {
            let before = &values[(edge - 1) * width..][..width];
            jumps.iter_mut().zip(before).for_each(|(jump, value)| *jump -= value);
        }
        jumps.iter_mut().zip(scales).for_each(|(jump, scale)| *jump *= scale);
    }
    jumps
}

/// What cells with these values `[cells, n]` (those of the window, then those behind it) add to a branch's long convolution: at the
/// samples what all of them do, and at the knots of the window what those behind it do.
pub(crate) fn convolve(isa: Isa, cells: &Cells, sums: BranchSums<'_>, values: &[f32]) -> [Vec<f32>; 2] {
    let BranchSums { sums, rows, scales } = sums;
    let width = scales.len();
    let mut jumps = jumps(values, scales);
    let run = |targets: &[isize], edges: &[isize], jumps: &[f32]| {
        let mut out = vec![0.0; targets.len() * width];
        let (to, jumps) = (MatrixMut::new(&mut out, width), Matrix::new(jumps, width));
        convolve_cells(isa, to, (sums, rows), (targets, edges), jumps);
        out
    };
    let at_samples = run(cells.samples(), cells.edges(), &jumps);
    // Behind the window alone, the first jump is from nothing.
    let inside = cells.inside();
    if cells.rows() > 0 {
        for (channel, scale) in scales.iter().enumerate() {
            jumps[inside * width + channel] = values[inside * width + channel] * scale;
        }
    }
    let (targets, edges) = cells.edges().split_at(inside);
    let targets: Vec<_> = targets.iter().copied().chain([0]).collect();
    [at_samples, run(&targets, edges, &jumps[inside * width..])]
}

/// The far field and the sketch that are right for the pass that was recorded (or for the mean of some): with the `index`th way to
/// divide the padding, or without a sketch.
pub(super) fn constants(
    sums: &Arc<RunningSums>,
    record: &WindowRecord,
    index: Option<usize>,
) -> (FarField, Option<Sketch>) {
    let energy = energy(&record.far, record.knots);
    let Some((cells, samples)) = index.map(|index| &record.cells[index]) else {
        return (coarsest(&record.far, record.knots, energy), None);
    };
    let (isa, (layers, width)) = (Isa::best(), sums.shape());
    let mut far = record.far.clone();
    let (mut values, mut scales) = (Vec::new(), Vec::new());
    for layer in 0..layers {
        let rows = |place: Place| {
            let rows = place.rows(cells.rows());
            &samples.layer(layer)[rows.start * width..rows.end * width]
        };
        (0..3).for_each(|part| quantize(rows(Place::Departures(part)), width, &mut values, &mut scales));
        for branch in 0..2 {
            let means =
                &record.means.layer(layer)[branch * cells.inside() * width..][..cells.inside() * width];
            let states = [means, rows(Place::States(branch))].concat();
            let mut results = rows(Place::Results(branch)).to_vec();
            for channels in sums.chunks() {
                let states = Matrix::new(&states, width).columns(channels.start, channels.len()).to_vec();
                let branch_sums = sums.branch(layer, branch, channels.clone());
                let [at_samples, at_knots] = convolve(isa, cells, branch_sums, &states);
                for (row, sums) in at_samples.chunks_exact(channels.len()).enumerate() {
                    let results = &mut results[row * width..][channels.clone()];
                    results.iter_mut().zip(sums).for_each(|(result, sum)| *result -= sum);
                }
                subtract(isa, far.layer_mut(layer), (branch, channels), record.knots, (cells, &at_knots));
            }
            quantize(&results, width, &mut values, &mut scales);
        }
    }
    let sketch = Sketch {
        sums: Arc::clone(sums),
        cells: cells.clone(),
        values: Values::Computed(values.into()),
        scales: Values::Computed(scales.into()),
    };
    (coarsest(&far, record.knots, energy), Some(sketch))
}

/// Takes what a sketch adds by itself, at its knots `[K, n]`, from some channels of a branch of a layer's recorded far field.
fn subtract(
    isa: Isa,
    layer: &mut [f32],
    (branch, channels): (usize, Range<usize>),
    knots: Knots,
    (cells, at_knots): (&Cells, &[f32]),
) {
    let width = layer.len() / (2 * knots.count());
    let rows = layer[branch * knots.count() * width..][..knots.count() * width].chunks_exact_mut(width);
    let at_knots = Matrix::new(at_knots, channels.len());
    for (knot, row) in rows.enumerate() {
        let mut added = vec![0.0; channels.len()];
        add_at(isa, &mut added, knots.position(knot), cells.knots(), at_knots);
        row[channels.clone()].iter_mut().zip(added).for_each(|(far, added)| *far -= added);
    }
}

impl Sketch {
    pub(super) fn mapped(
        sums: &Arc<RunningSums>,
        cells: Cells,
        file: &Arc<MappedFile>,
        [values, scales]: [Range<usize>; 2],
    ) -> Option<Self> {
        let (layers, width) = sums.shape();
        let rows = layers * CONSTANTS * cells.rows();
        let (values, scales) =
            (Values::mapped(rows * width, file, values)?, Values::mapped(rows, file, scales)?);
        Some(Self { sums: Arc::clone(sums), cells, values, scales })
    }

    /// The running sums of the filters.
    pub fn sums(&self) -> &Arc<RunningSums> {
        &self.sums
    }

    /// The cells.
    pub fn cells(&self) -> &Cells {
        &self.cells
    }

    /// Positions that are computed with the text.
    pub fn rows(&self) -> usize {
        self.cells.rows()
    }

    /// Memory of its own, in bytes.
    pub fn bytes(&self) -> usize {
        size_of_val(self.values.get()) + size_of_val(self.scales.get())
    }

    /// The tensors: integers, and scales.
    pub(super) fn values(&self) -> (&[i8], &[f32]) {
        (self.values.get(), self.scales.get())
    }

    /// The shape of the integers' tensor.
    pub(super) fn tensor_shape(&self) -> [usize; 4] {
        let (layers, width) = self.sums.shape();
        [layers, CONSTANTS, self.rows(), width]
    }

    /// Some channels `[rows, n]` of a layer's departures of x1, x2 and v.
    pub(crate) fn departures(&self, layer: usize, channels: Range<usize>) -> [Vec<f32>; 3] {
        [0, 1, 2].map(|place| self.constants(layer, place, channels.clone()))
    }

    /// Some channels `[rows, n]` of what a branch's convolution has over that of the cells.
    pub(crate) fn results(&self, layer: usize, branch: usize, channels: Range<usize>) -> Vec<f32> {
        self.constants(layer, 3 + branch, channels)
    }

    fn constants(&self, layer: usize, place: usize, channels: Range<usize>) -> Vec<f32> {
        let [_, places, rows, width] = self.tensor_shape();
        let first = (layer * places + place) * rows;
        let stored = &self.values.get()[first * width..][..rows * width];
        let mut values = vec![0.0; rows * channels.len()];
        restore((stored, width), &self.scales.get()[first..][..rows], channels, &mut values);
        values
    }
}

#[cfg(test)]
mod tests {
    use danaus_model::synthetic::uniform;

    use super::*;

    const CHANNELS: usize = 3;

    /// A filter of a model, by distance and channel, and its running sums as [`RunningSums`] has them.
    struct Filter {
        max_tokens: usize,
        taps: Vec<f64>,
        sums: RunningSums,
    }

    impl Filter {
        fn new(max_tokens: usize) -> Self {
            let count = 2 * max_tokens - 1;
            let taps: Vec<_> =
                uniform("taps", 1, count * CHANNELS).into_iter().map(|tap| f64::from(tap) / 10.0).collect();
            let up_to = |distance: isize, channel: usize| -> f64 {
                let last = (distance + max_tokens as isize).clamp(0, count as isize) as usize;
                (0..last).map(|row| taps[row * CHANNELS + channel]).sum()
            };
            let averages = RunningSums::averaged(max_tokens).flat_map(|distances| {
                let count = distances.len() as f64;
                let average = |channel| distances.clone().map(|d| up_to(d, channel)).sum::<f64>() / count;
                [0, 1, 2].map(average)
            });
            let averages: Vec<_> = averages.collect();
            let scale = averages.iter().fold(0.0f64, |most, sum| most.max(sum.abs())) / f64::from(i16::MAX);
            let sums: Vec<_> = averages.iter().map(|sum| (sum / scale).round() as i16).collect();
            // Both branches have it.
            let (sums, scales) = ([&sums[..], &sums[..]].concat(), vec![scale as f32; 2 * CHANNELS]);
            Self { max_tokens, taps, sums: RunningSums::new(max_tokens, CHANNELS, sums, scales) }
        }

        fn tap(&self, distance: isize, channel: usize) -> f64 {
            let row = distance + self.max_tokens as isize - 1;
            let row = usize::try_from(row).ok().filter(|&row| row < 2 * self.max_tokens - 1);
            row.map_or(0.0, |row| self.taps[row * CHANNELS + channel])
        }
    }

    /// What the cells from `first` on add at a target: the taps from each one's positions to those around the target that its running sum
    /// is the average over.
    fn literally(filter: &Filter, cells: &Cells, first: usize, target: isize, values: &[f32]) -> Vec<f64> {
        let averaged: Vec<_> = RunningSums::averaged(filter.max_tokens).collect();
        let rows = filter.sums.branch(0, 0, 0..CHANNELS).rows;
        let up_to = |edge: isize, channel: usize| {
            let row = rows[(rows.len() as isize / 2 + target - edge) as usize];
            let positions = averaged[row as usize].clone();
            let count = positions.len() as f64;
            let least = -(filter.max_tokens as isize);
            positions.map(|last| (least..=last).map(|at| filter.tap(at, channel)).sum::<f64>()).sum::<f64>()
                / count
        };
        let mut sums = vec![0.0; CHANNELS];
        for (cell, edges) in cells.edges().windows(2).enumerate().skip(first) {
            for (channel, sum) in sums.iter_mut().enumerate() {
                let taps = up_to(edges[0], channel) - up_to(edges[1], channel);
                *sum += taps * f64::from(values[cell * CHANNELS + channel]);
            }
        }
        sums
    }

    /// Samples get what all cells do to them, and knots what those behind the window do to them. The last knot is where the padding begins;
    /// what it has goes on from the knots before it, which are at distance 0 of no position behind it, so without the tap of that distance.
    #[test]
    fn cells_do_what_their_positions_do() {
        for (max_tokens, windows) in [(120, &[1, 7, 60][..]), (2100, &[64, 1000])] {
            let filter = Filter::new(max_tokens);
            for (&window, rows) in windows.iter().flat_map(|window| [1, 5, 17].map(|rows| (window, rows))) {
                let cells = Cells::new(window, max_tokens, rows);
                let inside = cells.inside();
                let values = uniform("values", 2, (inside + cells.rows()) * CHANNELS);
                let [at_samples, at_knots] =
                    convolve(Isa::best(), &cells, filter.sums.branch(0, 0, 0..3), &values);
                let samples = cells.samples().iter().map(|&sample| (0, sample));
                let knots = cells.edges()[..=inside].iter().map(|&knot| (inside, knot));
                let targets = samples.chain(knots);
                let results = at_samples.chunks(CHANNELS).chain(at_knots.chunks(CHANNELS));
                let most = 1e-3 * (1.0 + filter.taps.iter().map(|tap| tap.abs()).sum::<f64>() / 100.0);
                for ((first, target), result) in targets.zip(results) {
                    let expected = literally(&filter, &cells, first, target, &values);
                    for (got, expected) in result.iter().zip(expected) {
                        let what = format!("{window} of {max_tokens}, {rows} rows, at {target}");
                        assert!((f64::from(*got) - expected).abs() <= most, "{what}: {got}, not {expected}");
                    }
                }
                assert_eq!(at_knots.len(), (inside + 1) * CHANNELS);
            }
        }
    }

    /// Rows as 8-bit integers are off by half a unit at most, each by its own.
    #[test]
    fn rows_are_rounded_each_to_its_own_scale() {
        let rows = [[1.0, -127.0, 63.4], [1e-6, 2e-6, -5e-7], [0.0; 3]];
        let (mut values, mut scales) = Default::default();
        quantize(rows.as_flattened(), 3, &mut values, &mut scales);
        for ((row, values), &scale) in rows.iter().zip(values.chunks(3)).zip(&scales) {
            let most = row.iter().fold(0.0f32, |most, value| most.max(value.abs()));
            assert!((scale * 127.0 - most).abs() <= 1e-6 * most, "{scale} for {row:?}");
            for (value, &integer) in row.iter().zip(values) {
                assert!(
                    (value - scale * f32::from(integer)).abs() <= 0.501 * scale,
                    "{integer} of {scale} for {value}"
                );
            }
        }
    }
}
