//! The API of Text Embeddings Inference: bare lists of vectors, and errors in its shape.

use axum::http::StatusCode;
use danaus_engine::Pooling;
use danaus_server::ServerConfig;
use serde_json::{Value, json};

use crate::support::*;

const TEXTS: [&str; 2] = ["What is machine learning?", "a b c d e f g h i j"];

#[tokio::test]
async fn inputs_give_bare_vectors_at_the_root_and_at_embed() {
    let app = ready_app();
    let [one, two] = TEXTS.map(expected_json);
    for path in ["/", "/embed"] {
        for (inputs, expected) in [
            (json!(TEXTS[0]), format!("[[{}]]", &one[1..one.len() - 1])),
            (json!(TEXTS), format!("[{one},{two}]")),
        ] {
            let body = json!({"inputs": inputs, "unknown": {"fields": "are ignored"}});
            let answer = post(&app, path, body.to_string()).await;
            assert_eq!((answer.status, answer.body), (StatusCode::OK, expected), "{path}");
        }
    }
}

#[tokio::test]
async fn options_shape_the_vectors() {
    let app = ready_app();
    for (options, dimensions, normalize) in [
        (json!({"normalize": false}), None, false),
        (json!({"dimensions": 5}), Some(5), true),
        (json!({"truncate": true, "truncation_direction": "Right", "prompt_name": null}), None, true),
    ] {
        let mut body = options.clone();
        body["inputs"] = json!(TEXTS[0]);
        let answer = post(&app, "/embed", body.to_string()).await;
        let vector = expected_vector(TEXTS[0], Pooling::Mean, dimensions, normalize);
        let expected: Value = serde_json::from_str(&serde_json::to_string(&[vector]).unwrap()).unwrap();
        assert_eq!((answer.status, answer.json()), (StatusCode::OK, expected), "{options}");
    }
}

/// Which end of a long text is kept.
#[tokio::test]
async fn long_texts_are_cut_at_the_end_that_is_asked_for() {
    let app = ready_app();
    let words: Vec<String> = (0..400).map(|number| format!("{}", number % 10)).collect();
    let text = words.join(" ");
    let embed = async |body: Value| post(&app, "/embed", body.to_string()).await;
    assert_eq!(embed(json!({"inputs": text})).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    // [CLS] and [SEP] stay, whichever end is cut.
    for (direction, kept) in [("Right", &words[..254]), ("Left", &words[400 - 254..])] {
        let cut = embed(json!({"inputs": text, "truncate": true, "truncation_direction": direction})).await;
        let whole = embed(json!({"inputs": kept.join(" ")})).await;
        assert_eq!((cut.status, cut.body), (StatusCode::OK, whole.body), "{direction}");
    }
}

#[tokio::test]
async fn errors_have_the_shape_that_clients_know() {
    let app = ready_app();
    for (path, body, status, error_type) in [
        ("/", json!({"inputs": []}), StatusCode::BAD_REQUEST, "Empty"),
        ("/embed", json!({"inputs": []}), StatusCode::BAD_REQUEST, "Empty"),
        ("/", json!({"inputs": 5}), StatusCode::UNPROCESSABLE_ENTITY, "Validation"),
        ("/", json!({"inputs": "a", "prompt_name": "query"}), StatusCode::UNPROCESSABLE_ENTITY, "Validation"),
    ] {
        let answer = post(&app, path, body.to_string()).await;
        let got = answer.json();
        let message = got["error"].as_str().unwrap_or_else(|| panic!("{path} {body}: {got}"));
        assert_eq!(
            (answer.status, got.clone()),
            (status, json!({"error": message, "error_type": error_type}))
        );
    }
    // The product's own requests on the same route keep their own shape.
    let answer = post(&app, "/embed", json!({"query": []}).to_string()).await;
    assert_eq!(answer.json()["error"]["code"], "empty_list");
}

#[tokio::test]
async fn a_full_server_says_so_in_either_shape() {
    let app = ready_app_with(ServerConfig { max_inputs: 2, ..ServerConfig::default() });
    let answer = post(&app, "/", json!({"inputs": ["a", "b", "c"]}).to_string()).await;
    assert!(answer.status.is_client_error() && answer.json()["error_type"].is_string(), "{}", answer.body);
    let answer = post(&app, "/v1/embeddings", json!({"input": ["a", "b", "c"]}).to_string()).await;
    assert!(answer.status.is_client_error() && answer.json()["error"]["code"].is_string(), "{}", answer.body);
}
