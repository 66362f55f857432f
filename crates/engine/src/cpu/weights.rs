//! The encoder's weights, packed for the kernels.

use danaus_kernels::old::PackedWeight;
use danaus_kernels::{Compute, ShortFilter};
use danaus_model::{LayerNorm, Linear, LoadedModel, ModelConfig, Tensor};

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
    /// `[H, H]`
    pub pooler: Affine,
}

/// One layer's weights.
#[derive(Debug)]
pub(super) struct LayerWeights {
    /// `[3H, H]`
    pub in_linear: Affine,
    /// Over 3H channels.
    pub short_filter: ShortFilter,
    /// `[H, H]`
    pub out_linear: Affine,
    /// N blocks [2I/N, H/N]
    pub gated: Vec<PackedWeight>,
    /// N blocks [H/N, I/N]
    pub down: Vec<PackedWeight>,
    /// `[H]`
    pub down_bias: Vec<f32>,
    pub norm: Norm,
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

impl EncoderWeights {
    pub fn new(compute: &Compute, model: &LoadedModel) -> Self {
        let weights = &model.weights;
        let hidden = model.config.hidden_size;
        let mut token_type = vec![0.0; hidden];
        weights.embeddings.token_type.copy_row(0, &mut token_type);
        Self {
            word: weights.embeddings.word.clone(),
            position: weights.embeddings.position.clone(),
            token_type,
            norm: Norm::new(&weights.embeddings.layer_norm),
            layers: weights
                .layers
                .iter()
                .map(|layer| LayerWeights::new(compute, &model.config, layer))
                .collect(),
            pooler: Affine::new(compute, &weights.pooler, hidden),
        }
    }
}

impl LayerWeights {
    fn new(compute: &Compute, config: &ModelConfig, layer: &danaus_model::Layer) -> Self {
        let (hidden, blocks) = (config.hidden_size, config.monarch_mlp_nblocks);
        let packed = |weight: &Tensor, inputs: usize| {
            let values = weight.to_vec();
            let block = values.len() / blocks;
            let pack = |weight: &[f32]| PackedWeight::new(compute, weight, block / inputs, inputs);
            values.chunks_exact(block).map(pack).collect()
        };
        let short = &layer.short_filter;
        Self {
            in_linear: Affine::new(compute, &layer.in_linear, hidden),
            short_filter: ShortFilter::new(&short.weight.to_vec(), &short.bias.to_vec()),
            out_linear: Affine::new(compute, &layer.out_linear, hidden),
            gated: packed(&layer.gated_layers, hidden / blocks),
            down: packed(&layer.wo.weight, config.intermediate_size / blocks),
            down_bias: layer.wo.bias.to_vec(),
            norm: Norm::new(&layer.layer_norm),
        }
    }
}

impl Affine {
    fn new(compute: &Compute, linear: &Linear, inputs: usize) -> Self {
        let (weight, bias) = (linear.weight.to_vec(), linear.bias.to_vec());
        Self { weight: PackedWeight::new(compute, &weight, bias.len(), inputs), bias }
    }
}

impl Norm {
    fn new(norm: &LayerNorm) -> Self {
        Self { weight: norm.weight.to_vec(), bias: norm.bias.to_vec() }
    }
}
