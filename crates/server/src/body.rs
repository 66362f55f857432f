//! Reading a request's body: not more than may be, and not for ever.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, EXPECT};
use http_body::Frame;
use http_body_util::BodyExt;

use crate::error::{ApiError, ErrorKind, Overload};
use crate::inflight::{Held, TooMuch};
use crate::pace::{Pace, SLOWEST};
use crate::state::AppState;

/// How much of a body that is refused is read and thrown away, in multiples of the largest: most clients read no answer
/// before they have sent everything, and would see a broken connection instead of the error.
const DISCARD_LIMITS: usize = 4;

/// How much memory is set aside for a body of which nothing but the declared length has come.
const FIRST_CAPACITY: usize = 64 * 1024;

/// How a request's body is read.
#[derive(Clone, Copy)]
pub(crate) struct BodyReader<'a> {
    /// Most bytes.
    pub(crate) limit: usize,
    /// Longest time without any.
    pub(crate) patience: Duration,
    /// The server, whose backlog says when to try again where others hold too much.
    pub(crate) state: &'a AppState,
}

impl BodyReader<'_> {
    /// The whole body, which `held` counts.
    pub(crate) async fn read(
        &self,
        mut body: Body,
        headers: &HeaderMap,
        held: &Held,
    ) -> Result<Bytes, ApiError> {
        let declared: Option<usize> = headers
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.parse().ok());
        let mut pace = Pace::new(self.patience);
        let read = match self.check(declared, held) {
            Ok(()) => self.collect(&mut body, declared, &mut pace, held).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &read {
            held.replace(0);
            if error.is_a_refusal() && !waits_for_our_word(headers) {
                self.discard(body, &mut pace).await;
            }
        }
        read
    }

    /// What can be said before anything is read.
    fn check(&self, declared: Option<usize>, held: &Held) -> Result<(), ApiError> {
        match declared {
            Some(size) if size > self.limit => Err(self.too_large(declared)),
            Some(size) => held.check(size).map_err(|error| self.too_much(error)),
            None => Ok(()),
        }
    }

    async fn collect(
        &self,
        body: &mut Body,
        declared: Option<usize>,
        pace: &mut Pace,
        held: &Held,
    ) -> Result<Bytes, ApiError> {
        let mut bytes = Vec::with_capacity(declared.unwrap_or(0).min(FIRST_CAPACITY));
        while let Some(chunk) = next_chunk(body, pace).await? {
            if chunk.len() > self.limit - bytes.len() {
                return Err(self.too_large(declared));
            }
            held.add(chunk.len()).map_err(|error| self.too_much(error))?;
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.into())
    }

    /// Reads a body that nobody wants. Whether that was all of it.
    pub(crate) async fn discard(&self, mut body: Body, pace: &mut Pace) -> bool {
        let mut left = self.limit.saturating_mul(DISCARD_LIMITS);
        loop {
            match next_chunk(&mut body, pace).await {
                Ok(None) => return true,
                Ok(Some(chunk)) if chunk.len() < left => left -= chunk.len(),
                _ => return false,
            }
        }
    }

    fn too_large(&self, declared: Option<usize>) -> ApiError {
        let size = declared.map_or_else(|| format!("more than {}", self.limit), |size| size.to_string());
        let message = format!(
            "The request body has {size} bytes, over the limit of {} bytes: send fewer or shorter texts",
            self.limit
        );
        ApiError::new(ErrorKind::BodyTooLarge, message)
    }

    fn too_much(&self, TooMuch { wanted, others, limit }: TooMuch) -> ApiError {
        let seconds = self.state.backlog_seconds();
        let message = format!(
            "The server is busy: other requests and their answers have {others} bytes in flight, and the {wanted} of this \
             one would pass the limit of {limit}; try again in about {seconds} s"
        );
        ApiError::new(ErrorKind::Overloaded(Overload::InflightBytes), message).retry_after(seconds)
    }
}

/// Whether a client sends no body before it has our word.
pub(crate) fn waits_for_our_word(headers: &HeaderMap) -> bool {
    headers.contains_key(EXPECT)
}

/// A body that comes back when it is dropped before its end.
pub(crate) struct Lent {
    body: Body,
    ended: bool,
    back: Rest,
}

/// What is left of a body that was lent.
#[derive(Clone, Default)]
pub(crate) struct Rest(Arc<Mutex<Option<Body>>>);

impl Rest {
    /// Nothing while it is lent, or where it was read to its end.
    pub(crate) fn take(&self) -> Option<Body> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Lent {
    pub(crate) fn new(body: Body) -> (Self, Rest) {
        let back = Rest::default();
        (Self { ended: body.is_end_stream(), body, back: back.clone() }, back)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if !self.ended {
            let body = std::mem::take(&mut self.body);
            *self.back.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
        }
    }
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.ended = self.body.is_end_stream() || !matches!(frame, Some(Ok(_)));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// The body's next bytes; 408 where they do not come in time.
async fn next_chunk(body: &mut Body, pace: &mut Pace) -> Result<Option<Bytes>, ApiError> {
    loop {
        let Ok(frame) = tokio::time::timeout_at(pace.deadline(), body.frame()).await else {
            return Err(too_slow(pace));
        };
        match frame {
            None => return Ok(None),
            Some(Err(error)) => {
                let message = format!("The request body ended early, or its chunks are malformed: {error}");
                return Err(ApiError::new(ErrorKind::MalformedJson, message));
            }
            Some(Ok(frame)) => {
                if let Ok(chunk) = frame.into_data() {
                    pace.moved(chunk.len());
                    return Ok(Some(chunk));
                }
            }
        }
    }
}

fn too_slow(pace: &Pace) -> ApiError {
    let (time, bytes) = pace.so_far();
    let message = if pace.trickles() {
        format!(
            "Only {bytes} bytes of the request body in {:.1} s: send at least {SLOWEST} a second",
            time.as_secs_f64()
        )
    } else {
        format!("No data for {} s: send the whole request body", pace.patience().as_secs_f64())
    };
    ApiError::new(ErrorKind::RequestTimeout, message)
}
