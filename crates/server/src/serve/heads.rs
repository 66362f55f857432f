//! Requests' heads, looked at before hyper sees them: what is wrong with one is answered as every other error is, with a body,
//! an id, a line in the log and a place in the metrics. By itself hyper closes the connection, or answers with a bare status.

mod body;
mod head;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use self::body::Extent;
use self::head::Look;
use crate::error::{ApiError, ErrorKind};

pub(super) use self::head::HEAD_BYTES;

/// How much is read at once while a head is expected.
const READ_BYTES: usize = 8 * 1024;

/// How long a client whose head was refused may go on sending before the connection is closed, and how long one whose request was
/// answered before all of it was read may be silent: closed at once, the connection would break, and the answer might never be read.
const LINGER: Duration = Duration::from_secs(2);

/// Gives hyper whole heads only. One that is too large, not HTTP or too late is replaced by one without fields, and [`Line`]
/// knows why that request is refused: hyper has it answered in its turn, after those that came before it.
pub(super) struct Heads<S> {
    inner: S,
    line: Arc<Line>,
    patience: Duration,
    stage: Stage,
    /// What was read and is not hyper's yet.
    held: Vec<u8>,
    /// How much of it is known to be no whole head.
    seen: usize,
    /// Runs while nothing but the client is waited for.
    clock: Option<Pin<Box<Sleep>>>,
    /// Whether an answer may be on its way still.
    writing: bool,
    /// When the connection is closed whatever the client still sends, once its last answer is out.
    last: Option<Instant>,
}

/// What comes next from the client.
enum Stage {
    /// A head, which is held until it is whole.
    Head,
    /// What a head and its body have left.
    Request(Extent),
    /// Nothing that counts: a head was refused, and its answer is the last.
    Refused,
    /// Nothing: it was waited for long enough.
    Over,
}

/// What the two sides of hyper, the connection and the service, have to know of each other.
#[derive(Default)]
pub(super) struct Line {
    /// Heads that were given to hyper.
    heads: AtomicUsize,
    /// Those that have come out of it as requests.
    requests: AtomicUsize,
    /// Requests that have their answer.
    answers: AtomicUsize,
    /// Why the last head is refused.
    refusal: OnceLock<ApiError>,
}

impl Line {
    /// Notes that hyper has made a request of a head, and says why it is to be refused, if it is.
    pub(super) fn admit(self: &Arc<Self>) -> (Option<ApiError>, Answering) {
        let requests = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let refusal = self.refusal.get().filter(|_| requests == self.heads.load(Ordering::Relaxed));
        (refusal.cloned(), Answering(Arc::clone(self)))
    }

    /// Whether every head has become a request, and every request has its answer.
    fn is_quiet(&self) -> bool {
        let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        count(&self.heads) == count(&self.answers)
    }
}

/// A request whose answer is not there yet.
pub(super) struct Answering(Arc<Line>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answers.fetch_add(1, Ordering::Relaxed);
    }
}

impl<S> Heads<S> {
    /// A client may be silent for `patience` between requests, and take as long for a head once it has begun.
    pub(super) fn new(inner: S, line: Arc<Line>, patience: Duration) -> Self {
        let (held, clock) = (Vec::new(), None);
        Self { inner, line, patience, stage: Stage::Head, held, seen: 0, clock, writing: false, last: None }
    }

    /// Whether the client has been waited for too long. To be asked only when it sends nothing.
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        if self.writing || !self.line.is_quiet() {
            self.clock = None;
            return false;
        }
        let clock = self.clock.get_or_insert_with(|| Box::pin(sleep(self.patience)));
        // Who sends without a pause leaves no time for a look at the clock but this one.
        clock.as_mut().poll(cx).is_ready() || clock.deadline() <= Instant::now()
    }

    /// Whether more of a head is to come than is held.
    fn wants_head(&mut self) -> bool {
        if matches!(self.stage, Stage::Head) {
            self.skip_blank();
            match head::look(&self.held, self.seen) {
                Look::Partial => self.seen = self.held.len(),
                Look::Whole(request) => self.begin(request),
                Look::Wrong(error) => self.refuse(error),
            }
        }
        matches!(self.stage, Stage::Head)
    }

    /// Empty lines before a head mean nothing; behind them, a head begins, which has its own time.
    fn skip_blank(&mut self) {
        if self.seen == 0 {
            let blank = self.held.iter().take_while(|byte| b"\r\n".contains(byte)).count();
            self.held.drain(..blank);
            if !self.held.is_empty() {
                self.clock = None;
            }
        }
    }

    fn begin(&mut self, request: Extent) {
        self.line.heads.fetch_add(1, Ordering::Relaxed);
        self.stage = Stage::Request(request);
        (self.seen, self.clock) = (0, None);
    }

    fn refuse(&mut self, error: ApiError) {
        self.held = head::stand_in(&self.held);
        // The head's time is over; the wait after its answer has its own.
        (self.seen, self.clock) = (0, None);
        self.line.heads.fetch_add(1, Ordering::Relaxed);
        // Only the last head is refused: there is no earlier reason.
        let _ = self.line.refusal.set(error);
        self.stage = Stage::Refused;
    }

    fn too_late(&self) -> ApiError {
        let message = format!(
            "Only {} bytes of the request's head in {} s, and not its end: send the whole head within that time",
            self.held.len(),
            self.patience.as_secs_f64()
        );
        ApiError::new(ErrorKind::RequestTimeout, message)
    }

    /// Gives hyper what is held of a request, as far as it fits.
    fn give(held: &mut Vec<u8>, request: &mut Extent, out: &mut ReadBuf<'_>) {
        let most = held.len().min(out.remaining());
        let count = request.take(&held[..most]);
        out.put_slice(&held[..count]);
        held.drain(..count);
        if held.is_empty() {
            // An idle connection holds no memory.
            *held = Vec::new();
        }
    }
}

impl<S: AsyncRead + Unpin> Heads<S> {
    /// Reads until there is a whole head, or none to come.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.wants_head() {
            let mut space = [MaybeUninit::uninit(); READ_BYTES];
            let most = READ_BYTES.min(HEAD_BYTES - self.held.len());
            let mut read = ReadBuf::uninit(&mut space[..most]);
            match Pin::new(&mut self.inner).poll_read(cx, &mut read) {
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                // What there is belongs to a request that will never be whole: hyper knows what to do.
                Poll::Ready(Ok(())) if read.filled().is_empty() => {
                    self.stage = Stage::Request(Extent::endless());
                }
                Poll::Ready(Ok(())) => self.held.extend_from_slice(read.filled()),
                Poll::Pending if !self.is_late(cx) => return Poll::Pending,
                // Nothing was asked: there is nothing to answer.
                Poll::Pending if self.held.is_empty() => self.stage = Stage::Over,
                Poll::Pending => self.refuse(self.too_late()),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// What is held of a request, or what comes of it.
    fn poll_request(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Stage::Request(request) = &mut self.stage else { return Poll::Ready(Ok(())) };
        if !self.held.is_empty() {
            Self::give(&mut self.held, request, out);
        } else {
            let before = out.filled().len();
            match Pin::new(&mut self.inner).poll_read(cx, out) {
                Poll::Ready(result) => result?,
                Poll::Pending if self.is_late(cx) => {
                    self.stage = Stage::Over;
                    return Poll::Ready(Ok(()));
                }
                Poll::Pending => return Poll::Pending,
            }
            let new = &out.filled()[before..];
            let count = request.take(new);
            self.held.extend_from_slice(&new[count..]);
            out.set_filled(before + count);
        }
        if request.is_over() {
            self.stage = Stage::Head;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heads<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_head(cx))?;
        match this.stage {
            Stage::Refused if this.held.is_empty() => Poll::Pending,
            Stage::Refused => {
                Self::give(&mut this.held, &mut Extent::endless(), out);
                Poll::Ready(Ok(()))
            }
            _ => this.poll_request(cx, out),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Heads<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        self.writing = true;
        Pin::new(&mut self.inner).poll_write(cx, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.writing = true;
        Pin::new(&mut self.inner).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        self.writing = false;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.inner).poll_shutdown(cx))?;
        let refused = matches!(this.stage, Stage::Refused);
        if !refused && !matches!(&this.stage, Stage::Request(request) if !request.is_over()) {
            return Poll::Ready(Ok(()));
        }
        let last = *this.last.get_or_insert_with(|| {
            this.clock = None;
            Instant::now() + if refused { LINGER } else { this.patience.max(LINGER) }
        });
        loop {
            let clock = this.clock.get_or_insert_with(|| Box::pin(sleep(LINGER)));
            if clock.as_mut().poll(cx).is_ready() || last <= Instant::now() {
                return Poll::Ready(Ok(()));
            }
            let mut space = [MaybeUninit::uninit(); READ_BYTES];
            let mut read = ReadBuf::uninit(&mut space);
            match ready!(Pin::new(&mut this.inner).poll_read(cx, &mut read)) {
                Ok(()) if !read.filled().is_empty() => {
                    clock.as_mut().reset((Instant::now() + LINGER).min(last))
                }
                // The client has gone.
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}
