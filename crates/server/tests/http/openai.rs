//! OpenAI's API: exact bodies, the same numbers as the product's own API, and errors in its shape.

use axum::http::StatusCode;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use danaus_engine::Pooling;
use danaus_server::ServerConfig;
use serde_json::{Value, json};

use crate::support::*;

const PATHS: [&str; 3] = ["/v1/embeddings", "/embeddings", "/api/v1/embeddings"];

const TEXTS: [&str; 2] = ["What is machine learning?", "a b c d e f g h i j"];

fn error(message: &str, param: Value, code: &str) -> Value {
    json!({"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}})
}

#[tokio::test]
async fn one_text_or_several_under_every_path() {
    let app = ready_app();
    let [one, two] = TEXTS.map(expected_json);
    for path in PATHS {
        let answer = post(&app, path, json!({"input": TEXTS[0], "model": "any"}).to_string()).await;
        let expected = format!(
            r#"{{"object":"list","data":[{{"object":"embedding","index":0,"embedding":{one}}}],"model":"any","usage":{{"prompt_tokens":7,"total_tokens":7}}}}"#
        );
        assert_eq!((answer.status, answer.body), (StatusCode::OK, expected), "{path}");
        let answer = post(&app, path, json!({"input": TEXTS, "user": "ignored"}).to_string()).await;
        let expected = format!(
            r#"{{"object":"list","data":[{{"object":"embedding","index":0,"embedding":{one}}},{{"object":"embedding","index":1,"embedding":{two}}}],"model":"small","usage":{{"prompt_tokens":19,"total_tokens":19}}}}"#
        );
        assert_eq!((answer.status, answer.body), (StatusCode::OK, expected), "{path}");
    }
}

#[tokio::test]
async fn base64_is_little_endian_float32_and_dimensions_are_cut_before_scaling() {
    let app = ready_app();
    for dimensions in [None, Some(5)] {
        let body = json!({"input": TEXTS[0], "encoding_format": "base64", "dimensions": dimensions});
        let answer = post(&app, PATHS[0], body.to_string()).await.json();
        let encoded = answer["data"][0]["embedding"].as_str().expect("base64");
        let bytes = BASE64_STANDARD.decode(encoded).expect("base64");
        let vector: Vec<f32> =
            bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
        assert_eq!(vector, expected_vector(TEXTS[0], Pooling::Mean, dimensions, true));
    }
}

#[tokio::test]
async fn token_ids_are_refused_unless_the_server_takes_them() {
    let ids = [101, 2054, 2003, 3698, 4083, 1029, 102];
    let refusing = ready_app();
    for (input, what) in [(json!(ids), "a list of token ids"), (json!([ids, ids]), "lists of token ids")] {
        let answer = post(&refusing, PATHS[0], json!({ "input": input }).to_string()).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        let answer = answer.json();
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(
            message.starts_with(&format!("input: {what} came"))
                && message.contains("check_embedding_ctx_length=False"),
            "{message}"
        );
        assert_eq!(answer, error(message, json!("input"), "token_ids_not_accepted"));
    }
    let taking = ready_app_with(ServerConfig { accept_token_ids: true, ..ServerConfig::default() });
    let vector: Value = serde_json::from_str(&expected_json(TEXTS[0])).unwrap();
    for (input, count) in [(json!(ids), 1), (json!([ids, ids]), 2)] {
        let answer = post(&taking, PATHS[0], json!({ "input": input }).to_string()).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        let answer = answer.json();
        assert_eq!(answer["usage"]["prompt_tokens"], 7 * count);
        assert_eq!(answer["data"].as_array().map(Vec::len), Some(count));
        assert!(answer["data"].as_array().unwrap().iter().all(|entry| entry["embedding"] == vector));
    }
    // Ids that the model does not have are the request's fault.
    let answer = post(&taking, PATHS[0], json!({ "input": [101, 4_000_000, 102] }).to_string()).await;
    assert!(answer.status.is_client_error(), "{}", answer.body);
}

#[tokio::test]
async fn a_strict_server_knows_its_model_alone() {
    let app = ready_app_with(ServerConfig { strict_model: true, ..ServerConfig::default() });
    let body = |model: Option<&str>| json!({"input": "a", "model": model}).to_string();
    for model in [None, Some("small")] {
        assert_eq!(post(&app, PATHS[0], body(model)).await.status, StatusCode::OK);
    }
    let answer = post(&app, PATHS[0], body(Some("text-embedding-3-small"))).await;
    let message =
        "model: this server has no \"text-embedding-3-small\": ask for \"small\", or leave the field out";
    let expected = error(message, json!("model"), "model_not_found");
    assert_eq!((answer.status, answer.json()), (StatusCode::NOT_FOUND, expected));
}

#[tokio::test]
async fn the_models_are_a_list_of_one() {
    for path in ["/v1/models", "/models", "/api/v1/models"] {
        let answer = get(&ready_app(), path).await;
        let created = answer.json()["data"][0]["created"].as_u64().expect("seconds");
        assert!(created > 1_700_000_000);
        let card = json!({"id": "small", "object": "model", "created": created, "owned_by": "danaus"});
        let expected = json!({"object": "list", "data": [card]});
        assert_eq!((answer.status, answer.json()), (StatusCode::OK, expected));
    }
}

#[tokio::test]
async fn errors_have_the_shape_that_clients_know() {
    let app = ready_app();
    for (body, param, code) in [
        (json!({"input": []}), Value::Null, "empty_list"),
        (json!({"input": 5}), json!("input"), "invalid_field"),
        (json!({}), Value::Null, "invalid_field"),
        (json!({"input": "a", "encoding_format": "hex"}), json!("encoding_format"), "invalid_field"),
    ] {
        let answer = post(&app, PATHS[0], body.to_string()).await;
        let got = answer.json();
        let message = got["error"]["message"].as_str().unwrap_or_else(|| panic!("{got}")).to_owned();
        assert!(!message.is_empty());
        assert_eq!((answer.status, got), (StatusCode::BAD_REQUEST, error(&message, param, code)), "{body}");
    }
    let answer = post(&app, PATHS[0], "{").await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert_eq!(answer.json()["error"]["type"], "invalid_request_error");
}
