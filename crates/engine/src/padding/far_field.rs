//! What the padding behind a window adds to the long convolutions inside it.

use std::ops::Range;
use std::sync::Arc;

use danaus_kernels::{Matrix, MatrixMut, add_interpolated};
use danaus_simd::{Isa, MappedFile};

use super::record::Recording;
use super::values::{Values, quantize, restore};

/// Positions of a window at which its far field is known: every `step`th one, and the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Knots {
    /// Positions of the window, at least 1.
    pub window: usize,
    /// Positions from a knot to the next one, at least 1.
    pub step: usize,
}

/// The far field of a window of m tokens: for knots among its positions, layer by layer, what the padding from position m to the
/// model's length adds to each of the two long convolutions. Between knots it is linear.
///
/// `[layer, branch, K, H]`, as 8-bit integers with a scale for each knot; the branches are the mixer's and the residual's.
#[derive(Debug, Clone)]
pub struct FarField {
    knots: Knots,
    width: usize,
    values: Values<i8>,
    /// `[layer, branch, K]`
    scales: Values<f32>,
}

impl Knots {
    pub fn count(self) -> usize {
        (self.window - 1).div_ceil(self.step) + 1
    }

    pub fn position(self, knot: usize) -> usize {
        (knot * self.step).min(self.window - 1)
    }

    /// All of them, in order.
    pub fn positions(self) -> Vec<isize> {
        (0..self.count()).map(|knot| self.position(knot) as isize).collect()
    }
}

impl FarField {
    /// One of `values` `[layer, branch, K, H]` at every position of a window.
    ///
    /// # Panics
    /// Where the values are not as many as whole layers need.
    pub fn new(window: usize, width: usize, values: &[f32]) -> Self {
        Self::with_knots(Knots { window, step: 1 }, width, values)
    }

    pub(super) fn with_knots(knots: Knots, width: usize, values: &[f32]) -> Self {
        assert!(values.len().is_multiple_of(2 * knots.count() * width), "whole layers");
        let (mut integers, mut scales) = (Vec::new(), Vec::new());
        quantize(values, width, &mut integers, &mut scales);
        let (values, scales) = (Values::Computed(integers.into()), Values::Computed(scales.into()));
        Self { knots, width, values, scales }
    }

    /// One in a memory-mapped file; `None` where the bytes are not in it, not aligned or not as many as the shape needs.
    pub(super) fn mapped(
        knots: Knots,
        (layers, width): (usize, usize),
        file: &Arc<MappedFile>,
        [values, scales]: [Range<usize>; 2],
    ) -> Option<Self> {
        let rows = 2 * layers * knots.count();
        let (values, scales) =
            (Values::mapped(rows * width, file, values)?, Values::mapped(rows, file, scales)?);
        Some(Self { knots, width, values, scales })
    }

    /// Positions of the window.
    pub fn window(&self) -> usize {
        self.knots.window
    }

    /// Layers.
    pub fn layers(&self) -> usize {
        self.scales.get().len() / (2 * self.knots.count())
    }

    /// Channels: H.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Where its values are.
    pub(crate) fn knots(&self) -> Knots {
        self.knots
    }

    /// The tensors: integers, and scales.
    pub fn values(&self) -> (&[i8], &[f32]) {
        (self.values.get(), self.scales.get())
    }

    /// Memory, in bytes.
    pub fn bytes(&self) -> usize {
        size_of_val(self.values.get()) + size_of_val(self.scales.get())
    }

    /// Writes some channels of a branch's values at the knots to `out` `[K, n]`.
    pub(crate) fn write(&self, layer: usize, branch: usize, channels: Range<usize>, out: &mut [f32]) {
        let knots = self.knots.count();
        let first = (2 * layer + branch) * knots;
        let values = &self.values.get()[first * self.width..][..knots * self.width];
        restore((values, self.width), &self.scales.get()[first..][..knots], channels, out);
    }

    /// The bits of a branch's values at all positions `[m, H]`, in bfloat16.
    #[cfg_attr(not(any(feature = "cuda", feature = "wgpu")), allow(dead_code))]
    pub(crate) fn everywhere(&self, layer: usize, branch: usize) -> Vec<u16> {
        let mut values = vec![0.0; self.knots.count() * self.width];
        self.write(layer, branch, 0..self.width, &mut values);
        let mut all = vec![0.0; self.window() * self.width];
        let out = MatrixMut::new(&mut all, self.width);
        add_interpolated(Isa::best(), out, &self.knots.positions(), Matrix::new(&values, self.width), None);
        all.iter().map(|&value| half::bf16::from_f32(value).to_bits()).collect()
    }
}

/// The share of what the padding adds to a window that interpolation between knots may miss, in energy.
const MISSED: f64 = 1e-4;

/// The coarsest far field, at some of the knots of `rest`, that is as good as all of them. `rest` is what a sketch leaves of all that the
/// padding adds to a window, which has the given energy.
pub(super) fn coarsest(rest: &Recording, knots: Knots, energy: f64) -> FarField {
    let factors = (0..=6).rev().map(|power| 1 << power);
    let coarse = factors.map(|factor| Knots { step: factor * knots.step, ..knots });
    let coarse = coarse.filter(|coarse| coarse.step == knots.step || 2 * coarse.step < knots.window);
    let mut far_fields = coarse.map(|coarse| (coarse, at_knots(rest, knots, coarse)));
    let (knots, values) = far_fields
        .find(|(coarse, values)| *coarse == knots || missed(rest, knots, *coarse, values) <= MISSED * energy)
        .expect("all knots miss nothing");
    FarField::with_knots(knots, rest.width(), &values)
}

/// The values of a recording at some of its knots.
fn at_knots(recording: &Recording, all: Knots, some: Knots) -> Vec<f32> {
    let mut values = Vec::new();
    for layer in 0..recording.layers() {
        for branch in 0..2 {
            for knot in 0..some.count() {
                let place = some.position(knot).div_ceil(all.step).min(all.count() - 1);
                values.extend(recording.row(layer, branch * all.count() + place));
            }
        }
    }
    values
}

/// Adds to `row` `[C]` what lies at a position between the `values` `[K, C]` at `knots`, which are around it.
pub(super) fn add_at(isa: Isa, row: &mut [f32], position: usize, knots: &[isize], values: Matrix<'_>) {
    let position = position as isize;
    let from = knots.partition_point(|&knot| knot <= position) - 1;
    let around = from..(from + 2).min(knots.len());
    let relative: Vec<_> = knots[around.clone()].iter().map(|knot| knot - position).collect();
    let width = row.len();
    add_interpolated(isa, MatrixMut::new(row, width), &relative, values.slice(around), None);
}

/// The energy of a recording, at the knots that [`looked_at`] names.
pub(super) fn energy(recording: &Recording, knots: Knots) -> f64 {
    let rows = (0..2 * recording.layers()).flat_map(|index| looked_at(knots).map(move |knot| (index, knot)));
    rows.map(|(index, knot)| square(recording.row(index / 2, (index % 2) * knots.count() + knot))).sum()
}

/// The energy, at the same knots, of what the `values` at some of a recording's knots miss.
fn missed(recording: &Recording, all: Knots, some: Knots, values: &[f32]) -> f64 {
    let (width, isa, positions) = (recording.width(), Isa::best(), some.positions());
    let mut missed = 0.0;
    for (index, values) in values.chunks_exact(some.count() * width).enumerate() {
        for knot in looked_at(all) {
            let mut row = recording.row(index / 2, (index % 2) * all.count() + knot).to_vec();
            row.iter_mut().for_each(|x| *x = -*x);
            add_at(isa, &mut row, all.position(knot), &positions, Matrix::new(values, width));
            missed += square(&row);
        }
    }
    missed
}

/// The knots at which it is looked at what coarser ones miss: some hundred, a number apart that no power of two divides, so that those
/// in the middle between two are among them.
fn looked_at(knots: Knots) -> impl Iterator<Item = usize> {
    (0..knots.count()).step_by(knots.count().div_ceil(100) | 1)
}

fn square(values: &[f32]) -> f64 {
    values.iter().map(|&x| f64::from(x) * f64::from(x)).sum()
}
