//! `/embed`, `/embed/batch` and `/similarity`: exact bodies, and the same numbers as the engine's.

use axum::http::StatusCode;
use danaus_engine::Pooling;
use danaus_server::ServerConfig;
use serde_json::json;

use crate::support::*;

const TEXTS: [&str; 4] =
    ["What is machine learning?", "", "Straße – ﬁn 日本 🦋 naïve", "a b c d e f g h i j"];

#[tokio::test]
async fn one_text_gives_a_list_of_one_vector() {
    let answer = post(&ready_app(), "/embed", query(TEXTS[0])).await;
    let vector = expected_json(TEXTS[0]);
    let expected = format!(
        r#"{{"embeddings":[{vector}],"dimension":64,"count":1,"model":"small","tokens":[7],"truncated":[false],"padding":["none"]}}"#
    );
    assert_eq!((answer.status, answer.body), (StatusCode::OK, expected));
    assert_eq!(answer.headers["content-type"], "application/json");
}

#[tokio::test]
async fn a_list_gives_the_same_numbers_as_each_text_alone() {
    let vectors: Vec<String> = TEXTS.iter().map(|text| expected_json(text)).collect();
    let expected = format!(
        r#"{{"embeddings":[{}],"dimension":64,"count":4,"model":"small","tokens":[7,2,{},12],"truncated":[false,false,false,false],"padding":["none","none","none","none"]}}"#,
        vectors.join(","),
        ids(TEXTS[2]).len()
    );
    let app = ready_app();
    let listed = post(&app, "/embed", json!({ "query": TEXTS }).to_string()).await;
    assert_eq!((listed.status, listed.body), (StatusCode::OK, expected.clone()));
    let batch = post(&app, "/embed/batch", json!(TEXTS).to_string()).await;
    assert_eq!((batch.status, batch.body), (StatusCode::OK, expected));
}

#[tokio::test]
async fn options_shape_the_vectors() {
    let app = ready_app();
    for (options, pooling, dimensions, normalize) in [
        (json!({"normalize": false}), Pooling::Mean, None, false),
        (json!({"normalize": true, "dimensions": 5}), Pooling::Mean, Some(5), true),
        (json!({"normalize": false, "dimensions": 1}), Pooling::Mean, Some(1), false),
        (json!({"dimensions": 64.0}), Pooling::Mean, Some(64), true),
        (json!({"pooling": "cls"}), Pooling::Cls, None, true),
        (json!({"pooling": "model", "normalize": false}), Pooling::Model, None, false),
        (
            json!({"pooling": null, "normalize": null, "dimensions": null, "truncate": null}),
            Pooling::Mean,
            None,
            true,
        ),
        (json!({"model": "ignored", "user": {"deeply": ["ignored"]}}), Pooling::Mean, None, true),
    ] {
        let mut body = options.clone();
        body["query"] = json!([TEXTS[2]]);
        let answer = post(&app, "/embed", body.to_string()).await;
        let vector = expected_vector(TEXTS[2], pooling, dimensions, normalize);
        assert_eq!(answer.status, StatusCode::OK, "{options}: {}", answer.body);
        let start = format!(
            r#"{{"embeddings":[{}],"dimension":{},"#,
            serde_json::to_string(&vector).unwrap(),
            dimensions.unwrap_or(DIMENSION)
        );
        assert!(answer.body.starts_with(&start), "{options}: {} should start with {start}", answer.body);
    }
}

#[tokio::test]
async fn numbers_read_back_as_the_same_f32_and_are_as_short_as_that_allows() {
    let body = post(&ready_app(), "/embed", query(TEXTS[0])).await.body;
    let numbers = body.split(['[', ']']).nth(2).expect("the first vector");
    let vector = expected_vector(TEXTS[0], Pooling::Mean, None, true);
    for (text, value) in numbers.split(',').zip(&vector) {
        assert_eq!(text.parse::<f32>().unwrap().to_bits(), value.to_bits());
        assert!(text.len() <= format!("{value:?}").len() + 1, "{text} is longer than {value:?}");
    }
    assert_eq!(numbers.split(',').count(), DIMENSION);
}

#[tokio::test]
async fn a_text_over_the_models_length_is_refused_unless_it_may_be_cut() {
    let app = ready_app();
    let long = "word ".repeat(300);
    let refused = |name: &str, remedy: &str| {
        let message = format!(
            "{name}: the text has 302 tokens, over the model's limit of 256: shorten it, or {remedy}"
        );
        error_json(&message, "invalid_request_error", "text_too_long")
    };
    let set = "set \"truncate\": true to embed its beginning";
    let send = "send it to POST /embed with \"truncate\": true to embed its beginning";
    let compare = "set \"truncate\": true to compare its beginning";
    for (path, body, expected) in [
        ("/embed", json!({ "query": long }), refused("query", set)),
        ("/embed", json!({"query": ["short", long], "truncate": false}), refused("query[1]", set)),
        ("/embed/batch", json!(["short", "short", long]), refused("[2]", send)),
        (
            "/similarity",
            json!({"inputs": {"source_sentence": "a", "sentences": ["b", long]}}),
            refused("inputs.sentences[1]", compare),
        ),
        (
            "/similarity",
            json!({"inputs": {"source_sentence": long, "sentences": ["b"]}}),
            refused("inputs.source_sentence", compare),
        ),
    ] {
        let answer = post(&app, path, body.to_string()).await;
        assert_eq!((answer.status, answer.json()), (StatusCode::UNPROCESSABLE_ENTITY, expected));
    }
    let cut = format!(
        r#"{{"embeddings":[{},{}],"dimension":64,"count":2,"model":"small","tokens":[3,256],"truncated":[false,true],"padding":["none","none"]}}"#,
        expected_json("short"),
        expected_json(&long)
    );
    let body = json!({"query": ["short", long], "truncate": true}).to_string();
    assert_eq!(post(&app, "/embed", body).await.body, cut);
    let auto = ready_app_with(ServerConfig { auto_truncate: true, ..ServerConfig::default() });
    assert_eq!(post(&auto, "/embed", json!({"query": ["short", long]}).to_string()).await.body, cut);
    assert_eq!(post(&auto, "/embed/batch", json!(["short", long]).to_string()).await.body, cut);
    let refusing = post(&auto, "/embed", json!({"query": long, "truncate": false}).to_string()).await;
    assert_eq!(refusing.status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn a_text_far_over_the_models_length_is_tokenised_no_further_than_needed() {
    let app = ready_app();
    let long = "word ".repeat(1_000_000);
    let answer = post(&app, "/embed", query(&long)).await;
    let message = "query: the text has more than 1024 tokens, over the model's limit of 256: shorten it, or set \
                   \"truncate\": true to embed its beginning";
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(answer.json(), error_json(message, "invalid_request_error", "text_too_long"));
    let cut = post(&app, "/embed", json!({"query": long, "truncate": true}).to_string()).await;
    assert!(
        cut.body
            .starts_with(&format!(r#"{{"embeddings":[{}],"#, expected_json("word ".repeat(300).as_str())))
    );
    let nothing = post(&app, "/embed", query(&" ".repeat(1_000_000))).await;
    assert!(nothing.body.starts_with(&format!(r#"{{"embeddings":[{}],"#, expected_json(""))));
}

#[tokio::test]
async fn a_text_of_exactly_the_models_length_fits() {
    let text = "word ".repeat(MAX_TOKENS - 2);
    let answer = post(&ready_app(), "/embed", query(&text)).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!((&answer.json()["tokens"], &answer.json()["truncated"]), (&json!([256]), &json!([false])));
}

#[tokio::test]
async fn the_servers_pooling_is_the_default() {
    let app = ready_app_with(ServerConfig { pooling: Pooling::Cls, ..ServerConfig::default() });
    let vector = serde_json::to_string(&expected_vector("hello", Pooling::Cls, None, true)).unwrap();
    assert!(
        post(&app, "/embed", query("hello")).await.body.starts_with(&format!(r#"{{"embeddings":[{vector}]"#))
    );
}

#[tokio::test]
async fn similarity_is_the_cosine_of_the_engines_vectors() {
    let body = json!({"inputs": {"source_sentence": TEXTS[0], "sentences": [TEXTS[2], TEXTS[0], TEXTS[3]]}});
    let answer = post(&ready_app(), "/similarity", body.to_string()).await;
    let unit = |text| expected_vector(text, Pooling::Mean, None, true);
    let cosine = |text| -> f32 {
        let dot: f64 = unit(TEXTS[0]).iter().zip(unit(text)).map(|(&a, b)| f64::from(a) * f64::from(b)).sum();
        dot.clamp(-1.0, 1.0) as f32
    };
    let expected = serde_json::to_string(&[cosine(TEXTS[2]), cosine(TEXTS[0]), cosine(TEXTS[3])]).unwrap();
    assert_eq!((answer.status, answer.body), (StatusCode::OK, expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_flight_together_get_the_numbers_of_lone_ones() {
    let app = ready_app();
    let texts: Vec<String> = (0..60).map(|n| format!("text {n} {}", "and more ".repeat(n % 17))).collect();
    let requests = texts.iter().cloned().map(|text| {
        let app = app.clone();
        tokio::spawn(async move { post(&app, "/embed", query(&text)).await })
    });
    let requests: Vec<_> = requests.collect();
    for (request, text) in requests.into_iter().zip(&texts) {
        let body = request.await.unwrap().body;
        assert!(body.starts_with(&format!(r#"{{"embeddings":[{}],"#, expected_json(text))), "{text}: {body}");
    }
}

#[tokio::test]
async fn embedding_routes_say_where_the_time_went() {
    for (path, body) in [("/embed", json!({"query": "a"})), ("/embed/batch", json!(["a"]))] {
        let answer = post(&ready_app(), path, body.to_string()).await;
        let timing = answer.header("server-timing").expect("Server-Timing");
        let parts: Vec<(&str, f64)> = timing
            .split(", ")
            .map(|part| part.split_once(";dur=").expect("a duration"))
            .map(|(name, value)| (name, value.parse().expect("a number")))
            .collect();
        assert_eq!(parts.iter().map(|part| part.0).collect::<Vec<_>>(), ["tokenise", "queue", "compute"]);
        assert!(parts.iter().all(|part| part.1 >= 0.0));
    }
}
