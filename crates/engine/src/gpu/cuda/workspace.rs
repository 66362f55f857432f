//! The buffers of a pass, and what was recorded in them.

use std::collections::HashMap;

use danaus_kernels::cuda::{CudaError, Element, Gpu, GpuBuffer, GpuText, Graph, Stretch};
use danaus_model::ModelConfig;

use super::pass::Signature;

/// Buffers for passes of up to `pitch` tokens, `texts` texts and `stretches` stretches.
#[derive(Debug)]
pub(super) struct Workspace {
    pub pitch: usize,
    pub texts_capacity: usize,
    pub stretches_capacity: usize,
    pub collected_bytes: usize,
    pub ids: GpuBuffer,
    pub positions: GpuBuffer,
    pub texts: GpuBuffer,
    pub stretches: GpuBuffer,
    /// `[H, pitch]`: a layer's input.
    pub hidden: GpuBuffer,
    /// `[H, pitch]`: what the convolutions give.
    pub mixed: GpuBuffer,
    /// `[pitch, H]`: what the mixer gives.
    pub product: GpuBuffer,
    /// `[3H, pitch]` in the mixer, `[pitch, I]` in the MLP, `[pitch, H]` in float32 at the end.
    pub wide: GpuBuffer,
    /// `[pitch, H]` in float32: before LayerNorm.
    pub sums: GpuBuffer,
    pub collected: GpuBuffer,
    /// `[stretches, H]` in float32.
    pub pooled: GpuBuffer,
    /// By what is launched; `None` where it was launched once, without being recorded.
    pub graphs: HashMap<Signature, Option<Graph>>,
}

/// What a pass needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needs {
    pub pitch: usize,
    pub texts: usize,
    pub stretches: usize,
    pub collected_bytes: usize,
}

impl Workspace {
    pub fn new(gpu: &Gpu, config: &ModelConfig, element: Element, needs: Needs) -> Result<Self, CudaError> {
        // Passes differ: a little more than this one needs saves making it again for the next.
        let (pitch, texts) = (needs.pitch, needs.texts.next_power_of_two().max(32));
        let stretches = needs.stretches.next_power_of_two().max(64);
        let (width, size) = (config.hidden_size, element.bytes());
        let wide = (3 * width).max(config.intermediate_size) * size;
        Ok(Self {
            pitch,
            texts_capacity: texts,
            stretches_capacity: stretches,
            collected_bytes: needs.collected_bytes,
            ids: gpu.zeros(pitch * 4)?,
            positions: gpu.zeros(pitch * 4)?,
            texts: gpu.zeros(texts * size_of::<GpuText>())?,
            stretches: gpu.zeros(stretches * size_of::<Stretch>())?,
            hidden: gpu.zeros(pitch * width * size)?,
            mixed: gpu.zeros(pitch * width * size)?,
            product: gpu.zeros(pitch * width * size)?,
            wide: gpu.zeros(pitch * wide.max(4 * width))?,
            sums: gpu.zeros(pitch * width * 4)?,
            collected: gpu.zeros(needs.collected_bytes)?,
            pooled: gpu.zeros(stretches * width * 4)?,
            graphs: HashMap::new(),
        })
    }

    pub fn serves(&self, needs: &Needs) -> bool {
        self.pitch >= needs.pitch
            && self.texts_capacity >= needs.texts
            && self.stretches_capacity >= needs.stretches
            && self.collected_bytes >= needs.collected_bytes
    }
}
