//! Swagger UI and the OpenAPI document.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use danaus_server::{AppState, ServerConfig, app, openapi_json};
use serde_json::Value;

use crate::support::*;

/// Every route, as the contract names them.
const ROUTES: [(&str, &str); 18] = [
    ("/", "get"),
    ("/", "post"),
    ("/api/v1/embeddings", "post"),
    ("/api/v1/models", "get"),
    ("/docs", "get"),
    ("/embed", "post"),
    ("/embed/batch", "post"),
    ("/embeddings", "post"),
    ("/estimate", "post"),
    ("/health", "get"),
    ("/info", "get"),
    ("/metrics", "get"),
    ("/models", "get"),
    ("/openapi.json", "get"),
    ("/similarity", "post"),
    ("/tokenize", "post"),
    ("/v1/embeddings", "post"),
    ("/v1/models", "get"),
];

#[tokio::test]
async fn the_documentation_page_and_its_files_come_from_the_binary() {
    let app = ready_app();
    for path in ["/docs", "/docs/"] {
        let page = get(&app, path).await;
        assert_eq!(
            (page.status, page.header("content-type")),
            (StatusCode::OK, Some("text/html; charset=utf-8"))
        );
        assert!(page.body.contains("<base href=\"/docs/\" />") && page.body.contains("swagger-ui-bundle.js"));
    }
    for (file, content_type) in [
        ("swagger-ui.css", "text/css"),
        ("swagger-ui-bundle.js", "text/javascript"),
        ("swagger-ui-standalone-preset.js", "text/javascript"),
        ("swagger-initializer.js", "text/javascript"),
    ] {
        let answer = get(&app, &format!("/docs/{file}")).await;
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (StatusCode::OK, Some(content_type)),
            "{file}"
        );
    }
    let initializer = get(&app, "/docs/swagger-initializer.js").await.body;
    assert!(initializer.contains("\"/openapi.json\"") && initializer.contains("\"validatorUrl\": \"none\""));
    let missing = get(&app, "/docs/nothing.js").await;
    let expected =
        error_json("No such file: GET /docs is the documentation", "invalid_request_error", "unknown_route");
    assert_eq!((missing.status, missing.json()), (StatusCode::NOT_FOUND, expected));
}

#[tokio::test]
async fn the_document_has_every_route_and_every_reference_resolves() {
    let document = get(&ready_app(), "/openapi.json").await.json();
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")));
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let paths = document["paths"].as_object().expect("paths");
    let documented: BTreeSet<(&str, &str)> = paths
        .iter()
        .flat_map(|(path, item)| {
            item.as_object().expect("operations").keys().map(move |method| (path.as_str(), method.as_str()))
        })
        .collect();
    assert_eq!(documented, BTreeSet::from(ROUTES));
    let mut references = BTreeSet::new();
    collect_references(&document, &mut references);
    assert!(references.contains("#/components/schemas/ErrorBody"));
    for reference in references {
        let pointer = reference.strip_prefix('#').expect("a local reference");
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
}

fn collect_references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|value| collect_references(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| collect_references(value, found)),
        _ => {}
    }
}

#[tokio::test]
async fn every_documented_request_example_works() {
    let app = ready_app();
    let document = get(&app, "/openapi.json").await.json();
    for (path, method) in ROUTES {
        if method == "get" {
            assert_eq!(get(&app, path).await.status, StatusCode::OK, "{path}");
            continue;
        }
        let schema = &document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"];
        let resolve = |schema: &Value| {
            let reference = schema["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
            document.pointer(reference.expect("a reference")).expect("a schema").clone()
        };
        let schema = resolve(schema);
        let forms = schema["oneOf"].as_array().map(|forms| forms.iter().map(resolve).collect());
        for schema in forms.unwrap_or_else(|| vec![schema]) {
            let example = schema
                .get("example")
                .or_else(|| schema["examples"].get(0))
                .unwrap_or_else(|| panic!("{path}: {schema}"));
            let answer = post(&app, path, example.to_string()).await;
            assert_eq!(answer.status, StatusCode::OK, "{path} {example}: {}", answer.body);
        }
    }
}

#[tokio::test]
async fn every_operation_documents_its_statuses_each_with_a_body() {
    let document = get(&ready_app(), "/openapi.json").await.json();
    let computes = ["200", "400", "408", "413", "415", "422", "429", "500", "503", "504"];
    // OpenAI's clients know 400 for whatever is wrong with a request; 404 is another model than this server's.
    let without_422 = ["200", "400", "404", "408", "413", "415", "429", "500", "503", "504"];
    for (path, method) in ROUTES {
        let responses = document["paths"][path][method]["responses"].as_object().expect("responses");
        let statuses: Vec<&str> = responses.keys().map(String::as_str).collect();
        let expected: &[&str] = match path {
            "/embed" | "/embed/batch" | "/similarity" | "/estimate" | "/tokenize" => &computes,
            "/" if method == "post" => &computes,
            _ if path.ends_with("/embeddings") => &without_422,
            "/docs" | "/metrics" => &["200", "500", "503"],
            _ => &["200", "503"],
        };
        assert_eq!(statuses, expected, "{path}");
        for (status, response) in responses {
            let content =
                response["content"].as_object().unwrap_or_else(|| panic!("{path} {status} has no body"));
            assert!(content.values().all(|content| content.get("schema").is_some()), "{path} {status}");
        }
    }
    let headers = &document["paths"]["/embed"]["post"]["responses"]["429"]["headers"];
    assert!(headers.get("retry-after").is_some() && headers.get("x-ratelimit-reset").is_some());
    for (path, method) in ROUTES {
        let parameters = &document["paths"][path][method]["parameters"];
        assert_eq!(parameters[0]["name"] == "X-Request-Timeout", method == "post", "{path}");
    }
}

#[tokio::test]
async fn the_document_knows_the_dimension_once_the_model_is_loaded() {
    let state = AppState::new(ServerConfig::default());
    let app = app(state.clone());
    let dimensions = |document: Value| document["components"]["schemas"]["Dimensions"].clone();
    assert_eq!(dimensions(get(&app, "/openapi.json").await.json()).get("maximum"), None);
    state.set_ready(service()).unwrap();
    assert_eq!(dimensions(get(&app, "/openapi.json").await.json())["maximum"], 64);
}

#[test]
fn the_document_can_be_had_without_a_server() {
    let document: Value = serde_json::from_str(&openapi_json()).unwrap();
    assert!(document["paths"]["/embed"]["post"].is_object());
}
