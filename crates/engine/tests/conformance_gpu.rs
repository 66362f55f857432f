//! A GPU of this machine in the suite that every device has to pass, in float32 and in the type of its own choice:
//!
//! ```sh
//! TEST_DEVICE=metal cargo test --release -p danaus-engine --features cuda,wgpu --test conformance_gpu -- --ignored --nocapture
//! ```

mod common;
mod conformance;

use std::sync::Arc;

use conformance::{Suite, Tolerance};
use danaus_engine::{Backend, BackendOptions, Device, Dtype, Padding, load_backend};
use danaus_model::LoadedModel;

/// A model on the GPU that was asked for, which gets all texts but those with a sketch.
fn gpu(model: &LoadedModel, dtype: Dtype) -> Arc<dyn Backend> {
    let name = std::env::var("TEST_DEVICE").expect("TEST_DEVICE: cuda, cuda:N, metal or vulkan");
    let device: Device = name.parse().unwrap_or_else(|error| panic!("{error}"));
    let options = BackendOptions { device, dtype, crossover: Some(0), ..BackendOptions::default() };
    let backend = load_backend(model, &options).unwrap_or_else(|error| panic!("{error}"));
    assert!(backend.info().accelerator.is_some(), "{name} is no GPU");
    backend
}

fn on_each(test: impl Fn(&Suite)) {
    test(&Suite { make: |model| gpu(model, Dtype::F32), tolerance: Tolerance::F32 });
    test(&Suite { make: |model| gpu(model, Dtype::Auto), tolerance: Tolerance::SMALLER });
}

#[test]
#[ignore = "needs a GPU: TEST_DEVICE names it"]
fn tiny_fixtures() {
    on_each(Suite::tiny_fixtures);
}

#[test]
#[ignore = "needs a GPU: TEST_DEVICE names it"]
fn golden_80m() {
    on_each(|suite| {
        suite.golden_80m("m2-bert-80m-2k", 2048, Padding::None, 1..=2048);
        suite.golden_80m("m2-bert-80m-2k", 2048, Padding::MaxLength, 2048..=2048);
    });
}

#[test]
#[ignore = "needs a GPU: TEST_DEVICE names it"]
fn golden_80m_long() {
    on_each(|suite| {
        suite.golden_80m("m2-bert-80m-32k", 32768, Padding::None, 1..=8192);
        suite.golden_80m("m2-bert-80m-32k-padded", 32768, Padding::None, 32768..=32768);
    });
}

#[test]
#[ignore = "needs a GPU: TEST_DEVICE names it"]
fn other_shapes() {
    on_each(Suite::other_shapes);
}

#[test]
#[ignore = "needs a GPU: TEST_DEVICE names it"]
fn long_texts() {
    on_each(Suite::long_texts);
}

#[test]
#[ignore = "needs a GPU: TEST_DEVICE names it"]
fn fast_padding() {
    on_each(Suite::fast_padding);
}

#[test]
#[ignore = "needs a GPU: TEST_DEVICE names it"]
fn same_bits() {
    on_each(Suite::same_bits_in_any_batch);
    on_each(Suite::same_bits_in_a_large_batch);
}

#[test]
#[ignore = "needs a GPU: TEST_DEVICE names it"]
fn turns_and_concurrent_calls() {
    on_each(Suite::turns_between_steps);
    on_each(Suite::concurrent_calls);
}

#[test]
#[ignore = "needs a GPU: TEST_DEVICE names it"]
fn refusals() {
    on_each(Suite::refusals);
}
