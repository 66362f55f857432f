//! Ranges of lengths that are prepared together, and the texts that they are measured with.

use danaus_kernels::filter_length;

use super::{RECORDED, ROWS};
use crate::padding::Probes;

/// The smallest window.
const FIRST: usize = 16;

/// Lengths from which a text's cost counts beside what it would be without padding; below, windows double.
const SHORT: usize = 256;

/// Lengths from which hardly any more rows than the text's are allowed.
const LONG: usize = 2048;

/// Rows of a sketch that windows leave room for.
const ROOM: f64 = 96.0;

/// The quotient of the last and the first window of a range, which share their recorded passes: of medium and of long texts, and of
/// those that are short beside the model's length, whose lengths make less of a difference.
const SHARED: [f64; 3] = [1.25, 1.5, 1.35];

/// Ranges up to this length are tested with texts that repeat themselves as much as can be, and so are all of models up to this length: a
/// longer model's passes are dear, and there are many ranges of long texts.
const HARD: [usize; 2] = [512, 8192];

/// The share of equal pairs up to which other ranges have to serve texts, for no more rows to be tried.
const ENOUGH: f64 = 0.4;

/// Times a text's length that the model's is at least where the text is short beside it.
const BESIDE: usize = 16;

/// The windows that share recorded passes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Range {
    /// Fewest tokens of a text.
    pub shortest: usize,
    /// The windows, smallest first; each is the longest text that it is for.
    pub windows: Vec<usize>,
    /// Rows of sketches that are tried.
    pub rows: Vec<usize>,
    /// Most recorded passes whose mean is tried. Long texts gain little by more than two, and a long model's passes are dear.
    recorded: usize,
    /// Lengths of the texts that repeat themselves little, with which errors are measured, the longest first.
    pub mild_tests: Vec<usize>,
    /// Whether a text that repeats itself as much as can be is a test, too.
    pub hard_test: bool,
}

/// The windows of a model, the longest of half its length. With a sketch, a text of n tokens has at most about 1.45 n rows from 256 tokens
/// on, and 1.13 n from 2,048 on.
fn windows(max_tokens: usize) -> Vec<usize> {
    let longest = max_tokens / 2;
    let next = |window: &usize| {
        let shortest = (window + 1) as f64;
        let next = match window + 1 {
            ..SHORT => 2.0 * *window as f64,
            SHORT..LONG => (1.4 * shortest - ROOM).max(1.08 * shortest),
            _ => (1.125 * shortest - 128.0).max(1.06 * shortest),
        };
        // A window takes the filter of its own length, which shall be no longer than the text's would be.
        (*window < longest).then_some(longest.min(next as usize).min(filter_length(window + 1)))
    };
    std::iter::successors(Some(FIRST.min(longest)), next).filter(|&window| window > 1).collect()
}

/// The ranges of a model, shortest first.
pub(super) fn ranges(max_tokens: usize) -> Vec<Range> {
    let windows = windows(max_tokens);
    let mut ranges = Vec::new();
    let (mut below, mut rest) = (1, &windows[..]);
    while let Some(&first) = rest.first() {
        let shared = if first <= SHORT {
            1.0
        } else if BESIDE * first <= max_tokens {
            SHARED[2]
        } else if first <= LONG {
            SHARED[0]
        } else {
            SHARED[1]
        };
        let limit = (first as f64 * shared) as usize;
        let (together, others) =
            rest.split_at(rest.iter().take_while(|&&window| window <= limit).count().max(1));
        ranges.push(Range::new(below + 1, together.to_vec(), max_tokens));
        (below, rest) = (together[together.len() - 1], others);
    }
    ranges
}

impl Range {
    fn new(shortest: usize, windows: Vec<usize>, max_tokens: usize) -> Self {
        let longest = windows[windows.len() - 1];
        // Many windows take memory for each number of rows.
        let rows = if windows.len() > 1 { vec![ROWS[2], ROWS[4], ROWS[5]] } else { ROWS.to_vec() };
        // The recorded text is in the middle, so both ends are tested, where lengths make a difference. Several windows are close
        // together, and the longest is the furthest from what was recorded.
        let both = windows.len() == 1 && longest > 5 && BESIDE * longest > max_tokens;
        let mild_tests = if both { vec![longest, shortest.max(5)] } else { vec![longest] };
        let hard_test = longest <= HARD[0] || max_tokens <= HARD[1];
        let recorded = if max_tokens > HARD[1] || longest > LONG { 2 } else { usize::MAX };
        Self { shortest, windows, rows, recorded, mild_tests, hard_test }
    }

    /// The numbers of the rows that are tried; `None`, the first one, for no sketch.
    pub fn tried(&self) -> impl Iterator<Item = Option<usize>> {
        std::iter::once(None).chain((0..self.rows.len()).map(Some))
    }

    /// The numbers of recorded passes whose mean is tried, fewest first.
    pub fn recordings(&self) -> impl Iterator<Item = usize> {
        let most = self.recorded;
        RECORDED.into_iter().filter(move |&recorded| recorded <= most)
    }

    /// Most tokens of a text.
    pub fn longest(&self) -> usize {
        self.windows[self.windows.len() - 1]
    }

    /// The share of equal pairs up to which texts have to be served, for no more rows to be tried.
    pub fn enough(&self) -> f64 {
        if self.hard_test { 1.0 } else { ENOUGH }
    }

    /// Exact passes that it takes at least.
    pub fn passes(&self) -> usize {
        1 + self.mild_tests.len() + usize::from(self.hard_test)
    }

    /// The text of the recorded pass of that number, and the windows that it is recorded of: those that hold it.
    pub fn recorded(&self, number: usize, probes: &Probes) -> (Vec<u32>, &[usize]) {
        let (first, width) = (self.windows[0], self.windows[0] - self.shortest.min(self.windows[0]));
        // In the middle first, then further and further out. The middle of several windows is not in the first one.
        let shares = if self.windows.len() > 1 {
            [1.0, 0.6, 0.8, 0.4, 0.2, 0.9]
        } else {
            [0.5, 0.8, 0.2, 0.65, 0.35, 0.95]
        };
        let tokens = first - ((1.0 - shares[number % 6]) * width as f64) as usize;
        (probes.recorded(number + 6 * first, tokens.max(2)), &self.windows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_join_and_keep_to_the_rows_that_are_allowed() {
        for max_tokens in [2, 3, 8, 64, 300, 2048, 8192, 32768] {
            let ranges = ranges(max_tokens);
            let mut below = 1;
            for range in &ranges {
                assert_eq!(range.shortest, below + 1, "{max_tokens}: {ranges:?}");
                assert!(range.windows.is_sorted_by(|a, b| a < b), "{range:?}");
                let mut shortest = range.shortest;
                for &window in &range.windows {
                    let rows = (window as f64 + ROOM) / shortest as f64;
                    let most = if shortest >= LONG { 1.13 } else { 1.46 };
                    assert!(shortest < SHORT || rows < most, "{shortest} to {window}: {rows}");
                    shortest = window + 1;
                }
                below = range.longest();
            }
            assert_eq!(
                ranges.last().map_or(0, Range::longest),
                if max_tokens < 4 { 0 } else { max_tokens / 2 }
            );
        }
        let passes: usize = ranges(32768).iter().map(Range::passes).sum();
        assert!(passes <= 40, "{passes}");
    }
}
