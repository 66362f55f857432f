//! How far a preparation is, told by the thread that prepares to whoever asks.

use std::sync::{Mutex, PoisonError};

/// How far a preparation is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Progress {
    /// Exact passes that are done.
    pub done: usize,
    /// Exact passes of the whole preparation, as far as can be told yet.
    pub total: usize,
    /// Seconds until it is done, about; `None` where that is not known yet.
    pub seconds_left: Option<f64>,
    /// Texts of 2 to so many tokens are fast by now; 0 where none is.
    pub longest_fast: usize,
}

/// The state of a preparation. The thread that prepares writes it, others read it.
#[derive(Debug, Default)]
pub struct Preparation(Mutex<Option<Progress>>);

impl Preparation {
    /// How far the preparation is; `None` where nothing is being prepared.
    pub fn progress(&self) -> Option<Progress> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells how far the preparation is, or by `None` that it has ended.
    pub fn set(&self, progress: Option<Progress>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_last_is_read() {
        let preparation = Preparation::default();
        assert_eq!(preparation.progress(), None);
        let progress = Progress { done: 3, total: 9, seconds_left: Some(1.5), longest_fast: 64 };
        preparation.set(Some(progress));
        assert_eq!(preparation.progress(), Some(progress));
        preparation.set(None);
        assert_eq!(preparation.progress(), None);
    }
}
