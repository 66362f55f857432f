//! The CPU backend, and one with a GPU beside it that is a CPU backend as well, in the suite that every device has to pass.

mod common;
mod conformance;

use std::sync::Arc;

use common::faulty::Faulty;
use conformance::{Suite, Tolerance};
use danaus_engine::gpu::{GuardOptions, GuardedBackend};
use danaus_engine::{Backend, BackendOptions, CpuBackend, Dtype, Padding};
use danaus_model::LoadedModel;

fn cpu(model: &LoadedModel, dtype: Dtype) -> CpuBackend {
    CpuBackend::new(model, &BackendOptions { dtype, ..BackendOptions::default() }).unwrap()
}

fn f32(model: &LoadedModel) -> Arc<dyn Backend> {
    Arc::new(cpu(model, Dtype::F32))
}

fn bf16(model: &LoadedModel) -> Arc<dyn Backend> {
    Arc::new(cpu(model, Dtype::Bf16))
}

fn guarded(model: &LoadedModel) -> Arc<dyn Backend> {
    let options = GuardOptions { crossover: Some(0), recheck_one_in: 1, ..GuardOptions::default() };
    Arc::new(
        GuardedBackend::new(cpu(model, Dtype::F32), Faulty::open(model, Dtype::F32).0, &options).unwrap(),
    )
}

/// Runs a test of the suite on each of them.
fn on_each(test: impl Fn(&Suite)) {
    test(&Suite { make: f32, tolerance: Tolerance::F32 });
    test(&Suite { make: guarded, tolerance: Tolerance::F32 });
    test(&Suite { make: bf16, tolerance: Tolerance::SMALLER });
}

#[test]
fn tiny_fixtures() {
    on_each(Suite::tiny_fixtures);
}

#[test]
fn golden_80m() {
    on_each(|suite| suite.golden_80m("m2-bert-80m-2k", 2048, Padding::None, 1..=512));
}

#[test]
#[ignore = "takes a minute: run with --ignored"]
fn golden_80m_padded() {
    on_each(|suite| suite.golden_80m("m2-bert-80m-2k", 2048, Padding::MaxLength, 2048..=2048));
}

#[test]
#[ignore = "takes minutes: run with --ignored"]
fn golden_80m_long() {
    on_each(|suite| {
        suite.golden_80m("m2-bert-80m-32k", 32768, Padding::None, 1..=8192);
        suite.golden_80m("m2-bert-80m-32k-padded", 32768, Padding::None, 32768..=32768);
    });
}

#[test]
fn other_shapes() {
    on_each(Suite::other_shapes);
    on_each(Suite::odd_shapes);
}

#[test]
fn long_texts() {
    on_each(Suite::long_texts);
}

#[test]
fn fast_padding() {
    on_each(Suite::fast_padding);
}

#[test]
fn same_bits_in_any_batch() {
    on_each(Suite::same_bits_in_any_batch);
}

#[test]
fn same_bits_in_a_large_batch() {
    on_each(Suite::same_bits_in_a_large_batch);
}

#[test]
fn turns_between_steps() {
    on_each(Suite::turns_between_steps);
}

#[test]
fn concurrent_calls() {
    on_each(Suite::concurrent_calls);
}

#[test]
fn refusals() {
    on_each(Suite::refusals);
}
