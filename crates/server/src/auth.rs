//! API keys.

use std::fmt;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::Response;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::error::{ApiError, ErrorKind};
use crate::routes::{HEALTH, METRICS};
use crate::state::AppState;

/// The keys that open this server.
///
/// Only their hashes are kept: they have one length, so that a comparison takes the same time whatever is guessed, and
/// neither a log nor a memory dump has the keys.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ApiKeys(Vec<[u8; 32]>);

impl ApiKeys {
    /// Whether there are none, so that everybody may ask.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `given` is one of the keys. Takes the same time whichever it is, and whether it is one.
    fn accept(&self, given: &[u8]) -> bool {
        let given = hash(given);
        let equal = self.0.iter().map(|key| key.ct_eq(&given));
        equal.fold(Choice::from(0), |found, equal| found | equal).into()
    }
}

impl<K: AsRef<str>> FromIterator<K> for ApiKeys {
    fn from_iter<I: IntoIterator<Item = K>>(keys: I) -> Self {
        Self(keys.into_iter().map(|key| hash(key.as_ref().as_bytes())).collect())
    }
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKeys({})", self.0.len())
    }
}

fn hash(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// Lets a request in that brings a key, if there are any; health checks and scrapes need none.
pub(crate) async fn authorise(
    State(state): State<AppState>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let keys = &state.config().api_keys;
    if keys.is_empty() || [HEALTH, METRICS].contains(&request.uri().path()) {
        return Ok(next.run(request).await);
    }
    let message = match given_key(request.headers()) {
        Some(key) if keys.accept(key) => return Ok(next.run(request).await),
        Some(_) => "The API key is not one of this server's: check the Authorization header",
        None => "This server needs an API key: send the header Authorization: Bearer KEY",
    };
    Err(ApiError::new(ErrorKind::Unauthorized, message))
}

/// `Bearer KEY`, or a bare `KEY`.
fn given_key(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes().trim_ascii();
    let key = match value.split_at_checked(6) {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case(b"Bearer") && key.starts_with(b" ") => {
            key.trim_ascii()
        }
        _ => value,
    };
    (!key.is_empty()).then_some(key)
}
