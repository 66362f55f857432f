//! What a GPU has to show before it serves.

use super::*;

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
