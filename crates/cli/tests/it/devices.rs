//! `--device`, `--dtype` and `danaus doctor`, on machines with a GPU and without.

use serde_json::Value;

use crate::common::{Run, danaus, danaus_with, padded_model, run, small_model};

/// No driver is found where there is none to look for: for NVIDIA's GPUs by their number, for Vulkan by its list of drivers.
const NO_GPU: [(&str, &str); 3] = [
    ("CUDA_VISIBLE_DEVICES", "-1"),
    ("VK_DRIVER_FILES", "/nowhere.json"),
    ("VK_ICD_FILENAMES", "/nowhere.json"),
];

fn without_gpu(args: &str) -> Run {
    let args: Vec<&str> = args.split(' ').collect();
    run(danaus(&args).envs(NO_GPU))
}

fn json(run: &Run) -> Value {
    serde_json::from_slice(&run.stdout).unwrap()
}

/// Apple's GPU is not hidden by any variable: there, `metal` is what there is.
fn absent_devices() -> impl Iterator<Item = &'static str> {
    let metal = !cfg!(target_os = "macos");
    ["cuda", "cuda:0", "vulkan", "metal", "mps"]
        .into_iter()
        .filter(move |&name| metal || !["metal", "mps"].contains(&name))
}

#[test]
fn a_device_that_is_not_there_is_refused_before_anything_is_loaded() {
    for device in absent_devices() {
        for subcommand in ["serve --port 0", "embed", "search x", "prepare", "verify", "info", "bench"] {
            // The default model, which is not in the cache: not that is the error.
            let called = if device == "mps" { "metal" } else { device };
            let asked = format!("device {called} was asked for, but ");
            let advice = "use --device cpu or auto (danaus doctor says more)";
            without_gpu(&format!("{subcommand} --device {device}")).fails(1, &[&asked, advice]);
        }
    }
}

#[test]
fn without_a_gpu_auto_is_the_cpu_and_says_nothing_of_it() {
    for device in ["auto", "cpu"] {
        if cfg!(target_os = "macos") && device == "auto" {
            continue;
        }
        let mut info = danaus_with(small_model(), &format!("info --json --device {device}"));
        let run = run(info.envs(NO_GPU)).exits(0);
        let told = json(&run);
        assert_eq!((&told["device"], told.get("accelerator")), (&"cpu".into(), None));
        assert!(!run.stderr.to_lowercase().contains("gpu"), "{}", run.stderr);
    }
}

#[test]
fn dtypes_are_for_the_devices_that_have_them() {
    without_gpu("info --device cpu --dtype f16")
        .fails(1, &["dtype f16 is for GPUs", "--dtype auto, bf16 or f32"]);
    for (device, dtype, dtypes) in [
        ("cuda", "bf16", "auto, f32, f16"),
        ("cuda", "int8", "auto, f32, f16"),
        ("vulkan", "bf16", "auto, f32, f16"),
        ("mps", "int8", "auto, f32, f16"),
    ] {
        let refused = format!("dtype {dtype} was asked for, but the device ");
        let run = without_gpu(&format!("info --device {device} --dtype {dtype}"));
        run.fails(1, &[&refused, &format!("use one of --dtype {dtypes}, or --device cpu")]);
    }
    let mut info = danaus_with(small_model(), "info --json --device auto --dtype int8");
    assert_eq!(json(&run(info.envs(NO_GPU)).exits(0))["dtype"], "int8", "on the CPU, whatever else there is");
}

/// Whatever GPU there is: the doctor says so, and ends well.
#[test]
fn the_doctor_describes_this_machine() {
    let report = run(&mut danaus_with(small_model(), "doctor --device auto --threads 1")).exits(0).text();
    for part in [
        concat!("danaus ", env!("CARGO_PKG_VERSION"), ", ", "linux"),
        "CPU: ",
        "asked for: device auto, dtype auto",
        "CUDA: ",
        "Metal or Vulkan: ",
        "chosen: device ",
        "      16 tokens ",
        "     128 tokens ",
    ] {
        let part = part.replace("linux", std::env::consts::OS);
        assert!(report.contains(&part), "no {part:?} in:\n{report}");
    }
    let told = json(&run(danaus_with(small_model(), "doctor --device auto --json").envs(NO_GPU)).exits(0));
    assert_eq!(told["gpus"].as_array().map(Vec::len), Some(2), "{told}");
    if !cfg!(target_os = "macos") {
        assert_eq!(told["chosen"]["device"], "cpu");
        for gpu in told["gpus"].as_array().unwrap() {
            assert!(gpu["unavailable"].is_string() && gpu["found"].is_null(), "{gpu}");
        }
    }
    let lengths = told["chosen"]["speed"].as_array().unwrap().iter().map(|speed| speed["tokens"].as_u64());
    assert_eq!(lengths.collect::<Vec<_>>(), [Some(16), Some(128)], "what the model takes");
    let first = &told["chosen"]["speed"][0];
    assert!(first["ms"].as_f64() > Some(0.0));
    let keys: Vec<_> = first.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["ms", "none_ms", "padding", "times_none", "tokens"]);
    assert_eq!((&first["padding"], first["none_ms"].is_null()), (&"none".into(), true));
    assert_eq!(told["chosen"].get("note"), None);
}

#[test]
fn the_doctor_measures_the_models_padding() {
    let cache = tempfile::tempdir().unwrap();
    let cached = |args: &str| {
        let mut command = danaus_with(padded_model(), args);
        run(command.arg("--padding-cache").arg(cache.path())).exits(0)
    };
    let speeds = || json(&cached("doctor --json"))["chosen"]["speed"].clone();
    let report = cached("doctor").text();
    let note = "Fast padding is not prepared. Until danaus prepare has made it so";
    assert!(report.contains(note) && report.contains(" ms, padding max-length ("), "{report}");
    let unprepared = speeds();
    assert_eq!(unprepared[0]["padding"], "max-length");
    assert_eq!(unprepared[0]["ms"], unprepared[1]["ms"], "the same rows, measured once");
    cached("prepare");
    let report = cached("doctor").text();
    assert!(!report.contains(note) && report.contains(" ms, padding fast ("), "{report}");
    let prepared = &speeds()[0];
    assert_eq!(prepared["padding"], "fast");
    let [ms, none_ms, ratio] = ["ms", "none_ms", "times_none"].map(|key| prepared[key].as_f64().unwrap());
    assert!((ms / none_ms / ratio - 1.0).abs() < 1e-6, "{prepared}");
    let none = cached("doctor --padding none").text();
    assert!(
        none.lines().any(|line| line.starts_with("      16 tokens") && line.ends_with("padding none")),
        "{none}"
    );
}

#[test]
fn the_doctor_fails_only_where_a_device_was_asked_for() {
    for device in absent_devices() {
        let mut doctor = danaus_with(small_model(), &format!("doctor --device {device}"));
        let run = run(doctor.envs(NO_GPU)).fails(1, &["was asked for, but "]);
        assert!(run.text().contains(": not usable: "), "the report comes first:\n{}", run.text());
    }
    let cpu = run(&mut danaus_with(small_model(), "doctor --device cpu")).exits(0).text();
    assert!(cpu.contains("CUDA: not usable: not asked for") && cpu.contains("chosen: device cpu"), "{cpu}");
}
