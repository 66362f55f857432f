//! The rows of sketches: positions of the padding that stand for the cells around them.

use danaus_kernels::{Matrix, MatrixMut, add_interpolated, cell_means, steady_conv_gate};

use super::Sketched;
use super::filters::Branch;
use super::mixer::Mixing;
use super::weights::ChunkWeights;
use crate::padding::convolve;
use crate::profile::Stage;

impl Mixing<'_> {
    /// The short convolution of the sketches' rows, of which none follows another.
    pub(super) fn steady_convolutions(&self, mut projected: MatrixMut<'_>, weights: &ChunkWeights) {
        for Sketched { sketch, rows, .. } in &self.pass.sketches {
            let departures = sketch.departures(self.layer, weights.channels.clone());
            let departures = departures.each_ref().map(|part| Matrix::new(part, weights.channels.len()));
            let rows = projected.reborrow().slice(rows.clone());
            steady_conv_gate(self.backend.compute.isa(), rows, departures, &weights.short_filter);
        }
    }

    /// One of the two long convolutions of a chunk in the sketches' rows, written to `out` or added to it as those of
    /// texts are; and what these rows add to their texts' windows.
    pub(super) fn convolve_sketches(
        &self,
        branch: Branch,
        weights: &ChunkWeights,
        projected: &[f32],
        mut out: MatrixMut<'_>,
    ) {
        if self.pass.sketches.is_empty() {
            return;
        }
        let mut clock = self.backend.clock();
        let operands = self.operands(branch, weights, projected);
        for sketched in &self.pass.sketches {
            self.convolve_sketch(branch, weights, sketched, operands, out.reborrow());
        }
        clock.lap(Stage::FarField);
    }

    fn convolve_sketch(
        &self,
        branch: Branch,
        weights: &ChunkWeights,
        Sketched { text, sketch, rows }: &Sketched,
        (x, gate): (Matrix<'_>, Option<Matrix<'_>>),
        mut out: MatrixMut<'_>,
    ) {
        let isa = self.backend.compute.isa();
        let (channels, cells) = (weights.channels.clone(), sketch.cells());
        let (width, inside) = (channels.len(), cells.inside());
        let window = self.pass.texts.range(*text);
        let mut states = vec![0.0; (inside + rows.len()) * width];
        let (means, samples) = states.split_at_mut(inside * width);
        cell_means(isa, x.slice(window.clone()), cells.knots(), MatrixMut::new(means, width));
        for (state, row) in samples.chunks_exact_mut(width).zip(rows.clone()) {
            state.copy_from_slice(x.row(row));
        }
        let sums = sketch.sums().branch(self.layer, branch as usize, channels.clone());
        let [mut at_samples, at_knots] = convolve(isa, cells, sums, &states);

        let window_gate = gate.map(|gate| gate.slice(window.clone()));
        let at_knots = Matrix::new(&at_knots, width);
        add_interpolated(isa, out.reborrow().slice(window), cells.knots(), at_knots, window_gate);

        let results = sketch.results(self.layer, branch as usize, channels);
        at_samples.iter_mut().zip(&results).for_each(|(sum, result)| *sum += result);
        let gate = gate.map(|gate| gate.slice(rows.clone()));
        let mut out = out.slice(rows.clone());
        if branch == Branch::Mixer {
            (0..out.rows()).for_each(|row| out.row_mut(row).fill(0.0));
        }
        let each: Vec<_> = (0..rows.len() as isize).collect();
        add_interpolated(isa, out, &each, Matrix::new(&at_samples, width), gate);
    }
}
