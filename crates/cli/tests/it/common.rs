//! Running the binary, and the small model that most tests run it with.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;

/// The binary under test.
pub const DANAUS: &str = env!("CARGO_BIN_EXE_danaus");

/// After this, what has not happened never will. Far above what any step takes, on a busy machine too.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Time between two looks at something that is awaited.
const GLANCE: Duration = Duration::from_millis(10);

/// A process that does not outlive its test.
pub struct Process(Child);

impl Process {
    pub fn spawn(command: &mut Command) -> Self {
        Self(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Sends a signal by its name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        let sent = Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", name, &pid]).status().unwrap();
        assert!(sent.success(), "cannot send {name} to {pid}");
    }

    /// Waits for the end; `None` if it does not come in time.
    pub fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        eventually(patience, || self.0.try_wait().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails where it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What `look` returns as soon as it returns something; `None` if that does not happen in time.
pub fn eventually<T>(patience: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + patience;
    loop {
        match look() {
            None if Instant::now() < end => std::thread::sleep(GLANCE),
            result => return result,
        }
    }
}

/// A finished run.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Run {
    /// Asserts the exit code, and that nothing panicked.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        assert_eq!(self.code, Some(code), "{}{}", self.text(), self.stderr);
        self
    }

    /// Asserts a failure whose message has all of `parts`.
    #[track_caller]
    pub fn fails(self, code: i32, parts: &[&str]) -> Self {
        let run = self.exits(code);
        for part in parts {
            assert!(run.stderr.contains(part), "no {part:?} in:\n{}", run.stderr);
        }
        run
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.stdout.clone()).unwrap_or_else(|_| "(bytes)".to_owned())
    }
}

/// The binary with nothing in its environment but what it needs: no option, no token and no proxy of whoever runs the
/// tests. It computes on the CPU unless told otherwise.
pub fn danaus(args: &[&str]) -> Command {
    let mut command = Command::new(DANAUS);
    bare(&mut command).args(args);
    command
}

/// Empties a command's environment as above.
pub fn bare(command: &mut Command) -> &mut Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // No model in the cache, and no hub to ask.
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-home");
    command
        .env_clear()
        .env("PATH", path)
        .env("HOME", home)
        .env("HF_HUB_OFFLINE", "1")
        .env("DANAUS_DEVICE", "cpu")
}

/// `danaus` with a model; `args`, split at blanks, are a subcommand and what comes after the model.
pub fn danaus_with(model: &Path, args: &str) -> Command {
    let mut args = args.split_whitespace();
    let mut command = danaus(&[]);
    command.args(args.next()).arg("--model").arg(model).args(args);
    command
}

/// Runs a command to its end, with nothing on its standard input.
#[track_caller]
pub fn run(command: &mut Command) -> Run {
    run_with(command, b"")
}

/// Runs a command to its end with `input` on its standard input.
#[track_caller]
pub fn run_with(command: &mut Command, input: &[u8]) -> Run {
    run_within(command, input, PATIENCE)
}

/// Runs a command to its end, which must come within `patience`.
#[track_caller]
pub fn run_within(command: &mut Command, input: &[u8], patience: Duration) -> Run {
    let mut process =
        Process::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()));
    let child = process.child();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // Fails where the process does not read all of it.
    std::thread::spawn(move || stdin.write_all(&input));
    let stdout = collect(child.stdout.take().unwrap());
    let stderr = collect(child.stderr.take().unwrap());
    let status = process.wait(patience);
    drop(process);
    let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
    let stderr = String::from_utf8_lossy(&stderr).into_owned();
    let status = status.unwrap_or_else(|| panic!("{command:?} does not end:\n{stderr}"));
    Run { code: status.code(), stdout, stderr }
}

fn collect(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Longest text of the small model, in tokens.
pub const SMALL_LENGTH: usize = 300;

/// Length of the small model's vectors.
pub const SMALL_DIMENSION: usize = 64;

/// The configuration of a model that loads and computes in milliseconds, with the vocabulary of the built-in tokenizer.
pub fn small_config() -> serde_json::Value {
    json!({
        "vocab_size": 30_528,
        "hidden_size": SMALL_DIMENSION,
        "num_hidden_layers": 2,
        "intermediate_size": 128,
        "hyena_filter_order": 16,
        "max_position_embeddings": SMALL_LENGTH,
        "long_conv_l_max": SMALL_LENGTH,
    })
}

/// The folder of that model, as `danaus synth` writes it.
pub fn small_model() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("small-model");
        let config = tempfile::NamedTempFile::new().unwrap();
        serde_json::to_writer(&config, &small_config()).unwrap();
        let mut synth = danaus(&["synth", "--force", "--config"]);
        run(synth.arg(config.path()).arg("--out").arg(&folder)).exits(0);
        folder
    })
}

/// The folder of the same model, with a configuration that says that it was trained on padded texts.
pub fn padded_model() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("padded-model");
        std::fs::create_dir_all(&folder).unwrap();
        let checkpoint = "model.safetensors";
        std::fs::copy(small_model().join(checkpoint), folder.join(checkpoint)).unwrap();
        let mut config = small_config();
        config["danaus_padding"] = json!("max-length");
        config["danaus_synthetic_seed"] = json!(1);
        std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
        folder
    })
}

/// A row of `danaus embed`'s JSON lines.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Embedded {
    pub index: u64,
    pub tokens: usize,
    pub embedding: Vec<f32>,
}

impl Embedded {
    pub fn bits(&self) -> Vec<u32> {
        bits(&self.embedding)
    }
}

pub fn bits(vector: &[f32]) -> Vec<u32> {
    vector.iter().map(|value| value.to_bits()).collect()
}

/// The rows of JSON lines: every line is one, and ends in a newline.
#[track_caller]
pub fn rows(stdout: &[u8]) -> Vec<Embedded> {
    let text = std::str::from_utf8(stdout).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "{text}");
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    text.lines().map(parse).collect()
}

/// Embeds texts, one a line, with the small model.
#[track_caller]
pub fn embed_lines(args: &str, lines: &str) -> Vec<Embedded> {
    let run = run_with(&mut danaus_with(small_model(), &format!("embed {args}")), lines.as_bytes());
    rows(&run.exits(0).stdout)
}
