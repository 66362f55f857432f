//! What a pass records, so that far fields and sketches can be made of it.

use danaus_kernels::{ConvEpilogue, Matrix, MatrixMut, ShortFilter, add_far_field, segment_means};

use super::filters::{Branch, Source, Workbench};
use super::mixer::Mixing;
use super::weights::{CHUNK, ChunkWeights};
use super::workspace::ChunkBuffers;
use crate::padding::{Record, Recording, Sampled, Segments};

/// A chunk's columns of a layer's [`Record`].
pub(super) struct ChunkRecord<'a> {
    /// Of each far field, by branch `[m, n]`.
    far_fields: Vec<[MatrixMut<'a>; 2]>,
    samples: Vec<ChunkSamples<'a>>,
}

/// A chunk's columns of a layer's samples.
struct ChunkSamples<'a> {
    segments: Segments,
    /// By place, `[N, n]`.
    places: Vec<MatrixMut<'a>>,
}

/// The chunks of a layer's record, in order.
pub(super) struct ChunkRecords<'a> {
    far_fields: Vec<[std::vec::IntoIter<MatrixMut<'a>>; 2]>,
    samples: Vec<(Segments, Vec<std::vec::IntoIter<MatrixMut<'a>>>)>,
}

impl<'a> ChunkRecords<'a> {
    /// A layer's part of `record`; `width` is H.
    pub fn new(record: &'a mut Record, layer: usize, width: usize) -> Self {
        let split = |values| MatrixMut::new(values, width).split_columns(CHUNK).into_iter();
        let far_fields = record.far_fields.iter_mut();
        let far_fields = far_fields.map(|recording| Recording::layer_mut(recording, layer).map(split));
        let samples = record
            .samples
            .iter_mut()
            .map(|samples| (samples.segments(), samples.layer_mut(layer).map(split).collect()));
        Self { far_fields: far_fields.collect(), samples: samples.collect() }
    }

    /// The next chunk's.
    pub fn next(&mut self) -> ChunkRecord<'a> {
        let far_fields = self
            .far_fields
            .iter_mut()
            .filter_map(|[mixer, residual]| Some([mixer.next()?, residual.next()?]));
        let samples = self.samples.iter_mut().map(|(segments, places)| ChunkSamples {
            segments: *segments,
            places: places.iter_mut().filter_map(Iterator::next).collect(),
        });
        ChunkRecord { far_fields: far_fields.collect(), samples: samples.collect() }
    }
}

impl ChunkRecord<'_> {
    pub fn is_empty(&self) -> bool {
        self.far_fields.is_empty() && self.samples.is_empty()
    }

    /// Records how far the short convolution of each sample departs from a steady one. `projected` `[tokens, 3n]` is its input.
    pub fn departures(&mut self, projected: Matrix<'_>, filter: &ShortFilter) {
        let mut departures = vec![0.0; projected.cols()];
        for ChunkSamples { segments, places } in &mut self.samples {
            for (segment, sample) in (segments.inside()..).zip(segments.samples()) {
                let [before, previous, current] =
                    [2, 1, 0].map(|back| projected.row(sample.saturating_sub(back)));
                filter.departure(before, previous, current, &mut departures);
                for (part, departures) in departures.chunks_exact(projected.cols() / 3).enumerate() {
                    places[Sampled::Departures.place(part)].row_mut(segment).copy_from_slice(departures);
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
        record: &mut ChunkRecord<'_>,
    ) {
        let (isa, width) = (self.backend.compute.isa(), weights.channels.len());
        let ChunkBuffers { projected, convolution, taps, filter } = buffers;
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
        let mut whole = convolve(&self.plan.sources[0], x.rows());
        if let Some(far) = self.far_field(0, branch, weights) {
            add_far_field(isa, MatrixMut::new(&mut whole, width), far, None);
        }
        let whole = Matrix::new(&whole, width);
        // What the tokens from each window's end on add to its convolution: the whole text's, less the window's alone.
        for (far_field, source) in record.far_fields.iter_mut().zip(&self.plan.sources[1..]) {
            let far_field = &mut far_field[branch as usize];
            let window = convolve(source, far_field.rows());
            for (row, window) in window.chunks_exact(width).enumerate() {
                let values = whole.row(row).iter().zip(window).map(|(whole, window)| whole - window);
                far_field.row_mut(row).iter_mut().zip(values).for_each(|(out, value)| *out = value);
            }
        }
        for ChunkSamples { segments, places } in &mut record.samples {
            let (inside, size, edges) = (segments.inside(), segments.finer(), segments.edges());
            let states = &mut places[Sampled::States.place(branch as usize)];
            segment_means(isa, x, &edges, size, states.reborrow().slice(0..inside));
            for (segment, sample) in (inside..).zip(segments.samples()) {
                states.row_mut(segment).copy_from_slice(x.row(sample));
            }
            let results = &mut places[Sampled::Results.place(branch as usize)];
            for (segment, sample) in (inside..).zip(segments.samples()) {
                results.row_mut(segment).copy_from_slice(whole.row(sample));
            }
        }
    }
}
