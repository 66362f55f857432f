//! M2-BERT on an NVIDIA GPU against the published implementation's vectors.
//!
//! Without such a GPU nothing is tested, unless `DANAUS_REQUIRE_CUDA` is set: then that is a failure.
#![cfg(feature = "cuda")]

mod common;

use common::{Case, Embeddings, bits, fixture, golden_ids, read};
use danaus_engine::gpu::cuda::{CudaAccelerator, CudaOptions, Element};
use danaus_engine::gpu::{Accelerator, PaddedText, Pooled};
use danaus_engine::padding::distance;
use danaus_engine::{Padding, finish};
use danaus_model::{LoadedModel, ModelConfig, load_checkpoint, read_config, synthetic};

/// The largest 1 - cosine to the golden vectors.
fn tolerance(element: Element) -> f64 {
    if element == Element::F32 { 1e-6 } else { 1e-4 }
}

const ELEMENTS: [Element; 2] = [Element::F32, Element::F16];

fn accelerator(model: &LoadedModel, element: Element) -> Option<CudaAccelerator> {
    match CudaAccelerator::new(model, &CudaOptions { index: 0, element }) {
        Ok(accelerator) => Some(accelerator),
        Err(error) => {
            assert!(std::env::var_os("DANAUS_REQUIRE_CUDA").is_none(), "{error:?}");
            eprintln!("not tested: {error:?}");
            None
        }
    }
}

/// A golden case's vector, where its pooling needs no pooler.
fn embed(accelerator: &CudaAccelerator, case: &Case, max_tokens: usize) -> Option<Vec<f32>> {
    let pooled = match case.pooling.as_str() {
        "mean" => Pooled::Mean,
        "cls" => Pooled::First,
        _ => return None,
    };
    let ids = case.ids();
    let rows = if case.padding() == Padding::None { ids.len() } else { max_tokens };
    let vector = accelerator
        .embed(&[PaddedText { ids: &ids, rows, far_field: None, pooled }], None)
        .unwrap()
        .remove(0);
    Some(finish(vector, None, true).unwrap())
}

fn check(accelerator: &CudaAccelerator, fixture: &str, max_tokens: usize, tolerance: f64) {
    let golden: Embeddings = read(&format!("{fixture}/embeddings.json"));
    let dtype = accelerator.description().dtype;
    let (mut checked, mut worst) = (0, 0.0f64);
    for case in &golden.cases {
        let Some(got) = embed(accelerator, case, max_tokens) else { continue };
        let distance = distance(&got, &case.embedding);
        println!(
            "{fixture}, {dtype}, {} tokens, {}, {}: 1 - cosine {distance:.1e}",
            case.tokens(),
            case.pooling,
            case.padding()
        );
        checked += 1;
        worst = worst.max(distance);
    }
    assert!(checked > 0);
    assert!(worst <= tolerance, "{fixture}, {dtype}: {worst:e}");
}

#[test]
fn tiny_models() {
    for name in ["tiny-64", "tiny-96", "tiny-2-blocks"] {
        let config = read_config(&fixture(&format!("{name}/config.json"))).unwrap();
        let (config, weights) =
            load_checkpoint(config, &fixture(&format!("{name}/model.safetensors"))).unwrap();
        let max_tokens = config.max_tokens();
        let model = LoadedModel {
            id: name.to_owned(),
            revision: None,
            config,
            weights,
            synthetic: true,
            padded: true,
        };
        for element in ELEMENTS {
            let Some(accelerator) = accelerator(&model, element) else { return };
            check(&accelerator, name, max_tokens, tolerance(element));
        }
    }
}

#[test]
fn the_80m_models() {
    for (fixture, max_tokens) in
        [("m2-bert-80m-2k", 2048), ("m2-bert-80m-32k", 32768), ("m2-bert-80m-32k-padded", 32768)]
    {
        let model = synthetic(&ModelConfig::m2_bert_80m(max_tokens), 1);
        for element in ELEMENTS {
            let Some(accelerator) = accelerator(&model, element) else { return };
            check(&accelerator, fixture, max_tokens, tolerance(element));
        }
    }
}

#[test]
fn a_texts_bits_do_not_depend_on_the_batch() {
    let model = synthetic(&ModelConfig::m2_bert_80m(2048), 1);
    for element in ELEMENTS {
        let Some(accelerator) = accelerator(&model, element) else { return };
        let lengths = [1, 7, 32, 33, 60, 100, 128, 129, 300, 512, 700, 1500, 2048, 16, 16, 16];
        let ids: Vec<_> = lengths.iter().map(|&length| golden_ids(length)).collect();
        let text = |index: usize| PaddedText {
            ids: &ids[index],
            rows: ids[index].len(),
            far_field: None,
            pooled: if index.is_multiple_of(3) { Pooled::First } else { Pooled::Mean },
        };
        let alone: Vec<_> =
            (0..ids.len()).map(|index| accelerator.embed(&[text(index)], None).unwrap().remove(0)).collect();
        let texts: Vec<_> = (0..ids.len()).map(text).collect();
        let many: Vec<_> = (0..20).flat_map(|_| texts.clone()).collect();
        let mut steps = 0;
        let mut between = || {
            steps += 1;
            // Others in between.
            accelerator.embed(&texts[3..5], None).unwrap();
            std::ops::ControlFlow::Continue(())
        };
        let runs = [
            accelerator.embed(&texts, None).unwrap(),
            accelerator.embed(&texts, None).unwrap(),
            // Now recorded.
            accelerator.embed(&texts, None).unwrap(),
            accelerator.embed(&texts, Some(&mut between)).unwrap(),
            accelerator.embed(&many, None).unwrap(),
        ];
        assert_eq!(steps, 24);
        for (index, run) in runs.iter().enumerate() {
            for (text, vector) in run.iter().enumerate() {
                assert!(
                    bits(vector) == bits(&alone[text % ids.len()]),
                    "run {index}, text {text}, {element:?}"
                );
            }
        }
        for index in [0, 4, 9] {
            for _ in 0..3 {
                assert!(bits(&accelerator.embed(&[text(index)], None).unwrap()[0]) == bits(&alone[index]));
            }
        }
    }
}
