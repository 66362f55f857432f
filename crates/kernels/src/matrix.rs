//! Views of row-major float32 matrices, and of column ranges of them.

/// A read-only matrix `[rows, cols]` whose rows are `stride` values apart.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    stride: usize,
}

impl<'a> Matrix<'a> {
    /// A matrix over the whole of `data`, whose length must be a multiple of `cols`.
    ///
    /// # Panics
    /// Where it is not, or `cols` is zero.
    pub fn new(data: &'a [f32], cols: usize) -> Self {
        assert!(cols > 0 && data.len().is_multiple_of(cols), "{} values are no rows of {cols}", data.len());
        Self { data, rows: data.len() / cols, cols, stride: cols }
    }

    /// Columns `start` to `start + count` of this matrix.
    ///
    /// # Panics
    /// Where it has fewer columns.
    pub fn columns(self, start: usize, count: usize) -> Self {
        assert!(fits(start, count, self.cols), "columns {start}+{count} of {}", self.cols);
        let data = if self.rows == 0 { &[] } else { &self.data[start..] };
        Self { data, cols: count, ..self }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Row `index`.
    #[inline(always)]
    pub fn row(&self, index: usize) -> &'a [f32] {
        assert!(index < self.rows, "row {index} of {}", self.rows);
        let start = index * self.stride;
        &self.data[start..start + self.cols]
    }
}

/// Whether `start + count` is at most `length`, whatever they are: a wrapped sum must not pass.
pub(crate) fn fits(start: usize, count: usize, length: usize) -> bool {
    count <= length && start <= length - count
}

/// A matrix `[rows, cols]` to write to, whose rows are `stride` values apart.
#[derive(Debug)]
pub struct MatrixMut<'a> {
    pub(crate) data: &'a mut [f32],
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) stride: usize,
}

impl<'a> MatrixMut<'a> {
    /// A matrix over the whole of `data`, whose length must be a multiple of `cols`.
    ///
    /// # Panics
    /// Where it is not, or `cols` is zero.
    pub fn new(data: &'a mut [f32], cols: usize) -> Self {
        assert!(cols > 0 && data.len().is_multiple_of(cols), "{} values are no rows of {cols}", data.len());
        let rows = data.len() / cols;
        Self { data, rows, cols, stride: cols }
    }

    /// Columns `start` to `start + count` of this matrix.
    ///
    /// # Panics
    /// Where it has fewer columns.
    pub fn columns(self, start: usize, count: usize) -> Self {
        assert!(fits(start, count, self.cols), "columns {start}+{count} of {}", self.cols);
        let data = if self.rows == 0 { &mut [] } else { &mut self.data[start..] };
        Self { data, cols: count, ..self }
    }
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
}
