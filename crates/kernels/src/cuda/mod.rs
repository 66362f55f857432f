//! The kernels for NVIDIA GPUs, and what starts them: the CUDA driver through `cudarc`, looked for at run time.
//!
//! The kernels are CUDA C++ in `cuda/`, compiled to PTX by `cuda/compile.py`; the PTX is part of the program, and the driver compiles
//! it for the GPU that is there, a module when it is first needed. Everything runs in one stream, in order.
//!
//! Activations come in two orders: row-major `[token, channel]` for what mixes channels, channel-major `[channel, token]` for what
//! mixes tokens. Products change the one into the other as they go. As on CPUs, a row's (or a text's) result is made by the same
//! operations in the same order whatever else is in the batch.
//!
//! Launches are safe to call: sizes are checked against those of the buffers before anything starts. What buffers hold is not looked at:
//! ids, positions and descriptions of texts that lie outside, or a graph whose buffers are gone, make a kernel read or write elsewhere in
//! the GPU's memory, which gives wrong results or an error of the driver, but reaches nothing of this process.

mod error;
mod filters;
mod gemm;
mod gpu;
mod graph;
mod launch;
mod library;
mod long_conv;
mod modules;
mod rows;
mod short_conv;
mod tensor_map;

pub use error::CudaError;
pub use filters::{SineWeights, SpectrumSource};
pub use gemm::{Block, GatedProduct, ProductArgs, ProductKind};
pub use gpu::{Gpu, GpuBuffer, devices};
pub use graph::Graph;
pub use library::{LibraryGemm, LibraryProduct};
pub use long_conv::{GpuText, LengthClass, LongConvArgs};
pub use rows::{EmbeddingArgs, NormArgs, Stretch};
pub use short_conv::ShortConvArgs;

/// The type of weights and activations on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// float32
    F32,
    /// IEEE half precision, with sums in float32. As fast as bfloat16 and eight times finer, but nothing goes beyond 65,504: what does
    /// is infinite, and so is no vector.
    F16,
}

impl Element {
    /// Bytes of one.
    pub fn bytes(self) -> usize {
        match self {
            Element::F32 => 4,
            Element::F16 => 2,
        }
    }

    /// Its name, as kernels have it.
    pub fn name(self) -> &'static str {
        match self {
            Element::F32 => "f32",
            Element::F16 => "f16",
        }
    }
}
