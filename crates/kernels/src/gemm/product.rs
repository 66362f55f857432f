//! Whole products: panels by blocks of rows, and what is done with each tile's sums.

use std::ops::Range;

use danaus_simd::{Simd, Vectorized};

use super::activations::{Activations, Precision, pack_bf16};
use super::panels::PackedWeight;
use super::tile::{self, Dot, MAX_PANEL, MAX_ROWS, MOST_ROWS, Panel, Sums, tile};
use super::tiles;
use crate::math::gelu;
use crate::matrix::{Matrix, MatrixMut};

/// Rows whose activations stay in the level-2 cache while the panels stream by.
const ROW_BLOCK: usize = 96;

/// What a product adds to `a * weightᵀ` as it is written.
#[derive(Debug, Clone, Copy)]
pub enum Epilogue<'a> {
    /// Nothing.
    Store,
    /// A bias for each output.
    Bias(&'a [f32]),
    /// A bias for each output, and a matrix `[rows, outputs]`.
    BiasResidual(&'a [f32], Matrix<'a>),
}

/// `out = a * weightᵀ` with an epilogue: `a` is `[rows, inputs]`, `out` `[rows, outputs]`. On the calling thread.
///
/// # Panics
/// Where shapes or precisions disagree.
pub fn multiply(weight: &PackedWeight, a: Activations<'_>, out: MatrixMut<'_>, epilogue: Epilogue<'_>) {
    check(weight, &a);
    assert_eq!((out.rows(), out.cols()), (a.rows(), weight.outputs), "shape of the output");
    match epilogue {
        Epilogue::Store => {}
        Epilogue::Bias(bias) => assert_eq!(bias.len(), weight.outputs, "bias"),
        Epilogue::BiasResidual(bias, residual) => {
            assert_eq!(bias.len(), weight.outputs, "bias");
            assert_eq!((residual.rows(), residual.cols()), (a.rows(), weight.outputs), "residual");
        }
    }
    weight.isa.run(Product { weight, a, out, epilogue });
}

/// Where [`multiply_gated`] writes.
#[derive(Debug)]
pub enum GatedOutput<'a> {
    /// `[rows, outputs]`
    F32(MatrixMut<'a>),
    /// As bfloat16, two to a word: `[rows, outputs / 2]`, rounded up.
    Bf16(MatrixMut<'a, u32>),
}

/// `out = gelu(activated.0 * activated.1ᵀ) * (gate.0 * gate.1ᵀ)`: both products have the shape of the output, which is all
/// that is ever written. On the calling thread.
///
/// # Panics
/// Where shapes or precisions disagree.
pub fn multiply_gated(
    activated: (Activations<'_>, &PackedWeight),
    gate: (Activations<'_>, &PackedWeight),
    out: GatedOutput<'_>,
) {
    check(activated.1, &activated.0);
    check(gate.1, &gate.0);
    assert_eq!(activated.1.outputs, gate.1.outputs, "outputs");
    assert_eq!(activated.1.isa, gate.1.isa, "instruction sets");
    assert_eq!(activated.1.precision, gate.1.precision, "precision");
    let (rows, outputs) = (activated.0.rows(), gate.1.outputs);
    let shape = match &out {
        GatedOutput::F32(out) => (out.rows(), out.cols()) == (rows, outputs),
        GatedOutput::Bf16(out) => (out.rows(), out.cols()) == (rows, outputs.div_ceil(2)),
    };
    assert!(shape && gate.0.rows() == rows, "shape of the output");
    gate.1.isa.run(GatedProduct { activated, gate, out });
}

fn check(weight: &PackedWeight, a: &Activations<'_>) {
    assert_eq!(a.precision, weight.precision, "precision");
    assert_eq!(a.words.cols(), weight.steps(), "inputs");
}

struct Product<'a> {
    weight: &'a PackedWeight,
    a: Activations<'a>,
    out: MatrixMut<'a>,
    epilogue: Epilogue<'a>,
}

impl Vectorized for Product<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.weight.precision {
            Precision::F32 => self.tiles::<S, tile::F32>(simd),
            Precision::Bf16 => self.tiles::<S, tile::Bf16>(simd),
            Precision::Int8 => self.tiles::<S, tile::Int8>(simd),
        }
    }
}

impl Product<'_> {
    #[inline(always)]
    fn tiles<S: Simd, D: Dot<S>>(mut self, simd: S) {
        let mut sums = [[0.0; MAX_PANEL]; MOST_ROWS];
        // Loops, not closures: what is not inlined here is not compiled for the instruction set.
        for place in places(self.a.rows(), tiles::most_rows::<S, D>(self.weight), self.weight.panels()) {
            products::<S, D>(simd, self.weight, &self.a, &place, &mut sums);
            for (row, sums) in place.rows.zip(&sums) {
                self.store(row, place.panel * self.weight.panel, sums);
            }
        }
    }

    /// Writes one row of a tile, whose first output is `start`.
    #[inline(always)]
    fn store(&mut self, row: usize, start: usize, sums: &[f32; MAX_PANEL]) {
        let end = (start + self.weight.panel).min(self.weight.outputs);
        let out = &mut self.out.row_mut(row)[start..end];
        match self.epilogue {
            Epilogue::Store => out.copy_from_slice(&sums[..out.len()]),
            Epilogue::Bias(bias) => {
                let terms = out.iter_mut().zip(sums).zip(&bias[start..end]);
                terms.for_each(|((out, sum), bias)| *out = sum + bias);
            }
            Epilogue::BiasResidual(bias, residual) => {
                let residual = &residual.row(row)[start..end];
                let terms = out.iter_mut().zip(sums).zip(&bias[start..end]).zip(residual);
                terms.for_each(|(((out, sum), bias), residual)| *out = residual + (sum + bias));
            }
        }
    }
}

struct GatedProduct<'a> {
    activated: (Activations<'a>, &'a PackedWeight),
    gate: (Activations<'a>, &'a PackedWeight),
    out: GatedOutput<'a>,
}

impl Vectorized for GatedProduct<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.gate.1.precision {
            Precision::F32 => self.tiles::<S, tile::F32>(simd),
            Precision::Bf16 => self.tiles::<S, tile::Bf16>(simd),
            Precision::Int8 => self.tiles::<S, tile::Int8>(simd),
        }
    }
}

impl GatedProduct<'_> {
    #[inline(always)]
    fn tiles<S: Simd, D: Dot<S>>(mut self, simd: S) {
        let (mut activated, mut gates) = ([[0.0; MAX_PANEL]; MOST_ROWS], [[0.0; MAX_PANEL]; MOST_ROWS]);
        let (a, weight) = self.gate;
        for place in places(a.rows(), tiles::most_rows::<S, D>(weight), weight.panels()) {
            products::<S, D>(simd, self.activated.1, &self.activated.0, &place, &mut activated);
            products::<S, D>(simd, weight, &a, &place, &mut gates);
            let start = place.panel * weight.panel;
            let count = weight.panel.min(weight.outputs - start);
            for ((row, activated), gates) in place.rows.zip(&activated).zip(&mut gates) {
                gates.iter_mut().zip(activated).for_each(|(gate, &x)| *gate *= gelu(simd, x));
                self.store(row, start, &gates[..count]);
            }
        }
    }

    #[inline(always)]
    fn store(&mut self, row: usize, start: usize, values: &[f32]) {
        match &mut self.out {
            GatedOutput::F32(out) => out.row_mut(row)[start..start + values.len()].copy_from_slice(values),
            GatedOutput::Bf16(out) => pack_bf16(values, &mut out.row_mut(row)[start / 2..]),
        }
    }
}

/// A tile of a product: its rows, its number within its block of rows, and its panel.
struct Place {
    rows: Range<usize>,
    number: usize,
    panel: usize,
}

/// Every tile of a product of `rows` rows. Tiles of a block have the same number of rows, as far as they can: 16 rows are
/// 8 + 8, not 9 + 7.
#[inline(always)]
fn places(rows: usize, most: usize, panels: usize) -> impl Iterator<Item = Place> {
    (0..rows).step_by(ROW_BLOCK).flat_map(move |block| {
        let count = ROW_BLOCK.min(rows - block);
        let tiles = count.div_ceil(most);
        (0..panels * tiles).map(move |index| {
            let (panel, number) = (index / tiles, index % tiles);
            let rows = block + count * number / tiles..block + count * (number + 1) / tiles;
            Place { rows, number, panel }
        })
    })
}

/// What a tile prefetches, a line at each step: the first three tiles of a panel (a step's words are three lines) a third of the
/// next panel each, others and a single one (which the CPU keeps up with) nothing that is not there already.
#[inline(always)]
fn ahead(words: &[u32], number: usize, single: bool) -> *const u8 {
    let (start, line) = (words.as_ptr().cast::<u8>(), 64);
    let panel = size_of_val(words);
    let third = (panel / 3).next_multiple_of(line);
    match number {
        0..3 if !single => start.wrapping_add(panel + number * third),
        _ => start,
    }
}

/// The products of some rows with a panel: float32 sums, scaled where they are of integers.
#[inline(always)]
fn products<S: Simd, D: Dot<S>>(
    simd: S,
    weight: &PackedWeight,
    a: &Activations<'_>,
    place: &Place,
    sums: &mut Sums,
) {
    let &Place { ref rows, number, panel } = place;
    let steps = weight.steps();
    let size = steps * weight.panel;
    let words = &weight.words[panel * size..(panel + 1) * size];
    let quantised = &weight.quantised;
    let outputs = panel * weight.panel..(panel + 1) * weight.panel;
    let starts = if quantised.starts.is_empty() { &[][..] } else { &quantised.starts[outputs.clone()] };
    if !tiles::multiply::<S, D>(weight, a, rows, (words, starts), sums) {
        let mut views = [&[][..]; MAX_ROWS];
        let count = rows.len();
        rows.clone().zip(&mut views).for_each(|(row, view)| *view = a.words.row(row));
        tile::<S, D>(
            simd,
            &views[..count],
            Panel { words, starts, ahead: ahead(words, number, a.rows() <= D::ROWS) },
            sums,
        );
    }
    if let (Precision::Int8, Some(scales)) = (weight.precision, a.scales) {
        let steps = &quantised.scales[outputs];
        for (row, sums) in rows.clone().zip(sums) {
            let scale = scales.row(row)[0];
            sums.iter_mut().zip(steps).for_each(|(sum, step)| *sum *= scale * step);
        }
    }
}
