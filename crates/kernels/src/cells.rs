//! Long convolutions of a sequence that is constant within cells.
//!
//! Let P be a filter's running sums: `P[x]` is the sum of its taps up to distance x. A state of one from position b to
//! position c adds `P[t - b] - P[t - c]` to the result at position t. So a sequence that changes at edges only, by a jump at each,
//! gives `sum_e P[t - e] jump[e]`, whatever the cells' sizes (summation by parts).

use danaus_simd::{Isa, Simd, Vectorized};

use crate::matrix::{Matrix, MatrixMut};

/// Means of the rows of `x` `[tokens, C]` from each of `edges`, which are in ascending order, to the next: `[cells, C]`. The last cell
/// ends where `x` does, and the first one may reach over its beginning, where zeros are.
///
/// # Panics
/// Where the shapes disagree.
pub fn cell_means(isa: Isa, x: Matrix<'_>, edges: &[isize], out: MatrixMut<'_>) {
    assert!(out.rows() + 1 == edges.len() && out.cols() == x.cols(), "a row for each cell");
    assert!(edges.last() == Some(&(x.rows() as isize)), "cells of all rows");
    isa.run(Means { x, edges, out });
}

/// `out[a] += sum_e P[targets[a] - edges[e]] * jumps[e]`, channel by channel: `out` `[A, C]`, `jumps` `[E, C]`. `P[x]` is the row of
/// `sums` `[R, C]` that `rows` names for x: it has an odd number of them, the middle one for distance 0. Jumps are taken to be
/// multiplied by what the integers in `sums` count.
///
/// # Panics
/// Where the shapes disagree, or there are no such sums.
pub fn convolve_cells(
    isa: Isa,
    out: MatrixMut<'_>,
    (sums, rows): (Matrix<'_, i16>, &[u32]),
    (targets, edges): (&[isize], &[isize]),
    jumps: Matrix<'_>,
) {
    assert!(out.rows() == targets.len() && jumps.rows() == edges.len(), "a row for each target and edge");
    assert!(sums.cols() == out.cols() && jumps.cols() == out.cols(), "channels");
    isa.run(Convolve { out, sums, rows, targets, edges, jumps });
}

struct Means<'a> {
    x: Matrix<'a>,
    edges: &'a [isize],
    out: MatrixMut<'a>,
}

impl Vectorized for Means<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, _: S) {
        for (cell, edges) in self.edges.windows(2).enumerate() {
            let out = self.out.row_mut(cell);
            out.fill(0.0);
            for row in edges[0].max(0)..edges[1] {
                out.iter_mut().zip(self.x.row(row as usize)).for_each(|(out, x)| *out += x);
            }
            let scale = 1.0 / (edges[1] - edges[0]) as f32;
            out.iter_mut().for_each(|out| *out *= scale);
        }
    }
}

struct Convolve<'a> {
    out: MatrixMut<'a>,
    sums: Matrix<'a, i16>,
    rows: &'a [u32],
    targets: &'a [isize],
    edges: &'a [isize],
    jumps: Matrix<'a>,
}

/// Channels whose results stay in registers while the edges go by: as many as leave room in them, or of one vector.
const STRIPS: [usize; 2] = [48, 16];

/// Targets that are computed side by side.
const TARGETS: usize = 2;

impl Vectorized for Convolve<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let targets = self.out.rows();
        let whole = targets - targets % TARGETS;
        if targets > 0 {
            self.prefetch(simd);
        }
        (0..whole).step_by(TARGETS).for_each(|target| self.sums_of::<S, TARGETS>(simd, target));
        (whole..targets).for_each(|target| self.sums_of::<S, 1>(simd, target));
    }
}

impl Convolve<'_> {
    /// Asks for all sums, in order: nearly all are read once or twice, in an order that the processor does not foresee, and no cache
    /// holds those of a whole model.
    #[inline(always)]
    fn prefetch<S: Simd>(&self, simd: S) {
        for row in 0..self.sums.rows() {
            let row = self.sums.row(row);
            simd.prefetch(row.as_ptr().cast());
            simd.prefetch(row[row.len() / 2..].as_ptr().cast());
        }
    }

    /// Adds what all edges do to `T` targets.
    #[inline(always)]
    fn sums_of<S: Simd, const T: usize>(&mut self, simd: S, target: usize) {
        let channels = self.out.cols();
        let (wide, narrow) = (channels - channels % STRIPS[0], channels - channels % STRIPS[1]);
        (0..wide).step_by(STRIPS[0]).for_each(|start| self.sum::<S, T, { STRIPS[0] }>(simd, target, start));
        (wide..narrow)
            .step_by(STRIPS[1])
            .for_each(|start| self.sum::<S, T, { STRIPS[1] }>(simd, target, start));
        (narrow..channels).for_each(|start| self.sum::<S, T, 1>(simd, target, start));
    }

    /// Adds what all edges do to `N` channels of `T` targets.
    #[inline(always)]
    fn sum<S: Simd, const T: usize, const N: usize>(&mut self, simd: S, target: usize, start: usize) {
        let mut results = [[0.0; N]; T];
        for (index, results) in results.iter_mut().enumerate() {
            results.copy_from_slice(&self.out.view().row(target + index)[start..start + N]);
        }
        let zero = self.rows.len() as isize / 2;
        for (source, &edge) in self.edges.iter().enumerate() {
            let jump: &[f32; N] = strip(self.jumps.row(source), start);
            for (index, results) in results.iter_mut().enumerate() {
                let row = self.rows[(zero + self.targets[target + index] - edge) as usize];
                let sums: &[i16; N] = strip(self.sums.row(row as usize), start);
                for channel in 0..N {
                    let sum = f32::from(sums[channel]);
                    results[channel] = simd.scalar_mul_add(sum, jump[channel], results[channel]);
                }
            }
        }
        for (index, results) in results.iter().enumerate() {
            self.out.row_mut(target + index)[start..start + N].copy_from_slice(results);
        }
    }
}

/// The `N` values from `start` on.
#[inline(always)]
fn strip<T, const N: usize>(row: &[T], start: usize) -> &[T; N] {
    row[start..start + N].try_into().expect("N values")
}
