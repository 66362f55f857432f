//! A GPU beside the CPU that watches it: who computes what, and what becomes of faults. The GPU is a CPU backend of another dtype
//! that can be made to fail, so that bits tell who computed a vector.

mod common;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::faulty::{Control, Fault, Faulty};
use common::{bits, golden_ids, prepared, small_config};
use danaus_engine::gpu::{Distrust, GuardOptions, GuardedBackend};
use danaus_engine::padding::{distance, equal_pairs};
use danaus_engine::{
    Backend, BackendOptions, CpuBackend, Dtype, EngineError, Padding, Pooling, Rechecks, Text,
};
use danaus_model::{LoadedModel, ModelConfig, synthetic};
use proptest::prelude::*;

/// Texts of fewer rows are the CPU's.
const CROSSOVER: usize = 50;

fn model() -> LoadedModel {
    synthetic(&small_config(), 5)
}

/// What the GPU here computes in; the CPU beside it computes in float32.
const GPU: Dtype = Dtype::Bf16;

fn cpu(dtype: Dtype) -> CpuBackend {
    let options = BackendOptions { dtype, threads: Some(1), ..BackendOptions::default() };
    CpuBackend::new(&model(), &options).unwrap()
}

fn options() -> GuardOptions {
    GuardOptions { crossover: Some(CROSSOVER), recheck_one_in: 0, ..GuardOptions::default() }
}

fn guarded(options: &GuardOptions) -> (GuardedBackend, Control) {
    let (gpu, control) = Faulty::open(&model(), GPU);
    let backend = GuardedBackend::new(cpu(Dtype::F32), gpu, options).unwrap();
    control.batches();
    (backend, control)
}

fn text(ids: &[u32]) -> Text<'_> {
    Text { ids, pooling: Pooling::Mean, padding: Padding::None }
}

/// A text's bits.
fn embed(backend: &dyn Backend, text: Text<'_>) -> Vec<u32> {
    bits(&backend.embed(&[text]).unwrap()[0])
}

/// The two devices alone.
struct Alone {
    cpu: CpuBackend,
    gpu: CpuBackend,
}

impl Alone {
    fn new() -> Self {
        Self { cpu: cpu(Dtype::F32), gpu: cpu(GPU) }
    }

    #[track_caller]
    fn assert_from(&self, gpu: bool, text: Text<'_>, got: &[u32]) {
        let [expected, other] =
            if gpu { [&self.gpu, &self.cpu] } else { [&self.cpu, &self.gpu] }.map(|one| embed(one, text));
        assert_ne!(expected, other, "both give the same bits");
        assert_eq!(got, expected, "{} tokens, {}, {}", text.ids.len(), text.pooling, text.padding);
    }
}

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
            let text = Text { ids, pooling, padding };
            let got = embed(&backend, text);
            let rows = if padding == Padding::MaxLength { 300 } else { ids.len() };
            let asked = if rows >= CROSSOVER { vec![vec![(ids.len(), rows)]] } else { Vec::new() };
            assert_eq!(control.batches(), asked);
            alone.assert_from(rows >= CROSSOVER, text, &got);
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
        let text = Text { ids: &ids, pooling: Pooling::Model, padding: Padding::None };
        control.batches();
        assert_eq!(embed(&backend, text), embed(&cpu().unwrap(), text));
        assert_eq!(control.batches(), [[(80, 80)]]);
    }
}

#[test]
fn fast_padding_is_the_gpus_where_no_sketch_is_needed() {
    let (backend, control) = guarded(&options());
    assert_eq!(backend.windows().dtype(), "f32", "it is prepared on the CPU");
    let unprepared = golden_ids(20);
    fn fast(ids: &[u32]) -> Text<'_> {
        Text { ids, pooling: Pooling::Mean, padding: Padding::Fast }
    }
    Alone::new().assert_from(true, fast(&unprepared), &embed(&backend, fast(&unprepared)));
    let far_fields = Arc::new(prepared(&backend, 2e-6, &mut |_| ()));
    let alone = Alone::new();
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
        let got = embed(&backend, fast(&ids));
        assert_eq!(control.batches(), if gpu { vec![vec![(tokens, rows)]] } else { Vec::new() });
        alone.assert_from(gpu, fast(&ids), &got);
    }
    assert!(sketched > 0 && exact > 0, "{sketched} sketched, {with_far_field} with far field, {exact} exact");
}

/// Far fields reach the GPU.
#[test]
fn far_fields_are_handed_on() {
    let (backend, control) = guarded(&GuardOptions { crossover: Some(0), ..options() });
    let far_fields = Arc::new(prepared(&backend, 1e-2, &mut |_| ()));
    let alone = Alone::new();
    let backends: [&dyn Backend; 3] = [&backend, &alone.cpu, &alone.gpu];
    backends.iter().for_each(|backend| backend.set_far_fields(Arc::clone(&far_fields)));
    control.batches();
    let ids = golden_ids(40);
    let text = Text { ids: &ids, pooling: Pooling::Mean, padding: Padding::Fast };
    let rows = backend.rows(&text);
    assert!((40..300).contains(&rows), "{rows}");
    alone.assert_from(true, text, &embed(&backend, text));
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

/// Asserts that a fault during a batch makes the CPU answer it, and all that follow.
#[track_caller]
fn assert_demotes(options: &GuardOptions, fault: Fault, reason: &str) {
    for stepwise in [false, true] {
        let (backend, control) = guarded(options);
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
        for (text, vectors) in batch.iter().zip(first.iter().zip(&second)) {
            let expected = embed(&cpu, *text);
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
            texts.extend(Pooling::ALL.map(|pooling| Text { ids, pooling, padding }));
        }
        for (places, fault, stepwise) in batches {
            let batch: Vec<_> = places.iter().map(|&place| texts[place]).collect();
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
                let by_gpu = backend.demoted().is_none() && backend.rows(text) >= CROSSOVER;
                // The model's own pooling is finished by the CPU in its own dtype: another hidden state, the same pooler.
                if text.pooling == Pooling::Model && by_gpu {
                    let near = alone.cpu.embed(&[*text]).unwrap();
                    prop_assert!(distance(vector, &near[0]) < 5e-4);
                    continue;
                }
                let expected = embed(if by_gpu { &alone.gpu } else { &alone.cpu }, *text);
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
    assert_eq!(embed(&backend, batch[3]), expected[3]);
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

#[test]
fn a_gpu_that_fails_its_self_test_does_not_serve() {
    let options = GuardOptions { patience: Duration::from_millis(100), ..options() };
    for (fault, reason) in [
        (Fault::Wrong, "it failed its self-test: 1 tokens in 1 rows: its vector is "),
        (Fault::NotFinite(f32::NAN), "its vector is not finite"),
        (Fault::Failed, "the device is lost"),
        (Fault::Panic, "panic: a test"),
        (Fault::VectorMissing, "0 vectors for 1 texts"),
        (Fault::ComponentMissing, "63 components"),
        (Fault::OutOfMemory { rows: 299 }, "300 tokens in 300 rows: out of GPU memory: 300 rows"),
        (Fault::Block(Duration::from_secs(1)), "no answer within"),
    ] {
        let (gpu, control) = Faulty::open(&model(), GPU);
        control.fault(fault);
        let refused = GuardedBackend::new(cpu(Dtype::F32), gpu, &options).unwrap_err();
        assert!(matches!(&refused, Distrust::Device(why) if why.contains(reason)), "{fault:?}: {refused}");
    }
}

/// Every way to compute a convolution that this model has, padding with and without far field, and a batch.
#[test]
fn the_self_test_covers_lengths_paddings_and_a_batch() {
    let (gpu, control) = Faulty::open(&model(), GPU);
    let generous = GuardOptions { self_test: Duration::from_secs(600), ..options() };
    GuardedBackend::new(cpu(Dtype::F32), gpu, &generous).unwrap();
    let batches = control.batches();
    let (last, pairs) = batches.split_last().unwrap();
    let mut seen: Vec<_> = pairs.chunks_exact(2).map(|twice| twice[0][0]).collect();
    assert!(pairs.chunks_exact(2).all(|twice| twice[0] == twice[1]), "both vectors of each text");
    assert_eq!(*last, seen);
    seen.sort_unstable();
    let plain = [1, 7, 32, 33, 100, 128, 200, 300].map(|tokens| (tokens, tokens));
    let mut expected = [&plain[..], &[(7, 100), (33, 64), (20, 150)]].concat();
    expected.sort_unstable();
    assert_eq!(seen, expected);
    // Where the CPU's time is up, what is cheapest is tested still.
    let (gpu, control) = Faulty::open(&model(), GPU);
    let hasty = GuardOptions { self_test: Duration::ZERO, ..options() };
    GuardedBackend::new(cpu(Dtype::F32), gpu, &hasty).unwrap();
    assert_eq!(control.batches()[0][0], (1, 1));
}

#[test]
fn what_the_self_test_left_out_is_tested_later() {
    let hasty = GuardOptions { self_test: Duration::ZERO, ..options() };
    let (backend, control) = guarded(&hasty);
    backend.finish_self_test();
    assert_eq!(backend.demoted(), None);
    let tested: Vec<_> = control.batches().into_iter().flatten().collect();
    assert!(tested.contains(&(300, 300)) && tested.contains(&(33, 33)), "{tested:?}");
    // Memory that is short now is no reason.
    control.fault(Fault::OutOfMemory { rows: 100 });
    backend.finish_self_test();
    assert_eq!(backend.demoted(), None);
    control.fault(Fault::Wrong);
    control.batches();
    backend.finish_self_test();
    assert!(backend.demoted().is_some_and(|why| why.contains(" tokens: its vector is ")));
    assert_eq!(control.batches().len(), 1, "the first one is enough");
    for fault in [Fault::Failed, Fault::VectorMissing] {
        let (backend, control) = guarded(&hasty);
        control.fault(fault);
        backend.finish_self_test();
        assert!(backend.demoted().is_some(), "{fault:?}");
    }
}

/// An empty folder for what is measured.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("crossover").join(name);
    let _ = std::fs::remove_dir_all(&folder);
    let _ = std::fs::remove_file(&folder);
    folder
}

/// The crossover that a backend finds which keeps it in `folder`, of a GPU that is slow or not.
fn crossover(folder: &Path, slow: bool, threads: usize) -> usize {
    let (gpu, control) = Faulty::open(&model(), GPU);
    control.slow(if slow { Duration::from_millis(20) } else { Duration::ZERO });
    let options = BackendOptions { threads: Some(threads), dtype: Dtype::F32, ..BackendOptions::default() };
    let cpu = CpuBackend::new(&model(), &options).unwrap();
    let guard =
        GuardOptions { crossover: None, cache_dir: Some(folder.to_owned()), ..GuardOptions::default() };
    let backend = GuardedBackend::new(cpu, gpu, &guard).unwrap();
    let info = backend.info();
    assert_eq!((info.device, info.dtype), ("metal", "bf16"));
    info.accelerator.as_ref().unwrap().crossover
}

#[test]
fn the_crossover_is_measured_once_and_kept() {
    let folder = folder("kept");
    assert_eq!(crossover(&folder, true, 1), 301, "a GPU this slow serves no length");
    let files = || {
        let files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
        files
    };
    let [file] = &files()[..] else { panic!("{:?}", files()) };
    let written = std::fs::read_to_string(file).unwrap();
    let json: serde_json::Value = serde_json::from_str(&written).unwrap();
    assert_eq!((&json["crossover"]["rows"], &json["key"]["name"]), (&301.into(), &"Faulty 1".into()));
    // Whatever it would find now: what is kept counts.
    let known = written.replace("\"rows\": 301", "\"rows\": 64");
    std::fs::write(file, &known).unwrap();
    assert_eq!(crossover(&folder, true, 1), 64);
    // Other threads, another file.
    assert_eq!((crossover(&folder, true, 2), files().len()), (301, 2));
    // What is no such file is measured anew, and replaced.
    for damaged in ["", "{", "null", &written[..written.len() / 2], &written.replace("Faulty 1", "Other")] {
        std::fs::write(file, damaged).unwrap();
        assert_eq!(crossover(&folder, true, 1), 301, "{damaged}");
        let now: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        assert_eq!(now["key"], json["key"]);
    }
}

#[test]
fn a_crossover_that_cannot_be_kept_is_used_all_the_same() {
    let folder = folder("no-folder");
    std::fs::create_dir_all(folder.parent().unwrap()).unwrap();
    std::fs::write(&folder, "a file").unwrap();
    assert_eq!(crossover(&folder, true, 1), 301);
    assert_eq!(std::fs::read_to_string(&folder).unwrap(), "a file");
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
