//! The memory that a pass works in, kept for the next one.

use danaus_kernels::wgpu::{Gpu, GpuBuffer, GpuError, Slice};

/// Bytes of the MLP's wide activations, at most: they exist for a block of rows at a time.
const GATED_BYTES: usize = 64 << 20;

/// Sizes of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    pub rows: usize,
    /// H
    pub width: usize,
    /// I
    pub intermediate: usize,
}

/// Buffers that grow as they are asked for.
#[derive(Debug, Default)]
pub(super) struct Workspace {
    buffers: Option<Buffers>,
    capacity: usize,
}

/// Activations, each `[rows, H]` in the device's storage, but for two.
#[derive(Debug)]
pub(super) struct Buffers {
    /// What layers take and give.
    pub hidden: GpuBuffer,
    /// x1, x2 and v, before their short convolutions.
    pub projected: [GpuBuffer; 3],
    /// What the convolutions give, and what is made of it.
    pub mixed: GpuBuffer,
    /// Sums in float32: of embeddings, of convolutions, of the MLP and its residual.
    pub sums: GpuBuffer,
    /// The MLP's wide activations `[block of rows, I]`.
    pub gated: GpuBuffer,
    /// Rows of such a block.
    pub block: usize,
}

impl Workspace {
    /// Buffers for at least so many rows.
    pub fn prepare(&mut self, gpu: &Gpu, sizes: Sizes) -> Result<&Buffers, GpuError> {
        let fits = sizes.rows <= self.capacity;
        let buffers = match self.buffers.take() {
            Some(buffers) if fits => buffers,
            // The old ones are given back before there are new ones.
            old => {
                drop(old);
                // Rounded up, so that a little longer text does not need new ones.
                let least = sizes.rows.next_multiple_of(64);
                let roomy = (least + least / 4).min(most_rows(gpu, sizes.width));
                self.capacity = roomy.max(sizes.rows);
                Buffers::new(gpu, Sizes { rows: self.capacity, ..sizes })?
            }
        };
        Ok(self.buffers.insert(buffers))
    }
}

impl Buffers {
    fn new(gpu: &Gpu, sizes: Sizes) -> Result<Self, GpuError> {
        let Sizes { rows, width, intermediate } = sizes;
        let value = gpu.storage().bytes();
        let matrix = || gpu.buffer((rows * width * value) as u64);
        let most = GATED_BYTES.min(gpu.largest_binding() as usize) / (intermediate * value);
        let block = most.clamp(1, rows);
        Ok(Self {
            hidden: matrix()?,
            projected: [matrix()?, matrix()?, matrix()?],
            mixed: matrix()?,
            sums: gpu.buffer((rows * width * size_of::<f32>()) as u64)?,
            gated: gpu.buffer((block * intermediate * value) as u64)?,
            block,
        })
    }

    /// x1, x2 and v.
    pub fn projections(&self) -> [Slice<'_>; 3] {
        self.projected.each_ref().map(Slice::from)
    }
}

/// The most rows that kernels can see at once.
pub(super) fn most_rows(gpu: &Gpu, width: usize) -> usize {
    gpu.largest_binding() as usize / (width * size_of::<f32>())
}
