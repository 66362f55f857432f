//! What a GPU has to show before it serves: that it computes fixed texts as the CPU does.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use danaus_model::synthetic::uniform;
use serde::Serialize;

use super::Distrust;
use super::supervised::{Supervised, Turns};
use super::trust::{compare, is_finite, most};
use crate::gpu::{DeviceError, PaddedText, Pooled};
use crate::padding::{FarField, Window};
use crate::{Backend, CpuBackend, EngineError, Pooling};

/// Lengths of texts: each way in which a convolution is computed, both sides of its limits, and numbers of rows that leave
/// tiles of products partly empty. The model's length follows.
const LENGTHS: [usize; 14] = [1, 7, 32, 33, 100, 128, 200, 400, 900, 1500, 2048, 3000, 4097, 9000];

/// Tokens and rows of texts with padding, with a far field and without.
const PADDED: [(usize, usize, bool); 3] = [(7, 100, true), (33, 64, true), (20, 150, false)];

/// Longest of the texts that are also computed as one batch.
const TOGETHER: usize = 400;

/// Longest text that must find memory: others do where there is more.
const MUST_FIT: usize = 2048;

/// Largest value of the made-up far field: about what real ones reach.
const FAR_FIELD: f32 = 0.1;

/// One text, computed on both.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProbeResult {
    /// Its tokens.
    pub tokens: usize,
    /// Tokens and padding.
    pub rows: usize,
    /// Whether something stands for padding beyond that.
    pub far_field: bool,
    /// The larger `1 - cosine` of the two vectors (mean over tokens, and first token) from the CPU's.
    pub distance: f64,
    /// The CPU's time, filters included where it had none of this length yet.
    pub cpu_ms: f64,
    /// The GPU's time, the second time.
    pub gpu_ms: f64,
}

/// What the self-test showed.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct SelfTest {
    /// Texts that were computed on both, and agree but for the last one where the test failed.
    pub probes: Vec<ProbeResult>,
    /// Lengths of texts that would have taken the CPU too long, or the GPU too much memory.
    pub skipped: Vec<usize>,
    /// Why the GPU cannot be trusted.
    pub failure: Option<String>,
}

/// A text to compute.
struct Probe {
    tokens: usize,
    rows: usize,
    far_field: Option<Arc<FarField>>,
}

/// A text that both agree on, with the CPU's vectors by pooling.
struct Agreed {
    ids: Vec<u32>,
    rows: usize,
    far_field: Option<Arc<FarField>>,
    mean: Vec<f32>,
}

/// Runs the self-test, as far as it takes the CPU no longer than `budget`.
pub(in crate::gpu) fn self_test(
    cpu: &CpuBackend,
    gpu: &Supervised,
    budget: Duration,
) -> Result<SelfTest, EngineError> {
    let mut test = SelfTest::default();
    let mut agreed = Vec::new();
    let (mut spent, mut per_row) = (Duration::ZERO, Duration::ZERO);
    for probe in probes(cpu) {
        let expected = per_row.saturating_mul(u32::try_from(probe.rows).unwrap_or(u32::MAX));
        if probe.rows > LENGTHS[0] && spent + expected > budget {
            test.skipped.push(probe.tokens);
            continue;
        }
        let started = Instant::now();
        let ids = ids(probe.tokens, cpu.config().vocab_size);
        let window = Window { far_field: probe.far_field.clone(), ..Window::alone(probe.rows) };
        let expected = cpu.vectors(&ids, window)?;
        let took = started.elapsed();
        spent += took;
        per_row = took / u32::try_from(probe.rows).unwrap_or(u32::MAX);
        let (result, outcome) = compare_one(gpu, &probe, &ids, &expected);
        let Probe { tokens, rows, far_field } = probe;
        match outcome {
            Err(DeviceError::OutOfMemory(_)) if rows > MUST_FIT => {
                test.skipped.push(tokens);
                continue;
            }
            _ => test.probes.push(ProbeResult { cpu_ms: took.as_secs_f64() * 1e3, ..result }),
        }
        if let Err(reason) = outcome {
            test.failure = Some(format!("{tokens} tokens in {rows} rows: {reason}"));
            return Ok(test);
        }
        agreed.push(Agreed { ids, rows, far_field, mean: expected[Pooling::Mean as usize].clone() });
    }
    agreed.retain(|text| text.rows <= TOGETHER);
    test.failure = compare_batch(gpu, &agreed).err().map(|reason| format!("texts in one batch: {reason}"));
    Ok(test)
}

/// Compares a text that [`self_test`] left out; passes of others have their turn between the steps.
pub(super) fn test_later(cpu: &CpuBackend, gpu: &Supervised, tokens: usize) -> Result<(), Distrust> {
    let ids = ids(tokens, cpu.config().vocab_size);
    let text = PaddedText { ids: &ids, rows: tokens, far_field: None, pooled: Pooled::Mean };
    let on_gpu = gpu.embed(std::slice::from_ref(&text), &mut Turns(Some(&mut || ControlFlow::Continue(()))));
    let vector = match on_gpu {
        Ok(mut vectors) => vectors.remove(0),
        // Whoever sends such a text is told so.
        Err(DeviceError::OutOfMemory(_)) => return Ok(()),
        Err(error) => return Err(Distrust::Device(error.to_string())),
    };
    let expected = cpu.windows().encode(&ids, Window::alone(tokens), &mut []);
    let expected = expected.map_err(Distrust::Cpu)?.swap_remove(Pooling::Mean as usize);
    let dtype = gpu.description().dtype;
    // A text that goes beyond half precision is the CPU's to compute, and no reason for distrust.
    if dtype == "f16" && !is_finite(&vector) && is_finite(&expected) {
        return Ok(());
    }
    let compared = compare(&vector, &expected, most(dtype, &text));
    compared.map(drop).map_err(|reason| Distrust::Device(format!("a text of {tokens} tokens: {reason}")))
}

/// What is computed, the cheapest first.
fn probes(cpu: &CpuBackend) -> Vec<Probe> {
    let most = cpu.max_tokens();
    let plain = LENGTHS.into_iter().filter(|&tokens| tokens < most).chain([most]);
    let plain = plain.map(|tokens| Probe { tokens, rows: tokens, far_field: None });
    let padded = PADDED.into_iter().filter(|&(_, rows, _)| rows <= most).map(|(tokens, rows, far_field)| {
        let far_field = far_field.then(|| Arc::new(made_up_far_field(cpu, rows)));
        Probe { tokens, rows, far_field }
    });
    let mut probes: Vec<_> = plain.chain(padded).collect();
    probes.sort_by_key(|probe| probe.rows);
    probes
}

/// Token ids, the same in every run.
pub(super) fn ids(tokens: usize, vocabulary: usize) -> Vec<u32> {
    let id = |draw: f32| ((f64::from(draw) + 1.0) / 2.0 * vocabulary as f64) as u32;
    uniform(&format!("probe.{tokens}"), 1, tokens).into_iter().map(id).collect()
}

fn made_up_far_field(cpu: &CpuBackend, window: usize) -> FarField {
    let (layers, width) = cpu.windows().shape();
    let mut values = uniform("far_field", 1, 2 * layers * window * width);
    values.iter_mut().for_each(|value| *value *= FAR_FIELD);
    FarField::new(window, width, &values)
}

/// Computes both vectors of a text on the GPU, and compares them.
fn compare_one(
    gpu: &Supervised,
    probe: &Probe,
    ids: &[u32],
    expected: &[Vec<f32>],
) -> (ProbeResult, Result<(), DeviceError>) {
    let &Probe { tokens, rows, ref far_field } = probe;
    let (far, distance) = (far_field.is_some(), f64::INFINITY);
    let mut result = ProbeResult { tokens, rows, far_field: far, distance, cpu_ms: 0.0, gpu_ms: 0.0 };
    let mut distances = [Pooled::Mean, Pooled::First].into_iter().zip([Pooling::Mean, Pooling::Cls]).map(
        |(pooled, pooling)| {
            let text = PaddedText { ids, rows, far_field: far_field.clone(), pooled };
            let most = most(gpu.description().dtype, &text);
            let started = Instant::now();
            let vector = gpu.embed(&[text], &mut Turns(None))?.remove(0);
            // That of the second one stays: the first may have had to make filters.
            result.gpu_ms = started.elapsed().as_secs_f64() * 1e3;
            compare(&vector, &expected[pooling as usize], most).map_err(DeviceError::Failed)
        },
    );
    let largest = distances.try_fold(0.0, |largest, distance| Ok(f64::max(largest, distance?)));
    let outcome = largest.map(|largest| result.distance = largest);
    (result, outcome)
}

/// Computes texts that were right alone as one batch.
fn compare_batch(gpu: &Supervised, texts: &[Agreed]) -> Result<(), String> {
    let batch = texts.iter().map(|text| {
        let (ids, rows, far_field) = (&text.ids[..], text.rows, text.far_field.clone());
        PaddedText { ids, rows, far_field, pooled: Pooled::Mean }
    });
    let batch: Vec<_> = batch.collect();
    let vectors = gpu.embed(&batch, &mut Turns(None)).map_err(|error| error.to_string())?;
    for (vector, (text, padded)) in vectors.iter().zip(texts.iter().zip(&batch)) {
        compare(vector, &text.mean, most(gpu.description().dtype, padded))
            .map_err(|reason| format!("{} tokens in {} rows: {reason}", text.ids.len(), text.rows))?;
    }
    Ok(())
}
