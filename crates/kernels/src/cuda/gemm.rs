//! Matrix products: which kernel, which tile.

use cudarc::driver::DeviceRepr;

use super::launch::{Grid, MOST_BLOCKS, part};
use super::tensor_map::TensorMap;
use super::{CudaError, Element, Gpu, GpuBuffer};

/// What a product is for, which says how its operands lie in memory and what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProductKind {
    /// `c [m, n] = a [m, k] b [k, n] + bias [m]`: weights by channel-major activations.
    InLinear,
    /// `c [m, n] = a [k, m]ᵀ b [n, k]ᵀ + bias [n]`: channel-major activations by weights.
    OutLinear,
    /// `c [m, n] = gelu(a [m, k] b [n, k]ᵀ) * (a' b'ᵀ)`: both halves of a gated product, by diagonal blocks.
    Gated,
    /// `c [m, n] = a [m, k] b [n, k]ᵀ + bias [n] + residual [m, n]`, by diagonal blocks.
    Down,
    /// `c [m, n] = a [m, k] b [n, k]ᵀ`, in float32 only.
    Taps,
}

/// An operand: where it starts in a buffer, and how far its rows are apart, both in elements.
#[derive(Debug, Clone, Copy)]
pub struct Block<'a> {
    /// Where it is.
    pub buffer: &'a GpuBuffer,
    /// Its first element.
    pub offset: usize,
    /// From one row to the next.
    pub stride: usize,
    /// From one diagonal block's to the next one's.
    pub step: usize,
}

/// The other half of a gated product: operands of the same strides and steps.
#[derive(Debug, Clone, Copy)]
pub struct GatedProduct<'a> {
    /// The gate's activations.
    pub a: Block<'a>,
    /// The gate's weights.
    pub b: Block<'a>,
    /// Diagonal blocks of the result that share their activations.
    pub share: usize,
}

/// A matrix product.
#[derive(Debug)]
pub struct ProductArgs<'a> {
    /// What it is for.
    pub kind: ProductKind,
    /// The type of its operands and of its result.
    pub element: Element,
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// What is summed over.
    pub k: usize,
    /// Diagonal blocks.
    pub blocks: usize,
    /// First operand.
    pub a: Block<'a>,
    /// Second operand.
    pub b: Block<'a>,
    /// The gate, of a gated product.
    pub gate: Option<GatedProduct<'a>>,
    /// In float32; a diagonal block's follow the one's before.
    pub bias: Option<&'a GpuBuffer>,
    /// As the result lies, in the operands' type.
    pub residual: Option<&'a GpuBuffer>,
    /// Where the result goes.
    pub c: Block<'a>,
}

/// `Operand` and `Product` of `gemm.cuh`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct RawOperand {
    data: u64,
    stride: i32,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct RawProduct {
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
struct RawLargeProduct {
    maps: [TensorMap; 2],
    product: RawProduct,
}

// SAFETY: integers in C's order, as `Product` in `gemm.cuh`.
unsafe impl DeviceRepr for RawProduct {}
// SAFETY: likewise, as `LargeProduct` in `gemm_sm90_large.cu`.
unsafe impl DeviceRepr for RawLargeProduct {}

/// A kernel: its tile and its block of threads, as its source defines them.
#[derive(Debug, Clone, Copy)]
struct Tile {
    module: &'static str,
    name: &'static str,
    m: usize,
    n: usize,
    threads: usize,
    shared: usize,
    form: Form,
}

/// How a product is divided among blocks of threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A tile a block.
    Grid,
    /// Rows of activations stay with a block, and weights stream by.
    Resident,
    /// Pairs of blocks stay, and compute one pair of tiles after the other.
    Persistent,
}

/// The module of products in half precision for all GPUs.
const PORTABLE: &str = "gemm_half";

/// Bytes of k that a stage holds, by row of a tile.
const STAGE_ROW: usize = 128;

/// The widest diagonal block whose rows can stay in shared memory.
const RESIDENT_INPUTS: usize = 192;

/// A tile of `gemm_half.cu`: so many stages.
const fn tensor_core(
    name: &'static str,
    [m, n]: [usize; 2],
    threads: usize,
    stages: usize,
    gated: bool,
) -> Tile {
    let sets = if gated { 2 } else { 1 };
    let (operands, result) = (stages * sets * (m + n) * STAGE_ROW, m * (n + 8) * 2);
    let shared = if operands > result { operands } else { result };
    Tile { module: PORTABLE, name, m, n, threads, shared, form: Form::Grid }
}

/// A tile of `gemm_sm90.cu`: one warpgroup. An operand with its own index contiguous takes whole panels of 64.
const fn hopper(name: &'static str, n: usize, stages: usize, panels: bool, residuals: bool) -> Tile {
    let m = 64;
    let stored = if panels { n.next_multiple_of(64) } else { n };
    let (operands, result) = (stages * (m + stored) * STAGE_ROW, m * (n + 8) * 2);
    assert!(operands >= result, "the result fits where the operands were");
    // What is added to the result waits behind the stages.
    let shared = operands + if residuals { result } else { 0 };
    Tile { module: "gemm_sm90", name, m, n, threads: 128, shared, form: Form::Grid }
}

/// A gated tile of `gemm_sm90.cu`: 128 or 64 rows of both halves, and two stages of weights.
const fn resident(name: &'static str, groups: usize, n: usize) -> Tile {
    let (m, steps) = (64 * groups, RESIDENT_INPUTS / 64);
    let shared = 2 * steps * (m + 2 * n) * STAGE_ROW + m * (n + 8) * 2;
    Tile { module: "gemm_sm90", name, m, n, threads: 128 * groups, shared, form: Form::Resident }
}

/// A tile of `gemm_sm90_large.cu`: so many stages with their barriers, and the result.
const fn persistent(name: &'static str, n: usize, stages: usize) -> Tile {
    let shared = stages * ((128 + n) * STAGE_ROW + 16) + 128 * (n + 8) * 2;
    Tile { module: "gemm_sm90_large", name, m: 128, n, threads: 384, shared, form: Form::Persistent }
}

/// Tiles of products in half precision, the largest first.
fn half_tiles(kind: ProductKind) -> Vec<Tile> {
    match kind {
        ProductKind::InLinear => vec![
            tensor_core("in_linear_large", [256, 128], 256, 3, false),
            tensor_core("in_linear_medium", [128, 64], 128, 4, false),
            tensor_core("in_linear_small", [32, 32], 128, 4, false),
        ],
        ProductKind::OutLinear => vec![
            tensor_core("out_linear_large", [128, 256], 256, 3, false),
            tensor_core("out_linear_medium", [64, 64], 128, 4, false),
            tensor_core("out_linear_small", [32, 32], 128, 4, false),
        ],
        ProductKind::Gated => vec![
            tensor_core("gated_large", [128, 128], 256, 3, true),
            tensor_core("gated_medium", [64, 64], 128, 2, true),
            tensor_core("gated_small", [32, 32], 128, 3, true),
        ],
        ProductKind::Down | ProductKind::Taps => vec![
            tensor_core("down_large", [128, 192], 256, 3, false),
            tensor_core("down_medium", [64, 64], 128, 4, false),
            tensor_core("down_small", [32, 32], 128, 4, false),
        ],
    }
}

/// The same on Hopper GPUs.
fn hopper_tiles(kind: ProductKind) -> Vec<Tile> {
    match kind {
        ProductKind::InLinear => vec![
            persistent("in_linear_large", 256, 3),
            hopper("in_linear_medium", 64, 6, true, false),
            hopper("in_linear_small", 32, 8, true, false),
        ],
        ProductKind::OutLinear => vec![
            persistent("out_linear_large", 256, 3),
            hopper("out_linear_medium", 64, 6, false, false),
            hopper("out_linear_small", 16, 8, false, false),
        ],
        ProductKind::Gated => vec![resident("gated_large", 2, 64), resident("gated_small", 1, 32)],
        ProductKind::Down | ProductKind::Taps => vec![
            persistent("down_large", 192, 4),
            hopper("down_medium", 64, 6, false, true),
            hopper("down_small", 16, 8, false, true),
        ],
    }
}

fn f32_tile(kind: ProductKind) -> Tile {
    let name = match kind {
        ProductKind::InLinear => "in_linear_f32",
        ProductKind::OutLinear => "out_linear_f32",
        ProductKind::Gated => "gated_f32",
        ProductKind::Down => "down_f32",
        ProductKind::Taps => "taps_f32",
    };
    Tile { module: "gemm_f32", name, m: 64, n: 64, threads: 256, shared: 0, form: Form::Grid }
}

impl Tile {
    /// Blocks of threads, by dimension.
    fn blocks(&self, args: &ProductArgs<'_>, multiprocessors: usize) -> [usize; 3] {
        let m = args.m.div_ceil(self.m);
        if let (Form::Resident, Some(gate)) = (self.form, args.gate) {
            let (tiles, groups) = ((args.n * gate.share).div_ceil(self.n), args.blocks / gate.share);
            // Each part of the outputs loads the activations anew: that costs about two tiles.
            let cost =
                |&parts: &usize| (m * groups * parts).div_ceil(multiprocessors) * (tiles.div_ceil(parts) + 2);
            return [(1..=tiles).min_by_key(cost).unwrap_or(1), m, groups];
        }
        let n = args.n.div_ceil(self.n);
        if self.form == Form::Persistent {
            let pairs = m.div_ceil(2) * n * args.blocks;
            return [2 * pairs.min(multiprocessors / 2), 1, 1];
        }
        // Blocks that share activations are neighbours: weights stay in the cache anyway.
        if args.kind == ProductKind::InLinear { [m, n, args.blocks] } else { [n, m, args.blocks] }
    }
}

impl Gpu {
    /// Starts a product. The tile depends on its sizes, the result does not depend on the tile.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Panics
    /// Where sizes do not fit the buffers or the kernels.
    pub fn product(&self, args: &ProductArgs<'_>) -> Result<(), CudaError> {
        let tile = self.tile(args);
        self.product_in(args, tile)
    }

    /// As [`product`](Gpu::product), in the tile of that number, of [`tiles`](Gpu::tiles): for tests and benchmarks.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Panics
    /// As `product`, or where there is no such tile.
    pub fn product_in_tile(&self, args: &ProductArgs<'_>, tile: usize) -> Result<(), CudaError> {
        self.product_in(args, self.every(args)[tile])
    }

    /// The tiles that a product can be computed in on this GPU, by the modules that they are in. Those that it takes come first, those that
    /// it leaves to other GPUs last.
    pub fn tiles(&self, args: &ProductArgs<'_>) -> Vec<&'static str> {
        self.every(args).into_iter().map(|tile| tile.module).collect()
    }

    /// Tiles that this GPU takes, and those for all GPUs.
    fn every(&self, args: &ProductArgs<'_>) -> Vec<Tile> {
        let mut tiles = self.fitting(args);
        if args.element == Element::F16 && tiles.iter().all(|tile| tile.module != PORTABLE) {
            tiles.extend(self.portable(args));
        }
        tiles
    }

    /// Tiles that the GPU has shared memory for, the largest first.
    fn fitting(&self, args: &ProductArgs<'_>) -> Vec<Tile> {
        if args.element == Element::F32 {
            return vec![f32_tile(args.kind)];
        }
        let wide = args.kind == ProductKind::Gated && args.k > RESIDENT_INPUTS;
        if !self.is_hopper() || wide {
            return self.portable(args);
        }
        let fits = hopper_tiles(args.kind).into_iter().filter(|tile| {
            tile.shared <= self.shared_memory() && (tile.form != Form::Persistent || copied_whole(args))
        });
        fits.collect()
    }

    /// Those for all GPUs.
    fn portable(&self, args: &ProductArgs<'_>) -> Vec<Tile> {
        let tiles = half_tiles(args.kind).into_iter();
        tiles.filter(|tile| tile.shared <= self.shared_memory()).collect()
    }

    /// The largest tile of which there are enough to keep the GPU busy.
    fn tile(&self, args: &ProductArgs<'_>) -> Tile {
        let tiles = self.fitting(args);
        let busy = |tile: &&Tile| {
            let tiles = args.m.div_ceil(tile.m) * args.n.div_ceil(tile.n) * args.blocks;
            // Activations that stay are divided among as many blocks as there should be.
            if tile.form == Form::Resident {
                args.m > tile.m / 2
            } else {
                tiles * 10 >= self.multiprocessors() * 9
            }
        };
        *tiles.iter().find(busy).unwrap_or(&tiles[tiles.len() - 1])
    }

    fn product_in(&self, args: &ProductArgs<'_>, tile: Tile) -> Result<(), CudaError> {
        let parameters = parameters(args);
        let function = self.modules.function(tile.module, tile.name, tile.shared)?;
        let blocks = tile.blocks(args, self.multiprocessors());
        assert!(blocks[1] <= MOST_BLOCKS, "rows of a product");
        let grid = Grid { blocks, threads: tile.threads, shared: tile.shared };
        if tile.form == Form::Persistent {
            let large = RawLargeProduct { maps: maps(args, tile)?, product: parameters };
            // SAFETY: as below; the maps are of the same operands.
            return unsafe { self.launch(&function, grid, &large) };
        }
        // SAFETY: `parameters` checked that operands and result are within their buffers.
        unsafe { self.launch(&function, grid, &parameters) }
    }
}

/// Whether boxes of operands hold nothing of other diagonal blocks.
fn copied_whole(args: &ProductArgs<'_>) -> bool {
    args.blocks == 1 || (args.k.is_multiple_of(64) && args.b.step == args.n * args.b.stride)
}

/// How the copy engine sees both operands: all diagonal blocks beside each other in a, below each other in b.
fn maps(args: &ProductArgs<'_>, tile: Tile) -> Result<[TensorMap; 2], CudaError> {
    let ProductArgs { m, n, k, blocks, a, b, .. } = *args;
    let map = |block: Block<'_>, [width, rows]: [usize; 2], tile_rows: usize| {
        let address = part(block.buffer, block.offset * 2, ((rows - 1) * block.stride + width) * 2);
        TensorMap::new(address, [width, rows], block.stride, tile_rows)
    };
    // A panel of an operand with its own index contiguous is 64 of k high.
    let a = match args.kind {
        ProductKind::OutLinear => map(a, [m, k], 64),
        _ => map(a, [(blocks - 1) * a.step + k, m], tile.m),
    };
    let b = match args.kind {
        ProductKind::InLinear => map(b, [n, k], 64),
        _ => map(b, [k, blocks * n], tile.n / 2),
    };
    Ok([a?, b?])
}

/// Checks the sizes, and writes them as the kernels take them.
fn parameters(args: &ProductArgs<'_>) -> RawProduct {
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
