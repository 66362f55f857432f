//! The command line, as typed. Every option can also be given as an environment variable.

mod local;
mod net;

use std::path::PathBuf;

use clap::builder::{BoolishValueParser, Resettable};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use danaus_engine::{Device, Dtype, Isa, Padding, Pooling};
use danaus_model::{DEFAULT_MODEL, ModelSource};
use danaus_server::CorsOrigin;
use tracing_subscriber::filter::{LevelFilter, Targets};

pub use self::local::{
    BenchArgs, DoctorArgs, DownloadArgs, EmbedArgs, InfoArgs, InputFormat, OutputFormat, PrepareArgs,
    SearchArgs, SynthArgs, VerifyArgs,
};
pub use self::net::{ClientArgs, HealthArgs, ListenArgs};
use crate::keys::Key;

/// Text embeddings from M2-BERT, the long-context retrieval model (up to 32,768 tokens), over HTTP and on the command
/// line.
///
/// Try it without any download:  danaus serve --model builtin
/// (a small model that comes with the program; synthetic has the large one's shape and speed, and vectors without meaning)
#[derive(Debug, Parser)]
#[command(name = "danaus", version, max_term_width = 110, propagate_version = true)]
pub struct Cli {
    #[command(flatten)]
    pub logging: LoggingArgs,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve embeddings over HTTP
    Serve(Box<ServeArgs>),
    /// Embed the rows of files, or of standard input
    Embed(EmbedArgs),
    /// Find the files that say what you ask for
    Search(Box<SearchArgs>),
    /// Write a checkpoint with synthetic weights
    Synth(SynthArgs),
    /// Prepare fast padding for a model ahead of time: some dozen passes of its full length
    Prepare(PrepareArgs),
    /// Measure fast padding against the exact vectors of your own texts
    Verify(VerifyArgs),
    /// Download a model to the cache, or check the one that is there
    Download(DownloadArgs),
    /// Show this build, this machine and the model
    Info(InfoArgs),
    /// Test and measure this machine's devices: for a bug report
    Doctor(Box<DoctorArgs>),
    /// Measure the speed of the model on this machine, with its padding
    Bench(BenchArgs),
    /// Ask the server on this machine whether it is ready: for a container's health check
    Health(HealthArgs),
}

#[derive(Debug, Args)]
pub struct LoggingArgs {
    /// What to log: off, error, warn, info, debug, trace, or a filter such as danaus_server=debug,info
    #[arg(long, env = "DANAUS_LOG_LEVEL", default_value = "info", global = true, value_name = "LEVEL")]
    #[arg(value_parser = log_filter)]
    pub log_level: Targets,
    /// How log lines look (they go to standard error)
    #[arg(long, env = "DANAUS_LOG_FORMAT", default_value = "text", global = true, value_name = "FORMAT")]
    pub log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

/// Which model.
#[derive(Debug, Args)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// A hub id (owner/name), a folder with config.json and a checkpoint, builtin (small, in the program), or synthetic,
    /// synthetic:2k, :8k, :32k (no meaning), with filters of a family: synthetic:32k:smooth (see danaus synth --help)
    ///
    /// The hub's own variables are honoured: HF_TOKEN, HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_HUB_OFFLINE.
    #[arg(long, short, env = "DANAUS_MODEL", default_value = DEFAULT_MODEL, value_name = "MODEL")]
    pub model: ModelSource,
    /// Branch, tag or commit of a hub model [default: main]
    #[arg(long, env = "DANAUS_REVISION", value_name = "REVISION")]
    pub revision: Option<String>,
}

/// How to compute.
#[derive(Debug, Args)]
#[command(next_help_heading = "Computation")]
pub struct ComputeArgs {
    /// Where to compute: auto (CUDA, else another GPU, else the CPU), cpu, cuda, cuda:N, metal (or mps) or vulkan
    ///
    /// A GPU serves once it has shown that it computes what the CPU does; danaus doctor shows what there is.
    #[arg(long, env = "DANAUS_DEVICE", default_value_t = Device::Auto, value_name = "DEVICE")]
    pub device: Device,
    /// Type of weights and activations in the matrix products: auto (f16 on GPUs, bf16 where the CPU multiplies it, else f32),
    /// f32, bf16 (CPU), f16 (GPUs) or int8 (CPU)
    #[arg(long, env = "DANAUS_DTYPE", default_value_t = Dtype::Auto, value_name = "DTYPE")]
    pub dtype: Dtype,
    /// Beside a GPU, compute texts of fewer tokens than this, padding included, on the CPU [default: measured once, and kept in
    /// the folder for what is prepared]
    #[arg(long, env = "DANAUS_CROSSOVER", value_name = "N")]
    pub crossover: Option<usize>,
    /// CPU threads to compute with [default: as many as the process may use]
    #[arg(long, env = "DANAUS_THREADS", value_name = "N", value_parser = one_to(MAX_THREADS))]
    pub threads: Option<usize>,
    /// Instruction set of the CPU to compute with: amx, avx512, avx2 or portable [default: the best that this CPU has]
    ///
    /// For tests and comparisons: another one is slower, and rounds elsewhere.
    #[arg(long, env = "DANAUS_ISA", value_name = "NAME")]
    pub isa: Option<Isa>,
    /// What surrounds a text in the encoder: none; max-length: padded to the model's length, as the published models were
    /// trained; or fast: the same to a stated error, for little more than none costs [default: fast, or none for models that
    /// were trained without padding]
    ///
    /// The mixer does not mask padding, so a padded text has another vector: never mix them in one index. max-length costs
    /// a pass of the model's full length for every text, however short; fast needs to be prepared once for a model.
    #[arg(long, env = "DANAUS_PADDING", value_name = "PADDING")]
    pub padding: Option<Padding>,
    #[command(flatten)]
    pub fast: FastArgs,
    /// Memory for convolution filters kept between passes, in MiB; longer ones are computed anew in each pass
    #[arg(long, env = "DANAUS_FILTER_CACHE", default_value_t = 1024, value_name = "MIB")]
    pub filter_cache: usize,
}

/// How fast padding is prepared.
#[derive(Debug, Args)]
#[command(next_help_heading = "Fast padding")]
pub struct FastArgs {
    /// The largest error of fast padding, in 1 - cosine to the exact vector; texts of lengths that cannot keep it are computed
    /// exactly
    #[arg(long, env = "DANAUS_PADDING_ERROR", default_value_t = 1e-3, value_name = "ERROR", value_parser = padding_error)]
    pub padding_error: f64,
    /// Folder for what is prepared [default: danaus in the hub's cache folder, $HF_HOME]
    #[arg(long, env = "DANAUS_PADDING_CACHE", value_name = "DIR")]
    pub padding_cache: Option<PathBuf>,
    /// What was prepared for fast padding: a file that danaus prepare --out made, or a folder with such files [default: one next to the
    /// model, in its folder or its hub repository, else in the padding cache]
    ///
    /// It must be of this model, dtype and --padding-error. A file that does not exist is made by serve and prepare.
    #[arg(long, env = "DANAUS_PADDING_FILE", value_name = "PATH")]
    pub padding_file: Option<PathBuf>,
    /// Most memory of what is prepared for fast padding, in MB
    #[arg(long, env = "DANAUS_PADDING_MEMORY", default_value_t = 300, value_name = "MB", value_parser = at_least_one)]
    pub padding_memory: usize,
}

/// From text to tokens, and from hidden states to a vector.
#[derive(Debug, Args)]
#[command(next_help_heading = "Text")]
pub struct TextArgs {
    /// How a text's hidden states become one vector: mean, cls, or model (what the model's config.json says)
    #[arg(long, env = "DANAUS_POOLING", default_value_t = Pooling::Mean, value_name = "POOLING")]
    pub pooling: Pooling,
    /// Cut texts that are longer than the model takes, instead of refusing them
    #[arg(long, env = "DANAUS_AUTO_TRUNCATE", value_parser = BoolishValueParser::new())]
    pub auto_truncate: bool,
    #[command(flatten)]
    pub tokenizer: TokenizerArgs,
}

/// Which tokenizer.
#[derive(Debug, Args)]
pub struct TokenizerArgs {
    /// A tokenizer.json to use instead of the built-in bert-base-uncased
    #[arg(long = "tokenizer", env = "DANAUS_TOKENIZER", value_name = "FILE")]
    pub file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Address to listen on
    #[arg(long, env = "DANAUS_HOST", default_value = "0.0.0.0", value_name = "HOST")]
    pub host: String,
    /// Port to listen on; 0 for any free one [default: $PORT, else 8000]
    #[arg(long, short, env = "DANAUS_PORT", value_name = "PORT")]
    pub port: Option<u16>,
    #[command(flatten)]
    pub listen: ListenArgs,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// What to do with texts that are not fast yet while fast padding is being prepared: compute them exactly, or refuse them with 503
    #[arg(long, env = "DANAUS_PADDING_WAIT", default_value = "exact", value_name = "WHAT")]
    pub padding_wait: PaddingWait,
    #[command(flatten)]
    pub text: TextArgs,
    /// Refuse requests to OpenAI's API that name another model, instead of answering them with this one
    #[arg(long, env = "DANAUS_STRICT_MODEL", value_parser = BoolishValueParser::new())]
    pub strict_model: bool,
    /// Take token ids instead of texts in OpenAI's API: this model's, special tokens included, as POST /tokenize gives them
    ///
    /// Most clients that send ids send those of another tokenizer, which stand for other words here.
    #[arg(long, env = "DANAUS_ACCEPT_TOKEN_IDS", value_parser = BoolishValueParser::new())]
    pub accept_token_ids: bool,
    #[command(flatten)]
    pub access: AccessArgs,
    #[command(flatten)]
    pub limits: LimitArgs,
    #[command(flatten)]
    pub traces: TraceArgs,
    #[command(flatten)]
    pub clients: ClientArgs,
}

/// Who watches.
#[derive(Debug, Args)]
#[command(next_help_heading = "Traces")]
pub struct TraceArgs {
    /// An OpenTelemetry collector to send traces to, by OTLP over HTTP: http://host:4318 [default: none]
    ///
    /// OpenTelemetry's own variables are honoured: OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_HEADERS, OTEL_SERVICE_NAME,
    /// OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER and more.
    #[arg(long, env = "DANAUS_OTLP_ENDPOINT", value_name = "URL", value_parser = crate::traces::endpoint)]
    pub otlp_endpoint: Option<String>,
}

/// Who may ask.
#[derive(Debug, Args)]
#[command(next_help_heading = "Access")]
pub struct AccessArgs {
    /// A key that requests must bring, as Authorization: Bearer KEY; may be given several times [default: none needed]
    ///
    /// Other users of this machine can see command lines: better use the variable, or --api-key-file. GET /health and
    /// GET /metrics need no key.
    #[arg(long, env = "DANAUS_API_KEY", hide_env_values = true, value_name = "KEY")]
    pub api_key: Vec<Key>,
    /// A file with such keys, one a line
    #[arg(long, env = "DANAUS_API_KEY_FILE", value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// An origin whose pages may call this server from a browser, scheme://host or scheme://host:port, or *; may be given several
    /// times [default: none]
    #[arg(long, env = "DANAUS_CORS_ORIGIN", value_delimiter = ',', value_name = "ORIGIN")]
    pub cors_origin: Vec<CorsOrigin>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PaddingWait {
    /// Compute them exactly, at the cost of the model's full length
    Exact,
    /// Refuse them with 503
    Refuse,
}

/// What the server lets in.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Most tokens that are computed at once; a longer text goes alone [default: 2048 on the CPU, up to 16384 on GPUs]
    ///
    /// Fewer keep a short text from waiting long behind others; more gain nothing beyond what is the default.
    #[arg(long, env = "DANAUS_MAX_BATCH_TOKENS", value_name = "N", value_parser = at_least_one)]
    pub max_batch_tokens: Option<usize>,
    /// Most tokens of a text that never waits for a longer one's end
    ///
    /// Between two steps of longer texts (two a layer), those that are no longer than this are computed. 0: every text waits for those before it.
    #[arg(long, env = "DANAUS_SHORT_TEXT_TOKENS", default_value_t = 1024, value_name = "N")]
    pub short_text_tokens: usize,
    /// Largest request body, in MiB
    #[arg(long, env = "DANAUS_MAX_BODY", default_value_t = 32, value_name = "MIB", value_parser = at_least_one)]
    pub max_body: usize,
    /// Most texts in one request
    #[arg(long, env = "DANAUS_MAX_INPUTS", default_value_t = 2048, value_name = "N", value_parser = at_least_one)]
    pub max_inputs: usize,
    /// Most tokens that wait for the model, over all requests; more are refused with 429
    #[arg(long, env = "DANAUS_MAX_QUEUED_TOKENS", default_value_t = 8 << 20, value_name = "N", value_parser = at_least_one)]
    pub max_queued_tokens: usize,
    /// Seconds that a request may have to wait for its turn, by what is before it and the speed that this machine was seen to
    /// have; one that would wait longer is refused at once with 429. 0: no limit
    #[arg(long, env = "DANAUS_MAX_QUEUE_SECONDS", default_value = "60", value_name = "SECONDS", value_parser = seconds)]
    pub max_queue_seconds: std::time::Duration,
    /// Bytes of memory for vectors of texts that were asked for before: about 3,300 a vector. 0: none are kept
    #[arg(long, env = "DANAUS_CACHE_SIZE", default_value_t = 0, value_name = "BYTES")]
    pub cache_size: usize,
    /// Seconds after which a request that has no vectors yet is answered with 504 [default: none]
    #[arg(long, env = "DANAUS_REQUEST_TIMEOUT", value_name = "SECONDS", value_parser = net::some_seconds)]
    pub request_timeout: Option<std::time::Duration>,
    /// Seconds that requests in flight may take after SIGTERM or SIGINT
    #[arg(long, env = "DANAUS_SHUTDOWN_TIMEOUT", default_value = "30", value_name = "SECONDS", value_parser = seconds)]
    pub shutdown_timeout: std::time::Duration,
}

/// The command line and the environment; leaves the process where they make no sense, or ask for help.
///
/// An empty variable counts as not set, as it does for `PORT` and the hub's variables.
pub fn parse() -> Cli {
    let unset_if_empty = |arg: clap::Arg| {
        let value = arg.get_env().and_then(std::env::var_os);
        if value.is_some_and(|value| value.is_empty()) { arg.env(Resettable::Reset) } else { arg }
    };
    let mut command =
        command().mut_args(unset_if_empty).mut_subcommands(|subcommand| subcommand.mut_args(unset_if_empty));
    let matches = command.get_matches_mut();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command).exit())
}

/// The command line. A search shall work at once, and speed depends on a model's shape only: their default models need no
/// download.
fn command() -> clap::Command {
    let model = |name| move |command: clap::Command| command.mut_arg("model", |arg| arg.default_value(name));
    Cli::command().mut_subcommand("search", model("builtin")).mut_subcommand("bench", model("synthetic"))
}

/// An error in how danaus was called, which clap could not see.
pub fn usage_error(message: impl std::fmt::Display) -> anyhow::Error {
    Cli::command().error(ErrorKind::InvalidValue, message).into()
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a whole number, 1 or more".to_owned()),
        Ok(number) => Ok(number),
    }
}

/// Most threads that can be asked for: more than any machine has cores, few enough to start.
const MAX_THREADS: usize = 1024;

/// Most texts in a batch that is measured.
const MAX_BATCH: usize = 65_536;

fn one_to(most: usize) -> impl Fn(&str) -> Result<usize, String> + Clone + Send + Sync + 'static {
    move |text| match text.parse() {
        Ok(number) if (1..=most).contains(&number) => Ok(number),
        _ => Err(format!("expected a whole number from 1 to {most}")),
    }
}

/// A level or a filter. [`Targets`] takes an unknown level for the name of a target, and would then log nothing else.
fn log_filter(text: &str) -> Result<Targets, String> {
    for directive in text.split(',') {
        let level = directive.rsplit('=').next().unwrap_or_default();
        if level.is_empty() || level.parse::<LevelFilter>().is_err() {
            return Err(format!("unknown level {level:?}: expected off, error, warn, info, debug or trace"));
        }
    }
    text.parse().map_err(|error| format!("{error}"))
}

fn padding_error(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(error) if (1e-6..=1.0).contains(&error) => Ok(error),
        _ => Err("expected a number from 1e-6 to 1".to_owned()),
    }
}

fn seconds(text: &str) -> Result<std::time::Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected a number of seconds".to_owned())?;
    std::time::Duration::try_from_secs_f64(seconds).map_err(|_| "expected seconds, 0 or more".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_option_has_a_variable() {
        let command = command();
        command.clone().debug_assert();
        for subcommand in command.get_subcommands() {
            for option in subcommand.get_opts() {
                let variable = option.get_env().map(|name| name.to_string_lossy().into_owned());
                let variable =
                    variable.unwrap_or_else(|| panic!("{} {}", subcommand.get_name(), option.get_id()));
                assert!(variable.starts_with("DANAUS_"), "{variable}");
            }
        }
    }
}
