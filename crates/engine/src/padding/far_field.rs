//! What the padding behind a window adds to the long convolutions inside it.

use std::ops::Range;
use std::sync::Arc;

use danaus_kernels::{Knots, Matrix, MatrixMut, add_interpolated};
use danaus_simd::{Isa, MappedFile};

use super::record::Recording;
use super::values::{Values, quantize, restore};

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

/// The knots of a window of `window` positions, `step` positions apart.
pub(super) fn knots(window: usize, step: usize) -> Knots {
    Knots { first: 0, step, last: window as isize - 1 }
}

impl FarField {
    /// One of `values` `[layer, branch, K, H]` at every position of a window.
    ///
    /// # Panics
    /// Where the values are not as many as whole layers need.
    pub fn new(window: usize, width: usize, values: &[f32]) -> Self {
        Self::with_knots(knots(window, 1), width, values)
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
        (self.knots.last + 1) as usize
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
        add_interpolated(Isa::best(), out, self.knots, Matrix::new(&values, self.width), None);
        all.iter().map(|&value| half::bf16::from_f32(value).to_bits()).collect()
    }
}

/// The coarsest far field, at some of the knots of a recording, that is as good as all of them: where values between its knots
/// differ from the recorded ones by at most [`COARSE`] of their energy.
pub(super) fn coarsest(recording: &Recording, knots: Knots) -> FarField {
    let width = recording.width();
    let factors = std::iter::successors(Some(64usize), |factor| (*factor > 1).then_some(factor / 2));
    for factor in factors.filter(|factor| factor * knots.step < knots.last.max(1) as usize / 2) {
        let coarse = Knots { step: factor * knots.step, ..knots };
        let values = at_knots(recording, knots, coarse);
        if factor == 1 || neglected(recording, knots, coarse, &values) <= COARSE {
            return FarField::with_knots(coarse, width, &values);
        }
    }
    FarField::with_knots(knots, width, &at_knots(recording, knots, knots))
}

/// The share of a far field's energy that interpolation may miss.
const COARSE: f64 = 2.5e-4;

/// The values of a recording at some of its knots.
fn at_knots(recording: &Recording, all: Knots, some: Knots) -> Vec<f32> {
    let mut values = Vec::new();
    for layer in 0..recording.layers() {
        for branch in 0..2 {
            for knot in 0..some.count() {
                let place = (some.position(knot) as usize).div_ceil(all.step).min(all.count() - 1);
                values.extend(recording.row(layer, branch * all.count() + place));
            }
        }
    }
    values
}

/// Adds to `row` `[C]` what lies at a position between the `values` `[K, C]` at `knots`.
pub(super) fn add_at(isa: Isa, row: &mut [f32], position: isize, knots: Knots, values: Matrix<'_>) {
    let from = ((position - knots.first) / knots.step as isize) as usize;
    let to = (from + 1).min(knots.count() - 1);
    let (low, high) = (knots.position(from), knots.position(to));
    let around = Knots { first: low - position, step: (high - low).max(1) as usize, last: high - position };
    let width = row.len();
    add_interpolated(isa, MatrixMut::new(row, width), around, values.slice(from..to + 1), None);
}

/// The share of a recording's energy that some of its knots do not have, at up to [`LOOKED_AT`] others.
fn neglected(recording: &Recording, all: Knots, some: Knots, values: &[f32]) -> f64 {
    let (width, isa) = (recording.width(), Isa::best());
    let (mut energy, mut missed) = (0.0, 0.0);
    let square = |values: &[f32]| values.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
    // A number of knots that no power of two divides, so that those in the middle between two are among them.
    let stride = all.count().div_ceil(LOOKED_AT) | 1;
    for (index, values) in values.chunks_exact(some.count() * width).enumerate() {
        for knot in (0..all.count()).step_by(stride) {
            let mut row = recording.row(index / 2, (index % 2) * all.count() + knot).to_vec();
            energy += square(&row);
            row.iter_mut().for_each(|x| *x = -*x);
            add_at(isa, &mut row, all.position(knot), some, Matrix::new(values, width));
            missed += square(&row);
        }
    }
    if energy > 0.0 { missed / energy } else { 0.0 }
}

/// Knots of each layer and branch that are looked at to see what coarser ones miss.
const LOOKED_AT: usize = 100;
