//! `danaus bench`.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::common::{danaus, danaus_with, run, small_model};

const KEYS: [&str; 10] = [
    "length",
    "batch",
    "device",
    "dtype",
    "instruction_set",
    "threads",
    "median_ms",
    "min_ms",
    "tokens_per_second",
    "peak_rss_mb",
];

#[test]
fn measurements_as_json() {
    let mut bench = danaus_with(
        small_model(),
        "bench --json --lengths 8,300,1 --batch 3 --seconds 0 --threads 2 --dtype int8",
    );
    let run = run(&mut bench).exits(0);
    let measurements: Vec<Value> = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(measurements.len(), 3);
    for (measurement, length) in measurements.iter().zip([8.0, 300.0, 1.0]) {
        let keys: BTreeSet<&str> = measurement.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, BTreeSet::from(KEYS));
        let number = |key: &str| measurement[key].as_f64().unwrap_or_else(|| panic!("{key}: {measurement}"));
        assert_eq!([number("length"), number("batch"), number("threads")], [length, 3.0, 2.0]);
        assert_eq!((&measurement["device"], &measurement["dtype"]), (&"cpu".into(), &"int8".into()));
        assert!(number("min_ms") > 0.0 && number("min_ms") <= number("median_ms"), "{measurement}");
        let rate = 3.0 * length / (number("median_ms") / 1e3);
        assert!((number("tokens_per_second") / rate - 1.0).abs() < 1e-6, "{measurement}");
        // The model alone has 8 MB; the process cannot have more than the machine.
        assert!(number("peak_rss_mb") > 8.0 && number("peak_rss_mb") < 1e6, "{measurement}");
    }
}

#[test]
fn measurements_for_people() {
    let bench = run(&mut danaus_with(small_model(), "bench --lengths 8,16 --seconds 0")).exits(0);
    let text = bench.text();
    let columns: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(columns.len(), 3, "{text}");
    assert_eq!((columns[1][0], columns[2][0]), ("8", "16"), "{text}");
}

#[test]
fn what_cannot_be_measured() {
    let bench =
        |args: &str| run(&mut danaus_with(small_model(), &format!("bench --json --seconds 0 {args}")));
    let too_long = bench("--lengths 8,301").fails(1, &["length 301", "at most 300"]);
    assert_eq!(too_long.text(), "", "it is known before anything is measured");
    bench("--lengths 0").fails(2, &["--lengths"]);
    bench("--lengths short").fails(2, &["--lengths"]);
    bench("--batch 0").fails(2, &["--batch"]);
    bench("--seconds=-1").fails(2, &["--seconds"]);
    bench("--seconds nan").fails(2, &["--seconds"]);
}

#[test]
fn the_machine_without_a_model() {
    // A model that is not in the cache, and no network: it is not asked for.
    let bench = |args: &str| {
        run(&mut danaus_with("nobody/nothing".as_ref(), &format!("bench --roofline --threads 2 {args}")))
            .exits(0)
    };
    let peaks: Value = serde_json::from_slice(&bench("--json --isa portable").stdout).unwrap();
    assert_eq!((&peaks["instruction_set"], &peaks["threads"]), (&"portable".into(), &2.into()));
    for threads in ["all_threads", "one_thread"] {
        let rates = peaks[threads].as_object().unwrap();
        assert_eq!(rates.len(), 7, "{peaks}");
        assert!(rates.values().all(|rate| rate.as_f64().is_some_and(|rate| rate > 0.0)), "{peaks}");
    }
    let text = bench("").text();
    assert_eq!(text.lines().count(), 9, "{text}");
    assert!(
        ["2 threads", "int8, GOP/s", "reading memory, GB/s"].iter().all(|part| text.contains(part)),
        "{text}"
    );
}

#[test]
fn where_the_time_goes() {
    let bench = |args: &str| {
        let args = format!("bench --profile --lengths 40 --seconds 0 --threads 2 {args}");
        run(&mut danaus_with(small_model(), &args)).exits(0)
    };
    let measurements: Value = serde_json::from_slice(&bench("--json --batch 4").stdout).unwrap();
    let stages = measurements[0]["profile"].as_array().unwrap();
    let sum: f64 = stages.iter().map(|stage| stage["share"].as_f64().unwrap()).sum();
    assert!((0.99..1.2).contains(&sum), "the stages and the waiting fill the pass: {stages:?}");
    let products: Vec<_> = stages.iter().filter(|stage| stage["share_of_peak"].is_f64()).collect();
    assert_eq!(products.len(), 4, "{stages:?}");
    assert!(products.iter().all(|stage| stage["gops"].as_f64().is_some_and(|rate| rate > 0.0)), "{stages:?}");
    let text = bench("").text();
    assert!(["in_linear", "long_conv", "share of peak"].iter().all(|part| text.contains(part)), "{text}");
}

#[test]
fn the_instruction_set_that_was_asked_for() {
    let bench = |name: &str| {
        let mut bench = danaus_with(small_model(), "bench --json --lengths 2 --seconds 0");
        run(bench.env("DANAUS_ISA", name))
    };
    let measurements: Value = serde_json::from_slice(&bench("portable").exits(0).stdout).unwrap();
    assert_eq!(measurements[0]["instruction_set"], "portable");
    bench("mmx").fails(2, &["--isa", "\"mmx\" is unknown or not on this CPU", "portable"]);
}

/// Of the real shape where no model is named: nothing has to be downloaded first.
#[test]
fn the_default_is_the_synthetic_model() {
    let bench = run(&mut danaus(&["bench", "--json", "--lengths", "2", "--seconds", "0"])).exits(0);
    assert!(bench.stderr.contains("synthetic:32k"), "{}", bench.stderr);
    assert_eq!(serde_json::from_slice::<Vec<Value>>(&bench.stdout).unwrap().len(), 1);
}
