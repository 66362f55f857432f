//! The forward pass of Monarch Mixer's encoder: Fu et al., "Monarch Mixer: A Simple Sub-Quadratic GEMM-Based
//! Architecture" (2023). Texts are packed end to end; only the convolutions look across tokens, and those stay within a
//! text.

use danaus_kernels::old::{Epilogue, long_conv};
use danaus_kernels::{Matrix, MatrixMut, add_product, gelu_gate, layer_norm, product, short_conv};

use super::filters::Branch;
use super::weights::{LayerWeights, Norm};
use super::workspace::Workspace;
use super::{CpuBackend, Observer, Pass};

/// Tokens that the MLP takes at a time: its inner product, 6,144 wide in M2-BERT-80M, then stays in the last-level cache.
const MLP_BLOCK: usize = 512;

impl CpuBackend {
    /// Leaves the last hidden states `[tokens, H]` in the workspace.
    pub(super) fn forward(
        &self,
        pass: &Pass,
        workspace: &mut Workspace,
        observer: &mut (dyn Observer + Send),
    ) {
        let (tokens, config) = (pass.ids.len(), &self.config);
        workspace.prepare(tokens, MLP_BLOCK.min(tokens), config.hidden_size, config.intermediate_size);
        self.embed_tokens(pass, &mut workspace.hidden);
        observer.stage("embeddings", &workspace.hidden);
        for (index, layer) in self.weights.layers.iter().enumerate() {
            self.sequence_mixer(index, layer, pass, workspace, observer);
            self.state_mixer(layer, workspace);
            observer.stage("layer", &workspace.hidden);
        }
    }

    /// Sums of token, token-type and position embeddings, normalised.
    fn embed_tokens(&self, pass: &Pass, hidden: &mut [f32]) {
        let (weights, width) = (&self.weights, self.config.hidden_size);
        let positions = pass.texts.iter().flat_map(|rows| 0..rows.len());
        let mut position_row = vec![0.0; width];
        for ((row, &id), position) in hidden.chunks_exact_mut(width).zip(&pass.ids).zip(positions) {
            weights.word.copy_row(id as usize, row);
            row.iter_mut().zip(&weights.token_type).for_each(|(x, t)| *x += t);
            if let Some(table) = &weights.position {
                table.copy_row(position, &mut position_row);
                row.iter_mut().zip(&position_row).for_each(|(x, p)| *x += p);
            }
        }
        self.normalise(hidden, &weights.norm);
    }

    /// Mixes along the sequence: `hidden = out_linear(long_conv(v * x1) * x2 + residual_long_conv(hidden))`, where x1, x2
    /// and v are `short_conv(in_linear(hidden))`. There is no residual connection and no LayerNorm around it.
    fn sequence_mixer(
        &self,
        index: usize,
        layer: &LayerWeights,
        pass: &Pass,
        workspace: &mut Workspace,
        observer: &mut (dyn Observer + Send),
    ) {
        let (compute, width) = (&self.compute, self.config.hidden_size);
        let Workspace { hidden, projected, first, second, .. } = workspace;
        let texts = &pass.texts;
        let filters = |branch| {
            let lengths = texts.iter().map(|rows| rows.len());
            self.filters.filters(compute, index, branch, lengths)
        };

        let in_linear = &layer.in_linear;
        let input = Matrix::new(hidden, width);
        in_linear.weight.multiply(
            compute,
            input,
            MatrixMut::new(projected, 3 * width),
            Epilogue::Bias(&in_linear.bias),
        );
        short_conv(compute, MatrixMut::new(projected, 3 * width), texts, &layer.short_filter);
        observer.stage("short_conv", projected);

        let [x1, x2, v] =
            [0, 1, 2].map(|part| Matrix::new(projected, 3 * width).columns(part * width, width));
        product(compute, v, x1, MatrixMut::new(first, width));
        long_conv(
            compute,
            Matrix::new(first, width),
            texts,
            &filters(Branch::Mixer),
            MatrixMut::new(second, width),
        );
        observer.stage("long_conv", second);
        long_conv(compute, input, texts, &filters(Branch::Residual), MatrixMut::new(first, width));
        observer.stage("residual_long_conv", first);

        add_product(compute, MatrixMut::new(second, width), x2, Matrix::new(first, width));
        let (out_linear, mixed) = (&layer.out_linear, Matrix::new(second, width));
        out_linear.weight.multiply(
            compute,
            mixed,
            MatrixMut::new(hidden, width),
            Epilogue::Bias(&out_linear.bias),
        );
        observer.stage("mixer", hidden);
    }

    /// Mixes along the channels of each token: `hidden = layer_norm(down(gelu(gated) * gate) + hidden)`, both products
    /// block-diagonal.
    fn state_mixer(&self, layer: &LayerWeights, workspace: &mut Workspace) {
        let (compute, config) = (&self.compute, &self.config);
        let (width, intermediate, blocks) = (config.hidden_size, config.intermediate_size, layer.gated.len());
        let Workspace { hidden, inner, gated, .. } = workspace;
        for hidden in hidden.chunks_mut(MLP_BLOCK * width) {
            let tokens = hidden.len() / width;
            let (inner, gated) =
                (&mut inner[..tokens * 2 * intermediate], &mut gated[..tokens * intermediate]);
            let (p, q) = (width / blocks, 2 * intermediate / blocks);
            for (block, weight) in layer.gated.iter().enumerate() {
                let input = Matrix::new(hidden, width).columns(block * p, p);
                let out = MatrixMut::new(inner, 2 * intermediate).columns(block * q, q);
                weight.multiply(compute, input, out, Epilogue::Store);
            }
            gelu_gate(compute, Matrix::new(inner, 2 * intermediate), MatrixMut::new(gated, intermediate));
            let q = intermediate / blocks;
            for (block, weight) in layer.down.iter().enumerate() {
                let input = Matrix::new(gated, intermediate).columns(block * q, q);
                let out = MatrixMut::new(hidden, width).columns(block * p, p);
                let bias = &layer.down_bias[block * p..(block + 1) * p];
                weight.multiply(compute, input, out, Epilogue::BiasResidual(bias));
            }
            self.normalise(hidden, &layer.norm);
        }
    }

    fn normalise(&self, hidden: &mut [f32], norm: &Norm) {
        let hidden = MatrixMut::new(hidden, self.config.hidden_size);
        layer_norm(&self.compute, hidden, &norm.weight, &norm.bias, self.config.layer_norm_eps as f32);
    }
}
