//! A GPU beside the CPU that watches it: who computes what, and what becomes of faults. The GPU is a CPU backend of another dtype
//! that can be made to fail, so that bits tell who computed a vector.

#[path = "../common/mod.rs"]
mod common;
mod crossover;
mod faults;
mod routes;
mod self_test;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::faulty::{Control, Fault, Faulty};
use common::{bits, golden_ids, prepared, small_config};
use danaus_engine::gpu::{Distrust, GuardOptions, GuardedBackend};
use danaus_engine::padding::{Window, distance, equal_pairs};
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
    Text { ids, pooling: Pooling::Mean, window: Window::alone(ids.len()) }
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
        let [expected, other] = if gpu { [&self.gpu, &self.cpu] } else { [&self.cpu, &self.gpu] }
            .map(|one| embed(one, text.clone()));
        assert_ne!(expected, other, "both give the same bits");
        assert_eq!(got, expected, "{} tokens, {}, {}", text.ids.len(), text.pooling, text.window.padding);
    }
}
