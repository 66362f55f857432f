//! How long texts take on this machine, learned while it computes.

use std::time::Duration;

/// Size classes: texts of a class are at most twice as long as each other.
const CLASSES: usize = 32;

/// Tokens by the size of their texts: a token of a long text takes another time than one of a short text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load([usize; CLASSES]);

/// Texts of that many tokens each.
impl FromIterator<usize> for Load {
    fn from_iter<I: IntoIterator<Item = usize>>(texts: I) -> Self {
        let mut load = Self::default();
        texts.into_iter().for_each(|tokens| load.add(tokens));
        load
    }
}

impl Load {
    /// One more text.
    pub(super) fn add(&mut self, tokens: usize) {
        let sum = &mut self.0[class(tokens)];
        *sum = sum.saturating_add(tokens);
    }

    /// One text less.
    pub(super) fn remove(&mut self, tokens: usize) {
        let sum = &mut self.0[class(tokens)];
        *sum = sum.saturating_sub(tokens);
    }

    /// All tokens.
    pub fn tokens(&self) -> usize {
        self.0.iter().fold(0, |sum, &tokens| sum.saturating_add(tokens))
    }
}

fn class(tokens: usize) -> usize {
    ((usize::BITS - tokens.leading_zeros()) as usize).min(CLASSES - 1)
}

/// Seconds that a token takes by the size of its text, as an average in which recent batches count most.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Speed {
    per_token: [Option<f64>; CLASSES],
}

impl Speed {
    /// Share of a new batch in the average: the last ten or so decide.
    const WEIGHT: f64 = 0.2;

    /// The same where nothing but other sizes' time was known.
    const FIRST_WEIGHT: f64 = 0.5;

    /// No batch counts as having been more times faster or slower than expected: a clock that jumps must not decide.
    const MOST: f64 = 32.0;

    /// Notes a batch that took `elapsed`.
    ///
    /// What it took more or less than expected is put down to its classes in proportion to what was expected of each. Averages are
    /// geometric: one batch that takes ten times as long, as the first of a length does whose filters are made, must not decide.
    pub fn observe(&mut self, load: &Load, elapsed: Duration) {
        let tokens = load.tokens();
        if tokens == 0 {
            return;
        }
        // A batch too short for the clock must not count as infinitely fast.
        let seen = elapsed.as_secs_f64().max(1e-6);
        let guesses: [f64; CLASSES] =
            std::array::from_fn(|class| self.guess(class).unwrap_or(seen / tokens as f64));
        let parts: [f64; CLASSES] = std::array::from_fn(|class| load.0[class] as f64 * guesses[class]);
        let expected: f64 = parts.iter().sum();
        let ratio = (seen / expected).clamp(1.0 / Self::MOST, Self::MOST);
        for class in (0..CLASSES).filter(|&class| load.0[class] > 0) {
            let share = parts[class] / expected;
            let weight = if self.per_token[class].is_some() { Self::WEIGHT } else { Self::FIRST_WEIGHT };
            // Neither zero nor infinite, ever.
            self.per_token[class] = Some((guesses[class] * ratio.powf(weight * share)).clamp(1e-12, 1e6));
        }
    }

    /// How long texts will take; nothing where no batch was seen yet.
    pub fn time_for(&self, load: &Load) -> Duration {
        let parts = load.0.iter().enumerate().filter(|&(_, &tokens)| tokens > 0);
        let seconds: f64 =
            parts.map(|(class, &tokens)| tokens as f64 * self.guess(class).unwrap_or(0.0)).sum();
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    /// What a class takes, or the one seen that is nearest to it.
    fn guess(&self, class: usize) -> Option<f64> {
        let near = |distance: usize| {
            [class.checked_sub(distance), class.checked_add(distance)]
                .into_iter()
                .flatten()
                .find_map(|class| self.per_token.get(class).copied().flatten())
        };
        (0..CLASSES).find_map(near)
    }
}
