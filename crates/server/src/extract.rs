//! Request bodies as typed values, and every way in which they can be wrong.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use axum::http::request::Parts;
use http_body_util::BodyExt;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::error::Category;

use crate::error::{ApiError, ErrorKind};
use crate::metrics::Stage;
use crate::service::Ready;
use crate::state::AppState;
use crate::types::{Object, TextList};

/// How much of a body over the limit is read and thrown away, in multiples of the limit: most clients read no answer
/// before they have sent everything, and would see a broken connection instead of the 413.
const DISCARD_LIMITS: usize = 4;

/// The loaded model; 503 where there is none (yet). Comes before [`JsonBody`], so that no body is read in vain.
pub(crate) struct Model(pub(crate) Arc<Ready>);

impl FromRequestParts<AppState> for Model {
    type Rejection = ApiError;

    async fn from_request_parts(_: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        state.ready().map(Self).ok_or_else(ApiError::loading)
    }
}

/// What a JSON document can be parsed as.
pub(crate) trait FromJson: Sized + Send + 'static {
    fn from_json(bytes: &[u8]) -> Result<Self, ApiError>;
}

impl<T: DeserializeOwned + Send + 'static> FromJson for Object<T> {
    fn from_json(bytes: &[u8]) -> Result<Self, ApiError> {
        parse(bytes)
    }
}

impl FromJson for TextList {
    fn from_json(bytes: &[u8]) -> Result<Self, ApiError> {
        parse(bytes)
    }
}

/// A JSON body of type `T`.
#[derive(Debug)]
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: FromJson> FromRequest<AppState> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let (head, body) = request.into_parts();
        check_content_type(&head.headers)?;
        let config = state.config();
        let reader = BodyReader { limit: config.max_body_bytes, silence: config.read_timeout };
        let started = Instant::now();
        let read = async {
            let bytes = reader.read(body, &head.headers).await?;
            state.offload().quick(bytes.len(), move || T::from_json(&bytes)).await?
        };
        let value = read.await;
        state.metrics().stage_finished(Stage::Read, started, started.elapsed());
        value.map(Self)
    }
}

fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let refuse = |message: String| Err(ApiError::new(ErrorKind::UnsupportedMediaType, message));
    if let Some(encoding) = headers.get(CONTENT_ENCODING).filter(|value| *value != "identity") {
        return refuse(format!("Content-Encoding {encoding:?} is not supported: send the body uncompressed"));
    }
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return refuse("Missing Content-Type: expected application/json".into());
    };
    let essence =
        value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_json =
        essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"));
    if is_json {
        Ok(())
    } else {
        refuse(format!("Unsupported Content-Type {value:?}: expected application/json"))
    }
}

/// How a request's body is read.
struct BodyReader {
    /// Most bytes.
    limit: usize,
    /// Longest time without any.
    silence: Duration,
}

impl BodyReader {
    async fn read(&self, mut body: Body, headers: &HeaderMap) -> Result<Bytes, ApiError> {
        let declared: Option<usize> = headers
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.parse().ok());
        if declared.is_some_and(|size| size > self.limit) && headers.contains_key(EXPECT) {
            // The client waits for our word before it sends the body: there is nothing to discard.
            return Err(self.too_large(declared));
        }
        let mut bytes = Vec::with_capacity(declared.unwrap_or(0).min(self.limit));
        while let Some(chunk) = self.next_chunk(&mut body).await? {
            if chunk.len() > self.limit - bytes.len() {
                drop(bytes);
                self.discard(body).await;
                return Err(self.too_large(declared));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.into())
    }

    async fn next_chunk(&self, body: &mut Body) -> Result<Option<Bytes>, ApiError> {
        loop {
            let Ok(frame) = tokio::time::timeout(self.silence, body.frame()).await else {
                let message =
                    format!("No data for {} s: send the whole request body", self.silence.as_secs_f64());
                return Err(ApiError::new(ErrorKind::RequestTimeout, message));
            };
            match frame {
                None => return Ok(None),
                Some(Err(error)) => {
                    let message = format!("The request body ended early: {error}");
                    return Err(ApiError::new(ErrorKind::MalformedJson, message));
                }
                Some(Ok(frame)) => {
                    if let Ok(chunk) = frame.into_data() {
                        return Ok(Some(chunk));
                    }
                }
            }
        }
    }

    async fn discard(&self, mut body: Body) {
        let mut left = self.limit.saturating_mul(DISCARD_LIMITS);
        while let Ok(Some(chunk)) = self.next_chunk(&mut body).await {
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
}

/// Parses a JSON document: 400 where it is not JSON, 422 where it is not a `T`.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    if bytes.is_empty() {
        return Err(ApiError::new(ErrorKind::MalformedJson, "The request body is empty: expected JSON"));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let error = match serde_path_to_error::deserialize(&mut deserializer) {
        Ok(value) => return deserializer.end().map(|()| value).map_err(|error| malformed(&error)),
        Err(error) => error,
    };
    if error.inner().classify() != Category::Data {
        return Err(malformed(error.inner()));
    }
    // A wrong type was met first, but what follows it may not even be JSON: that comes first for the client.
    serde_json::from_slice::<IgnoredAny>(bytes).map_err(|error| malformed(&error))?;
    let path = error.path().to_string();
    Err(if path == "." {
        ApiError::new(ErrorKind::InvalidField, error.inner().to_string())
    } else {
        ApiError::at(ErrorKind::InvalidField, path, error.inner())
    })
}

fn malformed(error: &serde_json::Error) -> ApiError {
    ApiError::new(ErrorKind::MalformedJson, format!("Malformed JSON: {error}"))
}
