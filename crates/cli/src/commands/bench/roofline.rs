//! `danaus bench --roofline`: what the machine reaches without a model.

use danaus_engine::{BackendOptions, Isa, Peaks, Rates, measure_peaks};
use serde_json::{Map, Value, json};

use crate::args::ComputeArgs;
use crate::stdout;

/// A rate's name in JSON, its name for people, and the rate.
type Row = (&'static str, &'static str, fn(&Rates) -> f64);

const ROWS: [Row; 7] = [
    ("f32_gflops", "f32, GFLOP/s", |rates| rates.f32_gflops),
    ("bf16_gflops", "bf16, GFLOP/s", |rates| rates.bf16_gflops),
    ("int8_gops", "int8, GOP/s", |rates| rates.int8_gops),
    ("l1_gb_per_s", "reading L1, GB/s", |rates| rates.l1_gb_per_s),
    ("l2_gb_per_s", "reading L2, GB/s", |rates| rates.l2_gb_per_s),
    ("last_level_gb_per_s", "reading last level, GB/s", |rates| rates.last_level_gb_per_s),
    ("memory_gb_per_s", "reading memory, GB/s", |rates| rates.memory_gb_per_s),
];

pub fn run(compute: &ComputeArgs, as_json: bool) -> anyhow::Result<()> {
    let options = compute.backend_options();
    options.check()?;
    let instruction_set = instruction_set(&options);
    let peaks = measure_peaks(&options)?;
    if as_json {
        return stdout::print(serde_json::to_string_pretty(&to_json(&peaks, &instruction_set))?);
    }
    let caches = peaks.caches;
    stdout::print(format_args!(
        "{instruction_set}, {} threads; caches: L1 {} KiB, L2 {} KiB, last level {} KiB",
        peaks.threads,
        caches.l1_bytes >> 10,
        caches.l2_bytes >> 10,
        caches.last_level_bytes >> 10
    ))?;
    stdout::print(format_args!("{:<25} {:>12} {:>12}", "", "all threads", "one thread"))?;
    for (_, name, rate) in ROWS {
        let (all, one) = (rate(&peaks.all_threads), rate(&peaks.one_thread));
        stdout::print(format_args!("{name:<25} {all:>12.1} {one:>12.1}"))?;
    }
    Ok(())
}

fn instruction_set(options: &BackendOptions) -> String {
    options.instruction_set.clone().unwrap_or_else(|| Isa::best().to_string())
}

fn to_json(peaks: &Peaks, instruction_set: &str) -> Value {
    let rates = |rates: &Rates| -> Map<String, Value> {
        ROWS.iter().map(|(key, _, rate)| ((*key).to_owned(), json!(rate(rates)))).collect()
    };
    json!({
        "instruction_set": instruction_set,
        "threads": peaks.threads,
        "l1_bytes": peaks.caches.l1_bytes,
        "l2_bytes": peaks.caches.l2_bytes,
        "last_level_bytes": peaks.caches.last_level_bytes,
        "all_threads": rates(&peaks.all_threads),
        "one_thread": rates(&peaks.one_thread),
    })
}
