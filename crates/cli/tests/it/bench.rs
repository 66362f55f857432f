//! `danaus bench`.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::common::{SMALL_LENGTH, danaus, danaus_with, padded_model, run, small_model};

const KEYS: [&str; 13] = [
    "length",
    "batch",
    "padding",
    "device",
    "dtype",
    "instruction_set",
    "threads",
    "median_ms",
    "min_ms",
    "tokens_per_second",
    "none_median_ms",
    "times_none",
    "peak_rss_mb",
];

/// The columns of the table.
const HEADINGS: &str =
    "length batch padding device dtype isa threads median ms min ms tokens/s none ms times none peak MB";

/// How many there are: some have two words.
const COLUMNS: usize = 13;

/// Words of each line.
fn words(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split_whitespace().collect()).collect()
}

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
        assert_eq!(measurement["padding"], "none", "what the model was trained with");
        assert!(
            measurement["none_median_ms"].is_null() && measurement["times_none"].is_null(),
            "{measurement}"
        );
        // The model alone has 8 MB; the process cannot have more than the machine.
        assert!(number("peak_rss_mb") > 8.0 && number("peak_rss_mb") < 1e6, "{measurement}");
    }
}

#[test]
fn measurements_for_people() {
    let bench = run(&mut danaus_with(small_model(), "bench --lengths 8,16 --seconds 0")).exits(0);
    let text = bench.text();
    let lines = words(&text);
    assert_eq!(lines.len(), 3, "{text}");
    assert_eq!(lines[0].join(" "), HEADINGS);
    assert_eq!((lines[1][0], lines[2][0]), ("8", "16"), "{text}");
    for line in &lines[1..] {
        assert_eq!((line.len(), line[2], line[10], line[11]), (COLUMNS, "none", "-", "-"), "{text}");
    }
}

/// A model that was trained on padded texts is measured with what serves them.
#[test]
fn padding_is_measured_as_it_is_served() {
    let cache = tempfile::tempdir().unwrap();
    let cached = |args: &str| {
        let mut command = danaus_with(padded_model(), args);
        run(command.arg("--padding-cache").arg(cache.path())).exits(0)
    };
    let bench = |args: &str| cached(&format!("bench --seconds 0 --lengths 8,{SMALL_LENGTH} {args}"));
    let measured = |args: &str| -> Vec<Value> {
        serde_json::from_slice(&bench(&format!("--json {args}")).stdout).unwrap()
    };
    let paddings = |measured: &[Value]| -> Vec<String> {
        measured.iter().map(|row| row["padding"].as_str().unwrap().to_owned()).collect()
    };
    let note = format!(
        "Fast padding is not prepared. Until danaus prepare has made it so, a text that is not fast is served as a pass of all \
         {SMALL_LENGTH} rows, and that is measured: max-length."
    );
    let unprepared = bench("");
    assert!(unprepared.stderr.contains("fast padding is not prepared"), "{}", unprepared.stderr);
    let text = unprepared.text();
    assert_eq!(text.lines().next(), Some(note.as_str()));
    let lines = words(&text);
    assert_eq!(lines[1].join(" "), HEADINGS);
    assert_eq!((lines.len(), lines[2][2], lines[3][2]), (4, "max-length", "max-length"), "{text}");
    assert_eq!(paddings(&measured("")), ["max-length", "max-length"]);
    assert_eq!(std::fs::read_dir(cache.path()).unwrap().count(), 0, "nothing is prepared by being measured");

    cached("prepare");
    let text = bench("").text();
    let lines = words(&text);
    assert_eq!(lines[0].join(" "), HEADINGS, "there is nothing to note");
    assert_eq!((lines.len(), lines[1][2], lines[2][2]), (3, "fast", "max-length"), "{text}");
    let prepared = measured("--batch 2");
    assert_eq!(paddings(&prepared), ["fast", "max-length"]);
    for row in &prepared {
        let [padded, none, ratio] =
            ["median_ms", "none_median_ms", "times_none"].map(|key| row[key].as_f64().unwrap());
        assert!(none > 0.0 && (padded / none / ratio - 1.0).abs() < 1e-6, "{row}");
        assert!(row["peak_rss_mb"].as_f64() > Some(8.0), "{row}");
    }
    assert_eq!(paddings(&measured("--padding max-length")), ["max-length", "max-length"]);
    let none = measured("--padding none");
    assert_eq!(paddings(&none), ["none", "none"]);
    assert!(none.iter().all(|row| row["none_median_ms"].is_null()), "{none:?}");
}

/// The rates of a profile are of the padded rows; passes without padding are not in it.
#[test]
fn the_profile_is_of_the_padding() {
    let args = "bench --json --profile --lengths 8 --seconds 0 --padding max-length";
    let bench = run(&mut danaus_with(small_model(), args)).exits(0);
    let measured: Value = serde_json::from_slice(&bench.stdout).unwrap();
    assert_eq!(measured[0]["padding"], "max-length");
    let stages = measured[0]["profile"].as_array().unwrap();
    let sum: f64 = stages.iter().map(|stage| stage["share"].as_f64().unwrap()).sum();
    assert!((0.99..1.2).contains(&sum), "the stages and the waiting fill the pass: {stages:?}");
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
