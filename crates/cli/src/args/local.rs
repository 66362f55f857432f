//! Commands that need no server: on files, on a model, on this machine.

use std::path::PathBuf;

use clap::builder::{BoolishValueParser, NonEmptyStringValueParser};
use clap::{Args, ValueEnum};
use danaus_model::{FilterFamily, ModelSource, Strength};

use super::{ComputeArgs, MAX_BATCH, ModelArgs, TextArgs, TokenizerArgs, at_least_one, one_to, seconds};

#[derive(Debug, Args)]
pub struct EmbedArgs {
    /// Files to read, in order; standard input without any, or as -
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// What a row of the input is
    #[arg(long, env = "DANAUS_INPUT", default_value = "text", value_name = "FORMAT")]
    pub input: InputFormat,
    /// What a row of the output is
    #[arg(long, env = "DANAUS_OUTPUT", default_value = "jsonl", value_name = "FORMAT")]
    pub output: OutputFormat,
    /// File to write, whole or not at all [default: standard output]
    #[arg(long, short, env = "DANAUS_OUT", value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Report and count bad rows instead of stopping at the first (jsonl leaves them out; npy keeps their place as NaN)
    #[arg(long, env = "DANAUS_SKIP_ERRORS", value_parser = BoolishValueParser::new())]
    pub skip_errors: bool,
    /// Leave vectors as the model pools them, instead of scaling them to unit length
    #[arg(long, env = "DANAUS_NO_NORMALIZE", value_parser = BoolishValueParser::new())]
    pub no_normalize: bool,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub compute: ComputeArgs,
    #[command(flatten)]
    pub text: TextArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum InputFormat {
    /// A text a line
    Text,
    /// {"text": "..."} a line
    Jsonl,
    /// A JSON list of token ids a line, special tokens included
    Ids,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// {"index": 0, "tokens": 7, "embedding": [...]} a line
    Jsonl,
    /// One NumPy array [rows, dimension] of float32
    Npy,
}

#[derive(Debug, Args)]
pub struct SearchArgs {
    /// What to look for, in your own words and in quotes
    #[arg(value_name = "QUERY", value_parser = NonEmptyStringValueParser::new())]
    pub query: String,
    /// Files of UTF-8 text of up to 8 MiB, and folders of them
    ///
    /// In folders, hidden files, links, node_modules and caches (folders with a CACHEDIR.TAG, as cargo's target) are left out.
    #[arg(value_name = "PATH", default_value = ".")]
    pub paths: Vec<PathBuf>,
    /// Most files to show
    #[arg(long, env = "DANAUS_MOST", default_value_t = 5, value_name = "N", value_parser = at_least_one)]
    pub most: usize,
    /// Print JSON, an object a line
    #[arg(long, env = "DANAUS_JSON", value_parser = BoolishValueParser::new())]
    pub json: bool,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub compute: ComputeArgs,
    #[command(flatten)]
    pub tokenizer: TokenizerArgs,
}

#[derive(Debug, Args)]
pub struct SynthArgs {
    /// A config.json, or 80m-2k, 80m-8k, 80m-32k
    #[arg(long, env = "DANAUS_CONFIG", value_name = "FILE|SHAPE")]
    pub config: String,
    /// What the weights are made from: the same seed gives the same bits
    #[arg(long, env = "DANAUS_SEED", default_value_t = danaus_model::SYNTHETIC_SEED, value_name = "N")]
    pub seed: u64,
    /// How smooth the long filters are: init, smooth, mid or rough (white noise)
    ///
    /// The published models' training code starts a filter's weights small and its positional features at exact sinusoids, and
    /// trains those at a rate of 1e-5. So the published models' filters are expected to be like smooth. That could not be
    /// checked.
    #[arg(long, env = "DANAUS_FILTERS", default_value_t = FilterFamily::default(), value_name = "FAMILY")]
    pub filters: FilterFamily,
    /// A factor on the filters: more of it lets padding change a vector more; 4 is a hard case
    #[arg(long, env = "DANAUS_STRENGTH", default_value_t = Strength::default(), value_name = "X")]
    pub strength: Strength,
    /// Folder to write config.json and model.safetensors to
    #[arg(long, env = "DANAUS_OUT", value_name = "DIR")]
    pub out: PathBuf,
    /// Replace files that exist
    #[arg(long, env = "DANAUS_FORCE", value_parser = BoolishValueParser::new())]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct PrepareArgs {
    /// Prepare anew, whatever is there
    #[arg(long, env = "DANAUS_FORCE", value_parser = BoolishValueParser::new())]
    pub force: bool,
    /// Write what is prepared to this file, to be shared: see --padding-file [default: the padding cache]
    #[arg(long, env = "DANAUS_PREPARE_OUT", value_name = "FILE")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub compute: ComputeArgs,
    #[command(flatten)]
    pub tokenizer: TokenizerArgs,
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Files with a text a line; standard input without any
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Most texts to measure: each takes an exact pass
    #[arg(long, env = "DANAUS_MOST", default_value_t = 50, value_name = "N", value_parser = at_least_one)]
    pub most: usize,
    /// Print JSON
    #[arg(long, env = "DANAUS_JSON", value_parser = BoolishValueParser::new())]
    pub json: bool,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub compute: ComputeArgs,
    #[command(flatten)]
    pub tokenizer: TokenizerArgs,
}

#[derive(Debug, Args)]
pub struct DownloadArgs {
    #[command(flatten)]
    pub model: ModelArgs,
}

#[derive(Debug, Args)]
pub struct InfoArgs {
    /// Print JSON
    #[arg(long, env = "DANAUS_JSON", value_parser = BoolishValueParser::new())]
    pub json: bool,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub compute: ComputeArgs,
}

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long, env = "DANAUS_JSON", value_parser = BoolishValueParser::new())]
    pub json: bool,
    /// The model to test with, as for the other commands; its shape decides, and synthetic has the published one's
    #[arg(long, short, env = "DANAUS_MODEL", default_value = "synthetic", value_name = "MODEL")]
    pub model: ModelSource,
    /// Branch, tag or commit of a hub model [default: main]
    #[arg(long, env = "DANAUS_REVISION", value_name = "REVISION")]
    pub revision: Option<String>,
    #[command(flatten)]
    pub compute: ComputeArgs,
}

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Lengths of the texts, in tokens
    #[arg(
        long,
        env = "DANAUS_LENGTHS",
        default_value = "8,128,512",
        value_delimiter = ',',
        value_name = "N,N,..."
    )]
    #[arg(value_parser = at_least_one)]
    pub lengths: Vec<usize>,
    /// Texts in a batch
    #[arg(long, env = "DANAUS_BATCH", default_value_t = 1, value_name = "N", value_parser = one_to(MAX_BATCH))]
    pub batch: usize,
    /// Seconds to measure each length for, after a warm-up (at least three passes, at most 200), and as long again without padding
    /// where texts are padded
    #[arg(long, env = "DANAUS_SECONDS", default_value = "3", value_name = "SECONDS", value_parser = seconds)]
    pub seconds: std::time::Duration,
    /// Show where the time goes: each stage's share, and how near the machine's peak (measured first) its products come
    #[arg(long, env = "DANAUS_PROFILE", value_parser = BoolishValueParser::new())]
    pub profile: bool,
    /// Measure what the machine itself reaches, without a model: arithmetic in each precision, reading each cache and memory
    #[arg(long, env = "DANAUS_ROOFLINE", value_parser = BoolishValueParser::new())]
    pub roofline: bool,
    /// Print JSON
    #[arg(long, env = "DANAUS_JSON", value_parser = BoolishValueParser::new())]
    pub json: bool,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub compute: ComputeArgs,
}
