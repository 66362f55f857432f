//! Which texts are whose, and how the two share work.

use super::*;

#[test]
fn short_texts_are_the_cpus_and_the_others_the_gpus_in_any_batch() {
    let (backend, control) = guarded(&options());
    // The pooler is the CPU's, in its dtype, so that Pooling::Model has bits of its own.
    let poolings = [Pooling::Mean, Pooling::Cls];
    let texts: Vec<Vec<u32>> = [3, 49, 50, 200, 7, 51, 300].map(golden_ids).into();
    let (alone, mut batch, mut expected) = (Alone::new(), Vec::new(), Vec::new());
    for ids in &texts {
        for (pooling, padding) in
            poolings.iter().flat_map(|&pooling| [Padding::None, Padding::MaxLength].map(|p| (pooling, p)))
        {
            let text = backend.text(ids, pooling, padding);
            let got = embed(&backend, text.clone());
            let rows = if padding == Padding::MaxLength { 300 } else { ids.len() };
            let asked = if rows >= CROSSOVER { vec![vec![(ids.len(), rows)]] } else { Vec::new() };
            assert_eq!(control.batches(), asked);
            alone.assert_from(rows >= CROSSOVER, text.clone(), &got);
            batch.push(text);
            expected.push(got);
        }
    }
    let together: Vec<_> = backend.embed(&batch).unwrap().iter().map(|vector| bits(vector)).collect();
    assert_eq!(together, expected);
    batch.reverse();
    expected.reverse();
    let stepwise = backend.embed_stepwise(&batch, &mut || ControlFlow::Continue(())).unwrap();
    assert_eq!(stepwise.iter().map(|vector| bits(vector)).collect::<Vec<_>>(), expected);
    assert_eq!(backend.demoted(), None);
}

#[test]
fn the_models_own_pooling_is_finished_by_the_cpu() {
    for (use_cls_token, pool_all) in [(false, false), (true, false), (false, true), (true, true)] {
        let model = synthetic(&ModelConfig { use_cls_token, pool_all, ..small_config() }, 5);
        let (gpu, control) = Faulty::open(&model, Dtype::F32);
        let cpu = || CpuBackend::new(&model, &BackendOptions { dtype: Dtype::F32, ..Default::default() });
        let backend = GuardedBackend::new(cpu().unwrap(), gpu, &options()).unwrap();
        let ids = golden_ids(80);
        let text = backend.text(&ids, Pooling::Model, Padding::None);
        control.batches();
        assert_eq!(embed(&backend, text.clone()), embed(&cpu().unwrap(), text));
        assert_eq!(control.batches(), [[(80, 80)]]);
    }
}

#[test]
fn fast_padding_is_the_gpus_where_no_sketch_is_needed() {
    let (backend, control) = guarded(&options());
    assert_eq!(backend.windows().dtype(), "f32", "it is prepared on the CPU");
    let unprepared = golden_ids(20);
    fn fast<'a>(backend: &GuardedBackend, ids: &'a [u32]) -> Text<'a> {
        backend.text(ids, Pooling::Mean, Padding::Fast)
    }
    let text = fast(&backend, &unprepared);
    Alone::new().assert_from(true, text.clone(), &embed(&backend, text));
    let alone = Alone::new();
    let far_fields = prepared(&alone.cpu, 1e-5);
    let backends: [&dyn Backend; 3] = [&backend, &alone.cpu, &alone.gpu];
    backends.iter().for_each(|backend| backend.set_far_fields(Arc::clone(&far_fields)));
    control.batches();
    let (mut sketched, mut with_far_field, mut exact) = (0, 0, 0);
    for tokens in [3, 9, 22, 33, 50, 64, 77, 100, 120, 137, 200] {
        let ids = golden_ids(tokens);
        let window = far_fields.window(tokens, equal_pairs(&ids), Pooling::Mean);
        let rows = window.as_ref().map_or(300, |window| window.rows);
        let sketch = window.as_ref().is_some_and(|window| window.sketch.is_some());
        let gpu = rows >= CROSSOVER && !sketch;
        let count = if sketch {
            &mut sketched
        } else if window.is_some() {
            &mut with_far_field
        } else {
            &mut exact
        };
        *count += 1;
        let text = fast(&backend, &ids);
        let got = embed(&backend, text.clone());
        assert_eq!(control.batches(), if gpu { vec![vec![(tokens, rows)]] } else { Vec::new() });
        alone.assert_from(gpu, text, &got);
    }
    assert!(sketched > 0 && exact > 0, "{sketched} sketched, {with_far_field} with far field, {exact} exact");
}

/// Far fields reach the GPU.
#[test]
fn far_fields_are_handed_on() {
    let (backend, control) = guarded(&GuardOptions { crossover: Some(0), ..options() });
    let far_fields = prepared(&backend, 1e-2);
    let alone = Alone::new();
    let backends: [&dyn Backend; 3] = [&backend, &alone.cpu, &alone.gpu];
    backends.iter().for_each(|backend| backend.set_far_fields(Arc::clone(&far_fields)));
    control.batches();
    let ids = golden_ids(40);
    let text = backend.text(&ids, Pooling::Mean, Padding::Fast);
    let rows = text.window.cost();
    assert!((40..300).contains(&rows), "{rows}");
    alone.assert_from(true, text.clone(), &embed(&backend, text));
    assert_eq!(control.batches(), [[(40, rows)]]);
}

#[test]
fn texts_are_checked_before_anything_is_computed() {
    let (backend, control) = guarded(&options());
    let (good, long) = (golden_ids(100), vec![1; 301]);
    for (bad, error) in [
        (&[][..], EngineError::EmptyText { index: 1 }),
        (&long, EngineError::TextTooLong { index: 1, tokens: 301, max_tokens: 300 }),
        (&[30_528], EngineError::UnknownToken { index: 1, id: 30_528, vocabulary: 30_528 }),
    ] {
        assert_eq!(backend.embed(&[text(&good), text(bad)]), Err(error));
    }
    assert!(backend.embed(&[]).unwrap().is_empty() && control.batches().is_empty());
}

#[test]
fn concurrent_calls_share_the_gpu() {
    let (backend, _) = guarded(&options());
    let texts: Vec<Vec<u32>> = (40..72).map(golden_ids).collect();
    let expected: Vec<_> = texts.iter().map(|ids| embed(&backend, text(ids))).collect();
    std::thread::scope(|scope| {
        for part in 0..4 {
            let (backend, texts, expected) = (&backend, &texts, &expected);
            scope.spawn(move || {
                for index in (part..texts.len()).step_by(4) {
                    assert_eq!(embed(backend, text(&texts[index])), expected[index]);
                }
            });
        }
    });
    assert_eq!(backend.demoted(), None);
}

/// A text that the GPU was to compute exactly in place of a sketch is exact on the CPU too, where the GPU is given up before it is
/// computed: what was said of it stays true.
#[test]
fn a_texts_window_outlives_the_gpu() {
    let (backend, control) = guarded(&options());
    control.faster_than_sketches();
    let alone = Alone::new();
    let far_fields = prepared(&alone.cpu, 1e-5);
    let backends: [&dyn Backend; 2] = [&backend, &alone.cpu];
    backends.iter().for_each(|backend| backend.set_far_fields(Arc::clone(&far_fields)));
    let sketched = |ids: &Vec<u32>| {
        alone.cpu.window(ids, Pooling::Mean, Padding::Fast).sketch.is_some_and(|sketch| sketch.rows() > 0)
    };
    let ids = (3..138).map(golden_ids).find(sketched).expect("a text with a sketch");
    let text = backend.text(&ids, Pooling::Mean, Padding::Fast);
    assert_eq!((text.window.padding, text.window.cost()), (Padding::MaxLength, 300));
    alone.assert_from(true, text.clone(), &embed(&backend, text.clone()));
    control.fault(Fault::Failed);
    alone.assert_from(false, text.clone(), &embed(&backend, text));
    assert!(backend.demoted().is_some());
    // From now on, such texts are sketched.
    let later = backend.window(&ids, Pooling::Mean, Padding::Fast);
    assert!(later.padding == Padding::Fast && later.sketch.is_some());
}
