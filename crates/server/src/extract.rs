//! Request bodies as typed values, and every way in which they can be wrong.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::request::Parts;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::error::Category;

use crate::error::{ApiError, ErrorKind, shortened};
use crate::metrics::Stage;
use crate::service::Ready;
use crate::state::AppState;
use crate::types::{Object, TextList};

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
        let held = head.extensions.get().cloned().unwrap_or_else(|| state.inflight().hold());
        let started = Instant::now();
        let read = async {
            let bytes = state.body_reader().read(body, &head.headers, &held).await?;
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
    let (path, message) = (error.path().to_string(), without_texts(&error.inner().to_string()));
    Err(if path == "." {
        ApiError::new(ErrorKind::InvalidField, message)
    } else {
        ApiError::at(ErrorKind::InvalidField, path, message)
    })
}

/// An error's message without what may be a user's text: serde quotes a string where it expected something else. Names that are
/// none stay, shortened.
pub fn without_texts(message: &str) -> String {
    let around = |open: &str, close: &str| {
        let start = message.find(open)? + open.len();
        let end = message.rfind(close).filter(|&end| end >= start)?;
        Some((start, end))
    };
    if let Some((start, end)) = around(": string \"", "\", expected") {
        return format!("{}a string{}", &message[..start - "string \"".len()], &message[end + 1..]);
    }
    match around("\"", "\": expected").or_else(|| around("`", "`, expected")) {
        Some((start, end)) => {
            format!("{}{}{}", &message[..start], shortened(&message[start..end]), &message[end..])
        }
        None => message.to_owned(),
    }
}

fn malformed(error: &serde_json::Error) -> ApiError {
    ApiError::new(ErrorKind::MalformedJson, format!("Malformed JSON: {error}"))
}

#[cfg(test)]
mod tests {
    use super::without_texts;

    #[test]
    fn a_message_quotes_no_text_and_no_long_name() {
        let long = "x".repeat(1000);
        let cut = format!("{}…", &long[..64]);
        for (message, expected) in [
            ("invalid type: string \"my text\", expected a list", "invalid type: a string, expected a list"),
            (
                "invalid type: string \"a\", expected b\", expected a list",
                "invalid type: a string, expected a list",
            ),
            ("invalid type: integer `7`, expected a string", "invalid type: integer `7`, expected a string"),
            ("missing field `query` at line 1 column 2", "missing field `query` at line 1 column 2"),
            (
                "unknown pooling \"max\": expected one of mean",
                "unknown pooling \"max\": expected one of mean",
            ),
            (
                &format!("unknown pooling \"{long}\": expected one of mean"),
                &format!("unknown pooling \"{cut}\": expected one of mean"),
            ),
            (
                &format!("unknown field `{long}`, expected `a` or `b`"),
                &format!("unknown field `{cut}`, expected `a` or `b`"),
            ),
        ] {
            assert_eq!(without_texts(message), expected);
        }
    }
}
