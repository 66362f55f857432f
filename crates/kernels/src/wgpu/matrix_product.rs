//! Matrix products: in tiles of several shapes, with what becomes of their sums.

use super::GpuBuffer;
use super::error::GpuError;
use super::kernels::Kernels;
use super::source;
use super::submission::{MOST_GROUPS, Slice, Work};

/// Rows of one dispatch: so that it ends soon on slow devices, too.
const ROWS_PER_DISPATCH: usize = 8192;

/// A tile of a matrix product. Which one it is changes no bit of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tile {
    /// Rows of a workgroup's tile.
    pub(super) rows: u32,
    /// Columns of it.
    pub(super) columns: u32,
    /// Rows of them that an invocation has.
    pub(super) own_rows: u32,
    /// Columns, likewise.
    pub(super) own_columns: u32,
}

/// The tiles that there are, from those for few rows on.
pub const TILES: [Tile; 6] = [
    Tile { rows: 8, columns: 32, own_rows: 2, own_columns: 2 },
    Tile { rows: 16, columns: 64, own_rows: 4, own_columns: 4 },
    Tile { rows: 32, columns: 64, own_rows: 4, own_columns: 4 },
    Tile { rows: 64, columns: 64, own_rows: 8, own_columns: 4 },
    Tile { rows: 128, columns: 64, own_rows: 8, own_columns: 4 },
    Tile { rows: 64, columns: 128, own_rows: 8, own_columns: 8 },
];

impl Tile {
    /// Its shape, such as `64x64`.
    pub fn name(self) -> String {
        format!("{}x{}", self.rows, self.columns)
    }

    /// Rows of a workgroup's tile.
    pub fn rows(self) -> usize {
        self.rows as usize
    }

    /// Invocations of a workgroup.
    pub(super) fn threads(self) -> u32 {
        self.rows / self.own_rows * (self.columns / self.own_columns)
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        TILES.into_iter().find(|tile| tile.name() == name)
    }

    /// One that does for so many rows.
    pub fn usual(rows: usize) -> Self {
        match rows {
            0..=8 => TILES[0],
            9..=64 => TILES[1],
            65..=256 => TILES[2],
            _ => TILES[3],
        }
    }
}

/// What becomes of a sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Finish {
    Linear,
    Three,
    Gate,
    Residual,
    Window,
}

impl Finish {
    pub(super) const ALL: [Finish; 5] =
        [Finish::Linear, Finish::Three, Finish::Gate, Finish::Residual, Finish::Window];

    pub(super) fn text(self) -> &'static str {
        match self {
            Finish::Linear => include_str!("shaders/finish_linear.wgsl"),
            Finish::Three => include_str!("shaders/finish_three.wgsl"),
            Finish::Gate => include_str!("shaders/finish_gate.wgsl"),
            Finish::Residual => include_str!("shaders/finish_residual.wgsl"),
            Finish::Window => include_str!("shaders/finish_window.wgsl"),
        }
    }

    /// Which of the buffers are written to.
    pub(super) fn writable(self) -> &'static [bool] {
        match self {
            Finish::Linear => &[false, false, false, true],
            Finish::Three => &[false, false, false, true, true, true],
            Finish::Gate => &[false, false, true],
            Finish::Residual | Finish::Window => &[false, false, false, false, true],
        }
    }
}

/// `x * weightᵀ + bias`.
#[derive(Debug, Clone, Copy)]
pub struct Linear<'a> {
    /// `[outputs, inputs]`, inputs a multiple of 4.
    pub weight: &'a GpuBuffer,
    /// `[outputs]`, in float32.
    pub bias: &'a GpuBuffer,
    /// Of all.
    pub outputs: usize,
    /// Of all.
    pub inputs: usize,
}

/// `gelu(x * activatedᵀ) * (x * gateᵀ)`, both block-diagonal: H inputs, I outputs, N blocks.
#[derive(Debug, Clone, Copy)]
pub struct Gate<'a> {
    /// `[N, 2 I / N, H / N]`: the first I outputs are activated, the others are the gate.
    pub weight: &'a GpuBuffer,
    /// H
    pub inputs: usize,
    /// I
    pub outputs: usize,
    /// N
    pub blocks: usize,
}

/// `x * weightᵀ + bias + residual`, block-diagonal: I inputs, H outputs, N blocks.
#[derive(Debug, Clone, Copy)]
pub struct Residual<'a> {
    /// `[N, H / N, I / N]`
    pub weight: &'a GpuBuffer,
    /// `[H]`, in float32.
    pub bias: &'a GpuBuffer,
    /// I
    pub inputs: usize,
    /// H
    pub outputs: usize,
    /// N
    pub blocks: usize,
}

/// `x * weightᵀ` under an exponential window: a filter's taps. All in float32.
#[derive(Debug, Clone, Copy)]
pub struct Window<'a> {
    /// `[H, F]`
    pub weight: &'a GpuBuffer,
    /// `[positions]` or more.
    pub time: &'a GpuBuffer,
    /// `[H]`
    pub deltas: &'a GpuBuffer,
    /// F
    pub inputs: usize,
    /// H
    pub outputs: usize,
}

/// A product to be dispatched: everything but its buffers.
struct Shape {
    finish: Finish,
    rows: usize,
    /// Of each block.
    outputs: usize,
    /// Of each block.
    inputs: usize,
    blocks: usize,
    /// Values between rows of what is read.
    stride: usize,
    /// Values between what one block and the next read.
    step: usize,
    /// Values between rows of what is written.
    out_stride: usize,
    /// First row of what is read, and of what is written.
    first: [usize; 2],
}

impl Kernels {
    /// `out[r] = x[r] * weightᵀ + bias` for `rows` rows.
    ///
    /// # Errors
    /// Where the kernel cannot be compiled.
    pub fn linear(
        &self,
        work: &mut Work,
        (linear, tile): (Linear<'_>, Tile),
        rows: usize,
        x: Slice<'_>,
        out: Slice<'_>,
    ) -> Result<(), GpuError> {
        let Linear { weight, bias, outputs, inputs } = linear;
        let shape = Shape::dense(Finish::Linear, rows, outputs, inputs);
        self.product(work, shape, tile, &[x, weight.into(), bias.into(), out])
    }

    /// The same with three parts of the outputs, each to a matrix of its own.
    ///
    /// # Errors
    /// Where the kernel cannot be compiled.
    pub fn linear_three(
        &self,
        work: &mut Work,
        (linear, tile): (Linear<'_>, Tile),
        rows: usize,
        x: Slice<'_>,
        out: [Slice<'_>; 3],
    ) -> Result<(), GpuError> {
        let Linear { weight, bias, outputs, inputs } = linear;
        let shape = Shape { blocks: 3, ..Shape::dense(Finish::Three, rows, outputs / 3, inputs) };
        self.product(work, shape, tile, &[x, weight.into(), bias.into(), out[0], out[1], out[2]])
    }

    /// The gate of `rows` rows of `x` from row `first` on, to the first rows of `out`.
    ///
    /// # Errors
    /// Where the kernel cannot be compiled.
    pub fn gate(
        &self,
        work: &mut Work,
        (gate, tile): (Gate<'_>, Tile),
        (first, rows): (usize, usize),
        x: Slice<'_>,
        out: Slice<'_>,
    ) -> Result<(), GpuError> {
        let Gate { weight, inputs, outputs, blocks } = gate;
        let shape = Shape {
            blocks,
            stride: inputs,
            out_stride: outputs,
            first: [first, 0],
            ..Shape::dense(Finish::Gate, rows, outputs / blocks, inputs / blocks)
        };
        self.product(work, shape, tile, &[x, weight.into(), out])
    }

    /// The product of the first `rows` rows of `x`, plus `residual` from row `first` on, to `out` (in float32), likewise.
    ///
    /// # Errors
    /// Where the kernel cannot be compiled.
    pub fn residual(
        &self,
        work: &mut Work,
        (product, tile): (Residual<'_>, Tile),
        (first, rows): (usize, usize),
        x: Slice<'_>,
        [residual, out]: [Slice<'_>; 2],
    ) -> Result<(), GpuError> {
        let Residual { weight, bias, inputs, outputs, blocks } = product;
        let shape = Shape {
            blocks,
            stride: inputs,
            step: inputs / blocks,
            out_stride: outputs,
            first: [0, first],
            ..Shape::dense(Finish::Residual, rows, outputs / blocks, inputs / blocks)
        };
        self.product(work, shape, tile, &[x, weight.into(), bias.into(), residual, out])
    }

    /// The taps of `positions` positions from their states `x` `[positions, F]`.
    ///
    /// # Errors
    /// Where the kernel cannot be compiled.
    pub fn window(
        &self,
        work: &mut Work,
        window: Window<'_>,
        positions: usize,
        x: Slice<'_>,
        out: Slice<'_>,
    ) -> Result<(), GpuError> {
        let Window { weight, time, deltas, inputs, outputs } = window;
        let shape = Shape::dense(Finish::Window, positions, outputs, inputs);
        let tile = Tile::usual(positions);
        self.product(work, shape, tile, &[x, weight.into(), time.into(), deltas.into(), out])
    }

    fn product(
        &self,
        work: &mut Work,
        shape: Shape,
        tile: Tile,
        bindings: &[Slice<'_>],
    ) -> Result<(), GpuError> {
        let Shape { finish, rows, outputs, inputs, blocks, stride, step, out_stride, first } = shape;
        let storage = self.gpu().storage();
        let label = format!("{finish:?} {}", tile.name());
        let kernel =
            self.kernel(&label, finish.writable(), || source::matrix_product(storage, finish, tile))?;
        // Where a window's rows begin is not said to its kernel.
        let most = if finish == Finish::Window { rows.max(1) } else { ROWS_PER_DISPATCH };
        for start in (0..rows).step_by(most) {
            let count = most.min(rows - start);
            let parameters = [
                count,
                outputs,
                inputs / 4,
                stride / 4,
                step / 4,
                blocks,
                first[0] + start,
                first[1] + start,
            ];
            let mut words = parameters.map(|value| value as u32).to_vec();
            words.push(out_stride as u32);
            let groups = [
                (outputs as u32).div_ceil(tile.columns),
                (count as u32).div_ceil(tile.rows).min(MOST_GROUPS),
                blocks as u32,
            ];
            let passes = if finish == Finish::Gate { 2.0 } else { 1.0 };
            let operations = 2.0 * passes * count as f64 * (outputs * blocks) as f64 * inputs as f64;
            work.dispatch(&kernel, &words, bindings, groups, operations);
        }
        Ok(())
    }
}

impl Shape {
    /// A product of whole rows.
    fn dense(finish: Finish, rows: usize, outputs: usize, inputs: usize) -> Self {
        let (stride, out_stride) = (inputs, outputs);
        Self { finish, rows, outputs, inputs, blocks: 1, stride, step: 0, out_stride, first: [0, 0] }
    }
}
