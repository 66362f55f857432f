//! danaus over HTTP: admission, scheduling, routes, OpenAPI document, metrics.
//!
//! A request goes route → tokenise → queue ([`scheduler`]) → worker thread → [`Backend`](danaus_engine::Backend) →
//! response. The async runtime's threads only move bytes: parsing and tokenising large bodies, computing and
//! serialising large answers happen elsewhere.

mod auth;
mod body;
mod cache;
mod config;
mod cors;
mod error;
mod extract;
mod inflight;
mod metrics;
mod middleware;
mod offload;
mod openapi;
mod pace;
mod respond;
mod routes;
pub mod scheduler;
mod serve;
mod service;
mod state;
mod traces;
mod types;
mod vector_key;
mod worker;

pub use auth::ApiKeys;
pub use config::ServerConfig;
pub use cors::CorsOrigin;
pub use extract::without_texts;
pub use openapi::openapi_json;
pub use routes::app;
pub use serve::{ListenError, Listener, Tls, TlsError, serve};
pub use service::{ModelInfo, Service};
pub use state::AppState;
pub use traces::Traces;
