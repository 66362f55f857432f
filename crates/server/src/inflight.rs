//! The bytes of requests and answers that are held in memory, and their limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Bytes;

/// How much all requests together hold.
#[derive(Debug)]
pub(crate) struct Inflight {
    limit: usize,
    held: AtomicUsize,
}

/// What one request holds: its body, from the first byte that was read until the answer; then the answer, until it is sent.
#[derive(Debug)]
pub(crate) struct Held {
    all: Arc<Inflight>,
    bytes: AtomicUsize,
}

/// Why a request may not hold more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooMuch {
    /// What this request wanted to hold in all.
    pub(crate) wanted: usize,
    /// What others hold.
    pub(crate) others: usize,
    pub(crate) limit: usize,
}

impl Inflight {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, held: AtomicUsize::new(0) })
    }

    /// A request that holds nothing yet.
    pub(crate) fn hold(self: &Arc<Self>) -> Arc<Held> {
        Arc::new(Held { all: Arc::clone(self), bytes: AtomicUsize::new(0) })
    }

    /// Bytes that are held now.
    pub(crate) fn bytes(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

impl Held {
    /// Whether there is room for so many bytes more, now. A request that is alone always has it.
    pub(crate) fn check(&self, more: usize) -> Result<(), TooMuch> {
        self.fits(self.all.bytes(), more).map(|_| ())
    }

    /// Holds so many bytes more.
    pub(crate) fn add(&self, more: usize) -> Result<(), TooMuch> {
        let mut total = self.all.bytes();
        loop {
            let wanted = self.fits(total, more)?;
            match self.all.held.compare_exchange_weak(total, wanted, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => break,
                Err(changed) => total = changed,
            }
        }
        self.bytes.fetch_add(more, Ordering::Relaxed);
        Ok(())
    }

    fn fits(&self, total: usize, more: usize) -> Result<usize, TooMuch> {
        let own = self.bytes.load(Ordering::Relaxed);
        let (wanted, others, limit) = (own.saturating_add(more), total.saturating_sub(own), self.all.limit);
        match others.checked_add(wanted) {
            Some(all) if others == 0 || all <= limit => Ok(all),
            _ => Err(TooMuch { wanted, others, limit }),
        }
    }

    /// Holds so many bytes instead, whatever the limit: they are there already.
    pub(crate) fn replace(&self, bytes: usize) {
        self.all.held.fetch_add(bytes, Ordering::Relaxed);
        self.all.held.fetch_sub(self.bytes.swap(bytes, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// An answer, held until the last of it has been sent.
    pub(crate) fn until_sent(self: Arc<Self>, answer: Bytes) -> Bytes {
        self.replace(answer.len());
        Bytes::from_owner(Answer { bytes: answer, _held: self })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.replace(0);
    }
}

struct Answer {
    bytes: Bytes,
    _held: Arc<Held>,
}

impl AsRef<[u8]> for Answer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_alone_is_always_taken_and_others_only_within_the_limit() {
        let all = Inflight::new(10);
        let first = all.hold();
        first.add(8).unwrap();
        let second = all.hold();
        second.add(2).unwrap();
        assert_eq!(second.check(1), Err(TooMuch { wanted: 3, others: 8, limit: 10 }));
        assert_eq!(first.add(1), Err(TooMuch { wanted: 9, others: 2, limit: 10 }));
        assert_eq!(all.bytes(), 10);
        drop(second);
        first.add(100).unwrap();
        assert_eq!(all.hold().add(1), Err(TooMuch { wanted: 1, others: 108, limit: 10 }));
        assert_eq!(all.hold().add(usize::MAX), Err(TooMuch { wanted: usize::MAX, others: 108, limit: 10 }));
        drop(first);
        assert_eq!(all.bytes(), 0);
    }

    #[test]
    fn an_answer_takes_its_requests_place_until_its_last_part_is_gone() {
        let all = Inflight::new(10);
        let held = all.hold();
        held.add(4).unwrap();
        let mut answer = held.until_sent(Bytes::from_static(b"a long answer"));
        assert_eq!(all.bytes(), 13);
        let begin = answer.split_to(6);
        drop(answer);
        assert_eq!(all.bytes(), 13);
        drop(begin);
        assert_eq!(all.bytes(), 0);
    }
}
