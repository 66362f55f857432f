//! Views of views: each value of the part is reached once, and nothing beside it.

use danaus_kernels::{Matrix, MatrixMut};
use proptest::prelude::*;

/// A range within `0..length`, from two fractions.
fn part(length: usize, (a, b): (usize, usize)) -> std::ops::Range<usize> {
    let (a, b) = (a % (length + 1), b % (length + 1));
    a.min(b)..a.max(b)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn views_reach_their_part_and_no_more(
        (rows, cols) in (0usize..12, 1usize..12),
        (row_ends, col_ends) in (any::<(usize, usize)>(), any::<(usize, usize)>()),
        (tall, wide) in (1usize..14, 1usize..14),
    ) {
        let (rows_part, cols_part) = (part(rows, row_ends), part(cols, col_ends));
        let inside = |at: usize| rows_part.contains(&(at / cols)) && cols_part.contains(&(at % cols));
        let mut data: Vec<usize> = (0..rows * cols).collect();

        let expected: Vec<_> = data.iter().copied().filter(|&at| inside(at)).collect();
        let view = Matrix::new(&data, cols);
        let by_rows = view.slice(rows_part.clone()).columns(cols_part.start, cols_part.len());
        let by_columns = view.columns(cols_part.start, cols_part.len()).slice(rows_part.clone());
        prop_assert_eq!((by_rows.rows(), by_rows.cols()), (rows_part.len(), cols_part.len()));
        prop_assert_eq!(by_rows.to_vec(), &expected[..]);
        prop_assert_eq!(by_columns.to_vec(), &expected[..]);

        // Pieces are written to while all of them live.
        let mut whole = MatrixMut::new(&mut data, cols);
        let view = whole.reborrow().columns(cols_part.start, cols_part.len()).slice(rows_part.clone());
        let mut pieces: Vec<_> = view.split_rows(tall).into_iter().flat_map(|rows| rows.split_columns(wide)).collect();
        for piece in &mut pieces {
            for row in 0..piece.rows() {
                piece.row_mut(row).iter_mut().for_each(|x| *x += 1000);
            }
        }
        prop_assert!(pieces.iter().all(|piece| piece.rows() <= tall && piece.cols() <= wide));
        prop_assert!(data.iter().enumerate().all(|(at, &x)| x == at + 1000 * usize::from(inside(at))));
    }
}
