//! What an exact pass records, so that far fields and sketches can be made of it.

use danaus_kernels::{ConvEpilogue, Matrix, MatrixMut, ShortFilter, cell_means};

use super::filters::{Branch, Source, Workbench};
use super::mixer::Mixing;
use super::weights::{CHUNK, ChunkWeights};
use super::workspace::ChunkBuffers;
use crate::padding::{Cells, Knots, Place, WindowRecord};

/// A chunk's columns of a layer's part of a [`WindowRecord`].
pub(super) struct ChunkRecord<'a> {
    knots: Knots,
    far: MatrixMut<'a>,
    means: MatrixMut<'a>,
    cells: Vec<(&'a Cells, MatrixMut<'a>)>,
}

/// Each chunk's columns of a layer's part of what is recorded: by chunk, and by window.
pub(super) fn chunk_records<'a>(
    records: &'a mut [WindowRecord],
    layer: usize,
    width: usize,
) -> Vec<Vec<ChunkRecord<'a>>> {
    let mut chunks: Vec<Vec<ChunkRecord<'_>>> = Vec::new();
    chunks.resize_with(width.div_ceil(CHUNK), Vec::new);
    let split = |values: &'a mut [f32]| MatrixMut::new(values, width).split_columns(CHUNK).into_iter();
    for WindowRecord { knots, far, means, cells } in records {
        let far = split(far.layer_mut(layer)).zip(split(means.layer_mut(layer)));
        for (chunk, (far, means)) in chunks.iter_mut().zip(far) {
            chunk.push(ChunkRecord { knots: *knots, far, means, cells: Vec::new() });
        }
        for (cells, samples) in cells {
            for (chunk, samples) in chunks.iter_mut().zip(split(samples.layer_mut(layer))) {
                chunk.last_mut().expect("the record of this window").cells.push((&*cells, samples));
            }
        }
    }
    chunks
}

impl ChunkRecord<'_> {
    /// Records how far the short convolution of each sample departs from a steady one. `projected` `[tokens, 3n]` is its input.
    pub fn departures(&mut self, projected: Matrix<'_>, filter: &ShortFilter) {
        let mut departures = vec![0.0; projected.cols()];
        for (cells, samples) in &mut self.cells {
            for (sample, position) in cells.positions().enumerate() {
                let [before, previous, current] =
                    [2, 1, 0].map(|back| projected.row(position.saturating_sub(back)));
                filter.departure(before, previous, current, &mut departures);
                for (part, departures) in departures.chunks_exact(projected.cols() / 3).enumerate() {
                    let rows = Place::Departures(part).rows(cells.rows());
                    samples.row_mut(rows.start + sample).copy_from_slice(departures);
                }
            }
        }
    }
}

impl Mixing<'_> {
    /// Records a branch's part of what is asked for.
    pub(super) fn record(
        &self,
        branch: Branch,
        (index, weights): (usize, &ChunkWeights),
        buffers: &mut ChunkBuffers,
        records: &mut [ChunkRecord<'_>],
    ) {
        let (isa, width, number) = (self.backend.compute.isa(), weights.channels.len(), branch as usize);
        let ChunkBuffers { projected, convolution, taps, filter, .. } = buffers;
        let (x, _) = self.operands(branch, weights, projected);
        let x = x.slice(self.pass.texts.range(0));
        let mut convolve = |source: &Source, rows: usize| {
            let bench = Workbench { taps, scratch: convolution, filter };
            self.make_filter(source, (branch, index), &mut None, bench);
            let filter = source.filter((self.layer, branch, index), filter);
            let mut out = vec![0.0; rows * width];
            let to = MatrixMut::new(&mut out, width);
            filter.convolve(convolution, x.slice(0..rows), to, ConvEpilogue::Store);
            out
        };
        let whole = convolve(&self.plan.sources[0], x.rows());
        let whole = Matrix::new(&whole, width);
        for (record, source) in records.iter_mut().zip(&self.plan.sources[1..]) {
            // What the positions from the window's end on add to its convolution: the whole sequence's, less the window's alone.
            let window = record.knots.window;
            let alone = convolve(source, window);
            let alone = Matrix::new(&alone, width);
            for knot in 0..record.knots.count() {
                let position = record.knots.position(knot);
                let values = whole.row(position).iter().zip(alone.row(position));
                let far = record.far.row_mut(number * record.knots.count() + knot);
                far.iter_mut().zip(values).for_each(|(far, (whole, alone))| *far = whole - alone);
            }
            let Some(cells) = record.cells.first().map(|(cells, _)| *cells) else { continue };
            let inside = number * cells.inside()..(number + 1) * cells.inside();
            cell_means(isa, x.slice(0..window), cells.knots(), record.means.reborrow().slice(inside));
            for (cells, samples) in &mut record.cells {
                let [states, results] = [Place::States(number), Place::Results(number)];
                for (sample, position) in cells.positions().enumerate() {
                    for (place, from) in [(states, x), (results, whole)] {
                        let row = place.rows(cells.rows()).start + sample;
                        samples.row_mut(row).copy_from_slice(from.row(position));
                    }
                }
            }
        }
    }
}
