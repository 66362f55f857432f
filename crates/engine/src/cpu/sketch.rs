//! The rows of sketches: positions of the padding that stand for the segments around them.

use danaus_kernels::{
    Matrix, MatrixMut, add_far_field, add_segments, convolve_segments, segment_means, steady_conv_gate,
};

use super::Sketched;
use super::filters::Branch;
use super::mixer::Mixing;
use super::weights::ChunkWeights;
use crate::padding::Way;
use crate::profile::Stage;

impl Mixing<'_> {
    /// The short convolution of the sketches' rows, of which none follows another.
    pub(super) fn steady_convolutions(&self, mut projected: MatrixMut<'_>, weights: &ChunkWeights) {
        let width = self.input.cols();
        for Sketched { sketch, rows, .. } in &self.pass.sketches {
            let departures = sketch
                .departures(self.layer)
                .map(|part| Matrix::new(part, width).columns(weights.channels.start, weights.channels.len()));
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
        let (start, width) = (weights.channels.start, weights.channels.len());
        let columns = |bits| Matrix::new(bits, self.input.cols()).columns(start, width);
        let (segments, taps) = (sketch.segments(), sketch.taps());
        let (inside, edges) = (segments.inside(), segments.edges());
        let window = self.pass.texts.range(*text);
        let mut means = vec![0.0; inside * width];
        segment_means(
            isa,
            x.slice(window.clone()),
            &edges,
            segments.finer(),
            MatrixMut::new(&mut means, width),
        );
        let (means, samples) = (Matrix::new(&means, width), x.slice(rows.clone()));
        let values = columns(taps.branch(self.layer, branch as usize));
        let convolve = |sums: &mut [f32], states, way| {
            convolve_segments(isa, MatrixMut::new(sums, width), values, states, taps.way(segments, way));
        };
        let mut sums = vec![0.0; inside * width];
        convolve(&mut sums, samples, Way::In);
        let far_gate = gate.map(|gate| gate.slice(window.clone()));
        add_segments(isa, out.reborrow().slice(window), Matrix::new(&sums, width), &edges, far_gate);

        let mut sums = vec![0.0; rows.len() * width];
        convolve(&mut sums, samples, Way::Behind);
        convolve(&mut sums, means, Way::Out);
        let gate = gate.map(|gate| gate.slice(rows.clone()));
        let mut out = out.slice(rows.clone());
        if branch == Branch::Mixer {
            (0..out.rows()).for_each(|row| out.row_mut(row).fill(0.0));
        }
        let rest = columns(sketch.results(self.layer, branch as usize));
        add_far_field(isa, out.reborrow(), rest, gate);
        let each: Vec<_> = (0..=rows.len()).collect();
        add_segments(isa, out, Matrix::new(&sums, width), &each, gate);
    }
}
