//! Fast padding: far fields that are a text's own, far fields of probe texts, and which of them a text is computed with.

mod common;

use std::ops::ControlFlow;
use std::sync::Arc;

use common::{
    Embeddings, backend, backends, bits, embed, far_field_store, golden_ids, prepared, read, small_config,
    with_header,
};
use danaus_engine::padding::{
    FarField, FarFields, Record, Recording, Samples, Sketch, Window, distance, equal_pairs,
};
use danaus_engine::{Backend, BackendOptions, CpuBackend, Dtype, Padding, Pooling, Text};
use danaus_model::{ModelConfig, Tokenizer, synthetic};
use serde_json::json;

/// Computes a text in windows with the far fields that it has itself, and with its own sketch where the window ends where a
/// segment does; asserts that its vectors are those of the padded text.
fn assert_windows_are_exact(backend: &CpuBackend, ids: &[u32], windows: &[usize]) {
    let encoder = backend.windows();
    let taps = Arc::new(encoder.segment_taps());
    let far_fields = windows.iter().map(|&window| Recording::new(encoder.shape(window))).collect();
    let samples = windows.iter().map(|&window| Samples::new(&taps, window)).collect();
    let mut record = Record { far_fields, samples };
    let exact = encoder.encode(ids, Window::alone(backend.max_tokens()), &mut record).unwrap();
    for pooling in Pooling::ALL {
        let text = backend.text(ids, pooling, Padding::MaxLength);
        assert_eq!(bits(&backend.embed(&[text]).unwrap()[0]), bits(&exact[pooling as usize]));
    }
    for ((mut recording, samples), &rows) in record.far_fields.into_iter().zip(record.samples).zip(windows) {
        let encode = |window| encoder.encode(ids, window, &mut Record::default()).unwrap();
        let far_field = Some(Arc::new(FarField::mean([&recording])));
        let with = encode(Window { far_field, ..Window::alone(rows) });
        let sketch = Some(Arc::new(Sketch::new(&taps, &samples, &mut recording)));
        let far_field = Some(Arc::new(FarField::from(&recording)));
        let sketched = encode(Window { far_field: far_field.clone(), sketch, ..Window::alone(rows) });
        // Without the sketch, that far field is not the text's.
        let half = encode(Window { far_field, ..Window::alone(rows) });
        let without = encode(Window::alone(rows));
        for pooling in Pooling::ALL {
            let error = |vectors: &[Vec<f32>]| distance(&vectors[pooling as usize], &exact[pooling as usize]);
            let what = format!("{:?}, {} tokens in {rows} rows, {pooling}", backend.info(), ids.len());
            let (with, without) = (error(&with), error(&without));
            // What is left is that far fields are bfloat16.
            assert!(with < 1e-7, "{what}: {with:e} off");
            // Otherwise the far field made no difference, and the above says nothing.
            assert!(without > 100.0 * with && (rows > 128 || without > 5e-5), "{what}: {without:e} without");
            let (sketched, half) = (error(&sketched), error(&half));
            assert!(
                sketched < 3e-7 && half > 30.0 * sketched,
                "{what}: {sketched:e} sketched, {half:e} half"
            );
        }
    }
}

/// Rows that are computed for a text with fast padding and mean pooling.
fn rows(backend: &CpuBackend, ids: &[u32]) -> usize {
    backend.window(ids, Pooling::Mean, Padding::Fast).cost()
}

#[test]
fn a_window_with_a_texts_own_far_field_gives_the_padded_text() {
    for model in [
        small_config(),
        // A last chunk of channels that is not full, without positions, and padding that is not token 0.
        ModelConfig {
            hidden_size: 100,
            intermediate_size: 100,
            use_positional_encodings: false,
            pad_token_id: 5,
            ..small_config()
        },
    ] {
        for backend in backends(&synthetic(&model, 5)) {
            for (tokens, windows) in
                [(2, &[2, 3, 8][..]), (33, &[33]), (40, &[40, 41, 100, 150]), (130, &[130, 149])]
            {
                assert_windows_are_exact(&backend, &golden_ids(tokens), windows);
            }
        }
    }
}

/// Filters of more than 2,048 taps are never kept, and with no memory for them those of windows are not either.
#[test]
fn windows_whose_filters_are_made_in_the_pass() {
    let config = ModelConfig {
        hidden_size: 20,
        intermediate_size: 40,
        long_conv_l_max: 2500,
        max_position_embeddings: 2500,
        ..small_config()
    };
    let model = synthetic(&config, 6);
    for filter_cache_bytes in [0, 100_000, usize::MAX] {
        let options = BackendOptions { dtype: Dtype::F32, filter_cache_bytes, ..BackendOptions::default() };
        let backend = CpuBackend::new(&model, &options).unwrap();
        assert_windows_are_exact(&backend, &golden_ids(30), &[30, 100, 1200]);
    }
}

#[test]
fn a_mean_is_that_of_its_recordings() {
    let backend = backend(&synthetic(&small_config(), 5));
    let encoder = backend.windows();
    let record = |ids: &[u32]| {
        let far_fields = vec![Recording::new(encoder.shape(20))];
        let mut record = Record { far_fields, samples: Vec::new() };
        encoder.encode(ids, Window::alone(backend.max_tokens()), &mut record).unwrap();
        record.far_fields.remove(0)
    };
    let [one, two] = [golden_ids(10), golden_ids(20)].map(|ids| record(&ids));
    let values = |recordings: &[&Recording]| -> Vec<f32> {
        let mean = FarField::mean(recordings.iter().copied());
        assert_eq!(mean.shape(), encoder.shape(20));
        mean.values().iter().map(|&bits| f32::from_bits(u32::from(bits) << 16)).collect()
    };
    let (first, second, both) = (values(&[&one]), values(&[&two]), values(&[&one, &two]));
    assert_eq!(values(&[&two, &two, &two, &two]), second);
    assert_ne!(first, second);
    assert!(both.iter().any(|&value| value != 0.0));
    for ((first, second), both) in first.iter().zip(&second).zip(&both) {
        // Each of the three was rounded to eight bits.
        let allowed = (first.abs() + second.abs()) / 128.0;
        assert!(((first + second) / 2.0 - both).abs() <= allowed, "{first} and {second}: {both}");
    }
}

/// Texts that are no probes: English of the given lengths, and random tokens.
fn texts(lengths: &[usize]) -> Vec<Vec<u32>> {
    let tokenizer = Tokenizer::bert_base_uncased();
    let english =
        "The museum opens at nine, and on Sundays the entrance is free; bring a coat, the cellars are cold. ";
    let cut = |&tokens: &usize| {
        let mut ids = tokenizer.encode_ids(&english.repeat(40), usize::MAX).unwrap();
        danaus_model::truncate(&mut ids, tokens);
        ids
    };
    let english = lengths.iter().filter(|&&tokens| tokens > 2).map(cut);
    english.chain(lengths.iter().map(|&tokens| golden_ids(tokens))).collect()
}

#[test]
fn prepared_texts_are_within_the_bound_and_others_exact() {
    const BOUND: f64 = 1e-4;
    let backend = backend(&synthetic(&small_config(), 5));
    let mut passes = 0;
    backend.set_far_fields(Arc::new(prepared(&backend, BOUND, &mut |progress| {
        passes += 1;
        assert!(progress.done == passes && progress.done <= progress.total, "{progress:?} after {passes}");
    })));
    let vector = |ids: &[u32], pooling, padding| embed(&backend, ids, pooling, padding);
    let mut fast_texts = 0;
    for ids in texts(&[1, 2, 3, 5, 8, 13, 16, 17, 29, 50, 64, 77, 100, 128, 129, 200, 256, 299, 300]) {
        for pooling in Pooling::ALL {
            let exact = vector(&ids, pooling, Padding::MaxLength);
            let fast = vector(&ids, pooling, Padding::Fast);
            let what = format!("{} tokens, {pooling}", ids.len());
            let window = backend.window(&ids, pooling, Padding::Fast);
            let rows = window.cost();
            if window.padding == Padding::MaxLength {
                assert_eq!(rows, backend.max_tokens(), "{what}");
                assert_eq!(bits(&fast), bits(&exact), "{what}");
                continue;
            }
            fast_texts += 1;
            assert_eq!(window.padding, Padding::Fast, "{what}");
            assert!((ids.len()..backend.max_tokens()).contains(&rows), "{what}: {rows} rows");
            let plain = distance(&vector(&ids, pooling, Padding::None), &exact);
            let error = distance(&fast, &exact);
            assert!(error <= BOUND, "{what}: {error:e} off");
            assert!(plain > BOUND, "{what}: without padding it is only {plain:e} off");
        }
    }
    assert!(fast_texts > 60, "only {fast_texts} texts have a far field");
    assert_eq!(rows(&backend, &golden_ids(256)), 300, "longer texts are exact");
}

/// Where the mean far field is not good enough, a sketch is; texts with one are the same bits in any batch.
#[test]
fn sketches_serve_what_the_mean_does_not() {
    const BOUND: f64 = 2e-6;
    let backend = backend(&synthetic(&small_config(), 5));
    let far_fields = Arc::new(prepared(&backend, BOUND, &mut |_| ()));
    backend.set_far_fields(Arc::clone(&far_fields));
    let (mut texts, mut sketched) = (Vec::new(), 0);
    let all = self::texts(&[3, 9, 14, 22, 33, 50, 64, 77, 100, 120, 137]);
    for ids in &all {
        for pooling in Pooling::ALL {
            let text = backend.text(ids, pooling, Padding::Fast);
            let equal = equal_pairs(ids);
            let window = far_fields.window(ids.len(), equal, pooling);
            let Some(sketch) = window.and_then(|window| window.sketch) else { continue };
            assert!(text.window.cost() >= ids.len() + sketch.rows());
            sketched += 1;
            let fast = backend.embed(std::slice::from_ref(&text)).unwrap().remove(0);
            let exact = embed(&backend, ids, pooling, Padding::MaxLength);
            let error = distance(&fast, &exact);
            assert!(error <= 3.0 * BOUND, "{} tokens, {pooling}: {error:e}", ids.len());
            texts.push((text, bits(&fast)));
        }
    }
    assert!(sketched > 5, "only {sketched} texts are sketched");
    let batch: Vec<_> = texts.iter().map(|(text, _)| text.clone()).collect();
    for ((text, alone), together) in texts.iter().zip(backend.embed(&batch).unwrap()) {
        assert_eq!(*alone, bits(&together), "{text:?}");
    }
}

/// Far fields of probes, which are prose and code, fit no text of one word: such a text is computed whole.
#[test]
fn repetitive_texts_are_exact() {
    let backend = backend(&synthetic(&small_config(), 5));
    backend.set_far_fields(Arc::new(prepared(&backend, 1e-2, &mut |_| ())));
    let half: Vec<u32> = golden_ids(64).into_iter().enumerate().map(|(i, id)| [id, 1012][i % 2]).collect();
    for ids in [vec![1012; 64], half] {
        assert_eq!(rows(&backend, &ids), 300);
        let vector = |padding| bits(&embed(&backend, &ids, Pooling::Mean, padding));
        assert_eq!(vector(Padding::Fast), vector(Padding::MaxLength));
    }
    assert!(rows(&backend, &golden_ids(64)) < 300);
}

#[test]
fn unprepared_it_is_exact_and_what_is_set_last_serves() {
    let model = synthetic(&small_config(), 5);
    let (backend, other) = (backend(&model), backend(&model));
    let ids = golden_ids(20);
    let vector = |padding| bits(&embed(&backend, &ids, Pooling::Mean, padding));
    assert!(backend.far_fields().is_none());
    assert_eq!(rows(&backend, &ids), 300);
    assert_eq!(vector(Padding::Fast), vector(Padding::MaxLength));
    let [first, second] = [1e-2, 1e-3].map(|bound| Arc::new(prepared(&other, bound, &mut |_| ())));
    backend.set_far_fields(Arc::clone(&first));
    let fast = vector(Padding::Fast);
    assert_ne!(fast, vector(Padding::MaxLength));
    backend.set_far_fields(Arc::clone(&second));
    assert!(backend.far_fields().is_some_and(|set| Arc::ptr_eq(&set, &second)));
    other.set_far_fields(second);
    assert_eq!(vector(Padding::Fast), bits(&embed(&other, &ids, Pooling::Mean, Padding::Fast)));
}

/// A text keeps the window that it was given, whatever is set before it is computed.
#[test]
fn a_texts_window_is_decided_once() {
    let backend = backend(&synthetic(&small_config(), 5));
    let ids = golden_ids(20);
    let bits_of = |text: &Text<'_>| bits(&backend.embed(std::slice::from_ref(text)).unwrap()[0]);
    let before = backend.text(&ids, Pooling::Mean, Padding::Fast);
    assert_eq!((before.window.padding, before.window.cost()), (Padding::MaxLength, 300));
    let exact = bits_of(&before);
    backend.set_far_fields(Arc::new(prepared(&backend, 1e-2, &mut |_| ())));
    let after = backend.text(&ids, Pooling::Mean, Padding::Fast);
    assert!(after.window.padding == Padding::Fast && after.window.cost() < 300);
    let fast = bits_of(&after);
    assert_ne!(fast, exact);
    assert_eq!(bits_of(&before), exact);
    // Far fields that serve no text take nothing away from one that has its window.
    backend.set_far_fields(Arc::new(prepared(&backend, 1e-12, &mut |_| ())));
    assert_eq!(backend.window(&ids, Pooling::Mean, Padding::Fast).padding, Padding::MaxLength);
    let stepwise = backend.embed_stepwise(&[after.clone(), before], &mut || ControlFlow::Continue(()));
    assert_eq!(
        stepwise.unwrap().iter().map(|vector| bits(vector)).collect::<Vec<_>>(),
        [fast.clone(), exact]
    );
    assert_eq!(bits_of(&after), fast);
}

#[test]
fn a_window_says_how_its_text_is_padded() {
    let backend = backend(&synthetic(&small_config(), 5));
    backend.set_far_fields(Arc::new(prepared(&backend, 1e-2, &mut |_| ())));
    for (tokens, [none, max_length, fast]) in [
        (20, [Padding::None, Padding::MaxLength, Padding::Fast]),
        (299, [Padding::None, Padding::MaxLength, Padding::MaxLength]),
        (300, [Padding::None, Padding::MaxLength, Padding::MaxLength]),
    ] {
        let ids = golden_ids(tokens);
        for (asked, got) in [(Padding::None, none), (Padding::MaxLength, max_length), (Padding::Fast, fast)] {
            assert_eq!(backend.window(&ids, Pooling::Mean, asked).padding, got, "{tokens} tokens, {asked}");
        }
    }
}

#[test]
fn paddings_and_poolings_mix_in_a_batch() {
    let backend = backend(&synthetic(&small_config(), 5));
    backend.set_far_fields(Arc::new(prepared(&backend, 1e-3, &mut |_| ())));
    let texts = texts(&[3, 20, 64, 100, 128, 250]);
    let paddings = [Padding::Fast, Padding::None, Padding::Fast, Padding::MaxLength];
    let texts: Vec<_> = texts
        .iter()
        .flat_map(|ids| Pooling::ALL.map(|pooling| (ids, pooling)))
        .zip(paddings.into_iter().cycle())
        .map(|((ids, pooling), padding)| backend.text(ids, pooling, padding))
        .collect();
    for (text, vector) in texts.iter().zip(backend.embed(&texts).unwrap()) {
        assert_eq!(bits(&backend.embed(std::slice::from_ref(text)).unwrap()[0]), bits(&vector), "{text:?}");
    }
}

#[test]
fn a_bound_that_nothing_keeps_leaves_every_text_exact() {
    let backend = backend(&synthetic(&small_config(), 5));
    let far_fields = prepared(&backend, 1e-12, &mut |_| ());
    assert_eq!((far_fields.bins().count(), far_fields.bytes()), (0, 0));
    for (tokens, pooling) in (1..=300).flat_map(|tokens| Pooling::ALL.map(|pooling| (tokens, pooling))) {
        assert!(far_fields.window(tokens, 0.0, pooling).is_none(), "{tokens} tokens, {pooling}");
    }
    assert_eq!(far_fields.longest_fast(), 0);
    let store = far_field_store("nothing-kept", 1e-12);
    store.write(&far_fields).unwrap();
    assert_eq!(store.read().unwrap().bins().count(), 0);
}

/// Far fields with windows of 8, 9, 12 and 15 tokens that serve texts with up to these shares of equal pairs: the first two
/// texts of 2 to 4 tokens, the others those of 3 to 12.
fn far_fields_that_serve(name: &str, most_equal: [[Option<f64>; 3]; 4]) -> FarFields {
    let store = far_field_store(name, 1e-3);
    store.write(&prepared(&backend(&synthetic(&small_config(), 5)), 1e-3, &mut |_| ())).unwrap();
    with_header(&store, |header| {
        let mut found = 0;
        for bin in header["bins"].as_array_mut().unwrap() {
            let window = bin["window"].as_u64().unwrap();
            let index = [8, 9, 12, 15].iter().position(|&known| known == window);
            let (shortest, longest) = if window < 12 { (2, 4) } else { (3, 12) };
            found += usize::from(index.is_some());
            bin["most_equal"] = json!(index.map_or([None; 3], |index| most_equal[index]));
            (bin["shortest"], bin["longest"]) = (json!(shortest), json!(longest));
        }
        assert_eq!(found, 4, "the small model has other windows now: {header}");
    });
    store.read().unwrap()
}

#[test]
fn the_cheapest_window_that_serves_a_text_is_taken() {
    let (none, few, many) = (None, Some(0.02), Some(0.1));
    let serving = [[none, many, few], [none, many, none], [many, many, none], [many, many, none]];
    let far_fields = far_fields_that_serve("windows", serving);
    for (tokens, equal, windows) in [
        (2, 0.05, [None, Some(8), None]),
        (2, 0.02, [None, Some(8), Some(8)]),
        (3, 0.05, [Some(12), Some(8), None]),
        (4, 0.05, [Some(12), Some(8), None]),
        (4, 0.11, [None; 3]),
        (5, 0.05, [Some(12), Some(12), None]),
        (12, 0.1, [Some(12), Some(12), None]),
        (13, 0.0, [None; 3]),
    ] {
        for (pooling, expected) in Pooling::ALL.into_iter().zip(windows) {
            let window = far_fields.window(tokens, equal, pooling);
            let rows = window.as_ref().map(|window| window.rows);
            assert_eq!(rows, expected, "{tokens} tokens, {equal}, {pooling}");
            let far_field = window.and_then(|window| window.far_field);
            assert_eq!(far_field.map(|far_field| far_field.shape().window), expected);
        }
    }
}

/// The real shape, against the published implementation's vectors of padded texts.
#[test]
#[ignore = "takes many minutes: run with --ignored"]
fn the_2k_model_is_within_the_bound() {
    const BOUND: f64 = 1e-3;
    let model = synthetic(&ModelConfig::m2_bert_80m(2048), 1);
    // The dtype that is served where none is asked for: its own error is a small part of the bound.
    let backend = CpuBackend::new(&model, &BackendOptions::default()).unwrap();
    drop(model);
    backend.set_far_fields(Arc::new(prepared(&backend, BOUND, &mut |_| ())));
    let golden: Embeddings = read("m2-bert-80m-2k/embeddings.json");
    let (mut fast, mut exact) = (0, 0);
    for case in golden.cases.iter().filter(|case| case.pad_to == Some(2048)) {
        let got = embed(&backend, &case.ids(), case.pooling(), Padding::Fast);
        let rows = backend.window(&case.ids(), case.pooling(), Padding::Fast).cost();
        let error = distance(&got, &case.embedding);
        let what = format!("{} tokens, {}, {rows} rows", case.tokens(), case.pooling);
        println!("{what}: {error:.1e}");
        // Where no window keeps the bound, the text is computed whole.
        let (bound, count) = if rows < 2048 { (BOUND, &mut fast) } else { (1e-4, &mut exact) };
        assert!(error <= bound, "{what}: {error:e}");
        *count += 1;
    }
    assert!(fast > 0 && fast + exact == 9, "{fast} texts were fast, {exact} exact");
}
