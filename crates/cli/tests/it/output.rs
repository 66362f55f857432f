//! Where `danaus embed` writes: standard output, files, devices, and what happens when that fails.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{
    DANAUS, PATIENCE, Process, bare, danaus, danaus_with, embed_lines, eventually, rows, run, run_with,
    small_model,
};

/// Names of everything in a folder.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn embed_to(path: &Path, args: &str) -> Command {
    let mut command = danaus_with(small_model(), &format!("embed {args} --out"));
    command.arg(path);
    command
}

#[test]
fn a_file_gets_what_standard_output_would() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vectors.jsonl");
    let run = run_with(&mut embed_to(&path, ""), b"one\ntwo\n").exits(0);
    assert_eq!(run.stdout, b"");
    assert_eq!(rows(&std::fs::read(&path).unwrap()), embed_lines("", "one\ntwo\n"));
    // As any program would have made it: not readable by its owner alone.
    let plain = folder.path().join("plain");
    std::fs::write(&plain, "").unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&path), mode(&plain));
    // Replaced whole, an array this time, through a link, with the permissions that the file has.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    symlink(&path, folder.path().join("link")).unwrap();
    run_with(&mut embed_to(&folder.path().join("link"), "--output npy"), b"one\n").exits(0);
    assert_eq!(crate::embed::npy(&std::fs::read(&path).unwrap()).1.len(), 1);
    assert_eq!(mode(&path) & 0o777, 0o640);
    assert_eq!(names(folder.path()), ["link", "plain", "vectors.jsonl"]);
}

#[test]
fn a_failing_run_leaves_no_file_and_an_old_one_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (folder.path().join("old"), folder.path().join("new"));
    std::fs::write(&old, "precious").unwrap();
    // The bad row comes after more than is computed at once, so that there is output already.
    let input = format!("{}[]\n", "[101, 102]\n".repeat(5000));
    for output in ["jsonl", "npy"] {
        for path in [&old, &new] {
            let mut command = embed_to(path, &format!("--input ids --output {output}"));
            run_with(&mut command, input.as_bytes()).fails(1, &["line 5001"]);
            run_with(command.args(["--threads", "0"]), b"").fails(2, &["--threads"]);
        }
    }
    assert_eq!(names(folder.path()), ["old"]);
    assert_eq!(std::fs::read_to_string(&old).unwrap(), "precious");
}

/// Known before a model is loaded: the default one, which is not there.
#[test]
fn what_cannot_be_opened_is_known_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let no_folder = folder.path().join("no-folder/out");
    let trailing = folder.path().join("new/");
    for (path, reason) in [
        (folder.path(), "is a folder: expected a file"),
        (&no_folder, "No such file or directory"),
        (&trailing, "expected the name of a file"),
        (&file.join("x"), "Not a directory"),
    ] {
        run(danaus(&["embed", "--out"]).arg(path)).fails(1, &[path.to_str().unwrap(), reason]);
    }
    for (path, reason) in
        [(folder.path(), "is a folder: expected a file"), (&no_folder, "No such file or directory")]
    {
        run(danaus(&["embed"]).arg(&file).arg(path)).fails(1, &[path.to_str().unwrap(), reason]);
    }
    assert_eq!(names(folder.path()), ["file"]);
}

#[test]
fn a_device_or_a_pipe_is_written_to_and_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let reader = {
        let fifo = fifo.clone();
        std::thread::spawn(move || std::fs::read(fifo).unwrap())
    };
    run_with(&mut embed_to(&fifo, ""), b"one\n").exits(0);
    assert_eq!(rows(&reader.join().unwrap()), embed_lines("", "one\n"));
    assert_eq!(names(folder.path()), ["fifo"]);
}

/// `/dev/full` is never named as `--out`: were it replaced by mistake, that would be the machine's loss.
#[test]
fn a_full_disk_is_a_failure_with_its_reason() {
    for subcommand in [
        "embed --output jsonl",
        "embed --output npy",
        "info",
        "info --json",
        "bench --lengths 2 --seconds 0",
        "bench --json --lengths 2 --seconds 0",
    ] {
        let mut full = shell(&format!("\"$DANAUS\" {subcommand} > /dev/full"));
        run_with(&mut full, b"one\n").fails(1, &["cannot write to standard output", "No space left"]);
    }
}

/// A limit on the size of files stands for a disk that is full.
#[test]
fn a_file_that_cannot_be_written_whole_is_not_there() {
    for (output, reason) in [("jsonl", "cannot write to"), ("npy", "cannot write to a temporary file")] {
        let folder = tempfile::tempdir().unwrap();
        let script = format!("trap '' XFSZ; ulimit -f 1; \"$DANAUS\" embed --output {output} --out \"$OUT\"");
        let mut limited = shell(&script);
        let texts: String = (0..100).map(|i| format!("text {i}\n")).collect();
        let run = run_with(limited.env("OUT", folder.path().join("out")), texts.as_bytes());
        run.fails(1, &[reason, "File too large"]);
        assert_eq!(names(folder.path()), [""; 0]);
    }
}

/// A shell script that has the binary as `$DANAUS`, which takes the small model.
fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    bare(&mut command).args(["-c", script]).env("DANAUS", DANAUS).env("DANAUS_MODEL", small_model());
    command
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let input = "[101, 102]\n".repeat(20_000);
    let mut command = danaus_with(small_model(), "embed --input ids");
    let mut process =
        Process::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()));
    let mut stdin = process.child().stdin.take().unwrap();
    std::thread::spawn(move || std::io::Write::write_all(&mut stdin, input.as_bytes()));
    let mut first = String::new();
    BufReader::new(process.child().stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(rows(first.as_bytes())[0].index, 0);
    // Both ends of the pipe are closed by now.
    let status = process.wait(PATIENCE).expect("it does not end");
    let mut stderr = String::new();
    process.child().stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert!(!stderr.contains("error") && !stderr.contains("panicked"), "{stderr}");
}

/// A pipe whose reader has gone: standard output, and standard error with it.
#[test]
fn nobody_reads_anything() {
    for subcommand in ["info", "info --json", "bench --lengths 2 --seconds 0", "embed", "embed --output npy"]
    {
        for redirection in ["", "2>&1"] {
            let script =
                format!("{{ {{ \"$DANAUS\" {subcommand} {redirection}; echo $? >&3; }} | true; }} 3>&1");
            let run = run_with(&mut shell(&script), b"one\n").exits(0);
            assert_eq!(run.text(), "0\n", "{subcommand} {redirection}: {}", run.stderr);
        }
    }
}

#[test]
fn an_interrupted_run_leaves_nothing() {
    for signal in ["INT", "TERM"] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = embed_to(&folder.path().join("out"), "");
        // Its input never ends: it waits for more.
        let mut process = Process::spawn(command.stdin(Stdio::piped()).stderr(Stdio::piped()));
        let begun = eventually(PATIENCE, || (!names(folder.path()).is_empty()).then_some(()));
        begun.expect("no file was begun");
        // The signals are awaited as soon as the model loads, which the first line says.
        let mut stderr = BufReader::new(process.child().stderr.take().unwrap());
        stderr.read_line(&mut String::new()).unwrap();
        process.signal(signal);
        let status = process.wait(PATIENCE).expect("it does not end");
        let mut rest = String::new();
        stderr.read_to_string(&mut rest).unwrap();
        assert_eq!(status.code(), Some(1), "{rest}");
        assert!(rest.contains(&format!("signal=\"SIG{signal}\"")), "{rest}");
        assert_eq!(names(folder.path()), [""; 0]);
    }
}
