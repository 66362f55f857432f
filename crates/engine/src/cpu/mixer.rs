//! The sequence mixer: mixes along the tokens of each text, channel by channel.
//!
//! `mixed = long_conv(v * x1) * x2 + residual_long_conv(hidden)`, where x1, x2 and v are `short_conv(in_linear(hidden))`. All
//! of it works on channels apart once the product is done, so a task takes a chunk of channels through all its steps: what
//! it makes in between never leaves its thread, and threads meet once a layer.

use danaus_kernels::gemm::{Activations, Epilogue, multiply};
use danaus_kernels::{
    ConvEpilogue, ConvScratch, LongFilter, Matrix, MatrixMut, add_interpolated, short_conv, short_conv_gate,
};

use super::filters::{Branch, FilterPlan, PassStates, Source, Workbench};
use super::recording::{ChunkRecord, chunk_records};
use super::weights::{CHUNK, ChunkWeights};
use super::workspace::{ChunkBuffers, Workspace};
use super::{CpuBackend, Pass, Watch};
use crate::profile::Stage;

/// What an observer sees of the mixer's insides.
struct Probe {
    /// `[tokens, 3H]`
    short_conv: Vec<f32>,
    /// `[tokens, H]`
    long_conv: Vec<f32>,
    /// `[tokens, H]`
    residual: Vec<f32>,
}

/// A chunk's columns of a [`Probe`].
struct ChunkProbe<'a> {
    /// Of x1, x2 and v.
    short_conv: [MatrixMut<'a>; 3],
    long_conv: MatrixMut<'a>,
    residual: MatrixMut<'a>,
}

/// One layer's mixing, to be done chunk by chunk.
pub(super) struct Mixing<'a> {
    pub backend: &'a CpuBackend,
    pub layer: usize,
    pub pass: &'a Pass,
    pub plan: &'a FilterPlan,
    states: PassStates<'a>,
    /// The layer's input `[tokens, H]`.
    pub input: Matrix<'a>,
    /// The same in the products' precision.
    activations: Activations<'a>,
}

/// What one task takes.
struct Chunk<'a> {
    index: usize,
    weights: &'a ChunkWeights,
    /// The chunk's columns of the result.
    out: MatrixMut<'a>,
    probe: Option<ChunkProbe<'a>>,
    records: Vec<ChunkRecord<'a>>,
}

impl CpuBackend {
    /// Leaves the mixed sequences in `workspace.mixed`.
    pub(super) fn mix_sequence(
        &self,
        layer: usize,
        pass: &Pass,
        plan: &FilterPlan,
        workspace: &mut Workspace,
        watch: &mut Watch<'_>,
    ) {
        let width = self.config.hidden_size;
        let Watch { observer, records } = watch;
        let mut probe = observer.wants().then(|| Probe::new(pass.ids.len(), width));
        let states = plan.layer_states(&self.filters, &self.compute, layer, &mut workspace.states);
        let input = Matrix::new(&workspace.hidden, width);
        let activations = workspace.encoded.block(self.encoding(1), input, 0);
        let mixing = Mixing { backend: self, layer, pass, plan, states, input, activations };
        let outs = MatrixMut::new(&mut workspace.mixed, width).split_columns(CHUNK);
        let mut probes = probe.as_mut().map_or_else(Vec::new, |probe| probe.split(width)).into_iter();
        let chunks = self.weights.layers[layer].chunks.iter().zip(outs).enumerate();
        let mut records = chunk_records(records, layer, width).into_iter();
        let chunks = chunks.map(|(index, (weights, out))| Chunk {
            index,
            weights,
            out,
            probe: probes.next(),
            records: records.next().unwrap_or_default(),
        });
        let workers = &workspace.workers;
        self.compute.for_each_item(chunks.collect(), |chunk, worker| {
            mixing.chunk(chunk, &mut workers[worker].chunk())
        });
        if let Some(Probe { short_conv, long_conv, residual }) = probe {
            observer.stage("short_conv", &short_conv);
            observer.stage("long_conv", &long_conv);
            observer.stage("residual_long_conv", &residual);
        }
    }
}

impl Mixing<'_> {
    fn chunk(&self, chunk: Chunk<'_>, buffers: &mut ChunkBuffers) {
        let Chunk { index, weights, mut out, mut probe, mut records } = chunk;
        let (isa, texts) = (self.backend.compute.isa(), &self.pass.texts);
        let mut clock = self.backend.clock();
        let width = weights.channels.len();
        buffers.projected.resize(self.input.rows() * 3 * width);
        let linear = &weights.in_linear;
        let mut projected = MatrixMut::new(&mut buffers.projected, 3 * width);
        multiply(&linear.weight, self.activations, projected.reborrow(), Epilogue::Bias(&linear.bias));
        clock.lap(Stage::InLinear);
        if let Some(probe) = &mut probe {
            let mut plain = projected.view().to_vec();
            let mut plain = MatrixMut::new(&mut plain, 3 * width);
            short_conv(isa, plain.reborrow(), texts, &weights.short_filter);
            for (part, target) in probe.short_conv.iter_mut().enumerate() {
                target.copy_from(plain.view().columns(part * width, width));
            }
        }
        for record in &mut records {
            record.departures(projected.view(), &weights.short_filter);
        }
        short_conv_gate(isa, projected.reborrow(), texts, &weights.short_filter);
        self.steady_convolutions(projected, weights);
        clock.lap(Stage::ShortConvolution);
        for branch in [Branch::Mixer, Branch::Residual] {
            self.convolve(branch, (index, weights), buffers, out.reborrow(), probe.as_mut());
            self.convolve_sketches(branch, weights, &buffers.projected, out.reborrow());
            if !records.is_empty() {
                self.record(branch, (index, weights), buffers, &mut records);
            }
        }
    }

    /// One of the two long convolutions of a chunk, of all texts: the mixer's is written to `out`, the residual's added.
    fn convolve(
        &self,
        branch: Branch,
        (index, weights): (usize, &ChunkWeights),
        buffers: &mut ChunkBuffers,
        mut out: MatrixMut<'_>,
        mut probe: Option<&mut ChunkProbe<'_>>,
    ) {
        let ChunkBuffers { projected, convolution, taps, filter, far } = buffers;
        let (x, gate) = self.operands(branch, weights, projected);
        let mut made = None;
        for (text, (rows, source)) in self.pass.texts.iter().zip(&self.plan.sources).enumerate() {
            let bench = Workbench { taps, scratch: convolution, filter };
            self.make_filter(source, (branch, index), &mut made, bench);
            let mut clock = self.backend.clock();
            let filter = source.filter((self.layer, branch, index), filter);
            let gate = gate.map(|gate| gate.slice(rows.clone()));
            let x = x.slice(rows.clone());
            if let Some(probe) = &mut probe {
                probe.convolve(branch, filter, convolution, x, rows.clone());
            }
            let mut out = out.reborrow().slice(rows);
            let epilogue = gate.map_or(ConvEpilogue::Add, ConvEpilogue::Gate);
            filter.convolve(convolution, x, out.reborrow(), epilogue);
            clock.lap(Stage::LongConvolution);
            if let Some(far_field) = &self.pass.far_fields[text] {
                let (channels, knots) = (weights.channels.clone(), far_field.knots());
                far.resize(knots.count() * channels.len());
                far_field.write(self.layer, branch as usize, channels.clone(), far);
                let values = Matrix::new(far, channels.len());
                add_interpolated(self.backend.compute.isa(), out, &knots.positions(), values, gate);
                clock.lap(Stage::FarField);
            }
        }
    }

    /// What a branch convolves in a chunk, and the gate of what comes of it.
    pub(super) fn operands<'b>(
        &'b self,
        branch: Branch,
        weights: &ChunkWeights,
        projected: &'b [f32],
    ) -> (Matrix<'b>, Option<Matrix<'b>>) {
        let width = weights.channels.len();
        let projected = Matrix::new(projected, 3 * width);
        match branch {
            Branch::Mixer => (projected.columns(2 * width, width), Some(projected.columns(width, width))),
            Branch::Residual => (self.input.columns(weights.channels.start, width), None),
        }
    }

    /// Makes the filter of a chunk on the workbench, where it is not a kept one and `made` does not say that it is there.
    pub(super) fn make_filter(
        &self,
        source: &Source,
        (branch, chunk): (Branch, usize),
        made: &mut Option<usize>,
        bench: Workbench<'_>,
    ) {
        let &Source::Made(length) = source else { return };
        if made.replace(length) != Some(length) {
            let mut clock = self.backend.clock();
            let states = self.states.of(branch, length);
            let filters = &self.backend.filters;
            let generator = filters.generator(self.layer, branch);
            generator.filter(filters.form(length), states, chunk, bench);
            clock.lap(Stage::Filters);
        }
    }
}

impl Probe {
    fn new(tokens: usize, width: usize) -> Self {
        let zeros = |width| vec![0.0; tokens * width];
        Self { short_conv: zeros(3 * width), long_conv: zeros(width), residual: zeros(width) }
    }

    /// The columns of each chunk.
    fn split(&mut self, width: usize) -> Vec<ChunkProbe<'_>> {
        let parts = MatrixMut::new(&mut self.short_conv, 3 * width).split_columns(width);
        let mut parts = parts.into_iter().map(|part| part.split_columns(CHUNK));
        let mut next = || parts.next().expect("three parts").into_iter();
        let (x1, x2, v) = (next(), next(), next());
        let long_conv = MatrixMut::new(&mut self.long_conv, width).split_columns(CHUNK);
        let residual = MatrixMut::new(&mut self.residual, width).split_columns(CHUNK);
        let chunks = x1.zip(x2).zip(v).zip(long_conv).zip(residual);
        let chunk = |((((x1, x2), v), long_conv), residual)| ChunkProbe {
            short_conv: [x1, x2, v],
            long_conv,
            residual,
        };
        chunks.map(chunk).collect()
    }
}

impl ChunkProbe<'_> {
    /// The convolution by itself.
    fn convolve(
        &mut self,
        branch: Branch,
        filter: &LongFilter,
        scratch: &mut ConvScratch,
        x: Matrix<'_>,
        rows: std::ops::Range<usize>,
    ) {
        let target = if branch == Branch::Mixer { &mut self.long_conv } else { &mut self.residual };
        filter.convolve(scratch, x, target.reborrow().slice(rows), ConvEpilogue::Store);
    }
}
