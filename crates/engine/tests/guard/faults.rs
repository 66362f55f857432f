//! What becomes of a GPU that fails, hangs, runs out of memory or computes something else.

use super::*;
use crate::common::faulty::BATCH_TOKENS;

/// Asserts that a fault during a batch makes the CPU answer it, and all that follow.
#[track_caller]
fn assert_demotes(options: &GuardOptions, fault: Fault, reason: &str) {
    for stepwise in [false, true] {
        let (backend, control) = guarded(options);
        assert_eq!(backend.batch_tokens(), BATCH_TOKENS);
        let texts = [golden_ids(10), golden_ids(100), golden_ids(60)];
        let batch: Vec<_> = texts.iter().map(|ids| text(ids)).collect();
        control.fault(fault);
        let embed_all = || match stepwise {
            true => backend.embed_stepwise(&batch, &mut || ControlFlow::Continue(())),
            false => backend.embed(&batch),
        };
        let first = embed_all().unwrap();
        let why = backend.demoted().unwrap_or_else(|| panic!("{fault:?} was not noticed")).to_owned();
        assert!(why.starts_with("Faulty 1: ") && why.contains(reason), "{fault:?}: {why}");
        assert_eq!(control.batches().len(), 1);
        control.fault(None);
        let second = embed_all().unwrap();
        assert!(control.batches().is_empty(), "it is not asked again");
        assert_eq!(backend.demoted(), Some(&why[..]));
        let cpu = cpu(Dtype::F32);
        assert_eq!(backend.batch_tokens(), cpu.batch_tokens());
        for (text, vectors) in batch.iter().zip(first.iter().zip(&second)) {
            let expected = embed(&cpu, text.clone());
            assert_eq!((bits(vectors.0), bits(vectors.1)), (expected.clone(), expected), "{fault:?}");
        }
    }
}

#[test]
fn a_gpu_that_fails_is_given_up() {
    assert_demotes(&options(), Fault::Failed, "the device is lost");
    assert_demotes(&options(), Fault::Panic, "panic: a test made the driver panic");
    assert_demotes(&options(), Fault::VectorMissing, "1 vectors for 2 texts");
    assert_demotes(&options(), Fault::ComponentMissing, "a vector of 63 components");
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert_demotes(&options(), Fault::NotFinite(value), "a text of 100 tokens: its vector is not finite");
    }
}

fn faults() -> impl Strategy<Value = Option<Fault>> {
    let of = |fault: Fault| Just(Some(fault));
    prop_oneof![
        10 => Just(None),
        1 => of(Fault::Wrong),
        1 => of(Fault::NotFinite(f32::NAN)),
        1 => of(Fault::VectorMissing),
        1 => of(Fault::ComponentMissing),
        1 => of(Fault::Failed),
        1 => of(Fault::Panic),
        3 => (60_usize..400).prop_map(|rows| Some(Fault::OutOfMemory { rows })),
    ]
}

/// Places in a list of texts, and what is wrong with the GPU meanwhile.
fn batches() -> impl Strategy<Value = Vec<(Vec<usize>, Option<Fault>, bool)>> {
    let batch = (prop::collection::vec(0_usize..36, 1..7), faults(), any::<bool>());
    prop::collection::vec(batch, 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens to the GPU, where every answer is checked none is wrong: each is the one that follows from the text, by the
    /// GPU until it is given up and by the CPU from then on.
    #[test]
    fn no_fault_makes_a_wrong_answer(batches in batches()) {
        let (backend, control) = guarded(&GuardOptions { recheck_one_in: 1, ..options() });
        let (alone, ids) = (Alone::new(), [1, 7, 49, 50, 64, 300].map(golden_ids));
        let mut texts = Vec::new();
        for (ids, padding) in ids.iter().flat_map(|ids| [Padding::None, Padding::MaxLength].map(|p| (ids, p))) {
            texts.extend(Pooling::ALL.map(|pooling| backend.text(ids, pooling, padding)));
        }
        for (places, fault, stepwise) in batches {
            let batch: Vec<_> = places.iter().map(|&place| texts[place].clone()).collect();
            control.fault(fault);
            let outcome = match stepwise {
                true => backend.embed_stepwise(&batch, &mut || ControlFlow::Continue(())),
                false => backend.embed(&batch),
            };
            let vectors = match outcome {
                Ok(vectors) => vectors,
                Err(EngineError::OutOfMemory { index, .. }) => {
                    let is_memory = matches!(fault, Some(Fault::OutOfMemory { .. }));
                    prop_assert!(is_memory && index < batch.len());
                    prop_assert_eq!(backend.demoted(), None);
                    continue;
                }
                Err(error) => panic!("{error}"),
            };
            prop_assert_eq!(vectors.len(), batch.len());
            for (text, vector) in batch.iter().zip(&vectors) {
                let by_gpu = backend.demoted().is_none() && text.window.cost() >= CROSSOVER;
                // The model's own pooling is finished by the CPU in its own dtype: another hidden state, the same pooler.
                if text.pooling == Pooling::Model && by_gpu {
                    let near = alone.cpu.embed(std::slice::from_ref(text)).unwrap();
                    prop_assert!(distance(vector, &near[0]) < 5e-4);
                    continue;
                }
                let expected = embed(if by_gpu { &alone.gpu } else { &alone.cpu }, text.clone());
                prop_assert_eq!(&bits(vector), &expected);
            }
        }
    }
}

#[test]
fn a_gpu_that_stops_unasked_is_given_up() {
    let (backend, control) = guarded(&options());
    control.fault(Fault::Stopped);
    let ids = golden_ids(100);
    Alone::new().assert_from(false, text(&ids), &embed(&backend, text(&ids)));
    assert!(backend.demoted().is_some_and(|why| why.contains("not asked to")));
}

#[test]
fn a_gpu_that_does_not_answer_is_given_up() {
    let options = GuardOptions { patience: Duration::from_millis(300), ..options() };
    let started = Instant::now();
    // 160 rows have 0.8 s on top.
    assert_demotes(&options, Fault::Block(Duration::from_secs(4)), "no answer within 1.1 s");
    assert!(started.elapsed() < Duration::from_secs(8), "waited for it all the same");
}

#[test]
fn a_gpu_that_computes_something_else_is_given_up_when_it_is_found_out() {
    let always = GuardOptions { recheck_one_in: 1, ..options() };
    assert_demotes(&always, Fault::Wrong, "a text of 100 tokens: its vector is ");
    let (backend, control) = guarded(&always);
    let (short, long) = (golden_ids(10), golden_ids(100));
    let batch = [text(&short), text(&long), text(&long)];
    backend.embed(&batch).unwrap();
    assert_eq!(backend.rechecks(), Rechecks { agreed: 2, differed: 0 }, "the CPU's own are not checked");
    control.fault(Fault::Wrong);
    backend.embed(&batch).unwrap();
    assert_eq!(backend.rechecks(), Rechecks { agreed: 2, differed: 1 });
    backend.embed(&batch).unwrap();
    assert_eq!(backend.rechecks(), Rechecks { agreed: 2, differed: 1 }, "nothing is left to check");
    // Where nobody looks, nobody sees.
    let (backend, control) = guarded(&options());
    control.fault(Fault::Wrong);
    backend.embed(&batch).unwrap();
    assert_eq!((backend.demoted(), backend.rechecks()), (None, Rechecks::default()));
}

#[test]
fn texts_that_would_take_the_cpu_long_are_not_checked() {
    let options = GuardOptions { recheck_one_in: 1, recheck_rows: 99, ..options() };
    let (backend, _) = guarded(&options);
    for tokens in [98, 99, 100, 300] {
        backend.embed(&[text(&golden_ids(tokens))]).unwrap();
    }
    assert_eq!(backend.rechecks(), Rechecks { agreed: 2, differed: 0 });
}

#[test]
fn a_text_too_large_for_the_gpus_memory_is_an_error_of_its_own() {
    let (backend, control) = guarded(&options());
    let texts = [golden_ids(10), golden_ids(100), golden_ids(60), golden_ids(250)];
    let batch: Vec<_> = texts.iter().map(|ids| text(ids)).collect();
    let expected: Vec<_> = backend.embed(&batch).unwrap().iter().map(|vector| bits(vector)).collect();
    control.batches();
    control.fault(Fault::OutOfMemory { rows: 200 });
    let reason = "250 rows".to_owned();
    assert_eq!(backend.embed(&batch), Err(EngineError::OutOfMemory { index: 3, rows: 250, reason }));
    assert_eq!(control.batches().len(), 4, "all of them, then each alone");
    // Together they do not fit, alone they do, and have the same bits.
    control.fault(Fault::OutOfMemory { rows: 150 });
    let vectors = backend.embed(&batch[..3]).unwrap();
    assert_eq!(vectors.iter().map(|vector| bits(vector)).collect::<Vec<_>>(), expected[..3]);
    // Another time it may.
    control.fault(None);
    assert_eq!(embed(&backend, batch[3].clone()), expected[3]);
    assert_eq!(backend.demoted(), None);
}

#[test]
fn other_texts_have_their_turn_between_two_steps() {
    let (backend, control) = guarded(&options());
    let (long, short) = (golden_ids(250), golden_ids(70));
    let expected = [&long, &short].map(|ids| embed(&backend, text(ids)));
    control.batches();
    let mut turns = 0;
    let vectors = backend.embed_stepwise(&[text(&long)], &mut || {
        turns += 1;
        assert_eq!(embed(&backend, text(&short)), expected[1]);
        ControlFlow::Continue(())
    });
    assert_eq!((bits(&vectors.unwrap()[0]), turns), (expected[0].clone(), backend.info().steps));
    assert_eq!(control.batches().len(), 1 + turns);
    let mut turns = 0;
    let stopped = backend.embed_stepwise(&[text(&long)], &mut || {
        turns += 1;
        if turns == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!((stopped, turns), (Err(EngineError::Stopped), 2));
    assert_eq!(embed(&backend, text(&long)), expected[0]);
    assert_eq!(backend.demoted(), None);
}

/// A long text is under way when a short one finds out.
#[test]
fn what_is_under_way_when_the_gpu_is_given_up_is_the_cpus() {
    let (backend, control) = guarded(&options());
    let (long, short) = (golden_ids(250), golden_ids(70));
    let vectors = backend.embed_stepwise(&[text(&long)], &mut || {
        control.fault(Fault::Failed);
        backend.embed(&[text(&short)]).unwrap();
        control.fault(None);
        ControlFlow::Continue(())
    });
    assert!(backend.demoted().is_some());
    Alone::new().assert_from(false, text(&long), &bits(&vectors.unwrap()[0]));
}
