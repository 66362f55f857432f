//! Matrices that lie among other columns of a wider one, and start anywhere in memory.

use danaus_kernels::{Matrix, MatrixMut};

/// Runs `kernel` in place on `x` `[rows, cols]`, which lies among columns of NaN in a wider matrix that starts `shift`
/// values into its memory; these must stay as they are.
pub fn in_a_view(x: &[f32], cols: usize, shift: usize, kernel: impl Fn(MatrixMut<'_>)) -> Vec<f32> {
    let rows = x.len() / cols;
    let (mut memory, stride) = widely(x, cols, shift, f32::NAN);
    kernel(MatrixMut::new(&mut memory[shift..], stride).columns(1, cols));
    let written = Matrix::new(&memory[shift..], stride);
    for row in 0..rows {
        let row = written.row(row);
        assert!(row[0].is_nan() && row[cols + 1..].iter().all(|x| x.is_nan()), "wrote outside the view");
    }
    (0..rows).flat_map(|row| written.columns(1, cols).row(row)).copied().collect()
}

/// `values` `[rows, cols]` among columns of `other` in a wider matrix that starts `shift` values into its memory, and
/// how many columns that matrix has; those of the values start at 1.
pub fn widely<T: Copy>(values: &[T], cols: usize, shift: usize, other: T) -> (Vec<T>, usize) {
    let stride = cols + 1 + shift;
    let mut memory = vec![other; shift + values.len() / cols * stride];
    for (wide, row) in memory[shift..].chunks_exact_mut(stride).zip(values.chunks_exact(cols)) {
        wide[1..=cols].copy_from_slice(row);
    }
    (memory, stride)
}
