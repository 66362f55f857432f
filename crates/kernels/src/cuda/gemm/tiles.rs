//! Kernels of products: their tiles, and how a product is divided among blocks of threads.

use super::{GatedProduct, ProductArgs, ProductKind};

/// A kernel: its tile and its block of threads, as its source defines them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tile {
    pub module: &'static str,
    pub name: &'static str,
    pub m: usize,
    pub n: usize,
    pub threads: usize,
    pub shared: usize,
    pub form: Form,
}

/// How a product is divided among blocks of threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A tile a block.
    Grid,
    /// Rows of activations stay with a block, and weights stream by.
    Resident,
    /// Pairs of blocks stay, and compute one pair of tiles after the other.
    Persistent,
    /// Pairs of blocks stay, with rows of activations in registers, and weights stream by.
    PersistentGated,
}

/// The module of products in half precision for all GPUs.
pub(super) const PORTABLE: &str = "gemm_half";

/// Bytes of k that a stage holds, by row of a tile.
const STAGE_ROW: usize = 128;

/// The widest diagonal block whose rows can stay in shared memory.
pub(super) const RESIDENT_INPUTS: usize = 192;

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

/// The gated tile of `gemm_sm90.cu`: rows of both halves, and two stages of weights.
const fn resident(name: &'static str, n: usize) -> Tile {
    let (m, steps) = (64, RESIDENT_INPUTS / 64);
    let shared = 2 * steps * (m + 2 * n) * STAGE_ROW + m * (n + 8) * 2;
    Tile { module: "gemm_sm90", name, m, n, threads: 128, shared, form: Form::Resident }
}

/// A panel of 64 x 64 in shared memory.
const PANEL: usize = 64 * STAGE_ROW;

/// A tile of `gemm_sm90_large.cu`: so many stages with their barriers, panels of results of two warpgroups, and four more barriers.
const fn persistent(name: &'static str, n: usize, stages: usize, panels: usize) -> Tile {
    let shared = stages * ((128 + n) * STAGE_ROW + 16) + 2 * panels * PANEL + 32;
    Tile { module: "gemm_sm90_large", name, m: 128, n, threads: 384, shared, form: Form::Persistent }
}

/// The tile of `gemm_sm90_gated.cu`: rows of both halves, so many stages of weights with their barriers, two panels of results for each
/// of two warpgroups, and two more barriers.
const fn persistent_gated(name: &'static str, stages: usize) -> Tile {
    let (m, n, steps) = (128, 64, RESIDENT_INPUTS / 64);
    let shared = 2 * steps * m * STAGE_ROW + stages * (2 * n * STAGE_ROW + 16) + 4 * PANEL + 16;
    Tile { module: "gemm_sm90_gated", name, m, n, threads: 384, shared, form: Form::PersistentGated }
}

/// Tiles of products in half precision, the largest first.
pub(super) fn half_tiles(kind: ProductKind) -> Vec<Tile> {
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
pub(super) fn hopper_tiles(kind: ProductKind) -> Vec<Tile> {
    match kind {
        ProductKind::InLinear => vec![
            persistent("in_linear_large", 256, 4, 2),
            hopper("in_linear_medium", 64, 6, true, false),
            hopper("in_linear_small", 32, 8, true, false),
        ],
        ProductKind::OutLinear => vec![
            persistent("out_linear_large", 256, 4, 2),
            hopper("out_linear_medium", 64, 6, false, false),
            hopper("out_linear_small", 16, 8, false, false),
        ],
        ProductKind::Gated => {
            vec![persistent_gated("gated_large", 6), resident("gated_small", 32)]
        }
        ProductKind::Down | ProductKind::Taps => vec![
            persistent("down_large", 192, 4, 3),
            hopper("down_medium", 64, 6, false, true),
            hopper("down_small", 16, 8, false, true),
        ],
    }
}

pub(super) fn f32_tile(kind: ProductKind) -> Tile {
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
    /// Whether rows of activations stay with a block while weights stream by.
    pub fn keeps_rows(&self) -> bool {
        matches!(self.form, Form::Resident | Form::PersistentGated)
    }

    /// Whether what the copy engine fetches and writes at a time holds nothing of other diagonal blocks.
    pub fn takes(&self, args: &ProductArgs<'_>) -> bool {
        let below = args.b.step == args.n * args.b.stride && args.c.step == args.n;
        let whole = |n: usize| args.k.is_multiple_of(64) && n.is_multiple_of(self.n) && below;
        match (self.form, args.gate) {
            (Form::Persistent, _) => args.blocks == 1 || whole(args.n),
            (Form::PersistentGated, Some(gate)) => {
                below && (args.blocks == gate.share || whole(args.n * gate.share))
            }
            _ => true,
        }
    }

    /// How many parts the outputs of each row are divided into.
    pub fn parts(&self, args: &ProductArgs<'_>, gate: GatedProduct<'_>, multiprocessors: usize) -> usize {
        let (tiles, groups) = ((args.n * gate.share).div_ceil(self.n), args.blocks / gate.share);
        let together = if self.form == Form::PersistentGated { 2 } else { 1 };
        let (rows, room) = (args.m.div_ceil(self.m * together), multiprocessors / together);
        // Each part of the outputs loads the activations anew: that costs about two tiles.
        let cost = |&parts: &usize| (rows * groups * parts).div_ceil(room) * (tiles.div_ceil(parts) + 2);
        (1..=tiles).min_by_key(cost).unwrap_or(1)
    }

    /// Blocks of threads, by dimension.
    pub fn blocks(&self, args: &ProductArgs<'_>, multiprocessors: usize) -> [usize; 3] {
        let m = args.m.div_ceil(self.m);
        if let Some(gate) = args.gate.filter(|_| self.keeps_rows()) {
            let (parts, groups) = (self.parts(args, gate, multiprocessors), args.blocks / gate.share);
            if self.form == Form::Resident {
                return [parts, m, groups];
            }
            return [2 * (m.div_ceil(2) * groups * parts).min(multiprocessors / 2), 1, 1];
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
