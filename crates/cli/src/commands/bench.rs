//! `danaus bench`

mod profile;
mod roofline;
mod table;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use danaus_engine::{Backend, Padding, Pooling, Profile, Text, measure_peaks};
use danaus_model::synthetic::uniform;
use serde::Serialize;

use self::profile::{Profiler, StageTime};
use crate::args::BenchArgs;
use crate::{padding, setup, stdout};

/// Fewest and most passes that a length is measured with.
const PASSES: std::ops::RangeInclusive<usize> = 3..=200;

/// One line of the table.
#[derive(Serialize)]
struct Measurement {
    length: usize,
    batch: usize,
    /// How texts of this length were padded, which need not be what was asked for: fast padding that serves no such text is `max-length`.
    padding: String,
    /// Where texts of this length are computed.
    device: &'static str,
    dtype: &'static str,
    instruction_set: &'static str,
    threads: usize,
    median_ms: f64,
    min_ms: f64,
    tokens_per_second: f64,
    /// The same texts without padding, measured right after; `null` where they have none anyway.
    none_median_ms: Option<f64>,
    /// `median_ms` over that.
    times_none: Option<f64>,
    /// Most memory resident in a pass of this length and padding, the model and what is kept of the lengths before included; `null`
    /// where the system does not tell.
    peak_rss_mb: Option<f64>,
    /// Where the time went, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<Vec<StageTime>>,
}

pub fn run(args: BenchArgs) -> anyhow::Result<()> {
    if args.roofline {
        return roofline::run(&args.compute, args.json);
    }
    let options = args.model.load_options();
    let profile = args.profile.then(Arc::<Profile>::default);
    let (model, backend) = setup::load_profiled(&options, &args.compute, profile.clone())?;
    if profile.is_some() && backend.info().accelerator.is_some() {
        bail!("a profile is that of the CPU, and the model is on a GPU: add --device cpu");
    }
    let (max_tokens, vocabulary) = (backend.max_tokens(), model.config.vocab_size);
    if let Some(length) = args.lengths.iter().find(|&&length| length > max_tokens) {
        bail!("length {length}: the model takes at most {max_tokens} tokens");
    }
    let padding = padding::choose(&args.compute, &options, &model, &*backend)?;
    let ids: Vec<_> = args.lengths.iter().map(|&length| texts(length, args.batch, vocabulary)).collect();
    let batches: Vec<_> = ids.iter().map(|ids| batch(&*backend, ids, padding)).collect();
    let profiler = match profile {
        Some(profile) => {
            let peaks = measure_peaks(&args.compute.backend_options())?;
            Some(Profiler { profile, peaks, config: model.config.clone() })
        }
        None => None,
    };
    drop(model);
    let note = padding::unprepared(padding, &*backend);
    if let Some(note) = note.filter(|_| !args.json) {
        stdout::print(note)?;
    }
    // Before anything is computed with another padding, whose filters would stay in memory.
    let memory =
        batches.iter().map(|batch| first_pass(&*backend, batch)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut measurements = Vec::new();
    for (batch, peak_rss_mb) in batches.iter().zip(memory) {
        let measured = measure(&*backend, batch, args.seconds, profiler.as_ref())?;
        let measurement = Measurement { peak_rss_mb, ..measured };
        if !args.json {
            table::print(&measurement, measurements.is_empty() || args.profile)?;
            measurement.profile.as_deref().map_or(Ok(()), profile::print)?;
        }
        measurements.push(measurement);
    }
    if args.json {
        stdout::print(serde_json::to_string_pretty(&measurements)?)?;
    }
    Ok(())
}

/// `batch` texts of `length` tokens, the same in every run.
pub fn texts(length: usize, batch: usize, vocabulary: usize) -> Vec<Vec<u32>> {
    let id = |draw: f32| ((f64::from(draw) + 1.0) / 2.0 * vocabulary as f64) as u32;
    (0..batch)
        .map(|text| uniform(&format!("bench.{text}"), 1, length).into_iter().map(id).collect())
        .collect()
}

fn batch<'a>(backend: &dyn Backend, texts: &'a [Vec<u32>], padding: Padding) -> Vec<Text<'a>> {
    texts.iter().map(|ids| backend.text(ids, Pooling::Mean, padding)).collect()
}

/// The first pass over a batch, which makes filters and buffers; returns the peak of memory.
fn first_pass(backend: &dyn Backend, batch: &[Text<'_>]) -> anyhow::Result<Option<f64>> {
    reset_peak();
    backend.embed(batch)?;
    Ok(peak())
}

/// Everything of a batch but its memory. Its filters and buffers are made.
fn measure(
    backend: &dyn Backend,
    batch: &[Text<'_>],
    at_least: Duration,
    profiler: Option<&Profiler>,
) -> anyhow::Result<Measurement> {
    // The first one since others.
    backend.embed(batch)?;
    if let Some(profiler) = profiler {
        profiler.profile.reset();
    }
    let mut times = timed(backend, batch, at_least)?;
    let stages = profiler.map(|profiler| profiler.stages(&times, batch, backend.info()));
    let median = median(&mut times);
    let none_median_ms = median_without_padding(backend, batch, at_least)?;
    let (device, dtype) = computed_on(backend, batch);
    let length = batch.first().map_or(0, |text| text.ids.len());
    Ok(Measurement {
        length,
        batch: batch.len(),
        padding: paddings(batch),
        device,
        dtype,
        instruction_set: backend.info().instruction_set,
        threads: backend.info().threads,
        median_ms: median * 1e3,
        min_ms: times[0] * 1e3,
        tokens_per_second: (length * batch.len()) as f64 / median,
        none_median_ms,
        times_none: none_median_ms.map(|none| median * 1e3 / none),
        peak_rss_mb: None,
        profile: stages,
    })
}

/// The same texts without padding, in ms; `None` where none of them has any.
fn median_without_padding(
    backend: &dyn Backend,
    padded: &[Text<'_>],
    at_least: Duration,
) -> anyhow::Result<Option<f64>> {
    if padded.iter().all(|text| text.window.padding == Padding::None) {
        return Ok(None);
    }
    let alone = |text: &Text<'_>| backend.window(text.ids, text.pooling, Padding::None);
    let batch: Vec<_> = padded.iter().map(|text| Text { window: alone(text), ..*text }).collect();
    // The first pass makes filters and buffers, the second is the first at full speed.
    backend.embed(&batch)?;
    backend.embed(&batch)?;
    Ok(Some(median(&mut timed(backend, &batch, at_least)?) * 1e3))
}

/// Seconds of each of enough passes.
fn timed(backend: &dyn Backend, batch: &[Text<'_>], at_least: Duration) -> anyhow::Result<Vec<f64>> {
    let mut times = Vec::new();
    let started = Instant::now();
    while times.len() < *PASSES.start() || (times.len() < *PASSES.end() && started.elapsed() < at_least) {
        let pass = Instant::now();
        backend.embed(batch)?;
        times.push(pass.elapsed().as_secs_f64());
    }
    Ok(times)
}

/// Sorts them, too.
fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// How a batch's texts are padded. Texts of one length may differ in that, since they repeat themselves more or less.
fn paddings(batch: &[Text<'_>]) -> String {
    let mut names: Vec<_> = batch.iter().map(|text| text.window.padding.to_string()).collect();
    names.sort_unstable();
    names.dedup();
    names.join("+")
}

/// Device and dtype of texts of one length.
fn computed_on(backend: &dyn Backend, batch: &[Text<'_>]) -> (&'static str, &'static str) {
    let info = backend.info();
    let rows = batch.first().map_or(0, |text| text.window.cost());
    match &info.accelerator {
        Some(gpu) if rows < gpu.crossover || backend.demoted().is_some() => ("cpu", gpu.cpu_dtype),
        _ => (info.device, info.dtype),
    }
}

/// Starts a new peak of resident memory, where the system can: on Linux.
fn reset_peak() {
    // Without it, a peak is that of the whole process: higher, never wrong.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Peak of resident memory in MB (10^6 bytes), where the system tells: on Linux.
fn peak() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0 / 1e6)
}
