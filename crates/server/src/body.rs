//! Reading a request's body: not more than may be, and not for ever.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, EXPECT};
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
            if error.is_a_refusal() {
                self.discard(body, headers, &mut pace).await;
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

    /// Reads a body that nobody wants, unless the client waits for our word before it sends any.
    pub(crate) async fn discard(&self, mut body: Body, headers: &HeaderMap, pace: &mut Pace) {
        if headers.contains_key(EXPECT) {
            return;
        }
        let mut left = self.limit.saturating_mul(DISCARD_LIMITS);
        while let Ok(Some(chunk)) = next_chunk(&mut body, pace).await {
            left = left.saturating_sub(chunk.len());
            if left == 0 {
                return;
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

/// The body's next bytes; 408 where they do not come in time.
async fn next_chunk(body: &mut Body, pace: &mut Pace) -> Result<Option<Bytes>, ApiError> {
    loop {
        let Ok(frame) = tokio::time::timeout_at(pace.deadline(), body.frame()).await else {
            return Err(too_slow(pace));
        };
        match frame {
            None => return Ok(None),
            Some(Err(error)) => {
                let message = format!("The request body ended early: {error}");
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
