//! Whose pages may call this server from a browser.

use std::str::FromStr;
use std::time::Duration;

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, Method, Uri};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::error::RATE_LIMIT_RESET;
use crate::middleware::{REQUEST_ID, REQUEST_TIMEOUT};
use crate::respond::{PADDING, SERVER_TIMING};

/// How long a browser need not ask again.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// A page's origin, like `https://example.org` or `http://localhost:3000`, or any (`*`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorsOrigin(Option<HeaderValue>);

/// Not an origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected an origin, such as https://example.org or http://localhost:3000 (no path), or *")]
pub struct NotAnOrigin;

impl FromStr for CorsOrigin {
    type Err = NotAnOrigin;

    fn from_str(text: &str) -> Result<Self, NotAnOrigin> {
        if text == "*" {
            return Ok(Self(None));
        }
        // Browsers send them in lower case.
        let origin = text.trim_end_matches('/').to_ascii_lowercase();
        let uri: Uri = origin.parse().map_err(|_| NotAnOrigin)?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(NotAnOrigin);
        };
        if origin != format!("{scheme}://{authority}") || authority.as_str().contains('@') {
            return Err(NotAnOrigin);
        }
        Ok(Self(Some(HeaderValue::from_str(&origin).map_err(|_| NotAnOrigin)?)))
    }
}

/// The layer that answers browsers' questions; `None` where no other server's pages may call.
pub(crate) fn layer(origins: &[CorsOrigin]) -> Option<CorsLayer> {
    let named: Option<Vec<HeaderValue>> = origins.iter().map(|origin| origin.0.clone()).collect();
    let allowed = match named {
        None => AllowOrigin::any(),
        Some(origins) if origins.is_empty() => return None,
        Some(origins) => AllowOrigin::list(origins),
    };
    let layer = CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([AUTHORIZATION, CONTENT_TYPE, REQUEST_TIMEOUT])
        .expose_headers([REQUEST_ID, SERVER_TIMING, PADDING, RETRY_AFTER, RATE_LIMIT_RESET])
        .max_age(MAX_AGE);
    Some(layer)
}
