//! What the kernels take: sizes, addresses, and how the copy engine sees operands.

use cudarc::driver::DeviceRepr;

use super::tiles::Tile;
use super::{Block, GatedProduct, ProductArgs, ProductKind};
use crate::cuda::launch::part;
use crate::cuda::tensor_map::TensorMap;
use crate::cuda::{CudaError, Element};

/// `Operand` and `Product` of `gemm.cuh`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct RawOperand {
    data: u64,
    stride: i32,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct RawProduct {
    a: RawOperand,
    b: RawOperand,
    gate_a: RawOperand,
    gate_b: RawOperand,
    c: u64,
    c_stride: i32,
    bias: u64,
    residual: u64,
    sizes: [i32; 3],
    steps: [i32; 4],
    a_share: i32,
    blocks: i32,
}

/// `LargeProduct` of `gemm_sm90_large.cu`.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct RawLargeProduct {
    pub maps: [TensorMap; 4],
    pub product: RawProduct,
}

/// `GatedLarge` of `gemm_sm90_gated.cu`.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct RawGatedLarge {
    pub maps: [TensorMap; 5],
    pub product: RawProduct,
    pub parts: i32,
}

// SAFETY: integers in C's order, as `Product` in `gemm.cuh`.
unsafe impl DeviceRepr for RawProduct {}
// SAFETY: likewise, as `LargeProduct` in `gemm_sm90_large.cu`.
unsafe impl DeviceRepr for RawLargeProduct {}
// SAFETY: likewise, as `GatedLarge` in `gemm_sm90_gated.cu`.
unsafe impl DeviceRepr for RawGatedLarge {}

/// How the copy engine sees operands and results: all diagonal blocks beside each other in a, c and the residual, below each other in b.
pub(super) fn maps(args: &ProductArgs<'_>, tile: Tile) -> Result<[TensorMap; 4], CudaError> {
    let ProductArgs { m, n, k, blocks, a, b, c, .. } = *args;
    // A panel of an operand with its own index contiguous is 64 of k high.
    let a = match args.kind {
        ProductKind::OutLinear => map(a, [m, k], 64),
        _ => map(a, [(blocks - 1) * a.step + k, m], tile.m),
    };
    let b = match args.kind {
        ProductKind::InLinear => map(b, [n, k], 64),
        _ => map(b, [k, blocks * n], tile.n / 2),
    };
    let results = [(blocks - 1) * c.step + n, m];
    let residual = args.residual.map_or(c, |buffer| Block { buffer, ..c });
    Ok([a?, b?, map(c, results, 64)?, map(residual, results, 64)?])
}

/// The same of a gated product: the activations of both halves, their weights, and the results.
pub(super) fn gated_maps(
    args: &ProductArgs<'_>,
    gate: GatedProduct<'_>,
    tile: Tile,
) -> Result<[TensorMap; 5], CudaError> {
    let ProductArgs { m, n, k, blocks, a, b, c, .. } = *args;
    let rows = |a: Block<'_>| map(a, [(blocks / gate.share - 1) * a.step + k, m], tile.m);
    let weights = |b: Block<'_>| map(b, [k, blocks * n], tile.n / 2);
    Ok([rows(a)?, rows(gate.a)?, weights(b)?, weights(gate.b)?, map(c, [blocks * n, m], 64)?])
}

/// A matrix in boxes of so many rows of 64.
fn map(block: Block<'_>, [width, rows]: [usize; 2], box_rows: usize) -> Result<TensorMap, CudaError> {
    let address = part(block.buffer, block.offset * 2, ((rows - 1) * block.stride + width) * 2);
    TensorMap::new(address, [width, rows], block.stride, box_rows)
}

/// Checks the sizes, and writes them as the kernels take them.
pub(super) fn parameters(args: &ProductArgs<'_>) -> RawProduct {
    let ProductArgs { kind, element, m, n, k, blocks, a, b, c, .. } = *args;
    let size = element.bytes();
    if element == Element::F16 {
        let aligned = [a.stride, a.offset, a.step, b.stride, b.offset, b.step, c.stride, c.offset, c.step, k];
        assert!(
            aligned.iter().all(|value| value.is_multiple_of(8)),
            "half precision comes in chunks of 16 bytes"
        );
    }
    let (a_rows, a_width) = if kind == ProductKind::OutLinear { (k, m) } else { (m, k) };
    let (b_rows, b_width) = if kind == ProductKind::InLinear { (k, n) } else { (n, k) };
    let share = args.gate.map_or(1, |gate| gate.share);
    let operand = |block: Block<'_>, rows: usize, width: usize, last: usize, size: usize| RawOperand {
        data: extent(block, rows, width, last, size),
        stride: block.stride as i32,
    };
    let last = blocks - 1;
    let gate = args.gate.map(|gate| {
        assert!(
            (gate.a.step, gate.b.step, gate.a.stride, gate.b.stride) == (a.step, b.step, a.stride, b.stride)
        );
        (operand(gate.a, a_rows, a_width, last / share, size), operand(gate.b, b_rows, b_width, last, size))
    });
    assert_eq!(gate.is_some(), kind == ProductKind::Gated, "a gated product has a gate");
    if gate.is_some() {
        let follow = c.step == n && b.step == n * b.stride && blocks.is_multiple_of(share);
        assert!(follow, "outputs of diagonal blocks that share activations follow each other");
    }
    assert!(args.bias.is_none() || n.is_multiple_of(2), "biases come in pairs");
    let none = RawOperand { data: 0, stride: 0 };
    let (gate_a, gate_b) = gate.unwrap_or((none, none));
    let biases = if kind == ProductKind::InLinear { m } else { n * blocks };
    RawProduct {
        a: operand(a, a_rows, a_width, last / share, size),
        b: operand(b, b_rows, b_width, last, size),
        gate_a,
        gate_b,
        c: extent(c, m, n, last, size),
        c_stride: c.stride as i32,
        bias: args.bias.map_or(0, |bias| part(bias, 0, biases * 4)),
        residual: args
            .residual
            .map_or(0, |residual| extent(Block { buffer: residual, ..c }, m, n, last, size)),
        sizes: [m, n, k].map(|size| size as i32),
        steps: [a.step, b.step, c.step, if blocks > 1 { n } else { 0 }].map(|step| step as i32),
        a_share: share as i32,
        blocks: blocks as i32,
    }
}

/// The address of a block, whose last diagonal block is within the buffer, rows rounded up to chunks included.
fn extent(block: Block<'_>, rows: usize, width: usize, last: usize, size: usize) -> u64 {
    let width = width.next_multiple_of(16 / size).min(block.stride);
    let elements = last * block.step + (rows - 1) * block.stride + width;
    part(block.buffer, block.offset * size, elements * size)
}
