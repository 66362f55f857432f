//! One buffer, written by several threads in disjoint parts.

use std::marker::PhantomData;

use crate::matrix::{MatrixMut, fits};

/// A matrix that the tasks of one parallel region write to, each its own row segments.
pub(crate) struct SharedMatrix<'a> {
    data: *mut f32,
    rows: usize,
    cols: usize,
    stride: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer comes from an exclusive borrow that lasts as long as the value, and all access goes through
// `row`, whose contract forbids two threads the same values.
unsafe impl Send for SharedMatrix<'_> {}
// SAFETY: as above.
unsafe impl Sync for SharedMatrix<'_> {}

impl<'a> SharedMatrix<'a> {
    pub(crate) fn new(matrix: MatrixMut<'a>) -> Self {
        let (data, rows, cols, stride) = matrix.into_parts();
        Self { data, rows, cols, stride, borrow: PhantomData }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// Columns `start` to `start + count` of a row.
    ///
    /// # Safety
    /// While the slice lives, no other slice that overlaps it may: tasks of a region must ask for disjoint segments.
    #[inline(always)]
    pub(crate) unsafe fn row(&self, row: usize, start: usize, count: usize) -> &'a mut [f32] {
        assert!(row < self.rows && fits(start, count, self.cols));
        // SAFETY: in bounds by the assertion here and the view's own checks; exclusive by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(row * self.stride + start), count) }
    }
}
