//! The routes. A handler extracts, calls and maps; what it documents is what it does.

mod docs;
mod embed;
mod estimate;
mod openai;
mod similarity;
mod status;
mod tei;
mod tokenize;
mod welcome;

use axum::Router;
use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::error::{ApiError, ErrorKind};
use crate::middleware::Refusal;
use crate::openapi::Base;
use crate::service::NamedTexts;
use crate::state::AppState;
use crate::types::OneOrMany;
use crate::{auth, cors, error, middleware};

/// The one route that a shutdown leaves open; like [`METRICS`], it needs no API key.
pub(crate) const HEALTH: &str = "/health";

pub(crate) const METRICS: &str = "/metrics";

/// How much of a path an error message repeats, in characters.
const SHOWN_PATH: usize = 200;

/// The application: every route, with what happens around it.
pub fn app(state: AppState) -> Router {
    finish(state.clone(), routes(state))
}

/// The application for connections whose requests are refused.
pub(crate) fn refusing(state: AppState, refusal: Refusal) -> Router {
    let refuse = from_fn_with_state(refusal, middleware::refuse);
    finish(state.clone(), routes(state).layer(refuse))
}

fn routes(state: AppState) -> Router<AppState> {
    let (routes, _) = documented().split_for_parts();
    routes
        .layer(from_fn(middleware::keep_deadline))
        .layer(from_fn_with_state(state.clone(), middleware::hold))
        // Files of the binary, which hold no memory.
        .route("/docs/", axum::routing::get(docs::page))
        .route("/docs/{*file}", axum::routing::get(docs::file))
        .fallback(unknown_route)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(state.clone(), auth::authorise))
        .layer(from_fn_with_state(state, middleware::refuse_in_shutdown))
}

/// Puts around routes what every answer needs, errors included.
fn finish(state: AppState, routes: Router<AppState>) -> Router {
    let routes = match cors::layer(&state.config().cors_origins) {
        Some(cors) => routes.layer(cors),
        None => routes,
    };
    routes
        .layer(from_fn(error::render))
        .layer(from_fn_with_state(state.clone(), middleware::read_on))
        .layer(from_fn_with_state(state.clone(), middleware::observe))
        .with_state(state)
}

/// The routes that the OpenAPI document describes.
pub(crate) fn documented() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(Base::openapi())
        .routes(routes!(embed::embed))
        .routes(routes!(embed::embed_batch))
        .routes(routes!(estimate::estimate))
        .merge(openai::router())
        .nest("/v1", openai::router())
        .nest("/api/v1", openai::router())
        .routes(routes!(similarity::similarity))
        .routes(routes!(tokenize::tokenize))
        .routes(routes!(status::health))
        .routes(routes!(status::info))
        .routes(routes!(status::metrics))
        .routes(routes!(welcome::welcome, tei::embed))
        .routes(routes!(docs::page))
        .routes(routes!(docs::openapi))
}

async fn unknown_route(request: Request) -> ApiError {
    let path = shown_path(&request);
    let message = format!("No route {} {path}: GET /docs lists the routes", request.method());
    ApiError::new(ErrorKind::UnknownRoute, message)
}

/// `OPTIONS` is answered with the `Allow` header that the router adds to either answer.
async fn method_not_allowed(request: Request) -> Response {
    if request.method() == Method::OPTIONS {
        return StatusCode::NO_CONTENT.into_response();
    }
    let message = format!(
        "{} is not allowed on {}: use a method of the response's Allow header",
        request.method(),
        shown_path(&request)
    );
    ApiError::new(ErrorKind::MethodNotAllowed, message).into_response()
}

fn shown_path(request: &Request) -> String {
    request.uri().path().chars().take(SHOWN_PATH).collect()
}

/// How a route names its texts in errors.
struct Naming {
    /// A text that came alone.
    one: fn(usize) -> String,
    /// The text with this index of a list.
    many: fn(usize) -> String,
    /// The message for an empty list.
    empty: &'static str,
    /// What to do about a text over the model's length.
    remedy: &'static str,
}

impl Naming {
    fn name<T>(&self, input: OneOrMany<T>) -> Result<NamedTexts<T>, ApiError> {
        let (texts, name) = match input {
            OneOrMany::One(text) => (vec![text], self.one),
            OneOrMany::Many(texts) if texts.is_empty() => {
                return Err(ApiError::new(ErrorKind::EmptyList, self.empty));
            }
            OneOrMany::Many(texts) => (texts, self.many),
        };
        Ok(NamedTexts { texts, name, remedy: self.remedy })
    }
}
