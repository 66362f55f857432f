//! Who may ask: API keys, and pages of other servers.

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use danaus_server::ServerConfig;
use serde_json::json;

use crate::support::*;

fn guarded() -> Router {
    let api_keys = ["first-key", "second-key"].into_iter().collect();
    ready_app_with(ServerConfig { api_keys, ..ServerConfig::default() })
}

async fn with_key(app: &Router, path: &str, body: &str, key: Option<&str>) -> Answer {
    let mut request = post_request(path, body.to_owned());
    if let Some(key) = key {
        request.headers_mut().insert("authorization", key.parse().unwrap());
    }
    send(app, request).await
}

#[tokio::test]
async fn a_key_opens_every_route_and_nothing_else_does() {
    let app = guarded();
    let body = query("a");
    for key in ["Bearer first-key", "bearer second-key", "first-key", "Bearer   first-key "] {
        assert_eq!(with_key(&app, "/embed", &body, Some(key)).await.status, StatusCode::OK, "{key}");
    }
    let wrong = "The API key is not one of this server's: check the Authorization header";
    let missing = "This server needs an API key: send the header Authorization: Bearer KEY";
    for (key, message) in [
        (None, missing),
        (Some(""), missing),
        (Some("Bearer first-ke"), wrong),
        (Some("Bearer first-keyy"), wrong),
        (Some("Basic first-key"), wrong),
        (Some("Bearer first-key,second-key"), wrong),
    ] {
        let own = with_key(&app, "/embed", &body, key).await;
        let expected = error_json(message, "authentication_error", "unauthorized");
        assert_eq!(own.status, StatusCode::UNAUTHORIZED, "{key:?}");
        assert_eq!(own.json()["detail"], expected["detail"], "{key:?}");
        assert_eq!(own.header("www-authenticate").map(|value| value.starts_with("Bearer")), Some(true));
        let openai = with_key(&app, "/v1/embeddings", &json!({"input": "a"}).to_string(), key).await;
        assert_eq!((openai.status, &openai.json()["error"]["message"]), (own.status, &json!(message)));
        let tei = with_key(&app, "/", &json!({"inputs": "a"}).to_string(), key).await;
        assert_eq!((tei.status, &tei.json()["error"]), (own.status, &json!(message)));
    }
}

#[tokio::test]
async fn probes_and_scrapes_need_no_key_and_all_else_does() {
    let app = guarded();
    for path in ["/health", "/metrics"] {
        assert_eq!(get(&app, path).await.status, StatusCode::OK, "{path}");
    }
    for path in ["/info", "/docs", "/openapi.json", "/v1/models", "/nothing", "/health/", "/metrics/x"] {
        assert_eq!(get(&app, path).await.status, StatusCode::UNAUTHORIZED, "{path}");
    }
    // A body is not read before the key is.
    let huge = "x".repeat(40 << 20);
    assert_eq!(with_key(&app, "/embed", &huge, None).await.status, StatusCode::UNAUTHORIZED);
}

fn preflight(origin: &str) -> Request<Body> {
    let request = Request::options("/v1/embeddings").header("origin", origin);
    let request = request.header("access-control-request-method", "POST");
    request
        .header("access-control-request-headers", "authorization,content-type")
        .body(Body::empty())
        .expect("a request")
}

#[tokio::test]
async fn pages_of_allowed_origins_may_call_and_others_may_not() {
    let closed = send(&ready_app(), preflight("https://example.org")).await;
    assert_eq!(closed.header("access-control-allow-origin"), None);
    let cors_origins = vec!["https://example.org".parse().unwrap()];
    let api_keys = ["key"].into_iter().collect();
    let app = ready_app_with(ServerConfig { cors_origins, api_keys, ..ServerConfig::default() });
    // Browsers send no key with their question.
    let allowed = send(&app, preflight("https://example.org")).await;
    assert_eq!(allowed.status, StatusCode::OK);
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://example.org"));
    assert_eq!(allowed.header("access-control-allow-methods"), Some("GET,POST"));
    assert_eq!(
        allowed.header("access-control-allow-headers"),
        Some("authorization,content-type,x-request-timeout")
    );
    let other = send(&app, preflight("https://example.com")).await;
    assert_eq!(other.header("access-control-allow-origin"), None);
    let mut request = post_request("/embed", query("a"));
    request.headers_mut().insert("origin", "https://example.org".parse().unwrap());
    // An error is for the page to read, too.
    let refused = send(&app, request).await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    assert_eq!(refused.header("access-control-allow-origin"), Some("https://example.org"));
}

#[test]
fn an_origin_has_no_path() {
    for origin in ["*", "https://example.org", "http://localhost:3000", "https://example.org/"] {
        assert!(origin.parse::<danaus_server::CorsOrigin>().is_ok(), "{origin}");
    }
    for origin in ["", "example.org", "https://example.org/path", "https://user@example.org", "null"] {
        assert!(origin.parse::<danaus_server::CorsOrigin>().is_err(), "{origin}");
    }
}
