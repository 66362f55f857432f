//! Whatever Metal, Vulkan or DirectX 12 device there is, a program on the CPU included, in the suite that every device has to pass:
//! beside the CPU that watches it, in float32 and, where it has that, in float16.
//!
//! Without a device nothing is tested, but where `DANAUS_REQUIRE_VULKAN` is set: then that is a failure.
#![cfg(feature = "wgpu")]

mod common;
mod conformance;

use std::sync::Arc;

use common::adapters::{has_f16, there_is_a_device};
use conformance::{Suite, Tolerance};
use danaus_engine::gpu::wgpu::{WgpuAccelerator, WgpuOptions};
use danaus_engine::gpu::{GuardOptions, GuardedBackend};
use danaus_engine::{Backend, BackendOptions, CpuBackend, Dtype, Padding};
use danaus_model::LoadedModel;

/// A model on the device, which gets all texts but those with a sketch.
fn device(model: &LoadedModel, f16: bool) -> Arc<dyn Backend> {
    let options = BackendOptions { dtype: Dtype::F32, ..BackendOptions::default() };
    let cpu = CpuBackend::new(model, &options).unwrap();
    let options = WgpuOptions { allow_cpu: true, f16: Some(f16), ..WgpuOptions::default() };
    let accelerator = WgpuAccelerator::new(model, &options).unwrap_or_else(|error| panic!("{error}"));
    let guard = GuardOptions { crossover: Some(0), ..GuardOptions::default() };
    Arc::new(
        GuardedBackend::new(cpu, Box::new(accelerator), &guard).unwrap_or_else(|error| panic!("{error}")),
    )
}

fn on_each(test: impl Fn(&Suite)) {
    if !there_is_a_device() {
        return;
    }
    test(&Suite { make: |model| device(model, false), tolerance: Tolerance::F32 });
    if has_f16() {
        test(&Suite { make: |model| device(model, true), tolerance: Tolerance::SMALLER });
    }
}

#[test]
fn tiny_fixtures() {
    on_each(Suite::tiny_fixtures);
}

#[test]
#[ignore = "takes minutes without a GPU: run with --ignored"]
fn golden_80m() {
    on_each(|suite| {
        suite.golden_80m("m2-bert-80m-2k", 2048, Padding::None, 1..=2048);
        suite.golden_80m("m2-bert-80m-2k", 2048, Padding::MaxLength, 2048..=2048);
    });
}

#[test]
#[ignore = "takes many minutes without a GPU: run with --ignored"]
fn golden_80m_long() {
    on_each(|suite| {
        suite.golden_80m("m2-bert-80m-32k", 32768, Padding::None, 1..=8192);
        suite.golden_80m("m2-bert-80m-32k-padded", 32768, Padding::None, 32768..=32768);
    });
}

#[test]
fn other_shapes() {
    on_each(Suite::other_shapes);
}

#[test]
#[ignore = "takes a minute without a GPU: run with --ignored"]
fn long_texts() {
    on_each(Suite::long_texts);
}

#[test]
fn fast_padding() {
    on_each(Suite::fast_padding);
}

#[test]
fn same_bits() {
    on_each(Suite::same_bits_in_any_batch);
    on_each(Suite::same_bits_in_a_large_batch);
}

#[test]
fn turns_and_concurrent_calls() {
    on_each(Suite::turns_between_steps);
    on_each(Suite::concurrent_calls);
}

#[test]
fn refusals() {
    on_each(Suite::refusals);
}
