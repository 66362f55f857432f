//! Element-by-element operations over whole buffers.

use danaus_simd::{Simd, Vectorized};

use crate::compute::Compute;
use crate::matrix::{Matrix, MatrixMut};
use crate::shared::SharedMatrix;

/// Rows that one task takes.
pub(crate) const ROWS_PER_TASK: usize = 64;

/// `out[i][j] = a[i][j] * b[i][j]`, all `[rows, cols]`.
///
/// # Panics
/// Where shapes differ.
pub fn product(compute: &Compute, a: Matrix<'_>, b: Matrix<'_>, out: MatrixMut<'_>) {
    for_each_row(compute, out, |row, out| Product(out, a.row(row), b.row(row)));
}

/// `target[i][j] = target[i][j] * factor[i][j] + addend[i][j]`, all `[rows, cols]`, each product rounded.
///
/// # Panics
/// Where shapes differ.
pub fn add_product(compute: &Compute, target: MatrixMut<'_>, factor: Matrix<'_>, addend: Matrix<'_>) {
    for_each_row(compute, target, |row, target| AddProduct(target, factor.row(row), addend.row(row)));
}

/// Runs the operation that `make` gives for each row of `target`.
pub(crate) fn for_each_row<'t, V, F>(compute: &Compute, target: MatrixMut<'t>, make: F)
where
    V: Vectorized<Output = ()>,
    F: Fn(usize, &'t mut [f32]) -> V + Sync + Send,
{
    let shared = SharedMatrix::new(target);
    let (rows, cols) = (shared.rows(), shared.cols());
    compute.for_each(rows.div_ceil(ROWS_PER_TASK), |task| {
        for row in task * ROWS_PER_TASK..((task + 1) * ROWS_PER_TASK).min(rows) {
            // SAFETY: tasks have disjoint ranges of rows, and each row is asked for once.
            let target = unsafe { shared.row(row, 0, cols) };
            compute.isa().run(make(row, target));
        }
    });
}

struct Product<'a>(&'a mut [f32], &'a [f32], &'a [f32]);

impl Vectorized for Product<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        assert!(self.0.len() == self.1.len() && self.0.len() == self.2.len());
        self.0.iter_mut().zip(self.1).zip(self.2).for_each(|((out, a), b)| *out = a * b);
    }
}

struct AddProduct<'a>(&'a mut [f32], &'a [f32], &'a [f32]);

impl Vectorized for AddProduct<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        assert!(self.0.len() == self.1.len() && self.0.len() == self.2.len());
        self.0.iter_mut().zip(self.1).zip(self.2).for_each(|((x, y), z)| *x = *x * y + z);
    }
}
