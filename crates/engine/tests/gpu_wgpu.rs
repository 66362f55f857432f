//! Models on whatever Metal, Vulkan or DirectX 12 device there is, a program on the CPU included, against the published
//! implementation's vectors.
//!
//! Without a device there is nothing to test: these tests then say so and pass, but where `DANAUS_REQUIRE_VULKAN` is set.
#![cfg(feature = "wgpu")]

mod common;

use std::ops::ControlFlow;

use common::adapters::{has_f16, there_is_a_device};
use common::{Case, Embeddings, backend, bits, embed, fixture, golden_ids, read, small_config};
use danaus_engine::gpu::wgpu::{WgpuAccelerator, WgpuOptions};
use danaus_engine::gpu::{Accelerator, DeviceError, PaddedText, Pooled};
use danaus_engine::padding::{Window, WindowRecord, distance};
use danaus_engine::{Backend, Padding, Pooling, finish};
use danaus_model::{LoadedModel, ModelConfig, load_checkpoint, read_config, synthetic};

fn accelerator(model: &LoadedModel, f16: bool) -> WgpuAccelerator {
    let options = WgpuOptions { allow_cpu: true, f16: Some(f16), ..WgpuOptions::default() };
    WgpuAccelerator::new(model, &options).unwrap()
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
        println!("{what}: 1 - cosine {error:.1e}");
        worst = worst.max(error);
    }
    let dtype = accelerator.description().dtype;
    println!("{name}, {} texts, {dtype}: 1 - cosine {worst:.1e} at most", cases.len());
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
    // Poolings of one length differ in what is taken from the same states.
    let chosen =
        |case: &&Case| range.contains(&length(case)) && (length(case) < 100 || case.pooling == "mean");
    let cases: Vec<_> = golden.cases.iter().filter(chosen).collect();
    assert!(!cases.is_empty());
    let model = synthetic(&ModelConfig::m2_bert_80m(max_tokens), 1);
    check(fixture, &model, &cases, f16);
}

#[test]
fn short_texts_of_the_80m_models_agree() {
    both_dtypes(|f16| check_80m("m2-bert-80m-32k", 32_768, 1..=64, f16));
}

#[test]
#[ignore = "takes minutes on a program on the CPU: run with --ignored"]
fn texts_of_up_to_2048_tokens_agree() {
    both_dtypes(|f16| {
        check_80m("m2-bert-80m-32k", 32_768, 65..=2048, f16);
        check_80m("m2-bert-80m-2k", 2048, 1..=2048, f16);
    });
}

#[test]
#[ignore = "takes minutes on a program on the CPU: run with --ignored"]
fn length_8192_of_the_32k_model_agrees() {
    both_dtypes(|f16| check_80m("m2-bert-80m-32k", 32_768, 8192..=8192, f16));
}

#[test]
#[ignore = "takes long on a program on the CPU: run with --ignored"]
fn length_32768_agrees() {
    both_dtypes(|f16| check_80m("m2-bert-80m-32k-padded", 32_768, 32_768..=32_768, f16));
}

/// Vectors' bits, all texts in one batch.
fn embedded(accelerator: &WgpuAccelerator, texts: &[Vec<u32>], pooled: Pooled) -> Vec<Vec<u32>> {
    let texts: Vec<_> = texts.iter().map(|ids| text(ids, ids.len(), pooled)).collect();
    accelerator.embed(&texts, None).unwrap().iter().map(|vector| bits(vector)).collect()
}

fn alone(accelerator: &WgpuAccelerator, ids: &Vec<u32>) -> Vec<u32> {
    embedded(accelerator, std::slice::from_ref(ids), Pooled::Mean).remove(0)
}

#[test]
fn a_text_has_the_same_bits_in_any_batch() {
    let model = synthetic(&small_config(), 5);
    both_dtypes(|f16| {
        let lengths = [1, 300, 33, 2, 64, 32, 65, 129, 256, 31];
        let mut texts: Vec<_> = lengths.map(golden_ids).into();
        let accelerator = accelerator(&model, f16);
        let expected: Vec<_> = texts.iter().map(|ids| alone(&accelerator, ids)).collect();
        assert_eq!(embedded(&accelerator, &texts, Pooled::Mean), expected);
        texts.reverse();
        let mut reversed = embedded(&accelerator, &texts, Pooled::Mean);
        reversed.reverse();
        assert_eq!(reversed, expected);
        // Another one, that has not seen shorter texts.
        assert_eq!(alone(&self::accelerator(&model, f16), &texts[8]), expected[1]);
        assert!(accelerator.embed(&[], None).unwrap().is_empty());
    });
}

#[test]
fn several_threads_at_once() {
    let model = synthetic(&small_config(), 5);
    if there_is_a_device() {
        let accelerator = accelerator(&model, false);
        let texts: Vec<_> = [40, 290, 8, 130].map(golden_ids).into();
        let expected: Vec<_> = texts.iter().map(|ids| alone(&accelerator, ids)).collect();
        std::thread::scope(|scope| {
            for (ids, expected) in texts.iter().zip(&expected) {
                let accelerator = &accelerator;
                scope.spawn(move || {
                    for _ in 0..5 {
                        assert_eq!(&alone(accelerator, ids), expected);
                    }
                });
            }
        });
    }
}

/// Filters that are made in each pass, and trees whose leaves are computed one after the other.
#[test]
fn long_texts_agree_with_the_cpu_and_have_the_same_bits_in_any_batch() {
    let config = ModelConfig {
        hidden_size: 32,
        intermediate_size: 64,
        long_conv_l_max: 9000,
        max_position_embeddings: 9000,
        ..small_config()
    };
    let model = synthetic(&config, 6);
    let cpu = backend(&model);
    let lengths = [8200, 3, 3000, 4097, 33, 2049, 700];
    let texts: Vec<Vec<u32>> = lengths.map(golden_ids).into();
    both_dtypes(|f16| {
        let accelerator = accelerator(&model, f16);
        let batch = embedded(&accelerator, &texts, Pooled::Mean);
        for (ids, batch) in texts.iter().zip(batch) {
            assert_eq!(alone(&accelerator, ids), batch, "{} tokens", ids.len());
            let vector = batch.into_iter().map(f32::from_bits).collect();
            let vector = finish(vector, None, true).unwrap();
            let error = distance(&vector, &embed(&cpu, ids, Pooling::Mean, Padding::None));
            println!("{} tokens, f16 {f16}: 1 - cosine {error:.1e}", ids.len());
            assert!(error <= if f16 { 1e-4 } else { 1e-6 }, "{} tokens: {error:e}", ids.len());
        }
    });
}

#[test]
fn far_fields_do_what_they_do_on_the_cpu() {
    let model = synthetic(&small_config(), 5);
    let cpu = backend(&model);
    both_dtypes(|f16| {
        let accelerator = accelerator(&model, f16);
        for (tokens, rows) in [(20, 32), (20, 100), (90, 100)] {
            let ids = golden_ids(tokens);
            // At knots, if those do: a GPU has to have what the CPU interpolates between them.
            let windows = cpu.windows();
            let mut record = [WindowRecord::new(rows, 1, Vec::new(), windows.shape())];
            windows.encode(&ids, Window::exact(300), &mut record).unwrap();
            let sums = std::sync::Arc::new(windows.running_sums());
            let far_field = Some(std::sync::Arc::new(record[0].fields(&sums, None).0));
            let window = Window { far_field: far_field.clone(), ..Window::alone(rows) };
            let expected = cpu.windows().encode(&ids, window, &mut []).unwrap();
            let without = cpu.windows().encode(&ids, Window::alone(rows), &mut []).unwrap();
            let mean = Pooling::ALL.iter().position(|&pooling| pooling == Pooling::Mean).unwrap();
            let padded = PaddedText { ids: &ids, rows, far_field, pooled: Pooled::Mean };
            // In the company of a text that has none.
            let other = text(&ids, rows, Pooled::Mean);
            let got = accelerator.embed(&[other.clone(), padded.clone()], None).unwrap();
            // A second time, when the far field is on the device.
            let again = accelerator.embed(&[padded, other], None).unwrap();
            assert_eq!([bits(&again[1]), bits(&again[0])], [bits(&got[0]), bits(&got[1])]);
            let tolerance = if f16 { 1e-4 } else { 1e-6 };
            for (got, expected) in [(&got[1], &expected[mean]), (&got[0], &without[mean])] {
                let error = distance(got, expected);
                assert!(error <= tolerance, "{tokens} tokens of {rows}: 1 - cosine {error:e}");
            }
            assert!(distance(&got[0], &got[1]) > 1e-3);
        }
    });
}

#[test]
fn others_are_embedded_between_steps_and_a_pass_can_be_stopped() {
    let model = synthetic(&small_config(), 5);
    if there_is_a_device() {
        let accelerator = accelerator(&model, false);
        let (long, short) = (golden_ids(290), golden_ids(7));
        let [expected_long, expected_short] = [&long, &short].map(|ids| alone(&accelerator, ids));
        let texts = [text(&long, long.len(), Pooled::Mean)];
        let mut turns = 0;
        let mut between = || {
            turns += 1;
            assert_eq!(alone(&accelerator, &short), expected_short);
            ControlFlow::Continue(())
        };
        let vectors = accelerator.embed(&texts, Some(&mut between)).unwrap();
        assert_eq!(bits(&vectors[0]), expected_long);
        assert_eq!(turns, 2 * small_config().num_hidden_layers);
        let mut turns = 0;
        let mut between = || {
            turns += 1;
            if turns == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        assert_eq!(accelerator.embed(&texts, Some(&mut between)), Err(DeviceError::Stopped));
        assert_eq!(turns, 2);
        assert_eq!(alone(&accelerator, &long), expected_long);
    }
}

#[test]
fn tiles_are_measured_once_and_change_no_bit() {
    let model = synthetic(&small_config(), 5);
    if !there_is_a_device() {
        return;
    }
    let folder = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("tiles");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).unwrap();
    }
    let file = folder.join("wgpu-tiles.json");
    let options =
        WgpuOptions { allow_cpu: true, f16: Some(false), cache_dir: Some(folder), ..WgpuOptions::default() };
    let texts: Vec<_> = [300, 5, 40].map(golden_ids).into();
    let expected = embedded(&accelerator(&model, false), &texts, Pooled::Mean);
    let tuned = || WgpuAccelerator::new(&model, &options).unwrap();
    assert_eq!(embedded(&tuned(), &texts, Pooled::Mean), expected);
    let first = std::fs::read(&file).unwrap();
    assert_eq!(embedded(&tuned(), &texts, Pooled::Mean), expected);
    assert_eq!(std::fs::read(&file).unwrap(), first);
    std::fs::write(&file, b"{").unwrap();
    assert_eq!(embedded(&tuned(), &texts, Pooled::Mean), expected);
    assert_ne!(std::fs::read(&file).unwrap(), b"{");
}

#[test]
fn a_model_whose_sizes_do_not_fit_is_refused() {
    let config = ModelConfig { hidden_size: 24, ..small_config() };
    let options = WgpuOptions { allow_cpu: true, ..WgpuOptions::default() };
    let error = WgpuAccelerator::new(&synthetic(&config, 1), &options).unwrap_err();
    assert!(error.contains("hidden_size / monarch_mlp_nblocks is 6"), "{error}");
}
