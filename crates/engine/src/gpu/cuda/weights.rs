//! The encoder's weights on the GPU.

use danaus_kernels::cuda::{CudaError, Element, Gpu, GpuBuffer};
use danaus_model::{LayerNorm, LoadedModel, Tensor};

/// All weights but the long filters' (see [`FilterBank`](super::filters::FilterBank)).
#[derive(Debug)]
pub(super) struct GpuWeights {
    /// `[V, H]` in float32, as all tables.
    pub word: GpuBuffer,
    /// `[P, H]`
    pub position: Option<GpuBuffer>,
    /// Row 0 of the token-type table.
    pub token_type: GpuBuffer,
    pub norm: GpuNorm,
    pub layers: Vec<GpuLayer>,
}

/// One layer's.
#[derive(Debug)]
pub(super) struct GpuLayer {
    /// `[3H, H]`, and `[3H]`.
    pub in_linear: GpuAffine,
    /// `[3H, 3]` and `[3H]`, in float32.
    pub short_filter: GpuAffine,
    /// `[H, H]`, `[H]`.
    pub out_linear: GpuAffine,
    /// `[2I, H/N]`
    pub gated: GpuBuffer,
    /// `[N, H/N, I/N]`, `[H]`.
    pub down: GpuAffine,
    pub norm: GpuNorm,
}

/// A weight, and its bias in float32.
#[derive(Debug)]
pub(super) struct GpuAffine {
    pub weight: GpuBuffer,
    pub bias: GpuBuffer,
}

/// A LayerNorm's scale and shift, each `[H]` in float32.
#[derive(Debug)]
pub(super) struct GpuNorm {
    pub weight: GpuBuffer,
    pub bias: GpuBuffer,
}

/// `values` in float32.
pub(super) fn upload(gpu: &Gpu, values: &[f32]) -> Result<GpuBuffer, CudaError> {
    gpu.upload(bytemuck::cast_slice(values))
}

impl GpuWeights {
    pub fn new(gpu: &Gpu, model: &LoadedModel, element: Element) -> Result<Self, CudaError> {
        let (weights, config) = (&model.weights, &model.config);
        let table = |tensor: &Tensor| {
            let buffer = upload(gpu, &tensor.values());
            tensor.release_pages();
            buffer
        };
        let mut token_type = vec![0.0; config.hidden_size];
        weights.embeddings.token_type.copy_row(0, &mut token_type);
        let layers = weights.layers.iter().map(|layer| GpuLayer::new(gpu, layer, element));
        Ok(Self {
            word: table(&weights.embeddings.word)?,
            position: weights.embeddings.position.as_ref().map(table).transpose()?,
            token_type: upload(gpu, &token_type)?,
            norm: GpuNorm::new(gpu, &weights.embeddings.layer_norm)?,
            layers: layers.collect::<Result<_, _>>()?,
        })
    }
}

impl GpuLayer {
    fn new(gpu: &Gpu, layer: &danaus_model::Layer, element: Element) -> Result<Self, CudaError> {
        let weight = |tensor: &Tensor| match element {
            Element::F32 => upload(gpu, &tensor.values()),
            Element::Bf16 => {
                let values: Vec<_> = tensor.values().iter().map(|&x| half::bf16::from_f32(x)).collect();
                gpu.upload(bytemuck::cast_slice(&values))
            }
            Element::F16 => {
                let values: Vec<_> = tensor.values().iter().map(|&x| half::f16::from_f32(x)).collect();
                gpu.upload(bytemuck::cast_slice(&values))
            }
        };
        let affine = |linear: &danaus_model::Linear| {
            Ok(GpuAffine { weight: weight(&linear.weight)?, bias: upload(gpu, &linear.bias.values())? })
        };
        let short = &layer.short_filter;
        Ok(Self {
            in_linear: affine(&layer.in_linear)?,
            short_filter: GpuAffine {
                weight: upload(gpu, &short.weight.values())?,
                bias: upload(gpu, &short.bias.values())?,
            },
            out_linear: affine(&layer.out_linear)?,
            gated: weight(&layer.gated_layers)?,
            down: affine(&layer.wo)?,
            norm: GpuNorm::new(gpu, &layer.layer_norm)?,
        })
    }
}

impl GpuNorm {
    fn new(gpu: &Gpu, norm: &LayerNorm) -> Result<Self, CudaError> {
        Ok(Self { weight: upload(gpu, &norm.weight.values())?, bias: upload(gpu, &norm.bias.values())? })
    }
}
