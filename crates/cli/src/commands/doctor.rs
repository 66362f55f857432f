//! `danaus doctor`: what this machine can compute with, to be pasted into a bug report.

use std::time::Instant;

use anyhow::Context;
use danaus_engine::gpu::{Examined, Found, Measured, ProbeResult, examine};
use danaus_engine::{Backend, Isa, Padding, Pooling, Text, load_backend};
use danaus_model::{HubOptions, LoadOptions};
use serde::Serialize;

use crate::args::DoctorArgs;
use crate::stdout;

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
}

#[derive(Debug, Serialize)]
struct Speed {
    tokens: usize,
    ms: f64,
}

/// Prints what there is, tests and measures it. Fails only where the device that was asked for by name does.
pub fn run(args: DoctorArgs) -> anyhow::Result<()> {
    let (source, revision) = (args.model, args.revision);
    let options = LoadOptions { source, revision, hub: HubOptions::from_env() };
    let model = danaus_model::load(&options)
        .with_context(|| format!("the model {} cannot be loaded", options.source))?;
    let computing = args.compute.backend_options();
    let examined = examine(&model, &computing, &LENGTHS);
    let chosen = load_backend(&model, &computing);
    let (chosen, failure) = match &chosen {
        Ok(backend) => (Some(describe(&**backend)?), None),
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
        false => print(&report)?,
    }
    report.failure.map_or(Ok(()), |failure| Err(anyhow::Error::msg(failure)))
}

/// What a backend is, and its speed.
fn describe(backend: &dyn Backend) -> anyhow::Result<Chosen> {
    let (info, mut speed) = (backend.info(), Vec::new());
    for tokens in LENGTHS.into_iter().filter(|&tokens| tokens <= backend.max_tokens()) {
        let ids = vec![0; tokens];
        let text = Text { ids: &ids, pooling: Pooling::Mean, padding: Padding::None };
        backend.embed(&[text])?;
        let mut times = [0.0; PASSES];
        for time in &mut times {
            let started = Instant::now();
            backend.embed(&[text])?;
            *time = started.elapsed().as_secs_f64() * 1e3;
        }
        times.sort_by(f64::total_cmp);
        speed.push(Speed { tokens, ms: times[PASSES / 2] });
    }
    Ok(Chosen {
        device: info.device,
        name: info.accelerator.as_ref().map(|gpu| gpu.name.clone()),
        dtype: info.dtype,
        instruction_set: info.instruction_set,
        threads: info.threads,
        crossover: info.accelerator.as_ref().map(|gpu| gpu.crossover),
        speed,
    })
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

fn print(report: &Report) -> anyhow::Result<()> {
    let Report { version, os, cpu, cores, model, asked_for: [device, dtype], .. } = report;
    stdout::print(format_args!("danaus {version}, {os}"))?;
    stdout::print(format_args!("CPU: {cpu}, {cores} cores, {}", report.instruction_sets.join(", ")))?;
    stdout::print(format_args!("model: {model}; asked for: device {device}, dtype {dtype}"))?;
    for Examined { interface, unavailable, found } in &report.gpus {
        if let Some(reason) = unavailable {
            stdout::print(format_args!("{interface}: not usable: {reason}"))?;
        }
        found.as_ref().map_or(Ok(()), |found| print_found(interface, found))?;
    }
    if report.gpus.is_empty() {
        stdout::print("GPUs: this build knows none")?;
    }
    let Some(Chosen { device, dtype, instruction_set, threads, .. }) = report.chosen else { return Ok(()) };
    let chosen = report.chosen.iter();
    stdout::print(format_args!(
        "chosen: device {device}, dtype {dtype}; on the CPU {instruction_set}, {threads} threads"
    ))?;
    for Speed { tokens, ms } in chosen.flat_map(|chosen| &chosen.speed) {
        stdout::print(format_args!("{tokens:>8} tokens {ms:>10.2} ms"))?;
    }
    Ok(())
}

fn print_found(interface: &str, found: &Found) -> anyhow::Result<()> {
    let Found { device, name, driver, dtype, cpu_dtype, self_test, .. } = found;
    let memory = found.memory_bytes.map_or(String::new(), |bytes| format!(", {} MB", bytes / 1_000_000));
    stdout::print(format_args!(
        "{interface}: {name} ({device}, {driver}{memory}), {dtype}; the CPU: {cpu_dtype}"
    ))?;
    match &self_test.failure {
        None => stdout::print("  self-test: passed")?,
        Some(reason) => stdout::print(format_args!("  self-test: FAILED: {reason}"))?,
    }
    if !self_test.skipped.is_empty() {
        stdout::print(format_args!("  too long to be tested now: {:?} tokens", self_test.skipped))?;
    }
    stdout::print("  tokens     rows  1 - cosine      CPU ms      GPU ms")?;
    for ProbeResult { tokens, rows, far_field, distance, cpu_ms, gpu_ms } in &self_test.probes {
        let mark = if *far_field { "+" } else { "" };
        let rows = format!("{rows}{mark}");
        stdout::print(format_args!("{tokens:>8} {rows:>8} {distance:>11.1e} {cpu_ms:>11.2} {gpu_ms:>11.2}"))?;
    }
    if let Some(crossover) = &found.crossover {
        stdout::print(format_args!(
            "  crossover: the CPU is for texts of fewer than {} tokens, padding included",
            crossover.rows
        ))?;
        print_speed(&crossover.measured)?;
    }
    if !found.speed.is_empty() {
        stdout::print("  speed of single texts")?;
        print_speed(&found.speed)?;
    }
    found.failure.as_ref().map_or(Ok(()), |reason| stdout::print(format_args!("  FAILED: {reason}")))
}

fn print_speed(measured: &[Measured]) -> anyhow::Result<()> {
    for Measured { tokens, cpu_ms, gpu_ms } in measured {
        stdout::print(format_args!(
            "{tokens:>8} tokens {cpu_ms:>10.2} ms on the CPU {gpu_ms:>10.2} ms on the GPU"
        ))?;
    }
    Ok(())
}
