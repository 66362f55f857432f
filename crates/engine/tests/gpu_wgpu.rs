//! Models on whatever Metal, Vulkan or DirectX 12 device there is, a program on the CPU included, against the published
//! implementation's vectors.
//!
//! Without a device there is nothing to test: these tests then say so and pass, but where `DANAUS_REQUIRE_VULKAN` is set.
#![cfg(feature = "wgpu")]

mod common;

use std::ops::ControlFlow;

use common::{Case, Embeddings, bits, fixture, golden_ids, read};
use danaus_engine::gpu::wgpu::{Api, WgpuAccelerator, WgpuOptions, list_adapters};
use danaus_engine::gpu::{Accelerator, DeviceError, PaddedText, Pooled};
use danaus_engine::padding::distance;
use danaus_model::{LoadedModel, ModelConfig, load_checkpoint, read_config, synthetic};

fn there_is_a_device() -> bool {
    let found = list_adapters(Api::Any);
    if found.is_empty() {
        assert!(std::env::var_os("DANAUS_REQUIRE_VULKAN").is_none(), "no device was found");
        println!("not tested: no Metal, Vulkan or DirectX 12 device was found");
    }
    !found.is_empty()
}

fn accelerator(model: &LoadedModel, f16: bool) -> WgpuAccelerator {
    let options = WgpuOptions { allow_cpu: true, f16: Some(f16), ..WgpuOptions::default() };
    WgpuAccelerator::new(model, &options).unwrap()
}

/// Whether the device stores float16.
fn has_f16() -> bool {
    list_adapters(Api::Any).iter().any(|adapter| adapter.f16)
}

fn text(ids: &[u32], rows: usize, pooled: Pooled) -> PaddedText<'_> {
    PaddedText { ids, rows, far_field: None, pooled }
}

/// What a fixture's pooling makes of pooled states, normalised.
fn finished(model: &LoadedModel, pooling: &str, pooled: &[f32]) -> Vec<f32> {
    let mut vector: Vec<f64> = pooled.iter().copied().map(f64::from).collect();
    if pooling == "pooler" {
        let (weight, bias) = (model.weights.pooler.weight.values(), model.weights.pooler.bias.values());
        let rows = weight.chunks_exact(pooled.len()).zip(bias.iter());
        let dense = rows.map(|(row, &bias)| {
            let products = row.iter().zip(&vector).map(|(&w, x)| f64::from(w) * x);
            (products.sum::<f64>() + f64::from(bias)).tanh()
        });
        vector = dense.collect();
    }
    let norm = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
    vector.iter().map(|x| (x / norm) as f32).collect()
}

/// Checks cases, all in one batch.
fn check(name: &str, model: &LoadedModel, cases: &[&Case], f16: bool) {
    let accelerator = accelerator(model, f16);
    let ids: Vec<_> = cases.iter().map(|case| case.ids()).collect();
    let texts = cases.iter().zip(&ids).map(|(case, ids)| {
        let pooled = if case.pooling == "mean" { Pooled::Mean } else { Pooled::First };
        text(ids, case.pad_to.unwrap_or(ids.len()), pooled)
    });
    let texts: Vec<_> = texts.collect();
    let vectors = accelerator.embed(&texts, None).unwrap();
    let tolerance = if f16 { 1e-4 } else { 1e-6 };
    let mut worst = 0.0f64;
    for (case, vector) in cases.iter().zip(&vectors) {
        let got = finished(model, &case.pooling, vector);
        let error = distance(&got, &case.embedding);
        let what = format!("{name}, {} tokens, {}, {:?}", case.tokens(), case.pooling, case.pad_to);
        assert!(error <= tolerance, "{what}: 1 - cosine {error:e}");
        worst = worst.max(error);
    }
    let dtype = accelerator.description().dtype;
    println!("{name}, {} cases, {dtype}: 1 - cosine {worst:.1e} at most", cases.len());
}

fn both_dtypes(check: impl Fn(bool)) {
    if there_is_a_device() {
        check(false);
        if has_f16() {
            check(true);
        }
    }
}

fn tiny(name: &str) -> LoadedModel {
    let config = read_config(&fixture(&format!("{name}/config.json"))).unwrap();
    let file = fixture(&format!("{name}/model.safetensors"));
    let (config, weights) = load_checkpoint(config, &file).unwrap();
    LoadedModel { id: name.to_owned(), revision: None, config, weights, synthetic: true, padded: true }
}

#[test]
fn tiny_models_agree() {
    both_dtypes(|f16| {
        for name in ["tiny-64", "tiny-96", "tiny-2-blocks"] {
            let golden: Embeddings = read(&format!("{name}/embeddings.json"));
            check(name, &tiny(name), &golden.cases.iter().collect::<Vec<_>>(), f16);
        }
    });
}

/// Checks the cases of a fixture of the 80M shape whose length in the encoder is in `range`.
fn check_80m(fixture: &str, max_tokens: usize, range: std::ops::RangeInclusive<usize>, f16: bool) {
    let golden: Embeddings = read(&format!("{fixture}/embeddings.json"));
    let length = |case: &Case| case.pad_to.unwrap_or(case.tokens());
    let cases: Vec<_> = golden.cases.iter().filter(|case| range.contains(&length(case))).collect();
    assert!(!cases.is_empty());
    let model = synthetic(&ModelConfig::m2_bert_80m(max_tokens), 1);
    check(fixture, &model, &cases, f16);
}

#[test]
fn short_texts_of_the_80m_models_agree() {
    both_dtypes(|f16| check_80m("m2-bert-80m-32k", 32_768, 1..=128, f16));
}
