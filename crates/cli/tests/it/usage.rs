//! Help, exit codes, and options from the environment.

use serde_json::Value;

use crate::common::{danaus, danaus_with, embed_lines, rows, run, run_with, small_model};

pub const SUBCOMMANDS: [&str; 11] = [
    "serve", "embed", "search", "synth", "prepare", "verify", "download", "info", "doctor", "bench", "health",
];

#[test]
fn help_of_everything() {
    let help = run(&mut danaus(&["--help"])).exits(0).text();
    assert!(help.contains("danaus serve --model builtin"), "{help}");
    for subcommand in SUBCOMMANDS {
        assert!(help.contains(&format!("\n  {subcommand} ")), "{subcommand} is not in:\n{help}");
        for form in [["help", subcommand], [subcommand, "--help"], [subcommand, "-h"]] {
            let help = run(&mut danaus(&form)).exits(0).text();
            assert!(help.contains(&format!("Usage: danaus {subcommand}")), "{help}");
        }
    }
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    assert_eq!(commands.take_while(|line| line.starts_with("  ")).count(), SUBCOMMANDS.len() + 1, "{help}");
}

#[test]
fn version() {
    let version = concat!("danaus ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(run(&mut danaus(&["--version"])).exits(0).text(), version);
}

#[test]
fn usage_errors_exit_with_2_and_help() {
    run(&mut danaus(&[])).fails(2, &["Usage: danaus"]);
    run(&mut danaus(&["serv"])).fails(2, &["unrecognized subcommand 'serv'", "'serve'"]);
    run(&mut danaus(&["serve", "--modle", "synthetic"])).fails(2, &["'--modle'", "'--model'"]);
    run(&mut danaus(&["embed", "--input", "csv"])).fails(2, &["'csv'", "text, jsonl, ids"]);
    run(&mut danaus(&["serve", "--port", "70000"])).fails(2, &["70000", "65535"]);
    run(&mut danaus(&["serve", "--max-inputs", "0"])).fails(2, &["--max-inputs", "1 or more"]);
    run(&mut danaus(&["serve", "--shutdown-timeout=-1"])).fails(2, &["--shutdown-timeout"]);
    run(&mut danaus(&["serve", "--shutdown-timeout", "soon"])).fails(2, &["expected a number of seconds"]);
    run(&mut danaus(&["info", "--threads", "100000"])).fails(2, &["--threads", "from 1 to 1024"]);
    run(&mut danaus(&["info", "--device", "tpu"]))
        .fails(2, &["\"tpu\"", "auto, cpu, cuda, cuda:N, metal, vulkan"]);
    run(&mut danaus(&["info", "--dtype", "f8"])).fails(2, &["\"f8\"", "auto, f32, bf16, f16, int8"]);
    run(&mut danaus(&["serve", "--pooling", "max"])).fails(2, &["\"max\"", "mean, cls, model"]);
    run(&mut danaus(&["serve", "--padding", "left"])).fails(2, &["\"left\"", "none, max-length, fast"]);
    run(&mut danaus(&["synth", "--config", "80m-2k"])).fails(2, &["--out <DIR>"]);
    run(&mut danaus(&["synth", "--filters", "soft"])).fails(2, &["\"soft\"", "init, smooth, mid or rough"]);
    for strength in ["0", "-1", "NaN", "inf", "1001", "strong", ""] {
        let argument = format!("--strength={strength}");
        run(&mut danaus(&["synth", &argument])).fails(2, &["--strength", "above 0, at most 1000"]);
    }
    run(&mut danaus(&["bench", "--lengths", "8,,9"])).fails(2, &["--lengths"]);
    run(&mut danaus(&["bench", "--batch", "18446744073709551615"])).fails(2, &["--batch", "65536"]);
}

/// A word that is no level would silence the log: the filter takes it for a target.
#[test]
fn an_unknown_log_level_is_refused() {
    for filter in ["verbose", "inof", "danaus_server=loud", "info,", "a=b=c"] {
        run(&mut danaus(&["info", "--log-level", filter])).fails(2, &["--log-level", "debug or trace"]);
    }
    let mut info = danaus_with(small_model(), "info --log-level danaus_model=debug,warn");
    let run = run(&mut info).exits(0);
    assert!(!run.stderr.contains("INFO") && run.stderr.contains("WARN"), "{}", run.stderr);
}

#[test]
fn a_model_that_can_be_none_is_refused_with_what_can() {
    for model in ["nonsense", "synthetic:4k", "synthetic:2k:soft", "", "no/such/folder", "-x/y"] {
        let argument = format!("--model={model}");
        for subcommand in ["serve", "embed", "prepare", "verify", "info", "bench", "download"] {
            let run = run(&mut danaus(&[subcommand, &argument])).exits(2);
            assert!(model.is_empty() || run.stderr.contains("synthetic:32k"), "{model:?}: {}", run.stderr);
        }
    }
    let file = small_model().join("config.json");
    run(&mut danaus_with(&file, "info")).fails(2, &["is a file, not the folder"]);
}

#[test]
fn variables_stand_for_options_and_options_win() {
    let info = |args: &[&str], variables: &[(&str, &str)]| {
        let run = run(danaus(args).env("DANAUS_JSON", "1").envs(variables.iter().copied())).exits(0);
        serde_json::from_slice::<Value>(&run.stdout).unwrap()
    };
    let model = small_model().to_str().unwrap();
    let variables = [("DANAUS_MODEL", model), ("DANAUS_THREADS", "1"), ("DANAUS_PADDING", "max-length")];
    let seen = info(&["info"], &variables);
    assert_eq!((&seen["threads"], &seen["padding"]), (&1.into(), &"max-length".into()));
    assert_eq!(seen["model"], model);
    let seen = info(&["info", "--threads", "2", "--padding", "none"], &variables);
    assert_eq!((&seen["threads"], &seen["padding"]), (&2.into(), &"none".into()));
    run(danaus(&["info"]).env("DANAUS_THREADS", "two")).fails(2, &["--threads", "'two'"]);
    run(danaus(&["info"]).env("DANAUS_MODEL", "nonsense")).fails(2, &["\"nonsense\""]);
}

/// Platforms and compose files pass on variables that nobody filled in.
#[test]
fn an_empty_variable_counts_as_not_set() {
    let variables = ["THREADS", "DEVICE", "PADDING", "LOG_LEVEL", "LOG_FORMAT", "AUTO_TRUNCATE", "TOKENIZER"];
    let mut embed = danaus_with(small_model(), "embed");
    embed.envs(variables.map(|name| (format!("DANAUS_{name}"), "")));
    assert_eq!(rows(&run_with(&mut embed, b"a\n").exits(0).stdout), embed_lines("", "a\n"));
}

#[test]
fn switches_as_variables_take_the_usual_words() {
    let long = format!("{}\n", "word ".repeat(400));
    let embed = |value: &str| {
        let mut embed = danaus_with(small_model(), "embed");
        run_with(embed.env("DANAUS_AUTO_TRUNCATE", value), long.as_bytes())
    };
    for on in ["1", "true", "yes", "on"] {
        assert_eq!(rows(&embed(on).exits(0).stdout).len(), 1, "{on}");
    }
    for off in ["0", "false", "no", "off"] {
        embed(off).fails(1, &["402 tokens"]);
    }
    embed("perhaps").fails(2, &["--auto-truncate", "perhaps"]);
}
