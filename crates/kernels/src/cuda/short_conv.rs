//! The short convolution and the first gate.

use cudarc::driver::DeviceRepr;

use super::launch::{Grid, part};
use super::{CudaError, Element, Gpu, GpuBuffer};

/// Threads of a block, and tokens of a thread: as in `short_conv.cu`.
const THREADS: usize = 128;
const EACH: usize = 8;

/// `gated = v * x1` and `gate = x2`, where x1, x2 and v are the short convolution of `projected`.
#[derive(Debug)]
pub struct ShortConvArgs<'a> {
    /// `[3H, pitch]`: x1, x2 and v before it.
    pub projected: &'a GpuBuffer,
    /// `[H, pitch]`
    pub gated: &'a GpuBuffer,
    /// `[H, pitch]`
    pub gate: &'a GpuBuffer,
    /// The type of these three.
    pub element: Element,
    /// `[pitch]`: where in its text each token stands, 32 bits each.
    pub positions: &'a GpuBuffer,
    /// `[3H, 3]` in float32; the last tap is the current token's.
    pub taps: &'a GpuBuffer,
    /// `[3H]` in float32.
    pub bias: &'a GpuBuffer,
    /// Columns, a multiple of 8.
    pub pitch: usize,
    /// H.
    pub channels: usize,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct RawShortConv {
    projected: u64,
    gated: u64,
    gate: u64,
    positions: u64,
    taps: u64,
    bias: u64,
    pitch: i32,
    channels: i32,
}

// SAFETY: `ShortConv` of `short_conv.cu`, in C's order.
unsafe impl DeviceRepr for RawShortConv {}

impl Gpu {
    /// See [`ShortConvArgs`].
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Panics
    /// Where sizes do not fit the buffers.
    pub fn short_conv(&self, args: &ShortConvArgs<'_>) -> Result<(), CudaError> {
        let &ShortConvArgs { pitch, channels, .. } = args;
        assert!(pitch.is_multiple_of(EACH), "whole chunks of tokens");
        let bytes = channels * pitch * args.element.bytes();
        let parameters = RawShortConv {
            projected: part(args.projected, 0, 3 * bytes),
            gated: part(args.gated, 0, bytes),
            gate: part(args.gate, 0, bytes),
            positions: part(args.positions, 0, pitch * 4),
            taps: part(args.taps, 0, 9 * channels * 4),
            bias: part(args.bias, 0, 3 * channels * 4),
            pitch: pitch as i32,
            channels: channels as i32,
        };
        let name = match args.element {
            Element::F32 => "short_conv_f32",
            Element::Bf16 => "short_conv_bf16",
            Element::F16 => "short_conv_f16",
        };
        let function = self.modules.function("short_conv", name, 0)?;
        let blocks = [pitch.div_ceil(THREADS * EACH), channels, 1];
        // SAFETY: sizes were checked.
        unsafe { self.launch(&function, Grid { blocks, threads: THREADS, shared: 0 }, &parameters) }
    }
}
