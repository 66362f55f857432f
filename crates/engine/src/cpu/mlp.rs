//! The state mixer: mixes the channels of each token. `hidden = layer_norm(down(gelu(gated) * gate) + x)`, where
//! `x = out_linear(mixed)`, and both of the MLP's products are block-diagonal.
//!
//! Nothing here looks across tokens. Where there are many, a task takes a block of rows through all steps; where there are
//! few, all threads share each step, so that every weight is read by one of them.

use danaus_kernels::gemm::{Activations, Epilogue, GatedOutput, Precision, multiply, multiply_gated};
use danaus_kernels::{Matrix, MatrixMut, layer_norm};

use super::team::Team;
use super::weights::{Affine, BlockWeights, LayerWeights, Norm, PART, down_precision};
use super::workspace::{EncodedMut, Encoding, GatedBuffers, RowBuffers, Worker, Workspace};
use super::{CpuBackend, Observer};
use crate::profile::Stage;

/// The most rows of a task: with what they become on the way, they stay in the level-2 cache.
const ROW_BLOCK: usize = 96;

/// Below so many rows for each thread, threads share each step.
const FEWEST_ROWS: usize = 48;

/// Rows on their way from the convolutions to the next layer.
struct Rows<'a> {
    /// `[rows, H]`
    mixed: Matrix<'a>,
    /// `[rows, H]`
    hidden: MatrixMut<'a>,
    /// The same in the products' precision.
    encoded: EncodedMut<'a>,
}

impl CpuBackend {
    /// Takes `workspace.mixed` to the layer's hidden states.
    pub(super) fn mix_state(
        &self,
        layer: &LayerWeights,
        workspace: &mut Workspace,
        observer: &mut (dyn Observer + Send),
    ) {
        let width = self.config.hidden_size;
        let Workspace { hidden, encoded, mixed, workers, .. } = workspace;
        let mixed = Matrix::new(mixed, width);
        let encoded = encoded.prepare(self.encoding(1), mixed.rows());
        let rows = Rows { mixed, hidden: MatrixMut::new(hidden, width), encoded };
        let count = mixed.rows();
        if count < FEWEST_ROWS * self.compute.threads() || observer.wants() {
            let buffers = &mut workers[0].rows();
            self.state_rows(layer, rows, Team::All(&self.compute), (workers, buffers));
            observer.stage("mixer", &buffers.product);
        } else {
            // As many blocks for one thread as for the next.
            let blocks = count.div_ceil(ROW_BLOCK).next_multiple_of(self.compute.threads());
            self.compute.for_each_item(rows.split(count.div_ceil(blocks)), |rows, worker| {
                self.state_rows(layer, rows, Team::One(worker), (workers, &mut workers[worker].rows()));
            });
        }
    }

    fn state_rows(
        &self,
        layer: &LayerWeights,
        rows: Rows<'_>,
        team: Team<'_>,
        (workers, buffers): (&[Worker], &mut RowBuffers),
    ) {
        let Rows { mixed, mut hidden, encoded } = rows;
        let (width, count) = (self.config.hidden_size, mixed.rows());
        let RowBuffers { mixed: mixed_encoded, product, encoded: product_encoded } = buffers;
        let (whole, blocks) = (self.encoding(1), self.encoding(layer.blocks.len()));
        self.encode(team, mixed, mixed_encoded.prepare(whole, count), whole);

        product.resize(count * width);
        let activations = mixed_encoded.block(whole, mixed, 0);
        let parts = layer.out_linear.iter().zip(MatrixMut::new(product, width).split_columns(PART));
        team.for_each(parts.collect(), |(part, out): (&Affine, _), _| {
            let mut clock = self.clock();
            multiply(&part.weight, activations, out, Epilogue::Bias(&part.bias));
            clock.lap(Stage::OutLinear);
        });

        let product = Matrix::new(product, width);
        self.encode(team, product, product_encoded.prepare(blocks, count), blocks);
        let (narrow, wide) = (width / layer.blocks.len(), self.gated_encoding().inputs);
        let outs = hidden.reborrow().split_columns(narrow);
        let tasks = layer.blocks.iter().zip(outs).enumerate();
        team.for_each(tasks.collect(), |(index, (block, out)), worker| {
            let activations = |block| product_encoded.block(blocks, product, block);
            let buffers = &mut workers[worker].gated();
            let mut clock = self.clock();
            self.gate(block, activations, count, buffers);
            clock.lap(Stage::Gated);
            let gated = buffers.encoded.block(self.gated_encoding(), Matrix::new(&buffers.plain, wide), 0);
            let residual = product.columns(index * narrow, narrow);
            multiply(&block.down.weight, gated, out, Epilogue::BiasResidual(&block.down.bias, residual));
            clock.lap(Stage::Down);
        });
        self.normalise(team, hidden, &layer.norm, encoded);
    }

    /// The gated activations `[rows, I/N]` that a diagonal block of the second product takes in, in its precision.
    fn gate<'a>(
        &self,
        block: &BlockWeights,
        activations: impl Fn(usize) -> Activations<'a>,
        rows: usize,
        buffers: &mut GatedBuffers,
    ) {
        let encoding = self.gated_encoding();
        let GatedBuffers { plain, encoded } = buffers;
        let encoded = encoded.prepare(encoding, rows);
        plain.resize(rows * encoding.inputs);
        let [activated, gate] =
            [&block.activated, &block.gate].map(|(block, weight)| (activations(*block), weight));
        let out = match encoding.precision {
            Precision::F32 => GatedOutput::F32(MatrixMut::new(plain, encoding.inputs)),
            Precision::Bf16 | Precision::Int8 => GatedOutput::Bf16(encoded.words),
        };
        multiply_gated(activated, gate, out);
    }

    fn encode(&self, team: Team<'_>, x: Matrix<'_>, out: EncodedMut<'_>, encoding: Encoding) {
        if self.precision == Precision::F32 {
            return;
        }
        let count = team.rows_per_task(x.rows());
        team.for_each(out.split_rows(count).into_iter().enumerate().collect(), |(index, out), _| {
            let mut clock = self.clock();
            let rows = index * count..((index + 1) * count).min(x.rows());
            encoding.encode(x.slice(rows), out);
            clock.lap(Stage::Encoding);
        });
    }

    /// LayerNorm in place, and the result in the products' precision.
    pub(super) fn normalise(
        &self,
        team: Team<'_>,
        hidden: MatrixMut<'_>,
        norm: &Norm,
        encoded: EncodedMut<'_>,
    ) {
        let count = team.rows_per_task(hidden.rows());
        let parts = hidden.split_rows(count).into_iter().zip(encoded.split_rows(count));
        team.for_each(parts.collect(), |(mut hidden, encoded), _| {
            let mut clock = self.clock();
            let epsilon = self.config.layer_norm_eps as f32;
            layer_norm(self.compute.isa(), hidden.reborrow(), &norm.weight, &norm.bias, epsilon);
            clock.lap(Stage::LayerNorm);
            self.encoding(1).encode(hidden.view(), encoded);
            clock.lap(Stage::Encoding);
        });
    }

    /// How hidden states are encoded, in `blocks` diagonal blocks.
    pub(super) fn encoding(&self, blocks: usize) -> Encoding {
        let inputs = self.config.hidden_size / blocks;
        Encoding { isa: self.compute.isa(), precision: self.precision, blocks, inputs }
    }

    /// How a diagonal block's gated activations are encoded.
    fn gated_encoding(&self) -> Encoding {
        let inputs = self.config.intermediate_size / self.config.monarch_mlp_nblocks;
        Encoding { isa: self.compute.isa(), precision: down_precision(self.precision), blocks: 1, inputs }
    }
}

impl<'a> Rows<'a> {
    /// Blocks of `count` rows each (the last of what is left), in order.
    fn split(self, count: usize) -> Vec<Self> {
        let total = self.mixed.rows();
        let mixed =
            (0..total).step_by(count).map(|start| self.mixed.slice(start..(start + count).min(total)));
        let parts = mixed.zip(self.hidden.split_rows(count)).zip(self.encoded.split_rows(count));
        parts.map(|((mixed, hidden), encoded)| Self { mixed, hidden, encoded }).collect()
    }
}
