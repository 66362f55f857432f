//! The OpenAPI document: made from the routes themselves, completed with this server's limits.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::Value;
use utoipa::IntoResponses;
use utoipa::OpenApi;
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::{ContentBuilder, HeaderBuilder, Ref, RefOr};

use crate::error::{ApiError, ErrorBody, ErrorKind};
use crate::routes;

/// What the routes do not say themselves.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "danaus",
        description = "Embeds texts with M2-BERT, a long-context retrieval model.\n\n\
            Every response carries `X-Request-Id`: the request's own, or a new one. Errors have the body `ErrorBody`; \
            its message says what was expected, what came, and what to do. Unknown fields are ignored.",
    ),
    components(schemas(ErrorBody)),
    tags(
        (name = "Embeddings", description = "Texts to vectors"),
        (name = "Tokens", description = "Texts to tokens"),
        (name = "Server", description = "State and documentation of this server"),
    )
)]
pub(crate) struct Base;

/// The document as far as it is the same for every model, as JSON; for files and for generators of clients.
pub fn openapi_json() -> String {
    serde_json::to_string_pretty(&document(None)).expect("a JSON value always serialises")
}

/// The document of a server whose model makes vectors of this length, if it is known already.
///
/// The limits that 413 stands for are not in the schemas: a body over them is well-formed, and another server takes it.
pub(crate) fn document(dimension: Option<usize>) -> Value {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
        serde_json::to_value(routes::documented().into_openapi())
            .expect("utoipa's document has string keys only")
    });
    let mut document = DOCUMENT.clone();
    let schema = document.pointer_mut("/components/schemas/Dimensions").and_then(Value::as_object_mut);
    if let (Some(schema), Some(dimension)) = (schema, dimension) {
        schema.insert("maximum".into(), dimension.into());
    }
    document
}

/// The error responses of every route with a JSON body.
pub(crate) struct BodyErrors;

/// The error responses of every route that computes.
pub(crate) struct ModelErrors;

/// The error response of every route: during a shutdown there is no other.
pub(crate) struct ShutdownError;

/// The error response of routes that need the model to be loaded.
pub(crate) struct UnavailableErrors;

type Responses = BTreeMap<String, RefOr<Response>>;

impl IntoResponses for BodyErrors {
    fn responses() -> Responses {
        use ErrorKind as Kind;
        let example = |kind, message: &str| ApiError::new(kind, message);
        [
            describe(
                "Not JSON, or an empty list of texts",
                example(Kind::MalformedJson, "Malformed JSON: EOF while parsing a string at line 1 column 9"),
            ),
            describe(
                "The client stopped sending its request",
                example(Kind::RequestTimeout, "No data for 30 s: send the whole request body"),
            ),
            describe(
                "Body or batch too large",
                example(Kind::BatchTooLarge, "The request has 3000 texts, over the limit of 2048: split it"),
            ),
            describe(
                "Not declared as JSON",
                example(Kind::UnsupportedMediaType, "Missing Content-Type: expected application/json"),
            ),
            describe(
                "A field with a wrong type or value, or a text over the model's length",
                ApiError::invalid_field(
                    "query: invalid type: integer `5`, expected a string or a list of strings",
                ),
            ),
            describe("Internal error", ApiError::internal()),
        ]
        .into_iter()
        .chain(UnavailableErrors::responses())
        .collect()
    }
}

impl IntoResponses for ModelErrors {
    fn responses() -> Responses {
        let overloaded =
            ApiError::new(ErrorKind::Overloaded, "The server is busy: try again in about 3 s").retry_after(3);
        let late = ApiError::new(
            ErrorKind::DeadlineExceeded,
            "No result within the server's limit of 60 s per request",
        );
        let mut responses = BodyErrors::responses();
        responses.extend([
            describe("Too much waits already", overloaded),
            describe("Not computed within the server's time limit", late),
        ]);
        responses
    }
}

impl IntoResponses for ShutdownError {
    fn responses() -> Responses {
        [describe("The server is shutting down", ApiError::shutting_down())].into()
    }
}

impl IntoResponses for UnavailableErrors {
    fn responses() -> Responses {
        [describe("The model is still loading, or the server is shutting down", ApiError::loading())].into()
    }
}

/// Documents an error response: its status, its body, and the headers it is sent with.
fn describe(description: &str, error: ApiError) -> (String, RefOr<Response>) {
    let body = serde_json::to_value(error.body()).expect("an error's body has string keys only");
    let content =
        ContentBuilder::new().schema(Some(Ref::from_schema_name("ErrorBody"))).example(Some(body)).build();
    let mut response = ResponseBuilder::new().description(description).content("application/json", content);
    for (name, _) in error.retry_headers() {
        let meaning = "Whole seconds after which to try again";
        let header = HeaderBuilder::new().schema(Some(integer_from_1())).description(Some(meaning)).build();
        response = response.header(name.as_str(), header);
    }
    (error.kind().status().as_str().to_owned(), response.build().into())
}

fn integer_from_1() -> utoipa::openapi::schema::Object {
    use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};
    ObjectBuilder::new().schema_type(SchemaType::Type(Type::Integer)).minimum(Some(1)).build()
}
