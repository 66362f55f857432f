//! GPU kernels in WGSL, run through wgpu: on Metal, Vulkan and DirectX 12.
//!
//! [`Gpu`] is a device, [`Work`] a list of dispatches that it is given as one submission, and [`Kernels`] has a function for
//! each kernel that appends its dispatches to a `Work`. Activations are row-major `[row, channel]` as on the CPU, in float32
//! or, where the device can, stored as float16; all sums are in float32.
//!
//! A row's (or a text's) result comes of the same operations in the same order whatever else is in the buffers: tiles of
//! matrix products differ in how they share the work, never in a sum's order.
//!
//! Nothing here panics on account of a device, and nothing is unsafe: shaders are compiled with their bounds checked.

mod convolution;
mod device;
mod error;
mod kernels;
mod matrix_product;
mod source;
mod submission;
mod tree;

pub use convolution::{Convolution, DIRECT_ROWS, FilterLeaf, TextRows};
pub use device::{AdapterDescription, Api, Gpu, GpuOptions, adapters};
pub use error::GpuError;
pub use kernels::{FarField, Kernels, Norm};
pub use matrix_product::{Gate, Linear, Residual, TILES, Tile, Window};
pub use source::{Storage, all_shaders};
pub use submission::{Pending, Slice, Work};
pub use tree::{TRANSFORM_BYTES, gpu_filter_length};

/// A buffer on the device. Clones share it.
pub type GpuBuffer = ::wgpu::Buffer;
