//! The same text gives the same bits: alone, in any batch, in any order, at any thread count, before and after longer
//! texts, with filters kept or not.

mod common;

use std::ops::ControlFlow;
use std::sync::Arc;

use common::{bits, golden_ids, prepared, small_config, smooth_model};
use danaus_engine::padding::{Cells, Window, WindowRecord};
use danaus_engine::{Backend, BackendOptions, CpuBackend, Dtype, EngineError, Padding, Pooling, finish};
use danaus_model::{LoadedModel, ModelConfig, synthetic};
use danaus_simd::Isa;
use proptest::prelude::*;
use rayon::prelude::*;

const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::Bf16, Dtype::Int8];

fn backend(model: &LoadedModel, threads: usize, filter_cache_bytes: usize) -> CpuBackend {
    backend_of(Dtype::F32, model, threads, filter_cache_bytes)
}

fn backend_of(dtype: Dtype, model: &LoadedModel, threads: usize, filter_cache_bytes: usize) -> CpuBackend {
    let threads = Some(threads);
    let options = BackendOptions { dtype, threads, filter_cache_bytes, ..BackendOptions::default() };
    CpuBackend::new(model, &options).unwrap()
}

fn embed_all(backend: &CpuBackend, texts: &[Vec<u32>], pooling: Pooling) -> Vec<Vec<u32>> {
    embed_padded(backend, texts, pooling, Padding::None)
}

fn embed_padded(
    backend: &CpuBackend,
    texts: &[Vec<u32>],
    pooling: Pooling,
    padding: Padding,
) -> Vec<Vec<u32>> {
    let texts: Vec<_> = texts.iter().map(|ids| backend.text(ids, pooling, padding)).collect();
    backend.embed(&texts).unwrap().iter().map(|v| bits(v)).collect()
}

fn texts() -> impl Strategy<Value = Vec<Vec<u32>>> {
    let length = prop_oneof![1usize..40, 30usize..70, 1usize..=300];
    prop::collection::vec(length.prop_flat_map(|n| prop::collection::vec(0u32..30528, n)), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn alone_in_a_batch_in_any_order_on_any_number_of_threads(mut texts in texts(), pooling in 0usize..3, dtype in 0usize..3) {
        let (pooling, dtype) = ([Pooling::Mean, Pooling::Cls, Pooling::Model][pooling], DTYPES[dtype]);
        let model = synthetic(&small_config(), 5);
        let one = backend_of(dtype, &model, 1, usize::MAX);
        let alone: Vec<_> = texts.iter().map(|text| embed_all(&one, std::slice::from_ref(text), pooling).remove(0)).collect();
        for threads in [1, 2, 5] {
            let fresh = backend_of(dtype, &model, threads, 0);
            prop_assert_eq!(&embed_all(&fresh, &texts, pooling), &alone);
        }
        texts.reverse();
        let mut reversed = embed_all(&one, &texts, pooling);
        reversed.reverse();
        prop_assert_eq!(reversed, alone);
    }
}

#[test]
fn padded_texts_too_and_those_of_fast_padding() {
    let model = smooth_model();
    let texts = vec![vec![101, 2054, 102], (1000..1299).collect(), vec![7; 300], vec![101, 102], vec![9; 60]];
    let [one, many] = [(1, usize::MAX), (3, 0)].map(|(threads, cache)| backend(&model, threads, cache));
    // Each has what it prepared itself, which is the same.
    for backend in [&one, &many] {
        backend.set_far_fields(prepared(backend, 1e-3));
    }
    let sketches = texts.iter().filter(|ids| one.window(ids, Pooling::Mean, Padding::Fast).sketch.is_some());
    assert!(sketches.count() > 1, "several texts have a sketch");
    for padding in [Padding::MaxLength, Padding::Fast] {
        let alone: Vec<_> = texts
            .iter()
            .map(|text| embed_padded(&one, std::slice::from_ref(text), Pooling::Mean, padding).remove(0))
            .collect();
        assert_eq!(embed_padded(&many, &texts, Pooling::Mean, padding), alone);
    }
}

/// Short windows recorded beside a longer text use the filters that they use alone, whose precision may be another.
#[test]
fn far_fields_do_not_depend_on_kept_filters() {
    let config = ModelConfig { long_conv_l_max: 5000, max_position_embeddings: 5000, ..small_config() };
    let model = synthetic(&config, 7);
    let ids = golden_ids(9);
    for dtype in DTYPES {
        let [none, some, all] = [0, 3 << 20, usize::MAX].map(|cache| {
            let backend = backend_of(dtype, &model, 2, cache);
            let windows = backend.windows();
            let record = [40, 1500].map(|window| {
                let cells = [48, 9].map(|rows| Cells::new(window, 5000, rows));
                WindowRecord::new(window, 1, cells.into(), windows.shape())
            });
            let mut record = record;
            let vectors = windows.encode(&ids, Window::exact(5000), &mut record).unwrap();
            let sums = Arc::new(windows.running_sums());
            // All that was recorded, and what is made of it. Two floats are written alike only where their bits are the same.
            let fields = record.each_ref().map(|record| record.fields(&sums, Some(0)));
            let values = format!("{record:?} {sums:?} {fields:?}");
            assert!(!values.contains("NaN") && values.len() > 1_000_000);
            (vectors.iter().map(|v| bits(v)).collect::<Vec<_>>(), values)
        });
        assert!(none == all && some == all, "{dtype}");
    }
}

#[test]
fn more_tokens_than_a_pass_takes() {
    let model = synthetic(&small_config(), 5);
    let texts: Vec<Vec<u32>> = (0..40).map(|i| vec![1000 + i; 20 + 7 * i as usize]).collect();
    let one = backend(&model, 1, usize::MAX);
    let alone: Vec<_> = texts
        .iter()
        .map(|text| embed_all(&one, std::slice::from_ref(text), Pooling::Mean).remove(0))
        .collect();
    assert_eq!(embed_all(&one, &texts, Pooling::Mean), alone);
}

#[test]
fn a_bad_text_is_refused_with_its_place_and_computes_nothing() {
    let model = synthetic(&small_config(), 5);
    let backend = backend(&model, 1, usize::MAX);
    let long = vec![1; 301];
    let refusal = |ids: &[u32]| {
        let text = |ids| backend.text(ids, Pooling::Mean, Padding::None);
        backend.embed(&[text(&[101, 102]), text(ids)]).unwrap_err()
    };
    assert_eq!(refusal(&[]), EngineError::EmptyText { index: 1 });
    assert_eq!(refusal(&long), EngineError::TextTooLong { index: 1, tokens: 301, max_tokens: 300 });
    assert_eq!(refusal(&[5, 30528]), EngineError::UnknownToken { index: 1, id: 30528, vocabulary: 30528 });
    assert!(backend.embed(&[]).unwrap().is_empty());
}

#[test]
fn long_texts_in_any_company_on_every_instruction_set() {
    let config = ModelConfig {
        hidden_size: 20,
        intermediate_size: 40,
        long_conv_l_max: 5000,
        max_position_embeddings: 5000,
        ..small_config()
    };
    let model = synthetic(&config, 6);
    let lengths = [4097, 3, 1500, 4096, 33, 1024, 5000, 2049, 32, 700];
    let texts: Vec<Vec<u32>> = lengths.iter().map(|&n| golden_ids(n)).collect();
    for (isa, dtype) in Isa::available().into_iter().flat_map(|isa| DTYPES.map(|dtype| (isa, dtype))) {
        let backend = |threads, filter_cache_bytes| {
            let (threads, instruction_set) = (Some(threads), Some(isa.name().to_owned()));
            let options = BackendOptions {
                dtype,
                threads,
                filter_cache_bytes,
                instruction_set,
                ..BackendOptions::default()
            };
            CpuBackend::new(&model, &options).unwrap()
        };
        let batch = embed_all(&backend(3, usize::MAX), &texts, Pooling::Mean);
        // A cache with room for some of the lengths: filters are kept, dropped and made anew.
        let one = backend(1, 3 << 20);
        for (text, batch) in texts.iter().zip(&batch).rev() {
            assert_eq!(
                &embed_all(&one, std::slice::from_ref(text), Pooling::Mean)[0],
                batch,
                "{}",
                text.len()
            );
        }
    }
}

/// From the threads of a pool that is not the backend's.
#[test]
fn concurrent_calls_from_another_pool() {
    let model = synthetic(&small_config(), 5);
    let backend = backend(&model, 2, usize::MAX);
    let texts: Vec<Vec<u32>> = (2..66).map(golden_ids).collect();
    let expected = embed_all(&backend, &texts, Pooling::Mean);
    let embed_one =
        |text: &Vec<u32>| embed_all(&backend, std::slice::from_ref(text), Pooling::Mean).remove(0);
    let got: Vec<_> = texts.par_iter().map(embed_one).collect();
    assert_eq!(got, expected);
}

#[test]
fn a_vector_that_is_not_finite_is_an_error() {
    assert_eq!(finish(vec![1.0, f32::NAN], None, true), Err(EngineError::NonFinite));
    assert_eq!(finish(vec![1.0, f32::INFINITY], Some(1), false), Err(EngineError::NonFinite));
    assert_eq!(finish(vec![3.0, 4.0], None, true), Ok(vec![0.6, 0.8]));
    assert_eq!(finish(vec![3.0, 4.0], Some(1), true), Ok(vec![1.0]));
    assert_eq!(finish(vec![0.0, 0.0], None, true), Ok(vec![0.0, 0.0]));
}

/// A long text's first pass makes its filters' states layer by layer as well, and a later one finds them.
#[test]
fn filters_are_made_with_other_texts_in_between() {
    let model =
        synthetic(&ModelConfig { max_position_embeddings: 4096, long_conv_l_max: 4096, ..small_config() }, 5);
    // States are made by layer, and a layer takes two steps.
    let layers = small_config().num_hidden_layers;
    let ids: Vec<u32> = golden_ids(290).into_iter().cycle().take(3000).collect();
    let [first, backend] = [(); 2].map(|()| backend(&model, 2, usize::MAX));
    let [text, short] = [&ids[..], &ids[..20]].map(|ids| [first.text(ids, Pooling::Mean, Padding::None)]);
    let expected = first.embed(&text).unwrap();
    for wanted in [3 * layers, 2 * layers] {
        let mut turns = 0;
        let vectors = backend.embed_stepwise(&text, &mut || {
            turns += 1;
            backend.embed(&short).unwrap();
            ControlFlow::Continue(())
        });
        assert_eq!((vectors.as_ref(), turns), (Ok(&expected), wanted));
    }
}

/// A pass that is interrupted before each step by passes of other lengths and paddings.
#[test]
fn step_by_step_with_other_texts_in_between() {
    let model = synthetic(&small_config(), 5);
    let backend = backend(&model, 2, usize::MAX);
    let (long, short) = ([golden_ids(290), golden_ids(40)], [golden_ids(7), golden_ids(30)]);
    let expected =
        [&long, &short].map(|texts| embed_padded(&backend, texts, Pooling::Model, Padding::MaxLength));
    let long: Vec<_> = long.iter().map(|ids| backend.text(ids, Pooling::Model, Padding::MaxLength)).collect();
    let mut turns = 0;
    let mut between = || {
        turns += 1;
        assert_eq!(embed_padded(&backend, &short, Pooling::Model, Padding::MaxLength), expected[1]);
        ControlFlow::Continue(())
    };
    let vectors = backend.embed_stepwise(&long, &mut between).unwrap();
    assert_eq!(vectors.iter().map(|v| bits(v)).collect::<Vec<_>>(), expected[0]);
    assert_eq!((turns, backend.info().steps), (2 * small_config().num_hidden_layers, turns));
    let mut turns = 0;
    let stopped = backend.embed_stepwise(&long, &mut || {
        turns += 1;
        ControlFlow::Break(())
    });
    assert_eq!((stopped, turns), (Err(EngineError::Stopped), 1));
    assert_eq!(embed_padded(&backend, &short, Pooling::Model, Padding::MaxLength), expected[1]);
    let empty = backend.text(&[], Pooling::Mean, Padding::None);
    let refused = backend.embed_stepwise(&[empty], &mut || unreachable!("nothing is computed"));
    assert_eq!(refused, Err(EngineError::EmptyText { index: 0 }));
}
