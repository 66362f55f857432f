//! `danaus doctor`: what this machine can compute with, to be pasted into a bug report.

use std::time::Instant;

use anyhow::Context;
use danaus_engine::gpu::{Examined, Found, Measured, ProbeResult, examine};
use danaus_engine::{Backend, Isa, Padding, Pooling, Text, load_backend};
use danaus_model::{HubOptions, LoadOptions};
use serde::Serialize;

use super::bench::texts;
use crate::args::DoctorArgs;
use crate::{padding, stdout};

/// Lengths of single texts whose speed is measured.
const LENGTHS: [usize; 4] = [16, 128, 512, 2048];

/// Passes of each, of which the median counts, after one that does not.
const PASSES: usize = 3;

#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    os: String,
    cpu: String,
    cores: usize,
    /// Instruction sets that this CPU has, the best one first.
    instruction_sets: Vec<&'static str>,
    model: String,
    /// What `--device` and `--dtype` ask for.
    asked_for: [String; 2],
    gpus: Vec<Examined>,
    chosen: Option<Chosen>,
    /// Why nothing could be chosen.
    failure: Option<String>,
}

/// What a server with these options computes with.
#[derive(Debug, Serialize)]
struct Chosen {
    device: &'static str,
    name: Option<String>,
    dtype: &'static str,
    instruction_set: &'static str,
    threads: usize,
    crossover: Option<usize>,
    speed: Vec<Speed>,
    /// What is to be known of `speed` where fast padding is not prepared.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

#[derive(Debug, Serialize)]
struct Speed {
    tokens: usize,
    /// How the text was padded, which need not be what was asked for.
    padding: String,
    ms: f64,
    /// The same text without padding; `null` where it has none anyway.
    none_ms: Option<f64>,
    /// `ms` over that.
    times_none: Option<f64>,
}

/// Prints what there is, tests and measures it. Fails only where the device that was asked for by name does, or the file for
/// fast padding that was.
pub fn run(args: DoctorArgs) -> anyhow::Result<()> {
    let (source, revision) = (args.model, args.revision);
    let options = LoadOptions { source, revision, hub: HubOptions::from_env() };
    let model = danaus_model::load(&options)
        .with_context(|| format!("the model {} cannot be loaded", options.source))?;
    let computing = args.compute.backend_options();
    let examined = examine(&model, &computing, &LENGTHS);
    let chosen = load_backend(&model, &computing);
    let (chosen, failure) = match &chosen {
        Ok(backend) => {
            let padding = padding::choose(&args.compute, &options, &model, &**backend)?;
            (Some(describe(&**backend, padding, model.config.vocab_size)?), None)
        }
        Err(error) => (None, Some(error.to_string())),
    };
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        os: os(),
        cpu: cpu(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        instruction_sets: Isa::available().into_iter().map(Isa::name).collect(),
        model: model.id.clone(),
        asked_for: [computing.device.to_string(), computing.dtype.to_string()],
        gpus: examined?,
        chosen,
        failure,
    };
    match args.json {
        true => stdout::print(serde_json::to_string_pretty(&report)?)?,
        false => stdout::print(text(&report))?,
    }
    report.failure.map_or(Ok(()), |failure| Err(anyhow::Error::msg(failure)))
}

/// What a backend is, and its speed.
fn describe(backend: &dyn Backend, padding: Padding, vocabulary: usize) -> anyhow::Result<Chosen> {
    let (info, mut speed, mut exact_ms) = (backend.info(), Vec::new(), None);
    for tokens in LENGTHS.into_iter().filter(|&tokens| tokens <= backend.max_tokens()) {
        let ids = texts(tokens, 1, vocabulary).concat();
        let text = backend.text(&ids, Pooling::Mean, padding);
        let used = text.window.padding;
        let ms = match (used, exact_ms) {
            // The same rows, whatever the text's length: seconds, for a 32k model.
            (Padding::MaxLength, Some(ms)) => ms,
            _ => median_ms(backend, text)?,
        };
        exact_ms = if used == Padding::MaxLength { Some(ms) } else { exact_ms };
        let none_ms = match used {
            Padding::None => None,
            _ => Some(median_ms(backend, backend.text(&ids, Pooling::Mean, Padding::None))?),
        };
        let times_none = none_ms.map(|none_ms| ms / none_ms);
        speed.push(Speed { tokens, padding: used.to_string(), ms, none_ms, times_none });
    }
    Ok(Chosen {
        device: info.device,
        name: info.accelerator.as_ref().map(|gpu| gpu.name.clone()),
        dtype: info.dtype,
        instruction_set: info.instruction_set,
        threads: info.threads,
        crossover: info.accelerator.as_ref().map(|gpu| gpu.crossover),
        speed,
        note: padding::unprepared(padding, backend),
    })
}

/// What a text takes, in ms.
fn median_ms(backend: &dyn Backend, text: Text<'_>) -> anyhow::Result<f64> {
    let text = [text];
    backend.embed(&text)?;
    let mut times = [0.0; PASSES];
    for time in &mut times {
        let started = Instant::now();
        backend.embed(&text)?;
        *time = started.elapsed().as_secs_f64() * 1e3;
    }
    times.sort_by(f64::total_cmp);
    Ok(times[PASSES / 2])
}

/// System, architecture and, where the system tells, its release.
fn os() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .ok()
        .or_else(|| output("sw_vers", &["-productVersion"]))
        .unwrap_or_default();
    format!("{} {} {}", std::env::consts::OS, std::env::consts::ARCH, release.trim()).trim().to_owned()
}

/// The processor's name, where the system tells.
fn cpu() -> String {
    let name = |file: String| {
        let line = file.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    std::fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(name)
        .or_else(|| output("sysctl", &["-n", "machdep.cpu.brand_string"]))
        .unwrap_or_else(|| "of unknown name".to_owned())
}

/// What a program of macOS says; `None` elsewhere.
fn output(program: &str, args: &[&str]) -> Option<String> {
    if !cfg!(target_os = "macos") {
        return None;
    }
    let output = std::process::Command::new(program).args(args).output().ok()?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

/// The report for people.
fn text(report: &Report) -> String {
    let Report { version, os, cpu, cores, model, asked_for: [device, dtype], .. } = report;
    let mut lines = vec![
        format!("danaus {version}, {os}"),
        format!("CPU: {cpu}, {cores} cores, {}", report.instruction_sets.join(", ")),
        format!("model: {model}; asked for: device {device}, dtype {dtype}"),
    ];
    if report.gpus.is_empty() {
        lines.push("GPUs: this build knows none".to_owned());
    }
    for Examined { interface, unavailable, found } in &report.gpus {
        lines.extend(unavailable.iter().map(|reason| format!("{interface}: not usable: {reason}")));
        lines.extend(found.iter().flat_map(|found| found_lines(interface, found)));
    }
    if let Some(Chosen { device, dtype, instruction_set, threads, speed, note, .. }) = &report.chosen {
        lines.push(format!(
            "chosen: device {device}, dtype {dtype}; on the CPU {instruction_set}, {threads} threads"
        ));
        lines.extend(note.clone());
        lines.extend(speed.iter().map(padded_speed_line));
    }
    lines.join("\n")
}

fn found_lines(interface: &str, found: &Found) -> Vec<String> {
    let Found { device, name, driver, dtype, cpu_dtype, self_test, .. } = found;
    let memory = found.memory_bytes.map_or(String::new(), |bytes| format!(", {} MB", bytes / 1_000_000));
    let mut lines =
        vec![format!("{interface}: {name} ({device}, {driver}{memory}), {dtype}; the CPU: {cpu_dtype}")];
    lines.push(match &self_test.failure {
        None => "  self-test: passed".to_owned(),
        Some(reason) => format!("  self-test: FAILED: {reason}"),
    });
    if !self_test.skipped.is_empty() {
        let skipped: Vec<_> = self_test.skipped.iter().map(usize::to_string).collect();
        lines.push(format!("  too long to be tested here: {} tokens", skipped.join(", ")));
    }
    lines.push("  tokens     rows  1 - cosine      CPU ms      GPU ms".to_owned());
    for ProbeResult { tokens, rows, far_field, distance, cpu_ms, gpu_ms } in &self_test.probes {
        let rows = format!("{rows}{}", if *far_field { "+" } else { "" });
        lines.push(format!("{tokens:>8} {rows:>8} {distance:>11.1e} {cpu_ms:>11.2} {gpu_ms:>11.2}"));
    }
    if let Some(crossover) = &found.crossover {
        let rows = crossover.rows;
        lines
            .push(format!("  crossover: the CPU is for texts of fewer than {rows} tokens, padding included"));
        lines.extend(crossover.measured.iter().map(speed_line));
    }
    if !found.speed.is_empty() {
        lines.push("  speed of single texts, padding none".to_owned());
        lines.extend(found.speed.iter().map(speed_line));
    }
    lines.extend(found.failure.iter().map(|reason| format!("  FAILED: {reason}")));
    lines
}

fn speed_line(Measured { tokens, cpu_ms, gpu_ms }: &Measured) -> String {
    format!("{tokens:>8} tokens {cpu_ms:>10.2} ms on the CPU {gpu_ms:>10.2} ms on the GPU")
}

fn padded_speed_line(Speed { tokens, padding, ms, none_ms, times_none }: &Speed) -> String {
    let none = match (none_ms, times_none) {
        (Some(ms), Some(times)) => format!(" ({ms:.2} ms with padding none, {times:.2} times that)"),
        _ => String::new(),
    };
    format!("{tokens:>8} tokens {ms:>10.2} ms, padding {padding}{none}")
}

#[cfg(test)]
mod tests {
    use danaus_engine::gpu::{Crossover, SelfTest};

    use super::*;

    fn probe(tokens: usize, rows: usize, distance: f64) -> ProbeResult {
        ProbeResult { tokens, rows, far_field: rows > tokens, distance, cpu_ms: 4.25, gpu_ms: 0.5 }
    }

    fn found() -> Found {
        let measured = vec![Measured { tokens: 16, cpu_ms: 1.0, gpu_ms: 2.5 }];
        Found {
            device: "cuda",
            name: "Fast 9".to_owned(),
            driver: "555.1".to_owned(),
            dtype: "bf16",
            cpu_dtype: "f32",
            memory_bytes: Some(80_000_000_000),
            self_test: SelfTest {
                probes: vec![probe(1, 1, 2e-5), probe(7, 100, 3.5e-5)],
                skipped: vec![9000, 32_768],
                failure: None,
            },
            crossover: Some(Crossover { rows: 32, measured: measured.clone() }),
            speed: measured,
            failure: None,
        }
    }

    #[test]
    fn a_gpu_for_people() {
        let expected = "\
CUDA: Fast 9 (cuda, 555.1, 80000 MB), bf16; the CPU: f32
  self-test: passed
  too long to be tested here: 9000, 32768 tokens
  tokens     rows  1 - cosine      CPU ms      GPU ms
       1        1      2.0e-5        4.25        0.50
       7     100+      3.5e-5        4.25        0.50
  crossover: the CPU is for texts of fewer than 32 tokens, padding included
      16 tokens       1.00 ms on the CPU       2.50 ms on the GPU
  speed of single texts, padding none
      16 tokens       1.00 ms on the CPU       2.50 ms on the GPU";
        assert_eq!(found_lines("CUDA", &found()).join("\n"), expected);
    }

    #[test]
    fn a_speed_says_its_padding() {
        let line = |padding: &str, none_ms: Option<f64>| {
            let times_none = none_ms.map(|ms| 6.0 / ms);
            padded_speed_line(&Speed {
                tokens: 16,
                padding: padding.to_owned(),
                ms: 6.0,
                none_ms,
                times_none,
            })
        };
        assert_eq!(line("none", None), "      16 tokens       6.00 ms, padding none");
        assert_eq!(
            line("fast", Some(4.0)),
            "      16 tokens       6.00 ms, padding fast (4.00 ms with padding none, 1.50 times that)"
        );
    }

    #[test]
    fn a_gpu_that_failed_for_people() {
        let failure = Some("1 tokens in 1 rows: its vector is not finite".to_owned());
        let self_test = SelfTest { probes: vec![probe(1, 1, f64::INFINITY)], skipped: Vec::new(), failure };
        let memory_bytes = None;
        let lost = Some("the device is lost".to_owned());
        let found =
            Found { self_test, memory_bytes, crossover: None, speed: Vec::new(), failure: lost, ..found() };
        let expected = "\
CUDA: Fast 9 (cuda, 555.1), bf16; the CPU: f32
  self-test: FAILED: 1 tokens in 1 rows: its vector is not finite
  tokens     rows  1 - cosine      CPU ms      GPU ms
       1        1         inf        4.25        0.50
  FAILED: the device is lost";
        assert_eq!(found_lines("CUDA", &found).join("\n"), expected);
    }
}
