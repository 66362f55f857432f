//! `danaus bench`

mod profile;
mod roofline;

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
    /// Where texts of this length are computed.
    device: &'static str,
    dtype: &'static str,
    instruction_set: &'static str,
    threads: usize,
    median_ms: f64,
    min_ms: f64,
    tokens_per_second: f64,
    /// Most memory resident while this length was measured, the model included; `null` where the system does not tell.
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
    // Another model than the published one is no reason to pad, unless that is asked for.
    let padding = match args.compute.padding {
        Some(_) => padding::choose(&args.compute, &options, &model, &*backend),
        None => Padding::None,
    };
    let batches: Vec<_> = args.lengths.iter().map(|&length| texts(length, args.batch, vocabulary)).collect();
    let profiler = match profile {
        Some(profile) => {
            let peaks = measure_peaks(&args.compute.backend_options())?;
            let rows = |ids: &[u32]| backend.window(ids, Pooling::Mean, padding).cost();
            let rows = batches.iter().flatten().map(|ids| (ids.len(), rows(ids))).collect();
            Some(Profiler { profile, peaks, config: model.config.clone(), rows })
        }
        None => None,
    };
    drop(model);
    let mut measurements = Vec::new();
    for texts in &batches {
        let measurement = measure(&*backend, (texts, padding), args.seconds, profiler.as_ref())?;
        if !args.json {
            print(&measurement, measurements.is_empty() || args.profile)?;
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
fn texts(length: usize, batch: usize, vocabulary: usize) -> Vec<Vec<u32>> {
    let id = |draw: f32| ((f64::from(draw) + 1.0) / 2.0 * vocabulary as f64) as u32;
    (0..batch)
        .map(|text| uniform(&format!("bench.{text}"), 1, length).into_iter().map(id).collect())
        .collect()
}

fn measure(
    backend: &dyn Backend,
    (texts, padding): (&[Vec<u32>], Padding),
    at_least: Duration,
    profiler: Option<&Profiler>,
) -> anyhow::Result<Measurement> {
    let batch: Vec<_> = texts.iter().map(|ids| backend.text(ids, Pooling::Mean, padding)).collect();
    reset_peak();
    // The first pass makes filters and buffers, the second is the first at full speed.
    backend.embed(&batch)?;
    backend.embed(&batch)?;
    if let Some(profiler) = profiler {
        profiler.profile.reset();
    }
    let mut times = Vec::new();
    let started = Instant::now();
    while times.len() < *PASSES.start() || (times.len() < *PASSES.end() && started.elapsed() < at_least) {
        let pass = Instant::now();
        backend.embed(&batch)?;
        times.push(pass.elapsed().as_secs_f64());
    }
    let stages = profiler.map(|profiler| profiler.stages(&times, texts, backend.info()));
    times.sort_by(f64::total_cmp);
    let (device, dtype) = computed_on(backend, &batch);
    let (length, median) = (texts.first().map_or(0, Vec::len), times[times.len() / 2]);
    Ok(Measurement {
        length,
        batch: texts.len(),
        device,
        dtype,
        instruction_set: backend.info().instruction_set,
        threads: backend.info().threads,
        median_ms: median * 1e3,
        min_ms: times[0] * 1e3,
        tokens_per_second: (length * texts.len()) as f64 / median,
        peak_rss_mb: peak(),
        profile: stages,
    })
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

fn print(row: &Measurement, first: bool) -> anyhow::Result<()> {
    if first {
        stdout::print(
            "  length  batch  device   dtype       isa  threads   median ms      min ms   tokens/s   peak MB",
        )?;
    }
    let memory = row.peak_rss_mb.map_or_else(|| "-".to_owned(), |mb| format!("{mb:.0}"));
    stdout::print(format_args!(
        "{:>8} {:>6} {:>7} {:>7} {:>9} {:>8} {:>11.2} {:>11.2} {:>10.0} {:>9}",
        row.length,
        row.batch,
        row.device,
        row.dtype,
        row.instruction_set,
        row.threads,
        row.median_ms,
        row.min_ms,
        row.tokens_per_second,
        memory
    ))
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
