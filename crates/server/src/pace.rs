//! How slow a client may be.

use std::time::Duration;

use tokio::time::Instant;

/// Bytes a second that a client must send or take on average, once its first patience is used up. A silence alone would let
/// a byte now and then hold a connection, and what was read of its body, for ever.
pub(crate) const SLOWEST: u64 = 16 * 1024;

/// Longer times are meant as none at all; this one can be added to any instant.
pub(crate) const FOREVER: Duration = Duration::from_secs(1 << 30);

/// How long a client has, while it sends or takes a number of bytes that nobody knows ahead.
#[derive(Debug)]
pub(crate) struct Pace {
    patience: Duration,
    started: Instant,
    moved: Instant,
    bytes: u64,
}

impl Pace {
    /// A client that must move something within `patience`, and [`SLOWEST`] on average after that.
    pub(crate) fn new(patience: Duration) -> Self {
        let now = Instant::now();
        Self { patience: patience.min(FOREVER), started: now, moved: now, bytes: 0 }
    }

    /// The client has moved so many bytes.
    pub(crate) fn moved(&mut self, bytes: usize) {
        self.moved = Instant::now();
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }

    /// When it will have been too slow if it moves no more.
    pub(crate) fn deadline(&self) -> Instant {
        let earned = Duration::from_secs_f64(self.bytes as f64 / SLOWEST as f64).min(FOREVER);
        (self.moved + self.patience).min(self.started + self.patience + earned)
    }

    /// Since when it has been moving, and how far it has come.
    pub(crate) fn so_far(&self) -> (Duration, u64) {
        (self.started.elapsed(), self.bytes)
    }

    /// How long it may move nothing.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// Whether it was slow rather than silent.
    pub(crate) fn trickles(&self) -> bool {
        self.moved.elapsed() < self.patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn silence_and_a_trickle_both_end() {
        let mut pace = Pace::new(PATIENCE);
        assert_eq!(pace.deadline(), pace.started + PATIENCE);
        pace.moved(2 * SLOWEST as usize);
        let (started, moved) = (pace.started, pace.moved);
        assert_eq!(pace.deadline(), (moved + PATIENCE).min(started + PATIENCE + Duration::from_secs(2)));
        // What a fast client has earned does not let it fall silent.
        pace.moved(1 << 40);
        assert_eq!(pace.deadline(), pace.moved + PATIENCE);
        // A byte at a time earns next to nothing.
        let mut trickle = Pace { started: started - PATIENCE * 2, ..Pace::new(PATIENCE) };
        trickle.moved(1);
        assert!(trickle.deadline() < Instant::now() && trickle.trickles());
    }

    #[test]
    fn no_limit_is_no_overflow() {
        let mut pace = Pace::new(Duration::MAX);
        pace.moved(usize::MAX);
        assert!(pace.deadline() > Instant::now());
    }
}
