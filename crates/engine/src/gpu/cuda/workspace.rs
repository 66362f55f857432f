//! The buffers of a pass, and what was recorded in them.

use std::collections::HashMap;

use danaus_kernels::cuda::{CudaError, Element, Gpu, GpuBuffer, GpuText, Graph, Stretch};
use danaus_model::ModelConfig;

use super::pass::Signature;

/// Buffers for passes that need no more than its capacity.
#[derive(Debug)]
pub(super) struct Workspace {
    pub capacity: Needs,
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
    /// `[pitch, H]`: before LayerNorm.
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
        let capacity = Needs {
            texts: needs.texts.next_power_of_two().max(32),
            stretches: needs.stretches.next_power_of_two().max(64),
            ..needs
        };
        let Needs { pitch, texts, stretches, collected_bytes } = capacity;
        let (width, size) = (config.hidden_size, element.bytes());
        let wide = (3 * width).max(config.intermediate_size) * size;
        Ok(Self {
            capacity,
            ids: gpu.zeros(pitch * 4)?,
            positions: gpu.zeros(pitch * 4)?,
            texts: gpu.zeros(texts * size_of::<GpuText>())?,
            stretches: gpu.zeros(stretches * size_of::<Stretch>())?,
            hidden: gpu.zeros(pitch * width * size)?,
            mixed: gpu.zeros(pitch * width * size)?,
            product: gpu.zeros(pitch * width * size)?,
            wide: gpu.zeros(pitch * wide.max(4 * width))?,
            sums: gpu.zeros(pitch * width * size)?,
            collected: gpu.zeros(collected_bytes)?,
            pooled: gpu.zeros(stretches * width * 4)?,
            graphs: HashMap::new(),
        })
    }

    pub fn serves(&self, needs: &Needs) -> bool {
        let capacity = &self.capacity;
        capacity.pitch >= needs.pitch
            && capacity.texts >= needs.texts
            && capacity.stretches >= needs.stretches
            && capacity.collected_bytes >= needs.collected_bytes
    }
}
