//! The rules for the tensors of a checkpoint, one by one.

use danaus_model::LoadedModel;
use half::{bf16, f16};
use serde_json::json;

use crate::common::{Checkpoint, Stored, assert_same, bits, logged, tensors};

const WORD: &str = "embeddings.word_embeddings.weight";
const FILTER: &str = "encoder.layer.1.attention.filter_fn.";

fn load(checkpoint: &Checkpoint) -> LoadedModel {
    let (model, log) = logged(|| checkpoint.load());
    assert_eq!(log, "");
    model.unwrap()
}

#[test]
fn prefixes_are_stripped_in_any_combination() {
    let plain = load(&Checkpoint::small());
    for prefix in
        ["bert.", "model.", "module.", "model.bert.", "module.model.bert.", "bert.module.", "model.model."]
    {
        let prefixed = load(&Checkpoint::small().renamed(|name| format!("{prefix}{name}")));
        assert_same(&prefixed.weights, &plain.weights);
    }
    let mixed = Checkpoint::small()
        .renamed(|name| if name.len() % 2 == 0 { format!("bert.{name}") } else { format!("module.{name}") });
    assert_same(&load(&mixed).weights, &plain.weights);
}

#[test]
fn two_tensors_for_one_weight_are_an_error_that_names_both() {
    let word = Checkpoint::small().tensors[WORD].clone();
    let error = Checkpoint::small().with(&format!("bert.{WORD}"), word).load_error();
    assert_eq!(
        error,
        format!(
            "model.safetensors: tensors bert.{WORD} and {WORD} stand for the same weight: expected one of them"
        )
    );
}

#[test]
fn any_one_name_of_the_frequencies_serves_for_all() {
    let plain = load(&Checkpoint::small());
    let first = format!("{FILTER}implicit_filter.1.freq");
    for mlp in ["implicit_filter", "implicit_filter_rev"] {
        for index in [1, 3, 5] {
            let name = format!("{FILTER}{mlp}.{index}.freq");
            let checkpoint = Checkpoint::small();
            let frequency = checkpoint.tensors[&first].clone();
            let model = load(&checkpoint.without(&first).with(&name, frequency));
            assert_same(&model.weights, &plain.weights);
        }
    }
}

#[test]
fn frequencies_that_differ_are_used_each_where_it_stands() {
    let checkpoint = Checkpoint::small()
        .with(&format!("{FILTER}implicit_filter.5.freq"), Stored::f32(&[1, 6], &[5.0; 6]))
        .with(&format!("{FILTER}implicit_filter_rev.3.freq"), Stored::f32(&[1, 6], &[3.0; 6]));
    let shared =
        tensors(&load(&Checkpoint::small()).weights)[&format!("{FILTER}implicit_filter.1.freq")].to_vec();
    let filter = load(&checkpoint).weights.layers[1].filter.clone();
    let got =
        [filter.forward, filter.reverse].map(|mlp| mlp.sine_layers.map(|layer| layer.frequency.to_vec()));
    let (five, three) = (vec![5.0; 6], vec![3.0; 6]);
    assert_eq!(got, [[shared.clone(), shared.clone(), five], [shared.clone(), three, shared]]);
}

#[test]
fn missing_frequencies_are_named() {
    let error = Checkpoint::small().without(&format!("{FILTER}implicit_filter.1.freq")).load_error();
    assert_eq!(error, format!("model.safetensors: tensor {FILTER}implicit_filter.1.freq is missing"));
}

#[test]
fn window_and_features_are_computed_only_where_they_are_absent() {
    let z = format!("{FILTER}pos_emb.z");
    let given: Vec<f32> = (0..50).map(|i| i as f32).collect();
    let model = load(&Checkpoint::small().with(&z, Stored::f32(&[1, 10, 5], &given)));
    assert_eq!(model.weights.layers[1].filter.features.to_vec(), given);

    let absent = Checkpoint::small()
        .without(&z)
        .without(&format!("{FILTER}pos_emb.t"))
        .without(&format!("{FILTER}modulation.deltas"));
    let filter = load(&absent).weights.layers[1].filter.clone();
    assert_eq!(filter.features.shape(), [1, 10, 5]);
    assert_eq!(
        filter.time.to_vec(),
        (0..10).map(|i| (f64::from(i) * (1.0 / 9.0)) as f32).collect::<Vec<_>>()
    );
    let rates: Vec<f64> =
        (0..8).map(|i| 0.01f64.ln() * (1.0 / 1.5 + f64::from(i) / 7.0 * (1.0 / 0.3 - 1.0 / 1.5))).collect();
    for (got, expected) in filter.deltas.to_vec().into_iter().zip(rates) {
        assert!((f64::from(got) - expected).abs() < 1e-6, "{got}, expected {expected}");
    }
    for (row, features) in filter.features.to_vec().chunks(5).enumerate() {
        let angle = std::f64::consts::TAU * row as f64 / 10.0;
        let expected =
            [row as f64 / 9.0, (1e-4 * angle).cos(), angle.cos(), -(1e-4 * angle).sin(), -angle.sin()];
        for (got, expected) in features.iter().zip(expected) {
            assert!((f64::from(*got) - expected).abs() < 1e-6, "row {row}: {got}, expected {expected}");
        }
    }
}

#[test]
fn leftovers_of_training_are_ignored_without_a_word() {
    let odd = Stored::new("I64", &[2], vec![0; 16]);
    let mut checkpoint = Checkpoint::small();
    for name in [
        "classifier.weight",
        "bert.classifier.bias",
        "cls.predictions.bias",
        "model.cls.seq_relationship.weight",
        "dropout.mask",
        "embeddings.position_ids",
        "bert.embeddings.position_ids",
        "embeddings.token_type_ids",
        "position_ids",
        "encoder.flashfft.f_16_fft",
        "bert.encoder.layer.0.attention.flashfftconv.x",
    ] {
        checkpoint = checkpoint.with(name, odd.clone());
    }
    // An infinite value in what is not used is of no account either.
    let checkpoint = checkpoint.with("classifier.out", Stored::f32(&[1], &[f32::INFINITY]));
    assert_same(&load(&checkpoint).weights, &load(&Checkpoint::small()).weights);
}

#[test]
fn other_unknown_tensors_are_a_warning_that_names_them() {
    let odd = Stored::new("F64", &[1], vec![0; 8]);
    let checkpoint = Checkpoint::small()
        .with("bert.encoder.layer.0.attention.query.weight", odd.clone())
        .with("ema.decay", odd);
    let (model, log) = logged(|| checkpoint.load());
    model.unwrap();
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(log.contains("WARN"), "{log}");
    assert!(
        log.contains(
            "2 tensors are of no use to this model and were ignored: ema.decay, \
             bert.encoder.layer.0.attention.query.weight"
        ),
        "{log}"
    );
}

#[test]
fn a_long_list_of_unknown_tensors_is_cut() {
    let checkpoint = (0..30).fold(Checkpoint::small(), |checkpoint, index| {
        checkpoint.with(&format!("unknown.{index:02}"), Stored::f32(&[1], &[0.0]))
    });
    let (_, log) = logged(|| checkpoint.load());
    assert!(log.contains("30 tensors") && log.contains("unknown.19 and 10 more"), "{log}");
}

#[test]
fn a_position_table_that_is_not_used_is_unknown() {
    let checkpoint = Checkpoint::small().stating("use_positional_encodings", json!(false));
    let (model, log) = logged(|| checkpoint.load());
    assert!(model.unwrap().weights.embeddings.position.is_none());
    assert!(log.contains("embeddings.position_embeddings.weight"), "{log}");
}

#[test]
fn every_missing_tensor_is_named() {
    let every = Checkpoint::small();
    let optional =
        |name: &str| ["pos_emb.z", "pos_emb.t", "modulation.deltas"].iter().any(|end| name.ends_with(end));
    for name in every.tensors.keys().filter(|name| !optional(name)) {
        let error = every.clone().without(name).load_error();
        assert_eq!(error, format!("model.safetensors: tensor {name} is missing"));
    }
    let none = every.clone().renamed(|name| format!("roberta.{name}")).load_error();
    assert!(none.starts_with("model.safetensors: "), "{none}");
    assert!(
        none.contains("tensors of an M2-BERT model are missing: embeddings.word_embeddings.weight, "),
        "{none}"
    );
    assert!(none.ends_with(" more"), "{none}");
}

#[test]
fn every_wrong_shape_is_an_error_that_shows_both() {
    let every = Checkpoint::small();
    for (name, tensor) in &every.tensors {
        let mut shape = tensor.shape.clone();
        *shape.last_mut().unwrap() += 1;
        let count: usize = shape.iter().product();
        let bad = Stored::f32(&shape, &vec![0.5; count]);
        let error = every.clone().with(name, bad).load_error();
        assert!(error.contains(name.as_str()), "{name}: {error}");
        assert!(error.contains(&format!("has shape {shape:?}")), "{name}: {error}");
        let stated = error.contains("config.json says that")
            || error.contains(&format!("expected {:?}", tensor.shape));
        assert!(stated, "{name}: {error}");
    }
    let flat = Stored::f32(&[320], &[0.5; 320]);
    assert_eq!(
        every.with(WORD, flat).load_error(),
        format!("model.safetensors: tensor {WORD} has shape [320]: expected [40, 8]")
    );
}

#[test]
fn every_non_finite_value_is_an_error_that_names_the_tensor() {
    let every = Checkpoint::small();
    for (name, tensor) in &every.tensors {
        for (bad, text) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
            let mut spoilt = tensor.clone();
            let last = spoilt.bytes.len() - 4;
            spoilt.bytes[last..].copy_from_slice(&bad.to_le_bytes());
            assert_eq!(
                every.clone().with(name, spoilt).load_error(),
                format!(
                    "model.safetensors: tensor {name} has the value {text} at index {}: expected finite numbers",
                    last / 4
                )
            );
        }
    }
}

#[test]
fn half_precision_reads_as_float32() {
    let full = tensors(&load(&Checkpoint::small()).weights);
    let convert = |dtype, to_bytes: fn(f32) -> [u8; 2]| {
        let mut checkpoint = Checkpoint::small();
        for tensor in checkpoint.tensors.values_mut() {
            let (values, _) = tensor.bytes.as_chunks::<4>();
            let bytes = values.iter().flat_map(|value| to_bytes(f32::from_le_bytes(*value))).collect();
            *tensor = Stored::new(dtype, &tensor.shape, bytes);
        }
        tensors(&load(&checkpoint).weights)
    };
    let half = convert("F16", |value| f16::from_f32(value).to_le_bytes());
    let brain = convert("BF16", |value| bf16::from_f32(value).to_le_bytes());
    for (name, tensor) in &full {
        let expect = |round: fn(f32) -> f32| {
            tensor.to_vec().into_iter().map(|x| round(x).to_bits()).collect::<Vec<_>>()
        };
        assert_eq!(bits(&half[name]), expect(|x| f16::from_f32(x).to_f32()), "{name}");
        assert_eq!(bits(&brain[name]), expect(|x| bf16::from_f32(x).to_f32()), "{name}");
    }
}

#[test]
fn an_infinite_half_is_found() {
    let mut word = vec![0; 640];
    word[2..4].copy_from_slice(&f16::INFINITY.to_le_bytes());
    let error = Checkpoint::small().with(WORD, Stored::new("F16", &[40, 8], word)).load_error();
    assert_eq!(
        error,
        format!("model.safetensors: tensor {WORD} has the value inf at index 1: expected finite numbers")
    );
}

#[test]
fn other_types_are_an_error_that_names_the_tensor() {
    for (dtype, size) in [("F64", 8), ("I64", 8), ("I32", 4), ("U8", 1), ("BOOL", 1), ("F8_E4M3", 1)] {
        let word = Stored::new(dtype, &[40, 8], vec![0; 320 * size]);
        assert_eq!(
            Checkpoint::small().with(WORD, word).load_error(),
            format!(
                "model.safetensors: tensor {WORD} has type {dtype}: expected float32, float16 or bfloat16"
            )
        );
    }
}

#[test]
fn integers_are_weights_where_their_rows_have_factors() {
    let word = || Stored::new("I8", &[40, 8], (0..320).map(|i| (i % 256) as u8).collect());
    let factors: Vec<f32> = (0..40).map(|row| row as f32 / 64.0).collect();
    let scale = format!("{WORD}.scale");
    let checkpoint = Checkpoint::small().with(WORD, word());
    let model = load(&checkpoint.clone().with(&scale, Stored::f32(&[40], &factors)));
    let expected: Vec<f32> =
        (0..320).map(|i| f32::from(((i % 256) as u8).cast_signed()) * (i / 8) as f32 / 64.0).collect();
    assert_eq!(model.weights.embeddings.word.to_vec(), expected);

    assert_eq!(checkpoint.load_error(), format!("model.safetensors: tensor {scale} is missing"));
    let wrong = checkpoint.clone().with(&scale, Stored::f32(&[8], &[1.0; 8]));
    assert_eq!(wrong.load_error(), format!("model.safetensors: tensor {scale} has shape [8]: expected [40]"));
    let integers = checkpoint.clone().with(&scale, Stored::new("I8", &[40], vec![1; 40]));
    assert_eq!(
        integers.load_error(),
        format!("model.safetensors: tensor {scale} has type I8: expected float32, float16 or bfloat16")
    );
    let mut infinite = factors;
    infinite[1] = f32::INFINITY;
    let error = checkpoint.with(&scale, Stored::f32(&[40], &infinite)).load_error();
    assert_eq!(
        error,
        format!("model.safetensors: tensor {WORD} has the value inf at index 8: expected finite numbers")
    );
}

#[test]
fn sizes_that_are_not_stated_come_from_the_tensors() {
    let sizes = [
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "intermediate_size",
        "type_vocab_size",
        "max_position_embeddings",
        "long_conv_l_max",
        "hyena_emb_dim",
        "hyena_filter_order",
        "monarch_mlp_nblocks",
    ];
    let stated = load(&Checkpoint::small());
    let silent = load(&Checkpoint::small().without_keys(&sizes));
    assert_eq!(silent.config, stated.config);
    assert_same(&silent.weights, &stated.weights);
    // Without positional features, time tells the length.
    let features = Checkpoint::small()
        .tensors
        .keys()
        .filter(|name| name.ends_with("pos_emb.z"))
        .cloned()
        .collect::<Vec<_>>();
    let without_z = features.iter().fold(Checkpoint::small(), |checkpoint, name| checkpoint.without(name));
    assert_eq!(load(&without_z.without_keys(&sizes)).config, stated.config);
}

#[test]
fn a_stated_size_that_contradicts_a_tensor_is_an_error_that_shows_both() {
    let cases = [
        (
            "vocab_size",
            41,
            "tensor bert.embeddings.word_embeddings.weight has shape [40, 8], which makes it 40",
        ),
        (
            "hidden_size",
            16,
            "tensor bert.embeddings.word_embeddings.weight has shape [40, 8], which makes it 8",
        ),
        ("num_hidden_layers", 3, "the tensors encoder.layer.0 to encoder.layer.1 make it 2"),
        ("num_hidden_layers", 1, "the tensors encoder.layer.0 to encoder.layer.1 make it 2"),
        (
            "intermediate_size",
            24,
            "tensor bert.encoder.layer.0.mlp.gated_layers.weight has shape [2, 12, 4], which makes it 12",
        ),
        (
            "monarch_mlp_nblocks",
            4,
            "tensor bert.encoder.layer.0.mlp.gated_layers.weight has shape [2, 12, 4], which makes it 2",
        ),
        (
            "type_vocab_size",
            1,
            "tensor bert.embeddings.token_type_embeddings.weight has shape [2, 8], which makes it 2",
        ),
        (
            "max_position_embeddings",
            20,
            "tensor bert.embeddings.position_embeddings.weight has shape [10, 8], which makes it 10",
        ),
        (
            "long_conv_l_max",
            9,
            "tensor bert.encoder.layer.0.attention.filter_fn.pos_emb.z has shape [1, 10, 5], which makes it 10",
        ),
        (
            "hyena_emb_dim",
            7,
            "tensor bert.encoder.layer.0.attention.filter_fn.implicit_filter.0.weight has shape [6, 5], which makes it 5",
        ),
        (
            "hyena_filter_order",
            12,
            "tensor bert.encoder.layer.0.attention.filter_fn.implicit_filter.0.weight has shape [6, 5], which makes it 6",
        ),
    ];
    for (key, value, evidence) in cases {
        let checkpoint =
            Checkpoint::small().renamed(|name| format!("bert.{name}")).stating(key, json!(value));
        assert_eq!(
            checkpoint.load_error(),
            format!("model.safetensors: config.json says that {key} is {value}, but {evidence}")
        );
    }
}

#[test]
fn a_vocabulary_that_the_published_code_rounds_up_is_no_contradiction() {
    let model = load(&Checkpoint::small().stating("vocab_size", json!(35)));
    assert_eq!(model.config.vocab_size, 40);
    let error = Checkpoint::small().stating("vocab_size", json!(32)).load_error();
    assert!(error.contains("config.json says that vocab_size is 32, but"), "{error}");
}

#[test]
fn shapes_that_cannot_be_computed_with_are_an_error() {
    let even = Checkpoint::small().without_keys(&["hyena_emb_dim"]).with(
        "encoder.layer.0.attention.filter_fn.implicit_filter.0.weight",
        Stored::f32(&[6, 4], &[0.0; 24]),
    );
    assert_eq!(
        even.load_error(),
        "model.safetensors: with the sizes that the tensors have: hyena_emb_dim is 4, which is not supported: expected \
         an odd number (time, then pairs of cosine and sine)"
    );
    let empty = Checkpoint::small().without_keys(&["vocab_size"]).with(WORD, Stored::f32(&[0, 8], &[]));
    assert!(empty.load_error().contains("vocab_size is 0, which is not supported"));
}
