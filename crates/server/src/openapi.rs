//! The OpenAPI document: made from the routes themselves, completed with what only a running server knows.

mod errors;

use std::borrow::Cow;
use std::marker::PhantomData;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};
use utoipa::openapi::schema::OneOfBuilder;
use utoipa::openapi::{Ref, RefOr, Schema};
use utoipa::{OpenApi, PartialSchema, ToSchema};

pub(crate) use errors::{
    BodyErrors, EmbedErrors, EstimateErrors, ModelErrors, OpenAiErrors, OpenAiUnavailableErrors,
    ShutdownError, TeiErrors, UnavailableErrors,
};

use crate::routes;
use crate::types::danaus::ErrorBody;
use crate::types::openai::{OpenAiError, with_token_ids};
use crate::types::tei::TeiError;

/// What the routes do not say themselves.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "danaus",
        description = "Embeds texts with M2-BERT, a long-context retrieval model.\n\n\
            Beside its own API the server has those of OpenAI and of Text Embeddings Inference, for clients made for them: \
            the vectors are the same.\n\n\
            Every response carries `X-Request-Id`: the request's own, or a new one. An error has the form of the API that \
            was called; its message says what was expected, what came, and what to do. Unknown fields are ignored.\n\n\
            On every route, a request's head has 64 KiB and 100 fields (431 beyond), must come in time (408), and be \
            HTTP/1.1 (400).",
    ),
    components(schemas(ErrorBody, OpenAiError, TeiError)),
    tags(
        (name = "Embeddings", description = "Texts to vectors"),
        (name = "Tokens", description = "Texts to tokens"),
        (name = "OpenAI", description = "For clients of OpenAI"),
        (name = "Text Embeddings Inference",
            description = "For clients of Text Embeddings Inference; `POST /embed` and `GET /info` are for them, too"),
        (name = "Server", description = "State and documentation of this server"),
    )
)]
pub(crate) struct Base;

/// What the document says of one server only.
#[derive(Debug, Default)]
pub(crate) struct Deployment {
    /// Length of the model's vectors, if it is known already.
    pub(crate) dimension: Option<usize>,
    /// Whether requests must bring an API key.
    pub(crate) needs_key: bool,
    /// Whether OpenAI's API takes token ids.
    pub(crate) accepts_token_ids: bool,
}

/// The document as far as it is the same for every server, as JSON; for files and for generators of clients.
pub fn openapi_json() -> String {
    serde_json::to_string_pretty(&document(&Deployment::default())).expect("a JSON value always serialises")
}

/// The document of one server.
///
/// The limits that 413 stands for are not in the schemas: a body over them is well-formed, and another server takes it.
pub(crate) fn document(deployment: &Deployment) -> Value {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
        let mut document = serde_json::to_value(routes::documented().into_openapi())
            .expect("utoipa's document has string keys only");
        for_each_operation(&mut document, name_alias);
        for_each_operation(&mut document, take_deadline);
        document
    });
    let mut document = DOCUMENT.clone();
    let schemas = &mut document["components"]["schemas"];
    if let Some(dimension) = deployment.dimension {
        schemas["Dimensions"]["maximum"] = dimension.into();
    }
    if deployment.accepts_token_ids {
        with_token_ids(&mut schemas["EmbeddingsInput"]);
    }
    if deployment.needs_key {
        document["components"]["securitySchemes"] = json!({"key": {"type": "http", "scheme": "bearer"}});
        for_each_operation(&mut document, require_key);
    }
    document
}

fn for_each_operation(document: &mut Value, change: impl Fn(&str, &mut Map<String, Value>)) {
    for (path, operations) in document["paths"].as_object_mut().into_iter().flatten() {
        for operation in operations.as_object_mut().into_iter().flat_map(Map::values_mut) {
            if let Some(operation) = operation.as_object_mut() {
                change(path, operation);
            }
        }
    }
}

/// Operations that several paths lead to need an id on each.
fn name_alias(path: &str, operation: &mut Map<String, Value>) {
    for (prefix, name) in [("/api/v1/", "api_v1"), ("/v1/", "v1")] {
        if path.starts_with(prefix) {
            let id = operation.get("operationId").and_then(Value::as_str).unwrap_or_default();
            operation.insert("operationId".into(), format!("{name}_{id}").into());
            return;
        }
    }
}

/// Every request with a body may bring its deadline.
fn take_deadline(_: &str, operation: &mut Map<String, Value>) {
    if operation.contains_key("requestBody") {
        let parameter = json!({
            "name": "X-Request-Timeout",
            "in": "header",
            "description": "Seconds after which the answer is of no use: what still waits for the model then leaves the queue.",
            "schema": {"type": "number", "exclusiveMinimum": 0},
            "example": 30,
        });
        operation.insert("parameters".into(), json!([parameter]));
    }
}

fn require_key(path: &str, operation: &mut Map<String, Value>) {
    if ![routes::HEALTH, routes::METRICS].contains(&path) {
        operation.insert("security".into(), json!([{"key": []}]));
        let unauthorized = json!({
            "description": "No API key, or none of this server's",
            "headers": {"WWW-Authenticate": {"schema": {"type": "string"}}},
            "content": {"application/json": {"schema": {"type": "object"}}},
        });
        operation["responses"]["401"] = unauthorized;
    }
}

/// The schema of a body that is an `A` or a `B`.
pub(crate) struct Either<A, B>(PhantomData<(A, B)>);

impl<A: ToSchema, B: ToSchema> PartialSchema for Either<A, B> {
    fn schema() -> RefOr<Schema> {
        let [a, b] = [A::name(), B::name()].map(Ref::from_schema_name);
        OneOfBuilder::new().item(a).item(b).into()
    }
}

impl<A: ToSchema, B: ToSchema> ToSchema for Either<A, B> {
    fn name() -> Cow<'static, str> {
        format!("{}Or{}", A::name(), B::name()).into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.extend([(A::name().into(), A::schema()), (B::name().into(), B::schema())]);
        A::schemas(schemas);
        B::schemas(schemas);
    }
}
