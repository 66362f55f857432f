//! The model that comes with the program against the code that trained it (PyTorch, float32).

mod common;

use common::{Embeddings, backends, embed, read};
use danaus_engine::padding::distance;
use danaus_engine::{BackendOptions, CpuBackend, Dtype, Padding};
use danaus_model::{HubOptions, LoadOptions, LoadedModel, ModelSource, Tokenizer};
use serde_json::Value;

fn model() -> LoadedModel {
    let options = LoadOptions { source: ModelSource::Builtin, revision: None, hub: HubOptions::from_env() };
    danaus_model::load(&options).unwrap()
}

#[test]
fn every_instruction_set_agrees_with_the_training_code() {
    let model = model();
    assert_eq!((model.padded, model.synthetic, model.config.max_tokens()), (false, false, 2048));
    let golden: Embeddings = read("builtin/embeddings.json");
    assert!(golden.cases.len() > 5);
    for backend in backends(&model) {
        for case in &golden.cases {
            let got = embed(&backend, &case.ids(), case.pooling(), Padding::None);
            let distance = distance(&got, &case.embedding);
            println!("{} tokens: 1 - cosine {distance:.1e}", case.tokens());
            assert!(distance <= 1e-5, "{} tokens: 1 - cosine {distance:e}", case.tokens());
        }
    }
}

#[test]
fn smaller_types_stay_near() {
    let model = model();
    let golden: Embeddings = read("builtin/embeddings.json");
    for (dtype, bound) in [(Dtype::Bf16, 1e-3), (Dtype::Int8, 1e-2)] {
        let options = BackendOptions { dtype, ..BackendOptions::default() };
        let backend = CpuBackend::new(&model, &options).unwrap();
        for case in &golden.cases {
            let got = embed(&backend, &case.ids(), case.pooling(), Padding::None);
            let distance = distance(&got, &case.embedding);
            println!("{dtype}, {} tokens: 1 - cosine {distance:.1e}", case.tokens());
            assert!(distance <= bound, "{dtype}, {} tokens: 1 - cosine {distance:e}", case.tokens());
        }
    }
}

#[test]
fn the_built_in_tokenizer_is_the_one_it_was_trained_with() {
    let golden: Value = read("builtin/embeddings.json");
    let tokenizer = Tokenizer::bert_base_uncased();
    let mut checked = 0;
    for case in golden["cases"].as_array().unwrap() {
        let Some(text) = case["text"].as_str() else { continue };
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        assert_eq!(tokenizer.encode_ids(text, usize::MAX).unwrap(), ids, "{text}");
        checked += 1;
    }
    assert!(checked > 3);
}
