//! How a window, and the padding behind it, are divided into cells.

/// Steps that the model's length is divided into. Filters are functions of the position as a share of the length, and hardly change
/// from one step to the next.
const STEPS: usize = 1024;

/// Steps of the cells behind the window's end.
const SMALLEST: usize = 2;

/// Cells of each size inside a window, before the next ones are twice as large.
const OF_A_SIZE: usize = 32;

/// The padding behind a window in cells that grow with their distance, as what they do to the window shrinks; and the window in
/// cells that grow backwards from its end, of which the first one may reach over its beginning. Places are counted in steps from the
/// window's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cells {
    window: usize,
    step: usize,
    /// Most cells behind the window that were asked for.
    most: usize,
    /// Where cells begin and end: those of the window, then those behind it.
    edges: Vec<isize>,
    /// The middle of each cell behind the window.
    samples: Vec<isize>,
    /// Where the window's cells begin and end, in positions.
    knots: Vec<isize>,
}

/// Positions of a step.
pub(super) fn step(max_tokens: usize) -> usize {
    max_tokens.div_ceil(STEPS)
}

impl Cells {
    /// The cells of a window of `window` positions of `max_tokens`, with at most `rows` of them behind it.
    ///
    /// # Panics
    /// Where the window is larger than that.
    pub fn new(window: usize, max_tokens: usize, rows: usize) -> Self {
        let step = step(max_tokens);
        let sizes = sizes((max_tokens - window) / step, rows);
        let mut samples = Vec::with_capacity(sizes.len());
        let mut edges = inside(window.div_ceil(step));
        let knots = edges.iter().map(|edge| window as isize + edge * step as isize).collect();
        let mut end = 0;
        for size in sizes {
            samples.push((end + size / 2) as isize);
            end += size;
            edges.push(end as isize);
        }
        Self { window, step, most: rows, edges, samples, knots }
    }

    /// Positions of the window.
    pub fn window(&self) -> usize {
        self.window
    }

    /// Positions of a step.
    pub fn step(&self) -> usize {
        self.step
    }

    /// Cells of the window.
    pub fn inside(&self) -> usize {
        self.edges.len() - 1 - self.samples.len()
    }

    /// Cells behind the window, each of which is a row of the pass.
    pub fn rows(&self) -> usize {
        self.samples.len()
    }

    /// Most cells behind the window that were asked for: what makes the same cells again.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Where all cells begin and end, in steps.
    pub fn edges(&self) -> &[isize] {
        &self.edges
    }

    /// The samples, in steps.
    pub fn samples(&self) -> &[isize] {
        &self.samples
    }

    /// The samples' positions.
    pub fn positions(&self) -> impl ExactSizeIterator<Item = usize> {
        self.samples.iter().map(|&sample| self.window + sample as usize * self.step)
    }

    /// Where the window's cells begin and end, in positions: there it is computed what cells behind the window add inside it.
    pub fn knots(&self) -> &[isize] {
        &self.knots
    }
}

/// Edges of cells of together `steps` steps before the window's end, in order.
fn inside(steps: usize) -> Vec<isize> {
    let sizes = (0..).map(|cell| 1isize << (cell / OF_A_SIZE));
    let edges = sizes.scan(0, |edge, size| {
        *edge -= size;
        Some(*edge)
    });
    let first = -(steps as isize);
    let mut edges: Vec<_> = edges.take_while(|&edge| edge > first).collect();
    if steps > 0 {
        edges.push(first);
    }
    edges.reverse();
    edges.push(0);
    edges
}

/// Sizes of at most `rows` cells that together have about `total` steps: even, and growing by as small a factor as will do.
fn sizes(total: usize, rows: usize) -> Vec<usize> {
    let total = total & !1;
    if rows == 0 || total == 0 {
        return Vec::new();
    }
    if rows == 1 {
        // However fast they grow, the first of several is small.
        return vec![total];
    }
    let with_factor = |factor: f64| {
        let (mut sizes, mut left, mut size) = (Vec::new(), total, SMALLEST as f64);
        while left > 0 {
            let even = 2 * (size / 2.0).round() as usize;
            sizes.push(even.min(left));
            left -= even.min(left);
            size *= factor;
        }
        sizes
    };
    // More factors than anybody needs to tell apart.
    let (mut too_small, mut factor) = (1.0, total as f64);
    for _ in 0..40 {
        let middle: f64 = (too_small + factor) / 2.0;
        if with_factor(middle).len() > rows { too_small = middle } else { factor = middle }
    }
    let even = with_factor(1.0);
    if even.len() <= rows { even } else { with_factor(factor) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_join_and_have_their_samples_in_the_middle() {
        for max_tokens in [1, 5, 100, 300, 2048, 8192, 32768] {
            for window in [1, 2, 3, 33, 100, 150, 1000, 16384] {
                for rows in [0, 1, 2, 7, 64, 256, 4000] {
                    if window > max_tokens {
                        continue;
                    }
                    let cells = Cells::new(window, max_tokens, rows);
                    let what = format!("{window} of {max_tokens}, {rows} rows: {cells:?}");
                    assert!(cells.rows() <= rows && cells.rows() == cells.positions().len(), "{what}");
                    let inside = &cells.edges()[..=cells.inside()];
                    let first = -(window.div_ceil(cells.step()) as isize);
                    assert_eq!((inside[0], inside[cells.inside()]), (first, 0), "{what}");
                    for pair in inside.windows(2) {
                        let (size, distance) = (pair[1] - pair[0], -pair[1]);
                        assert!(size > 0 && (size == 1 || 32 * (size - 1) <= distance), "{what}");
                    }
                    let behind = &cells.edges()[cells.inside()..];
                    for (pair, &sample) in behind.windows(2).zip(cells.samples()) {
                        assert!((pair[1] - pair[0]) % 2 == 0 && 2 * sample == pair[0] + pair[1], "{what}");
                    }
                    let end = window + *behind.last().unwrap() as usize * cells.step();
                    let covered = rows == 0 || end + 2 * cells.step() > max_tokens;
                    assert!(end <= max_tokens && covered, "{what}");
                    assert_eq!(cells.knots().len(), cells.inside() + 1, "{what}");
                    assert!(cells.knots()[0] <= 0 && cells.knots().is_sorted_by(|a, b| a < b), "{what}");
                }
            }
        }
    }

    #[test]
    fn cells_grow_and_as_many_rows_as_are_given_are_used() {
        let sizes = |rows| sizes(1000, rows);
        for rows in [48, 64, 96, 128] {
            let sizes = sizes(rows);
            assert_eq!((sizes.iter().sum::<usize>(), sizes[0]), (1000, 2));
            assert!(sizes.len() + 3 > rows, "{rows}: {sizes:?}");
            assert!(sizes[..sizes.len() - 1].is_sorted(), "{sizes:?}");
        }
        assert_eq!(sizes(500), vec![2; 500]);
    }
}
