//! The encoder's weights, packed for the kernels.

use std::ops::Range;

use danaus_kernels::gemm::{PackedWeight, Precision};
use danaus_kernels::{Compute, ShortFilter};
use danaus_model::{LayerNorm, Linear, LoadedModel, ModelConfig, Tensor};

use super::team::map;

/// Channels that one task of the sequence mixer takes: three cache lines of a row, and one panel of the widest products.
pub(super) const CHUNK: usize = 48;

/// Outputs of a part of the mixer's last product: what is handed to threads where there are few rows.
pub(super) const PART: usize = 96;

/// The precision of the MLP's second product, where the other products have `precision`: GELU and gate leave a few large
/// values among many small ones, which would share an 8-bit scale.
pub(super) fn down_precision(precision: Precision) -> Precision {
    match precision {
        Precision::F32 => Precision::F32,
        Precision::Bf16 | Precision::Int8 => Precision::Bf16,
    }
}

/// All weights but the long filters' (see [`FilterBank`](super::filters::FilterBank)).
#[derive(Debug)]
pub(super) struct EncoderWeights {
    /// `[V, H]`; stays memory-mapped, rows are copied out.
    pub word: Tensor,
    /// `[P, H]`, likewise.
    pub position: Option<Tensor>,
    /// Row 0 of the token-type table: `[H]`.
    pub token_type: Vec<f32>,
    pub norm: Norm,
    pub layers: Vec<LayerWeights>,
    /// `[H, H]`, in float32.
    pub pooler: Affine,
}

/// One layer's weights.
#[derive(Debug)]
pub(super) struct LayerWeights {
    /// What each chunk of channels needs before the long convolutions.
    pub chunks: Vec<ChunkWeights>,
    /// Parts `[PART, H]` of the mixer's last product `[H, H]`.
    pub out_linear: Vec<Affine>,
    /// What each diagonal block of the MLP's second product needs, the first product included.
    pub blocks: Vec<BlockWeights>,
    pub norm: Norm,
}

/// What a chunk of n channels needs before the long convolutions.
#[derive(Debug)]
pub(super) struct ChunkWeights {
    pub channels: Range<usize>,
    /// `[3n, H]`: the rows of x1, x2 and v for these channels.
    pub in_linear: Affine,
    /// Over the same 3n channels.
    pub short_filter: ShortFilter,
}

/// A diagonal block of the MLP's second product, with what feeds it: both halves of the gate `[I/N, H/N]`, each from one
/// diagonal block of the first product, whose number stands beside it.
#[derive(Debug)]
pub(super) struct BlockWeights {
    pub activated: (usize, PackedWeight),
    pub gate: (usize, PackedWeight),
    /// `[H/N, I/N]`
    pub down: Affine,
}

/// A dense layer.
#[derive(Debug)]
pub(super) struct Affine {
    pub weight: PackedWeight,
    pub bias: Vec<f32>,
}

/// A LayerNorm's scale and shift, each `[H]`.
#[derive(Debug)]
pub(super) struct Norm {
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
}

/// Packs weights of one model.
struct Packer<'a> {
    compute: &'a Compute,
    config: &'a ModelConfig,
    precision: Precision,
}

impl EncoderWeights {
    pub fn new(compute: &Compute, model: &LoadedModel, precision: Precision) -> Self {
        let (weights, config) = (&model.weights, &model.config);
        let packer = Packer { compute, config, precision };
        let mut token_type = vec![0.0; config.hidden_size];
        weights.embeddings.token_type.copy_row(0, &mut token_type);
        Self {
            word: weights.embeddings.word.clone(),
            position: weights.embeddings.position.clone(),
            token_type,
            norm: Norm::new(&weights.embeddings.layer_norm),
            layers: map(compute, &weights.layers, |layer| packer.layer(layer)),
            pooler: Packer { precision: Precision::F32, ..packer }.affine(
                &weights.pooler.weight.values(),
                &weights.pooler.bias.values(),
                config.hidden_size,
            ),
        }
    }
}

impl Packer<'_> {
    fn layer(&self, layer: &danaus_model::Layer) -> LayerWeights {
        let hidden = self.config.hidden_size;
        let chunks = (0..hidden).step_by(CHUNK).map(|start| start..(start + CHUNK).min(hidden));
        let out_weight = layer.out_linear.weight.values();
        let out_bias = layer.out_linear.bias.values();
        let parts = out_weight.chunks(PART * hidden).zip(out_bias.chunks(PART));
        LayerWeights {
            chunks: self.chunks(&layer.in_linear, &layer.short_filter, chunks),
            out_linear: parts.map(|(weight, bias)| self.affine(weight, bias, hidden)).collect(),
            blocks: self.blocks(&layer.gated_layers, &layer.wo),
            norm: Norm::new(&layer.layer_norm),
        }
    }

    fn chunks(
        &self,
        in_linear: &Linear,
        short_filter: &Linear,
        ranges: impl Iterator<Item = Range<usize>>,
    ) -> Vec<ChunkWeights> {
        let hidden = self.config.hidden_size;
        let (weight, bias) = (in_linear.weight.values(), in_linear.bias.values());
        let (taps, short_bias) = (short_filter.weight.values(), short_filter.bias.values());
        let chunk = |channels: Range<usize>| {
            // The same channels of x1, x2 and v, of `width` values each.
            let select = |values: &[f32], width: usize| -> Vec<f32> {
                let part = |part: usize| {
                    let first = part * hidden;
                    values[(first + channels.start) * width..(first + channels.end) * width].iter().copied()
                };
                (0..3).flat_map(part).collect()
            };
            ChunkWeights {
                in_linear: self.affine(&select(&weight, hidden), &select(&bias, 1), hidden),
                short_filter: ShortFilter::new(&select(&taps, 3), &select(&short_bias, 1)),
                channels,
            }
        };
        ranges.map(chunk).collect()
    }

    /// `gated` is N blocks `[2I/N, H/N]`, `down` N blocks `[H/N, I/N]`.
    fn blocks(&self, gated: &Tensor, down: &Linear) -> Vec<BlockWeights> {
        let (hidden, intermediate) = (self.config.hidden_size, self.config.intermediate_size);
        let count = self.config.monarch_mlp_nblocks;
        let (narrow, wide) = (hidden / count, intermediate / count);
        let (gated, weight, bias) = (gated.values(), down.weight.values(), down.bias.values());
        // I is a multiple of N, so that I/N columns from a multiple of I/N on are within one of the first product's blocks,
        // which are twice as wide.
        let half = |column: usize| {
            let weight = &gated[column * narrow..(column + wide) * narrow];
            let packed = PackedWeight::new(self.compute.isa(), self.precision, weight, wide, narrow);
            (column / (2 * wide), packed)
        };
        let block = |index: usize| BlockWeights {
            activated: half(index * wide),
            gate: half(intermediate + index * wide),
            down: Packer { precision: down_precision(self.precision), ..*self }.affine(
                &weight[index * narrow * wide..(index + 1) * narrow * wide],
                &bias[index * narrow..(index + 1) * narrow],
                wide,
            ),
        };
        (0..count).map(block).collect()
    }

    fn affine(&self, weight: &[f32], bias: &[f32], inputs: usize) -> Affine {
        let weight = PackedWeight::new(self.compute.isa(), self.precision, weight, bias.len(), inputs);
        Affine { weight, bias: bias.to_vec() }
    }
}

impl Norm {
    fn new(norm: &LayerNorm) -> Self {
        Self { weight: norm.weight.to_vec(), bias: norm.bias.to_vec() }
    }
}
