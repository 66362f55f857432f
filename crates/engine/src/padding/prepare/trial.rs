//! What a setting of a range is tested with, and which texts it serves.

use crate::Pooling;
use crate::padding::plan::Fields;

/// How far below the bound errors must be that a sketch leaves next to nothing of.
const MARGIN: f64 = 1.3;

/// The same where a sketch leaves all of them, or where there is none. What a text changes is particular to it, so that texts differ the
/// more in their errors, the more of it is left.
const MARGIN_ALONE: f64 = 4.0;

/// Times the bound that an error may be before more recorded passes are of no use.
const PROMISING: f64 = 3.0;

/// A text and what its exact pass gave.
pub(super) struct Probe {
    pub ids: Vec<u32>,
    pub exact: Vec<Vec<f32>>,
}

/// The tests of a range.
pub(super) struct Tests {
    /// Texts that repeat themselves little, the longest first.
    pub mild: Vec<Probe>,
    /// One that repeats itself as much as can be, where there is one.
    pub hard: Option<Probe>,
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
    pub mild: Vec<Measured>,
    pub hard: Option<Measured>,
}

impl Measured {
    /// Of a text whose errors in the same window without a sketch are `alone`.
    pub fn new(equal: f64, errors: [f64; 3], alone: [f64; 3], bound: f64) -> Self {
        let share = |pooling: usize| {
            let left = (errors[pooling] / alone[pooling]).min(1.0);
            errors[pooling] * (MARGIN + (MARGIN_ALONE - MARGIN) * left) / bound
        };
        // Nothing of nothing is left.
        let shares = [0, 1, 2].map(|pooling| if errors[pooling] == 0.0 { 0.0 } else { share(pooling) });
        Self { equal, errors, shares }
    }

    fn is_within(&self, pooling: Pooling) -> bool {
        self.shares[pooling as usize] <= 1.0
    }
}

impl Errors {
    /// The largest share of equal pairs up to which texts are served; `None` where none are. To first order an error grows linearly with
    /// that share: from the mild test's to the hard one's of the same length, or, where there is none, at most in proportion.
    pub fn most_equal(&self, pooling: Pooling) -> Option<f64> {
        if !self.mild.iter().all(|test| test.is_within(pooling)) {
            return None;
        }
        let mild = self.mild.first()?;
        let low = mild.shares[pooling as usize];
        let Some(hard) = self.hard else { return Some((mild.equal / low).min(1.0)) };
        if hard.is_within(pooling) {
            return Some(1.0);
        }
        let between = (1.0 - low) / (hard.shares[pooling as usize] - low);
        Some(mild.equal + between * (hard.equal - mild.equal).max(0.0))
    }

    /// The least of these of all poolings.
    pub fn least(&self) -> Option<f64> {
        Pooling::ALL.iter().try_fold(1.0, |least: f64, &pooling| Some(least.min(self.most_equal(pooling)?)))
    }

    /// How much is served, to be compared.
    pub fn reach(&self) -> f64 {
        Pooling::ALL.iter().filter_map(|&pooling| self.most_equal(pooling)).map(|most| 1.0 + most).sum()
    }

    /// By pooling, the largest error of the tests that are like the texts which are served.
    pub fn largest(&self) -> [f64; 3] {
        Pooling::ALL.map(|pooling| {
            let hard = self.hard.filter(|hard| hard.is_within(pooling));
            hard.map_or(0.0, |hard| hard.errors[pooling as usize]).max(self.mildest(pooling))
        })
    }

    /// How many tests there are.
    pub fn tests(&self) -> usize {
        self.mild.len() + usize::from(self.hard.is_some())
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

    fn errors(mild: &[(f64, f64)], hard: Option<(f64, f64)>) -> Errors {
        let measured = |&(equal, share): &(f64, f64)| Measured {
            equal,
            errors: [share / 1300.0; 3],
            shares: [share, share, 2.0 * share],
        };
        Errors { mild: mild.iter().map(measured).collect(), hard: hard.as_ref().map(measured) }
    }

    #[test]
    fn texts_are_served_as_far_as_the_tests_say() {
        for (mild, hard, expected) in [
            (&[(0.1, 0.5)][..], Some((0.9, 0.4)), [Some(1.0); 3]),
            (&[(0.1, 0.5)], Some((0.9, 0.8)), [Some(1.0), Some(1.0), Some(0.1)]),
            (&[(0.1, 0.5)], Some((0.9, 1.5)), [Some(0.5), Some(0.5), Some(0.1)]),
            (&[(0.1, 0.5), (0.1, 0.25)], Some((0.9, 1.5)), [Some(0.5), Some(0.5), Some(0.1)]),
            (&[(0.1, 0.5), (0.1, 1.1)], Some((0.9, 0.4)), [None; 3]),
            (&[(0.1, 0.5)], Some((0.9, f64::INFINITY)), [Some(0.1); 3]),
            (&[(0.1, 0.25)], None, [Some(0.4), Some(0.4), Some(0.2)]),
            (&[(0.1, 0.0)], None, [Some(1.0); 3]),
            (&[(0.1, 0.6)], None, [Some(1.0 / 6.0), Some(1.0 / 6.0), None]),
        ] {
            let errors = errors(mild, hard);
            let got = Pooling::ALL.map(|pooling| errors.most_equal(pooling));
            let same = got.iter().zip(expected).all(|(got, expected)| match (got, expected) {
                (Some(got), Some(expected)) => (got - expected).abs() < 1e-9,
                (got, expected) => *got == expected,
            });
            assert!(same, "{errors:?}: {got:?}, not {expected:?}");
            let least = got.iter().try_fold(f64::INFINITY, |least, most| Some(least.min((*most)?)));
            assert_eq!(errors.least(), least, "{errors:?}");
        }
    }
}
