//! What a setting of a range is tested with, and which texts it serves.

use crate::Pooling;
use crate::padding::plan::Fields;

/// How far below the bound errors must be.
const MARGIN: f64 = 1.4;

/// The same without a sketch, where all of what a text changes stays as an error: texts differ far more in that than in what a sketch
/// leaves of it.
const MARGIN_ALONE: f64 = 3.0;

/// The same in a window of longer texts, whose recorded passes are further from the shortest of a range than from the tests.
const MARGIN_OTHERS: f64 = 2.0;

/// Times the bound that an error may be before more recorded passes are of no use.
const PROMISING: f64 = 3.0;

/// A text and what its exact pass gave.
pub(super) struct Probe {
    pub ids: Vec<u32>,
    pub exact: Vec<Vec<f32>>,
}

/// The tests of a range.
pub(super) struct Tests {
    /// The longest text, which repeats itself as much as a text can: none is further from other texts.
    pub hard: Probe,
    /// Texts that repeat themselves little, where they were needed.
    pub mild: Vec<Probe>,
}

/// A way to compute a range: recorded passes, and which rows of a sketch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Setting {
    pub recorded: usize,
    /// The number among the range's rows.
    pub rows: Option<usize>,
}

/// A setting, what its largest window computes with, and what came of it.
pub(super) struct Trial {
    pub setting: Setting,
    pub fields: Fields,
    pub errors: Errors,
}

/// A test's errors in a window, by pooling.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    /// The share of the text's pairs that are equal.
    pub equal: f64,
    pub errors: [f64; 3],
    /// The same with the margin that they must have, as shares of the bound.
    shares: [f64; 3],
}

/// The errors of tests in a window.
#[derive(Debug, Clone)]
pub(super) struct Errors {
    pub hard: Measured,
    pub mild: Vec<Measured>,
}

/// Which texts are served, for all poolings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Served {
    None,
    Mild,
    All,
}

impl Measured {
    /// Of a text that is computed with `fields`, in a window of its own range or of a longer one (`elsewhere`).
    pub fn new(equal: f64, errors: [f64; 3], bound: f64, fields: &Fields, elsewhere: bool) -> Self {
        let margin = if fields.sketch.is_some() { MARGIN } else { MARGIN_ALONE };
        let margin = if elsewhere { margin.max(MARGIN_OTHERS) } else { margin };
        Self { equal, errors, shares: errors.map(|error| error * margin / bound) }
    }

    fn is_within(&self, pooling: Pooling) -> bool {
        self.shares[pooling as usize] <= 1.0
    }
}

impl Errors {
    /// The largest share of equal pairs up to which texts are served. To first order an error grows linearly with it, from those of the
    /// mild tests to that of the hard one.
    pub fn most_equal(&self, pooling: Pooling) -> Option<f64> {
        if self.hard.is_within(pooling) {
            return Some(1.0);
        }
        let mild = self.mild.iter().map(|mild| {
            let [low, high] = [mild, &self.hard].map(|test| test.shares[pooling as usize]);
            let between = (1.0 - low) / (high - low);
            mild.is_within(pooling).then_some(mild.equal + between * (self.hard.equal - mild.equal).max(0.0))
        });
        mild.reduce(|least, most| Some(least?.min(most?))).flatten()
    }

    /// By pooling, the largest error of the tests that are like the texts which are served.
    pub fn largest(&self) -> [f64; 3] {
        Pooling::ALL.map(|pooling| {
            let all = self.most_equal(pooling) == Some(1.0) || self.mild.is_empty();
            if all { self.hard.errors[pooling as usize] } else { self.mildest(pooling) }
        })
    }

    /// How many tests there are.
    pub fn tests(&self) -> usize {
        1 + self.mild.len()
    }

    /// Which texts are served for all poolings.
    pub fn served(&self) -> Served {
        let most = Pooling::ALL.map(|pooling| self.most_equal(pooling));
        if most == [Some(1.0); 3] {
            Served::All
        } else if most.iter().all(Option::is_some) {
            Served::Mild
        } else {
            Served::None
        }
    }

    /// How much is served, to be compared.
    pub fn reach(&self) -> f64 {
        Pooling::ALL.iter().filter_map(|&pooling| self.most_equal(pooling)).map(|most| 1.0 + most).sum()
    }

    /// Whether a pooling that serves no text yet is near it.
    pub fn is_promising(&self, bound: f64) -> bool {
        let near = |pooling| self.mildest(pooling) <= PROMISING * bound;
        Pooling::ALL.iter().any(|&pooling| self.most_equal(pooling).is_none() && near(pooling))
    }

    /// The largest error of the mild tests.
    fn mildest(&self, pooling: Pooling) -> f64 {
        self.mild.iter().map(|mild| mild.errors[pooling as usize]).fold(0.0, f64::max)
    }

    /// The largest error of the mild tests, of all poolings.
    pub fn of_mild_tests(&self) -> f64 {
        Pooling::ALL.iter().map(|&pooling| self.mildest(pooling)).fold(0.0, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(hard: (f64, f64), mild: &[(f64, f64)]) -> Errors {
        let measured = |&(equal, share): &(f64, f64)| Measured {
            equal,
            errors: [share / 1200.0; 3],
            shares: [share, share, 2.0 * share],
        };
        Errors { hard: measured(&hard), mild: mild.iter().map(measured).collect() }
    }

    #[test]
    fn texts_are_served_as_far_as_the_tests_say() {
        for (hard, mild, expected, served) in [
            ((0.9, 0.4), &[][..], [Some(1.0); 3], Served::All),
            ((0.9, 0.8), &[], [Some(1.0), Some(1.0), None], Served::None),
            ((0.9, 1.5), &[(0.1, 0.5)], [Some(0.5), Some(0.5), Some(0.1)], Served::Mild),
            ((0.9, 1.5), &[(0.1, 0.5), (0.1, 0.25)], [Some(0.5), Some(0.5), Some(0.1)], Served::Mild),
            ((0.9, 1.5), &[(0.1, 0.5), (0.1, 1.1)], [None; 3], Served::None),
            ((0.9, f64::INFINITY), &[(0.1, 0.5)], [Some(0.1); 3], Served::Mild),
        ] {
            let errors = errors(hard, mild);
            let got = Pooling::ALL.map(|pooling| errors.most_equal(pooling));
            let same = got.iter().zip(expected).all(|(got, expected)| match (got, expected) {
                (Some(got), Some(expected)) => (got - expected).abs() < 1e-9,
                (got, expected) => *got == expected,
            });
            assert!(same, "{errors:?}: {got:?}, not {expected:?}");
            assert_eq!(errors.served(), served, "{errors:?}");
        }
    }
}
