//! Matrix products: which kernel, which tile.

mod raw;
mod tiles;

use self::raw::{RawGatedLarge, RawLargeProduct, gated_maps, maps, parameters};
use self::tiles::{Form, PORTABLE, RESIDENT_INPUTS, Tile, f32_tile, half_tiles, hopper_tiles};
use super::launch::{Grid, MOST_BLOCKS};
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
        let fits = hopper_tiles(args.kind)
            .into_iter()
            .filter(|tile| tile.shared <= self.shared_memory() && tile.takes(args));
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
            if tile.keeps_rows() { args.m > tile.m / 2 } else { tiles * 10 >= self.multiprocessors() * 9 }
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
        if let Some(gate) = args.gate.filter(|_| tile.form == Form::PersistentGated) {
            let parts = tile.parts(args, gate, self.multiprocessors()) as i32;
            let large = RawGatedLarge { maps: gated_maps(args, gate, tile)?, product: parameters, parts };
            // SAFETY: as below; the maps are of the same operands.
            return unsafe { self.launch(&function, grid, &large) };
        }
        // SAFETY: `parameters` checked that operands and result are within their buffers.
        unsafe { self.launch(&function, grid, &parameters) }
    }
}
