//! Embeddings, LayerNorm and sums over rows.

use cudarc::driver::DeviceRepr;

use super::launch::{Grid, bytes_of, part};
use super::{CudaError, Element, Gpu, GpuBuffer};

/// Threads of every kernel here.
const THREADS: usize = 256;

/// The widest rows that the kernels take.
pub const MOST_CHANNELS: usize = 1024;

/// LayerNorm of rows, and where the result goes.
#[derive(Debug)]
pub struct NormArgs<'a> {
    /// Scale and shift, `[width]` in float32.
    pub weight: &'a GpuBuffer,
    /// See `weight`.
    pub bias: &'a GpuBuffer,
    /// Added to the variance.
    pub epsilon: f32,
    /// Channels.
    pub width: usize,
    /// Tokens.
    pub rows: usize,
    /// Columns of a channel-major result, a multiple of 32.
    pub pitch: usize,
    /// `[width, pitch]`, or `[rows, width]` in float32 where `row_major` says so.
    pub out: &'a GpuBuffer,
    /// The type of what is normalised, and of a channel-major result.
    pub element: Element,
}

/// Token, position and token-type embeddings, in float32.
#[derive(Debug)]
pub struct EmbeddingArgs<'a> {
    /// Token ids, 32 bits each: valid rows of `word`.
    pub ids: &'a GpuBuffer,
    /// Where in its text each token stands: valid rows of `position`.
    pub positions: &'a GpuBuffer,
    /// `[V, width]`
    pub word: &'a GpuBuffer,
    /// `[P, width]`
    pub position: Option<&'a GpuBuffer>,
    /// `[width]`
    pub token_type: &'a GpuBuffer,
}

/// Rows that are summed one after the other: `Stretch` of `rows.cu`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Stretch {
    /// The first.
    pub start: i32,
    /// How many.
    pub rows: i32,
}

impl Stretch {
    /// As kernels take them.
    pub fn bytes(stretches: &[Self]) -> &[u8] {
        bytes_of(stretches)
    }
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct RawNorm {
    weight: u64,
    bias: u64,
    epsilon: f32,
    width: i32,
    rows: i32,
    pitch: i32,
    out: u64,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct RawEmbedding {
    norm: RawNorm,
    ids: u64,
    positions: u64,
    word: u64,
    position: u64,
    token_type: u64,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct RawLayerNorm {
    norm: RawNorm,
    input: u64,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct RawSums {
    hidden: u64,
    stretches: u64,
    out: u64,
    width: i32,
}

// SAFETY: the structures of `rows.cu`, in C's order.
unsafe impl DeviceRepr for Stretch {}
// SAFETY: likewise.
unsafe impl DeviceRepr for RawEmbedding {}
// SAFETY: likewise.
unsafe impl DeviceRepr for RawLayerNorm {}
// SAFETY: likewise.
unsafe impl DeviceRepr for RawSums {}

impl NormArgs<'_> {
    /// Tokens of a block, and the shared memory that turns them: as in `rows.cu`.
    fn tile(&self) -> (usize, usize) {
        let rows = if self.element == Element::F32 { 16 } else { 32 };
        (rows, self.width * (rows * self.element.bytes() + 4))
    }

    fn raw(&self, row_major: bool) -> RawNorm {
        let &NormArgs { width, rows, pitch, .. } = self;
        assert!(width <= MOST_CHANNELS && width > 0 && width.is_multiple_of(2) && rows > 0, "width of a row");
        let bytes = if row_major {
            rows * width * 4
        } else {
            assert!(pitch.is_multiple_of(32) && rows <= pitch, "whole tiles of tokens");
            width * pitch * self.element.bytes()
        };
        RawNorm {
            weight: part(self.weight, 0, width * 4),
            bias: part(self.bias, 0, width * 4),
            epsilon: self.epsilon,
            width: width as i32,
            rows: rows as i32,
            pitch: pitch as i32,
            out: part(self.out, 0, bytes),
        }
    }
}

impl Gpu {
    /// `out = norm(word[id] + position + token type)`, channel-major.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Panics
    /// Where sizes do not fit the buffers. (Ids and positions are the caller's to check.)
    pub fn embed(&self, norm: &NormArgs<'_>, args: &EmbeddingArgs<'_>) -> Result<(), CudaError> {
        let (rows, shared) = norm.tile();
        let parameters = RawEmbedding {
            norm: norm.raw(false),
            ids: part(args.ids, 0, norm.rows * 4),
            positions: part(args.positions, 0, norm.rows * 4),
            word: part(args.word, 0, norm.width * 4),
            position: args.position.map_or(0, |position| part(position, 0, norm.width * 4)),
            token_type: part(args.token_type, 0, norm.width * 4),
        };
        let usual = norm.width == 768;
        let name = match norm.element {
            Element::F32 if usual => "embed_f32_768",
            Element::F32 => "embed_f32",
            Element::F16 if usual => "embed_f16_768",
            Element::F16 => "embed_f16",
        };
        let function = self.modules.function("rows", name, shared)?;
        let grid = Grid { blocks: [norm.rows.div_ceil(rows), 1, 1], threads: THREADS, shared };
        // SAFETY: sizes were checked; ids and positions are the caller's promise.
        unsafe { self.launch(&function, grid, &parameters) }
    }

    /// `out = norm(input)`, channel-major, of `input` `[rows, width]` in the same type.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Panics
    /// Where sizes do not fit the buffers.
    pub fn layer_norm(&self, norm: &NormArgs<'_>, input: &GpuBuffer) -> Result<(), CudaError> {
        let (rows, shared) = norm.tile();
        let usual = norm.width == 768;
        let name = match norm.element {
            Element::F32 if usual => "layer_norm_f32_768",
            Element::F32 => "layer_norm_f32",
            Element::F16 if usual => "layer_norm_f16_768",
            Element::F16 => "layer_norm_f16",
        };
        self.start_norm(norm, input, (name, rows, shared), false)
    }

    /// `out = norm(input)`, row-major: `input` `[rows, width]` in the arguments' type, `out` in float32.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Panics
    /// Where sizes do not fit the buffers.
    pub fn last_layer_norm(&self, norm: &NormArgs<'_>, input: &GpuBuffer) -> Result<(), CudaError> {
        let usual = norm.width == 768;
        let name = match norm.element {
            Element::F32 if usual => "last_layer_norm_f32_768",
            Element::F32 => "last_layer_norm_f32",
            Element::F16 if usual => "last_layer_norm_f16_768",
            Element::F16 => "last_layer_norm_f16",
        };
        self.start_norm(norm, input, (name, 8, 0), true)
    }

    fn start_norm(
        &self,
        norm: &NormArgs<'_>,
        input: &GpuBuffer,
        (name, rows, shared): (&'static str, usize, usize),
        row_major: bool,
    ) -> Result<(), CudaError> {
        let input = part(input, 0, norm.rows * norm.width * norm.element.bytes());
        let parameters = RawLayerNorm { norm: norm.raw(row_major), input };
        let function = self.modules.function("rows", name, shared)?;
        let grid = Grid { blocks: [norm.rows.div_ceil(rows), 1, 1], threads: THREADS, shared };
        // SAFETY: sizes were checked.
        unsafe { self.launch(&function, grid, &parameters) }
    }

    /// `out [count, width]`: the sums of `count` stretches of rows of `hidden` `[rows, width]`, in float32. `stretches` holds
    /// [`Stretch`]es within `rows`.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Panics
    /// Where sizes do not fit the buffers.
    pub fn sum_rows(
        &self,
        (hidden, rows, width): (&GpuBuffer, usize, usize),
        (stretches, count): (&GpuBuffer, usize),
        out: &GpuBuffer,
    ) -> Result<(), CudaError> {
        let parameters = RawSums {
            hidden: part(hidden, 0, rows * width * 4),
            stretches: part(stretches, 0, count * size_of::<Stretch>()),
            out: part(out, 0, count * width * 4),
            width: width as i32,
        };
        let function = self.modules.function("rows", "sum_rows", 0)?;
        let grid = Grid { blocks: [count, 1, 1], threads: THREADS, shared: 0 };
        // SAFETY: sizes were checked; that stretches are within the rows is the caller's promise.
        unsafe { self.launch(&function, grid, &parameters) }
    }
}
