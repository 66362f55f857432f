//! Configurations: defaults, and what is refused.

use danaus_model::{ConfigFile, ModelConfig};
use serde_json::{Value, json};

use crate::common::{fixture, small_config};

fn parse(json: &Value) -> Result<ModelConfig, String> {
    ConfigFile::parse(&json.to_string()).and_then(ConfigFile::into_config).map_err(|error| error.to_string())
}

#[test]
fn lacking_keys_are_those_of_m2_bert_80m_32k() {
    assert_eq!(parse(&json!({})).unwrap(), ModelConfig::m2_bert_80m(32_768));
    let parsed =
        parse(&json!({"num_hidden_layers": 3, "layer_norm_eps": 1e-5, "long_conv_l_max": null})).unwrap();
    let expected =
        ModelConfig { num_hidden_layers: 3, layer_norm_eps: 1e-5, ..ModelConfig::m2_bert_80m(32_768) };
    assert_eq!(parsed, expected);
}

#[test]
fn every_key_is_read() {
    let config = ModelConfig {
        use_positional_encodings: false,
        hyena_w: 3.5,
        hyena_w_mod: 2.0,
        pad_token_id: 5,
        use_cls_token: true,
        pool_all: true,
        hyena_emb_dim: 7,
        type_vocab_size: 3,
        ..small_config()
    };
    assert_eq!(parse(&json!(config)).unwrap(), config);
}

#[test]
fn the_fixtures_configurations() {
    let json = std::fs::read_to_string(fixture("tiny-2-blocks/config.json")).unwrap();
    let config = ConfigFile::parse(&json).unwrap().into_config().unwrap();
    assert_eq!((config.hidden_size, config.monarch_mlp_nblocks, config.max_tokens()), (64, 2, 64));
    assert_eq!((config.hyena_w, config.layer_norm_eps, config.pad_token_id), (10.0, 1e-12, 0));
}

#[test]
fn the_longest_text_is_that_of_the_shorter_table() {
    let config = ModelConfig { max_position_embeddings: 7, long_conv_l_max: 9, ..small_config() };
    assert_eq!(config.max_tokens(), 7);
    assert_eq!(ModelConfig { use_positional_encodings: false, ..config }.max_tokens(), 9);
}

#[test]
fn what_is_not_supported_is_named_with_its_value_and_what_is() {
    let cases = [
        (json!({"bidirectional": false}), "bidirectional is false, which is not supported: only true is"),
        (
            json!({"residual_long_conv": false}),
            "residual_long_conv is false, which is not supported: only true is",
        ),
        (
            json!({"hyena_training_additions": true}),
            "hyena_training_additions is true, which is not supported: only false is",
        ),
        (json!({"use_glu_mlp": false}), "use_glu_mlp is false, which is not supported: only true is"),
        (json!({"use_monarch_mlp": false}), "use_monarch_mlp is false, which is not supported: only true is"),
        (json!({"hidden_act": "relu"}), "hidden_act is \"relu\", which is not supported: only \"gelu\""),
        (json!({"hidden_act": "gelu_new"}), "hidden_act is \"gelu_new\""),
        (
            json!({"hidden_size": 770}),
            "hidden_size is 770, which is not supported: expected a multiple of monarch_mlp_nblocks, which is 4",
        ),
        (
            json!({"intermediate_size": 3070}),
            "intermediate_size is 3070, which is not supported: expected a multiple of",
        ),
        (json!({"hidden_size": 0}), "hidden_size is 0, which is not supported: expected 1 to 65536"),
        (json!({"vocab_size": 0}), "vocab_size is 0"),
        (json!({"num_hidden_layers": 0}), "num_hidden_layers is 0"),
        (json!({"monarch_mlp_nblocks": 0}), "monarch_mlp_nblocks is 0"),
        (json!({"long_conv_l_max": 0}), "long_conv_l_max is 0"),
        (json!({"hyena_filter_order": 0}), "hyena_filter_order is 0"),
        (
            json!({"num_hidden_layers": 1_000_000_000_000u64}),
            "num_hidden_layers is 1000000000000, which is not supported: expected 1 to 1024",
        ),
        (json!({"long_conv_l_max": u64::MAX}), "long_conv_l_max is 18446744073709551615"),
        (
            json!({"hidden_size": 65536, "num_hidden_layers": 100}),
            "hidden_size is 65536, which is not supported: with the other sizes it makes",
        ),
        (json!({"hyena_emb_dim": 4}), "hyena_emb_dim is 4, which is not supported: expected an odd number"),
        (
            json!({"pad_token_id": 30528}),
            "pad_token_id is 30528, which is not supported: expected an id below vocab_size",
        ),
        (json!({"layer_norm_eps": -1.0}), "layer_norm_eps is -1.0"),
        (json!({"hyena_w_mod": 1e300}), "hyena_w_mod is 1e+300"),
        (
            json!({"danaus_padding": "fast"}),
            "danaus_padding is \"fast\", which is not supported: \"none\" or \"max-length\"",
        ),
        (json!({"danaus_padding": "Max-Length"}), "danaus_padding is \"Max-Length\", which is not supported"),
        (json!({"danaus_padding": ""}), "danaus_padding is \"\", which is not supported"),
        (json!({"danaus_padding": true}), "danaus_padding is true, which is not supported: \"none\" or"),
        (json!({"danaus_padding": ["none"]}), "danaus_padding is [\"none\"], which is not supported"),
    ];
    for (config, expected) in cases {
        let error = parse(&config).unwrap_err();
        assert!(error.starts_with(expected), "{config}: {error}");
    }
}

#[test]
fn a_value_of_the_wrong_type_is_named_with_what_is_expected() {
    let cases = [
        (json!({"hidden_size": "768"}), "hidden_size is \"768\": expected a whole number, 1 or more"),
        (json!({"hidden_size": -1}), "hidden_size is -1: expected a whole number, 1 or more"),
        (json!({"hidden_size": 1.5}), "hidden_size is 1.5: expected a whole number, 1 or more"),
        (json!({"bidirectional": 1}), "bidirectional is 1: expected true or false"),
        (json!({"layer_norm_eps": "small"}), "layer_norm_eps is \"small\": expected a number"),
        (json!({"pad_token_id": -1}), "pad_token_id is -1: expected a token id"),
        (json!({"hidden_act": 3}), "hidden_act is 3: expected a string"),
    ];
    for (config, expected) in cases {
        assert_eq!(parse(&config).unwrap_err(), expected);
    }
    let long = parse(&json!({"hidden_act": [1, 2, "x".repeat(10_000)]})).unwrap_err();
    assert!(long.len() < 200, "{long}");
}

#[test]
fn what_is_not_a_json_object_is_refused() {
    for text in ["", "[]", "3", "{\"hidden_size\": 3", "\u{feff}{}", "{\"a\": NaN}", &"[".repeat(100_000)] {
        let error = ConfigFile::parse(text).unwrap_err().to_string();
        assert!(error.starts_with("not a JSON object"), "{error}");
    }
}
