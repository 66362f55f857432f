//! A connection that gives up on a client that does not read.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep_until};

use crate::pace::Pace;

/// Fails a write that the other side does not take in time; reads have their limits elsewhere, where it is known what they
/// are for.
#[derive(Debug)]
pub(super) struct Paced<S> {
    inner: S,
    patience: Duration,
    stalled: Option<Stalled>,
}

/// Since the system took no more: how the client has read meanwhile.
#[derive(Debug)]
struct Stalled {
    pace: Pace,
    end: Pin<Box<Sleep>>,
}

impl<S> Paced<S> {
    pub(super) fn new(inner: S, patience: Duration) -> Self {
        Self { inner, patience, stalled: None }
    }

    /// After a write or a flush: counts what was taken, and fails where nothing was for too long.
    fn judge<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
        taken: impl FnOnce(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        match &result {
            Poll::Ready(Ok(value)) => {
                if let Some(stalled) = &mut self.stalled {
                    stalled.pace.moved(taken(value));
                }
                return result;
            }
            Poll::Ready(Err(_)) => return result,
            Poll::Pending => {}
        }
        let stalled = self.stalled.get_or_insert_with(|| {
            let pace = Pace::new(self.patience);
            let end = Box::pin(sleep_until(pace.deadline()));
            Stalled { pace, end }
        });
        let deadline = stalled.pace.deadline();
        if stalled.end.deadline() != deadline {
            stalled.end.as_mut().reset(deadline);
        }
        if stalled.end.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        let (time, bytes) = stalled.pace.so_far();
        let message = format!("the client took {bytes} bytes in {:.1} s", time.as_secs_f64());
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(cx, buffer);
        self.judge(cx, result, |&count| count)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write_vectored(cx, buffers);
        self.judge(cx, result, |&count| count)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_flush(cx);
        let result = self.judge(cx, result, |()| 0);
        if result.is_ready() {
            // All that was to be written is with the system: the next answer has its own time.
            self.stalled = None;
        }
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.judge(cx, result, |()| 0)
    }
}
