//! Which errors a route can answer with, and how they look in its API.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use utoipa::IntoResponses;
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, SchemaType, Type};
use utoipa::openapi::{ContentBuilder, HeaderBuilder, Ref, RefOr, Schema};

use crate::error::{Api, ApiError, ErrorKind, Overload};

type Responses = BTreeMap<String, RefOr<Response>>;

/// A set of errors in the form of some APIs, for `#[utoipa::path]`.
macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident: $errors:ident in [$($api:ident),+];)+) => {$(
        $(#[$doc])*
        pub(crate) struct $name;

        impl IntoResponses for $name {
            fn responses() -> Responses {
                describe_all(&$errors(), &[$(Api::$api),+])
            }
        }
    )+};
}

errors! {
    /// Of every route with a JSON body.
    BodyErrors: body_errors in [Danaus];
    /// Of the route that says what computing would cost.
    EstimateErrors: estimate_errors in [Danaus];
    /// Of every route that computes.
    ModelErrors: model_errors in [Danaus];
    /// Of the route that two APIs share.
    EmbedErrors: model_errors in [Danaus, Tei];
    /// Of Text Embeddings Inference's own route.
    TeiErrors: model_errors in [Tei];
    /// Of OpenAI's route that computes.
    OpenAiErrors: openai_errors in [OpenAi];
    /// Of every route: during a shutdown there is no other.
    ShutdownError: shutdown_error in [Danaus];
    /// Of routes that need the model to be loaded.
    UnavailableErrors: unavailable_errors in [Danaus];
    /// Of OpenAI's routes that need the model to be loaded.
    OpenAiUnavailableErrors: unavailable_errors in [OpenAi];
}

/// An error and when it comes.
type Case = (&'static str, ApiError);

fn body_errors() -> Vec<Case> {
    use ErrorKind as Kind;
    let example = |kind, message: &str| ApiError::new(kind, message);
    let overloaded = example(Kind::Overloaded(Overload::Wait), "The server is busy: try again in about 3 s")
        .retry_after(3);
    let mut cases = unavailable_errors();
    cases.extend([
        (
            "Not JSON, or an empty list of texts",
            example(Kind::MalformedJson, "Malformed JSON: EOF while parsing a string at line 1 column 9"),
        ),
        (
            "The client stopped sending its request, or sends it too slowly",
            example(Kind::RequestTimeout, "No data for 30 s: send the whole request body"),
        ),
        (
            "Body or batch too large",
            example(Kind::BatchTooLarge, "The request has 3000 texts, over the limit of 2048: split it"),
        ),
        (
            "Not declared as JSON",
            example(Kind::UnsupportedMediaType, "Missing Content-Type: expected application/json"),
        ),
        (
            "A field with a wrong type or value",
            ApiError::at(
                Kind::InvalidField,
                "dimensions",
                "invalid type: a string, expected an integer from 1 to the model's dimension",
            ),
        ),
        ("Too much waits, or is in flight, already", overloaded),
        ("Internal error", ApiError::internal()),
        (
            "Not answered within the request's own time limit",
            late("No result within the request's X-Request-Timeout of 2 s"),
        ),
    ]);
    cases
}

fn late(message: &str) -> ApiError {
    ApiError::new(ErrorKind::DeadlineExceeded, message)
}

fn estimate_errors() -> Vec<Case> {
    let long =
        ApiError::new(ErrorKind::TextTooLong, "the text has 40000 tokens, over the model's limit of 32768");
    let mut cases = body_errors();
    cases.push(("A text over the model's length", long));
    cases
}

fn model_errors() -> Vec<Case> {
    let mut cases = estimate_errors();
    cases.extend([
        ("The GPU has not enough memory for a text", ApiError::device_memory()),
        (
            "Not computed within the server's time limit",
            late("No result within the server's limit of 60 s per request"),
        ),
    ]);
    cases
}

fn openai_errors() -> Vec<Case> {
    let unknown = ApiError::at(ErrorKind::UnknownModel, "model", "this server has no \"gpt\"");
    let mut cases = model_errors();
    cases.push(("Another model's name, where the server runs with `--strict-model`", unknown));
    cases
}

fn shutdown_error() -> Vec<Case> {
    vec![("The server is shutting down", ApiError::shutting_down()), crowded()]
}

fn unavailable_errors() -> Vec<Case> {
    vec![("The model is still loading, or the server is shutting down", ApiError::loading()), crowded()]
}

fn crowded() -> Case {
    ("Too many connections are open", ApiError::too_many_connections(4096))
}

/// Documents each error in each API; errors of one status share their entry.
fn describe_all(cases: &[Case], apis: &[Api]) -> Responses {
    let mut described: BTreeMap<String, Description> = BTreeMap::new();
    for (when, error) in cases {
        for &api in apis {
            let schema = api.error_schema();
            match described.entry(error.status(api).as_str().to_owned()) {
                Entry::Vacant(place) => {
                    place.insert(Description { when: vec![when], schemas: vec![schema], api, error });
                }
                Entry::Occupied(mut place) => {
                    let Description { when: others, schemas, .. } = place.get_mut();
                    push_new(others, when);
                    push_new(schemas, schema);
                }
            }
        }
    }
    described.into_iter().map(|(status, description)| (status, description.response())).collect()
}

fn push_new(list: &mut Vec<&'static str>, item: &'static str) {
    if !list.contains(&item) {
        list.push(item);
    }
}

/// What is said of one status.
struct Description<'a> {
    when: Vec<&'static str>,
    schemas: Vec<&'static str>,
    /// The example, in its API.
    api: Api,
    error: &'a ApiError,
}

impl Description<'_> {
    fn response(&self) -> RefOr<Response> {
        let example = serde_json::from_slice(&self.error.body(self.api).0).ok();
        let content = ContentBuilder::new().schema(Some(self.schema())).example(example).build();
        let mut response =
            ResponseBuilder::new().description(self.when.join("; ")).content("application/json", content);
        for (name, _) in self.error.retry_headers() {
            let meaning = "Whole seconds after which to try again";
            let seconds = ObjectBuilder::new().schema_type(SchemaType::Type(Type::Integer)).minimum(Some(1));
            let header =
                HeaderBuilder::new().schema(Some(seconds.build())).description(Some(meaning)).build();
            response = response.header(name.as_str(), header);
        }
        response.build().into()
    }

    fn schema(&self) -> RefOr<Schema> {
        match self.schemas.as_slice() {
            [schema] => Ref::from_schema_name(*schema).into(),
            schemas => {
                let any = schemas.iter().map(|schema| Ref::from_schema_name(*schema));
                any.fold(OneOfBuilder::new(), OneOfBuilder::item).into()
            }
        }
    }
}
