//! The encoder's weights: on the device, but for the tables of embeddings.

use danaus_kernels::wgpu::{Gate, Gpu, GpuBuffer, GpuError, Linear, Norm, Residual};
use danaus_model::{Embeddings, Layer, LayerNorm, LoadedModel, ModelConfig, Tensor};

use crate::gpu::PaddedText;

/// Tables whose rows the host sums: `[V, H]`, `[P, H]` and `[H]`.
#[derive(Debug)]
pub(super) struct EmbeddingTables {
    word: Tensor,
    position: Option<Tensor>,
    token_type: Vec<f32>,
}

/// All weights that are on the device but the long filters'.
#[derive(Debug)]
pub(super) struct DeviceWeights {
    norm: NormWeights,
    pub layers: Vec<LayerWeights>,
    config: ModelConfig,
}

/// One layer's.
#[derive(Debug)]
pub(super) struct LayerWeights {
    /// `[3H, H]`
    in_linear: Affine,
    /// `[3H, 4]`: three taps and the bias.
    pub short: GpuBuffer,
    /// `[H, H]`
    out_linear: Affine,
    /// `[N, 2I/N, H/N]`
    gated: GpuBuffer,
    /// `[N, H/N, I/N]`
    down: Affine,
    norm: NormWeights,
}

#[derive(Debug)]
struct Affine {
    weight: GpuBuffer,
    bias: GpuBuffer,
}

#[derive(Debug)]
struct NormWeights {
    weight: GpuBuffer,
    bias: GpuBuffer,
}

impl EmbeddingTables {
    pub fn new(embeddings: &Embeddings) -> Self {
        let mut token_type = vec![0.0; embeddings.word.shape()[1]];
        embeddings.token_type.copy_row(0, &mut token_type);
        Self { word: embeddings.word.clone(), position: embeddings.position.clone(), token_type }
    }

    /// Appends the sums of a text's token, token-type and position embeddings `[rows, H]`; rows behind its tokens are those
    /// of `pad`.
    pub fn sum(&self, text: &PaddedText<'_>, pad: u32, out: &mut Vec<f32>) {
        let width = self.token_type.len();
        let mut position_row = vec![0.0; width];
        for position in 0..text.rows {
            let id = text.ids.get(position).copied().unwrap_or(pad);
            let start = out.len();
            out.resize(start + width, 0.0);
            let row = &mut out[start..];
            self.word.copy_row(id as usize, row);
            row.iter_mut().zip(&self.token_type).for_each(|(x, t)| *x += t);
            if let Some(table) = &self.position {
                table.copy_row(position, &mut position_row);
                row.iter_mut().zip(&position_row).for_each(|(x, p)| *x += p);
            }
        }
    }
}

impl DeviceWeights {
    pub fn new(gpu: &Gpu, model: &LoadedModel) -> Result<Self, GpuError> {
        let weights = &model.weights;
        let layers =
            weights.layers.iter().map(|layer| LayerWeights::new(gpu, layer)).collect::<Result<_, _>>()?;
        let norm = NormWeights::new(gpu, &weights.embeddings.layer_norm)?;
        Ok(Self { norm, layers, config: model.config.clone() })
    }

    /// The LayerNorm of the embeddings.
    pub fn norm(&self) -> Norm<'_> {
        self.norm.of(&self.config)
    }

    pub fn in_linear(&self, layer: usize) -> Linear<'_> {
        let width = self.config.hidden_size;
        self.layers[layer].in_linear.of(3 * width, width)
    }

    pub fn out_linear(&self, layer: usize) -> Linear<'_> {
        let width = self.config.hidden_size;
        self.layers[layer].out_linear.of(width, width)
    }

    pub fn gate(&self, layer: usize) -> Gate<'_> {
        let config = &self.config;
        Gate {
            weight: &self.layers[layer].gated,
            inputs: config.hidden_size,
            outputs: config.intermediate_size,
            blocks: config.monarch_mlp_nblocks,
        }
    }

    pub fn down(&self, layer: usize) -> Residual<'_> {
        let (config, down) = (&self.config, &self.layers[layer].down);
        Residual {
            weight: &down.weight,
            bias: &down.bias,
            inputs: config.intermediate_size,
            outputs: config.hidden_size,
            blocks: config.monarch_mlp_nblocks,
        }
    }

    pub fn layer_norm(&self, layer: usize) -> Norm<'_> {
        self.layers[layer].norm.of(&self.config)
    }
}

impl LayerWeights {
    fn new(gpu: &Gpu, layer: &Layer) -> Result<Self, GpuError> {
        let affine = |linear: &danaus_model::Linear| -> Result<Affine, GpuError> {
            Ok(Affine { weight: stored(gpu, &linear.weight)?, bias: floats(gpu, &linear.bias.values())? })
        };
        let (taps, bias) = (layer.short_filter.weight.values(), layer.short_filter.bias.values());
        let channels = taps.as_chunks().0.iter().zip(bias.iter());
        let short: Vec<f32> = channels.flat_map(|(&[a, b, c], &bias)| [a, b, c, bias]).collect();
        Ok(Self {
            in_linear: affine(&layer.in_linear)?,
            short: floats(gpu, &short)?,
            out_linear: affine(&layer.out_linear)?,
            gated: stored(gpu, &layer.gated_layers)?,
            down: affine(&layer.wo)?,
            norm: NormWeights::new(gpu, &layer.layer_norm)?,
        })
    }
}

impl Affine {
    fn of(&self, outputs: usize, inputs: usize) -> Linear<'_> {
        Linear { weight: &self.weight, bias: &self.bias, outputs, inputs }
    }
}

impl NormWeights {
    fn new(gpu: &Gpu, norm: &LayerNorm) -> Result<Self, GpuError> {
        Ok(Self { weight: floats(gpu, &norm.weight.values())?, bias: floats(gpu, &norm.bias.values())? })
    }

    fn of<'a>(&'a self, config: &ModelConfig) -> Norm<'a> {
        Norm {
            weight: &self.weight,
            bias: &self.bias,
            epsilon: config.layer_norm_eps as f32,
            width: config.hidden_size,
        }
    }
}

/// Values on the device in float32.
pub(super) fn floats(gpu: &Gpu, values: &[f32]) -> Result<GpuBuffer, GpuError> {
    gpu.upload(bytemuck::cast_slice(values))
}

/// A matrix of weights on the device, as products take it.
fn stored(gpu: &Gpu, tensor: &Tensor) -> Result<GpuBuffer, GpuError> {
    gpu.upload(&gpu.storage().encode(&tensor.values()))
}
