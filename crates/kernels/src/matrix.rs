//! Views of row-major matrices, and of row and column ranges of them.
//!
//! A view is a pointer with a lifetime, not a slice: two views of different columns of one matrix interleave in memory, and
//! slices over both would overlap.

use std::marker::PhantomData;
use std::ops::Range;

/// A read-only matrix `[rows, cols]` whose rows are `stride` values apart.
#[derive(Debug)]
pub struct Matrix<'a, T = f32> {
    data: *const T,
    rows: usize,
    cols: usize,
    stride: usize,
    borrow: PhantomData<&'a T>,
}

impl<T> Clone for Matrix<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Matrix<'_, T> {}

// SAFETY: a view reads what it borrows, and nothing else, as `&[T]` does.
unsafe impl<T: Sync> Send for Matrix<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Matrix<'_, T> {}

impl<'a, T> Matrix<'a, T> {
    /// A matrix over the whole of `data`, whose length must be a multiple of `cols`.
    ///
    /// # Panics
    /// Where it is not, or `cols` is zero.
    pub fn new(data: &'a [T], cols: usize) -> Self {
        let rows = whole_rows(data.len(), cols);
        Self { data: data.as_ptr(), rows, cols, stride: cols, borrow: PhantomData }
    }

    /// Where its first row is, and how far its rows are apart.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn parts(self) -> (*const T, usize) {
        (self.data, self.stride)
    }

    /// Columns `start` to `start + count` of this matrix.
    ///
    /// # Panics
    /// Where it has fewer columns.
    pub fn columns(self, start: usize, count: usize) -> Self {
        assert!(fits(start, count, self.cols), "columns {start}+{count} of {}", self.cols);
        // Wrapping, since a matrix without rows may have no memory at all; it is never read then.
        Self { data: self.data.wrapping_add(start), cols: count, ..self }
    }

    /// Rows `range` of this matrix.
    ///
    /// # Panics
    /// Where it has fewer rows.
    pub fn slice(self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.rows, "rows {range:?} of {}", self.rows);
        Self { data: self.data.wrapping_add(range.start * self.stride), rows: range.len(), ..self }
    }

    /// The values, row by row.
    pub fn to_vec(self) -> Vec<T>
    where
        T: Copy,
    {
        (0..self.rows).flat_map(|row| self.row(row)).copied().collect()
    }

    /// Number of rows.
    #[inline(always)]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    #[inline(always)]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Row `index`.
    ///
    /// # Panics
    /// Where there are fewer rows.
    #[inline(always)]
    pub fn row(&self, index: usize) -> &'a [T] {
        assert!(index < self.rows, "row {index} of {}", self.rows);
        // SAFETY: the row is within what the view borrows, by the assertion and the checks in `new`, `columns` and `slice`.
        unsafe { std::slice::from_raw_parts(self.data.add(index * self.stride), self.cols) }
    }

    pub(crate) fn into_parts(self) -> (*const T, usize, usize, usize) {
        (self.data, self.rows, self.cols, self.stride)
    }
}

impl<'a> Matrix<'a> {
    /// The values' bits.
    pub fn words(self) -> Matrix<'a, u32> {
        let Self { data, rows, cols, stride, .. } = self;
        Matrix { data: data.cast(), rows, cols, stride, borrow: PhantomData }
    }
}

/// A matrix `[rows, cols]` to write to, whose rows are `stride` values apart.
#[derive(Debug)]
pub struct MatrixMut<'a, T = f32> {
    data: *mut T,
    rows: usize,
    cols: usize,
    stride: usize,
    borrow: PhantomData<&'a mut T>,
}

// SAFETY: a view is the only way to the values it borrows while it lives, as `&mut [T]` is.
unsafe impl<T: Send> Send for MatrixMut<'_, T> {}
// SAFETY: through a shared reference, a view is only read.
unsafe impl<T: Sync> Sync for MatrixMut<'_, T> {}

impl<'a, T> MatrixMut<'a, T> {
    /// A matrix over the whole of `data`, whose length must be a multiple of `cols`.
    ///
    /// # Panics
    /// Where it is not, or `cols` is zero.
    pub fn new(data: &'a mut [T], cols: usize) -> Self {
        let rows = whole_rows(data.len(), cols);
        Self { data: data.as_mut_ptr(), rows, cols, stride: cols, borrow: PhantomData }
    }

    /// Columns `start` to `start + count` of this matrix.
    ///
    /// # Panics
    /// Where it has fewer columns.
    pub fn columns(self, start: usize, count: usize) -> Self {
        assert!(fits(start, count, self.cols), "columns {start}+{count} of {}", self.cols);
        Self { data: self.data.wrapping_add(start), cols: count, ..self }
    }

    /// Rows `range` of this matrix.
    ///
    /// # Panics
    /// Where it has fewer rows.
    pub fn slice(self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.rows, "rows {range:?} of {}", self.rows);
        Self { data: self.data.wrapping_add(range.start * self.stride), rows: range.len(), ..self }
    }

    /// The same view for a shorter time.
    pub fn reborrow(&mut self) -> MatrixMut<'_, T> {
        MatrixMut { borrow: PhantomData, ..*self }
    }

    /// The same view, to read.
    pub fn view(&self) -> Matrix<'_, T> {
        let Self { data, rows, cols, stride, .. } = *self;
        Matrix { data, rows, cols, stride, borrow: PhantomData }
    }

    /// Copies all values of `other`.
    ///
    /// # Panics
    /// Where it has another shape.
    pub fn copy_from(&mut self, other: Matrix<'_, T>)
    where
        T: Copy,
    {
        assert_eq!((other.rows, other.cols), (self.rows, self.cols), "shape");
        (0..self.rows).for_each(|row| self.row_mut(row).copy_from_slice(other.row(row)));
    }

    /// Disjoint views of `count` rows each (the last of what is left), in order.
    ///
    /// # Panics
    /// Where `count` is zero.
    pub fn split_rows(self, count: usize) -> Vec<Self> {
        let starts = (0..self.rows).step_by(count);
        // SAFETY: each copy of the view is cut to rows of its own.
        starts.map(|start| unsafe { self.copy() }.slice(start..(start + count).min(self.rows))).collect()
    }

    /// Disjoint views of `count` columns each (the last of what is left), in order.
    ///
    /// # Panics
    /// Where `count` is zero.
    pub fn split_columns(self, count: usize) -> Vec<Self> {
        let starts = (0..self.cols).step_by(count);
        // SAFETY: each copy of the view is cut to columns of its own.
        starts.map(|start| unsafe { self.copy() }.columns(start, count.min(self.cols - start))).collect()
    }

    /// # Safety
    /// No value may be reached through both of the views.
    unsafe fn copy(&self) -> Self {
        Self { ..*self }
    }

    /// Number of rows.
    #[inline(always)]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    #[inline(always)]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Row `index`.
    ///
    /// # Panics
    /// Where there are fewer rows.
    #[inline(always)]
    pub fn row_mut(&mut self, index: usize) -> &mut [T] {
        assert!(index < self.rows, "row {index} of {}", self.rows);
        // SAFETY: the row is within what the view borrows, by the assertion and the checks in `new`, `columns` and
        // `slice`; and it borrows the view.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(index * self.stride), self.cols) }
    }

    pub(crate) fn into_parts(self) -> (*mut T, usize, usize, usize) {
        (self.data, self.rows, self.cols, self.stride)
    }
}

impl<'a> MatrixMut<'a, u32> {
    /// A view that takes float32 values, as which any bits will do.
    pub fn floats(self) -> MatrixMut<'a> {
        let Self { data, rows, cols, stride, .. } = self;
        MatrixMut { data: data.cast(), rows, cols, stride, borrow: PhantomData }
    }
}

fn whole_rows(values: usize, cols: usize) -> usize {
    assert!(cols > 0 && values.is_multiple_of(cols), "{values} values are no rows of {cols}");
    values / cols
}

/// Whether `start + count` is at most `length`, whatever they are: a wrapped sum must not pass.
pub(crate) fn fits(start: usize, count: usize, length: usize) -> bool {
    count <= length && start <= length - count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic = "columns"]
    fn columns_that_would_wrap_around_are_refused() {
        let _ = MatrixMut::new(&mut [0.0; 8], 4).columns(1, usize::MAX);
    }

    #[test]
    #[should_panic = "row 2 of 2"]
    fn rows_beyond_the_last_are_refused() {
        let _ = Matrix::new(&[0.0; 8], 4).row(2);
    }

    #[test]
    #[should_panic = "rows"]
    fn a_slice_beyond_the_last_row_is_refused() {
        let _ = Matrix::new(&[0.0; 8], 4).slice(1..3);
    }

    #[test]
    fn pieces_are_disjoint_and_complete() {
        let mut data = vec![0; 7 * 5];
        for (i, piece) in MatrixMut::new(&mut data, 5).split_rows(3).into_iter().enumerate() {
            for (j, mut piece) in piece.split_columns(2).into_iter().enumerate() {
                for row in 0..piece.rows() {
                    piece.row_mut(row).iter_mut().for_each(|x| *x += 10 * i + j + 1);
                }
            }
        }
        let expected: Vec<_> = (0..35).map(|at| 10 * (at / 5 / 3) + at % 5 / 2 + 1).collect();
        assert_eq!(data, expected);
    }
}
