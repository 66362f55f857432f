//! Matrix products with weights packed once: `out = a * weightᵀ`, plus what the epilogue adds.
//!
//! A packed weight is a list of panels of `PANEL` outputs, each `[inputs][PANEL]`, so that the inner loop reads it in
//! order. A tile of `ROWS` x `PANEL` outputs stays in registers while the loop runs over the inputs: the layout and loop
//! order of Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008), without blocking over the
//! inputs (there are at most a few thousand). Each output is one chain of multiply-adds over the inputs in order, so its
//! bits depend on its own row and column alone.

use danaus_simd::{Isa, Lanes, Simd, Vectorized};

use crate::compute::Compute;
use crate::matrix::{Matrix, MatrixMut};
use crate::shared::SharedMatrix;

/// Rows that one task takes: their activations stay in the level-2 cache while the panels stream by.
const ROW_BLOCK: usize = 96;

/// Tasks per thread that a product is cut into where it can be, so that a slow thread holds up little.
const TASKS_PER_THREAD: usize = 4;

/// A weight matrix `[outputs, inputs]`, packed for one instruction set.
#[derive(Debug, Clone)]
pub struct PackedWeight {
    /// Decides the width of the panels.
    isa: Isa,
    panels: Vec<f32>,
    outputs: usize,
    inputs: usize,
    panel: usize,
}

/// What a product adds to `a * weightᵀ` as it is written.
#[derive(Debug, Clone, Copy)]
pub enum Epilogue<'a> {
    /// Nothing.
    Store,
    /// A bias per output.
    Bias(&'a [f32]),
    /// A bias per output, and what the output held before.
    BiasResidual(&'a [f32]),
}

impl PackedWeight {
    /// Packs `weight`, row-major `[outputs, inputs]`, for `compute`'s instruction set.
    ///
    /// # Panics
    /// Where `weight` has another number of values, or none.
    pub fn new(compute: &Compute, weight: &[f32], outputs: usize, inputs: usize) -> Self {
        assert!(outputs > 0 && inputs > 0, "a weight of {outputs} x {inputs}");
        assert_eq!(Some(weight.len()), outputs.checked_mul(inputs), "a weight of {outputs} x {inputs}");
        let isa = compute.isa();
        let panel = isa.run(PanelWidth);
        let mut panels = vec![0.0; outputs.div_ceil(panel) * panel * inputs];
        for (target, rows) in panels.chunks_exact_mut(panel * inputs).zip(weight.chunks(panel * inputs)) {
            for (lane, row) in rows.chunks_exact(inputs).enumerate() {
                for (k, &value) in row.iter().enumerate() {
                    target[k * panel + lane] = value;
                }
            }
        }
        Self { isa, panels, outputs, inputs, panel }
    }

    /// Number of outputs.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Number of inputs.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// `out = a * weightᵀ` with an epilogue: `a` is `[rows, inputs]`, `out` `[rows, outputs]`.
    ///
    /// # Panics
    /// Where shapes disagree, or the weight was packed for another instruction set.
    pub fn multiply(&self, compute: &Compute, a: Matrix<'_>, out: MatrixMut<'_>, epilogue: Epilogue<'_>) {
        let out = SharedMatrix::new(out);
        self.check(&a, &out, &epilogue);
        assert_eq!(self.isa, compute.isa(), "the weight is packed for another instruction set");
        let row_blocks = a.rows().div_ceil(ROW_BLOCK).max(1);
        // Equal blocks: 100 rows are 50 + 50, not 96 + 4.
        let block = a.rows().div_ceil(row_blocks).max(1);
        let panels = self.outputs.div_ceil(self.panel);
        let cuts = (TASKS_PER_THREAD * compute.threads()).div_ceil(row_blocks).clamp(1, panels);
        let panels_per_task = panels.div_ceil(cuts);
        let cuts = panels.div_ceil(panels_per_task);
        compute.for_each(row_blocks * cuts, |task| {
            let (row_block, cut) = (task / cuts, task % cuts);
            let rows = (row_block * block).min(a.rows())..((row_block + 1) * block).min(a.rows());
            let panels = cut * panels_per_task..((cut + 1) * panels_per_task).min(panels);
            compute.isa().run(Block { weight: self, a, out: &out, epilogue, rows, panels });
        });
    }

    fn check(&self, a: &Matrix<'_>, out: &SharedMatrix<'_>, epilogue: &Epilogue<'_>) {
        assert_eq!(a.cols(), self.inputs, "inputs");
        assert_eq!((out.rows(), out.cols()), (a.rows(), self.outputs), "shape of the output");
        if let Epilogue::Bias(bias) | Epilogue::BiasResidual(bias) = epilogue {
            assert_eq!(bias.len(), self.outputs, "bias");
        }
    }
}

/// The panel width of an instruction set: what fills its registers together with [`Block::run`]'s rows.
struct PanelWidth;

impl Vectorized for PanelWidth {
    type Output = usize;
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> usize {
        match S::LANES {
            16 => 48,
            8 => 16,
            _ => 8,
        }
    }
}

/// One task: a range of rows times a range of panels.
struct Block<'a> {
    weight: &'a PackedWeight,
    a: Matrix<'a>,
    out: &'a SharedMatrix<'a>,
    epilogue: Epilogue<'a>,
    rows: std::ops::Range<usize>,
    panels: std::ops::Range<usize>,
}

impl Vectorized for Block<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        // Accumulators, one row of the panel and a broadcast: 8 x 3 + 3 + 1 of 32 registers, 6 x 2 + 2 + 1 of 16,
        // 4 x 2 + 2 + 1 of 16 (or 32 on aarch64).
        match S::LANES {
            16 => self.tiles::<S, 8, 3, 16>(simd),
            8 => self.tiles::<S, 6, 2, 8>(simd),
            _ => self.tiles::<S, 4, 2, 4>(simd),
        }
    }
}

impl Block<'_> {
    /// All tiles of the block: `ROWS` rows by `VECTORS` vectors of `LANES` outputs. The last rows are repeated where
    /// fewer than `ROWS` are left, and stored once.
    #[inline(always)]
    fn tiles<S: Simd, const ROWS: usize, const VECTORS: usize, const LANES: usize>(&self, simd: S) {
        let (inputs, width) = (self.weight.inputs, VECTORS * LANES);
        for panel in self.panels.clone() {
            let weights = &self.weight.panels[panel * width * inputs..(panel + 1) * width * inputs];
            for first in self.rows.clone().step_by(ROWS) {
                let rows: [&[f32]; ROWS] =
                    std::array::from_fn(|r| self.a.row((first + r).min(self.rows.end - 1)));
                let sums = tile::<S, ROWS, VECTORS, LANES>(simd, rows, weights, inputs);
                for (r, sums) in sums.iter().enumerate().take(self.rows.end - first) {
                    self.store(first + r, panel * width, sums);
                }
            }
        }
    }

    /// Writes one row of a tile, whose first output is `start`.
    #[inline(always)]
    fn store<const VECTORS: usize, const LANES: usize>(
        &self,
        row: usize,
        start: usize,
        sums: &[Lanes<LANES>; VECTORS],
    ) {
        let count = (VECTORS * LANES).min(self.weight.outputs - start);
        // SAFETY: tasks have disjoint ranges of rows and panels (see `multiply`), and this slice is dropped here.
        let out = unsafe { self.out.row(row, start, count) };
        for (vector, (out, sums)) in out.chunks_mut(LANES).zip(sums).enumerate() {
            let range = start + vector * LANES..start + vector * LANES + out.len();
            match self.epilogue {
                Epilogue::Store => out.copy_from_slice(&sums.0[..out.len()]),
                Epilogue::Bias(bias) => {
                    let terms = out.iter_mut().zip(&sums.0).zip(&bias[range]);
                    terms.for_each(|((out, sum), bias)| *out = sum + bias);
                }
                Epilogue::BiasResidual(bias) => {
                    let terms = out.iter_mut().zip(&sums.0).zip(&bias[range]);
                    terms.for_each(|((out, sum), bias)| *out += sum + bias);
                }
            }
        }
    }
}

/// `ROWS` x `VECTORS` sums of products over all inputs.
#[inline(always)]
fn tile<S: Simd, const ROWS: usize, const VECTORS: usize, const LANES: usize>(
    simd: S,
    rows: [&[f32]; ROWS],
    weights: &[f32],
    inputs: usize,
) -> [[Lanes<LANES>; VECTORS]; ROWS] {
    assert!(rows.iter().all(|row| row.len() == inputs) && weights.len() == inputs * VECTORS * LANES);
    let mut sums = [[Lanes::splat(0.0); VECTORS]; ROWS];
    for (k, weights) in weights.chunks_exact(VECTORS * LANES).enumerate() {
        let panel: [Lanes<LANES>; VECTORS] = std::array::from_fn(|v| Lanes::load(&weights[v * LANES..]));
        for (sums, row) in sums.iter_mut().zip(&rows) {
            // SAFETY: `k` counts chunks of `weights`, of which there are `inputs`, each row's length: asserted above.
            let value = Lanes::splat(unsafe { *row.get_unchecked(k) });
            for (sum, &panel) in sums.iter_mut().zip(&panel) {
                *sum = sum.add_product(simd, value, panel);
            }
        }
    }
    sums
}
