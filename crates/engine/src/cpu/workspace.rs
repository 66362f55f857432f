//! The buffers of a forward pass, kept between passes.

use std::sync::{Mutex, MutexGuard, PoisonError};

use danaus_kernels::gemm::{Activations, Precision, encode};
use danaus_kernels::{Buffer, ConvScratch, LongFilter, Matrix, MatrixMut};
use danaus_simd::Isa;

use super::filters::FreshStates;

/// Tokens for which buffers are kept: those of a longer text are given back after its pass.
const KEPT_TOKENS: usize = 8192;

/// Buffers of a pass; their contents mean something only within it.
#[derive(Debug, Default)]
pub(super) struct Workspace {
    /// Hidden states `[tokens, H]`.
    pub hidden: Buffer<f32>,
    /// The same in the products' precision.
    pub encoded: Encoded,
    /// What the convolutions made of them `[tokens, H]`.
    pub mixed: Buffer<f32>,
    /// Filters' states of the current layer, where they are not kept.
    pub states: FreshStates,
    /// What each thread needs for itself.
    pub workers: Vec<Worker>,
}

/// Buffers of one thread. Each kind is locked by itself: while it has one, a thread may need another.
#[derive(Debug, Default)]
pub(super) struct Worker {
    chunk: Mutex<ChunkBuffers>,
    rows: Mutex<RowBuffers>,
    gated: Mutex<GatedBuffers>,
}

/// For a chunk of channels in the sequence mixer.
#[derive(Debug, Default)]
pub(super) struct ChunkBuffers {
    /// x1, x2 and v of the chunk's n channels, side by side: `[tokens, 3n]`.
    pub projected: Buffer<f32>,
    pub convolution: ConvScratch,
    /// A filter that is used once: forward and reverse taps `[positions, n]`, and what they become.
    pub taps: [Buffer<f32>; 2],
    pub filter: LongFilter,
    /// A text's far field at its knots `[K, n]`.
    pub far: Buffer<f32>,
}

/// For a block of rows between the convolutions and the next layer.
#[derive(Debug, Default)]
pub(super) struct RowBuffers {
    /// The mixed rows in the products' precision.
    pub mixed: Encoded,
    /// The mixer's result `[rows, H]`.
    pub product: Buffer<f32>,
    /// The same in the products' precision, by diagonal blocks.
    pub encoded: Encoded,
}

/// For a block of rows and a diagonal block of the MLP.
#[derive(Debug, Default)]
pub(super) struct GatedBuffers {
    /// The gated activations `[rows, I/N]`.
    pub plain: Buffer<f32>,
    /// The same in the products' precision.
    pub encoded: Encoded,
}

/// Activations in the precision of the products that take them. Empty for float32, which products take as they are.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    pub words: Buffer<u32>,
    pub scales: Buffer<f32>,
}

/// The shape of [`Encoded`] activations: how `inputs` values of each of `blocks` diagonal blocks are encoded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Encoding {
    pub isa: Isa,
    pub precision: Precision,
    pub blocks: usize,
    pub inputs: usize,
}

/// A view of encoded activations to write to.
pub(super) struct EncodedMut<'a> {
    pub words: MatrixMut<'a, u32>,
    pub scales: MatrixMut<'a>,
}

impl Encoding {
    /// Words of a row.
    fn width(&self) -> usize {
        self.blocks * self.precision.words(self.inputs)
    }

    /// Writes `x` `[rows, blocks * inputs]` to `out`; nothing to do for float32.
    pub fn encode(&self, x: Matrix<'_>, out: EncodedMut<'_>) {
        if self.precision != Precision::F32 {
            encode(self.isa, self.precision, x, out.words, out.scales);
        }
    }
}

impl Encoded {
    /// Room for `rows` rows.
    pub fn prepare(&mut self, encoding: Encoding, rows: usize) -> EncodedMut<'_> {
        self.words.resize(rows * encoding.width());
        self.scales.resize(rows * encoding.blocks);
        EncodedMut {
            words: MatrixMut::new(&mut self.words, encoding.width()),
            scales: MatrixMut::new(&mut self.scales, encoding.blocks),
        }
    }

    /// Diagonal block `block` of what was written; of `plain` for float32.
    pub fn block<'a>(&'a self, encoding: Encoding, plain: Matrix<'a>, block: usize) -> Activations<'a> {
        let Encoding { precision, blocks, inputs, .. } = encoding;
        if precision == Precision::F32 {
            return Activations::plain(plain.columns(block * inputs, inputs));
        }
        let (words, scales) = (Matrix::new(&self.words, encoding.width()), Matrix::new(&self.scales, blocks));
        Activations::encoded(precision, words, scales, (block, blocks))
    }
}

impl EncodedMut<'_> {
    /// Disjoint views of `count` rows each (the last of what is left), in order.
    pub fn split_rows(self, count: usize) -> Vec<Self> {
        let parts = self.words.split_rows(count).into_iter().zip(self.scales.split_rows(count));
        parts.map(|(words, scales)| Self { words, scales }).collect()
    }
}

impl Workspace {
    /// Sizes the buffers for `tokens` tokens of `hidden` channels on `threads` threads.
    pub fn prepare(&mut self, tokens: usize, hidden: usize, threads: usize) {
        self.hidden.resize(tokens * hidden);
        self.mixed.resize(tokens * hidden);
        self.workers.resize_with(threads, Worker::default);
    }

    /// The hidden states that the last pass left: `[tokens, H]`.
    pub fn hidden(&self) -> &[f32] {
        &self.hidden
    }

    /// Gives back the memory of an unusually long pass. `hidden` is H.
    pub fn shrink(&mut self, hidden: usize) {
        if self.hidden.len() > KEPT_TOKENS * hidden {
            *self = Self::default();
        }
    }
}

impl Worker {
    pub fn chunk(&self) -> MutexGuard<'_, ChunkBuffers> {
        self.chunk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn rows(&self) -> MutexGuard<'_, RowBuffers> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn gated(&self) -> MutexGuard<'_, GatedBuffers> {
        self.gated.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
