//! The product's own API.

use danaus_engine::Padding;
use danaus_engine::padding::Progress;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::tei::TeiInfo;
use super::{Dimensions, Object, PaddingName, PoolingName, TextInput};

/// Body of every error response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    pub(crate) error: ErrorDetails,
    /// The message again, where FastAPI's clients look for it.
    #[schema(example = "Query list cannot be empty")]
    pub(crate) detail: String,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct ErrorDetails {
    /// What was expected, what came, and what to do.
    #[schema(example = "Query list cannot be empty")]
    pub(crate) message: String,
    /// `invalid_request_error`, `rate_limit_error` or `server_error`.
    #[serde(rename = "type")]
    #[schema(example = "invalid_request_error")]
    pub(crate) error_type: &'static str,
    /// Stable name of the error, for programs.
    #[schema(example = "empty_list")]
    pub(crate) code: &'static str,
}

/// Texts to embed, and how.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"query": ["What is machine learning?", "A butterfly of the milkweed family"]}))]
pub(crate) struct EmbedRequest {
    pub(crate) query: TextInput,
    /// Whether a text over the model's length is cut to it (its first tokens are kept) instead of being refused.
    /// Default: the server's `--auto-truncate`.
    pub(crate) truncate: Option<bool>,
    pub(crate) dimensions: Option<Dimensions>,
    /// Whether vectors are scaled to unit length. Default: true.
    pub(crate) normalize: Option<bool>,
    pub(crate) pooling: Option<PoolingName>,
    pub(crate) padding: Option<PaddingName>,
}

/// One vector per text, in order.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "embeddings": [[0.6, 0.0, -0.8]], "dimension": 3, "count": 1,
    "model": "togethercomputer/m2-bert-80M-32k-retrieval", "tokens": [7], "truncated": [false],
    "padding": ["fast"]
}))]
pub(crate) struct EmbedResponse {
    /// The vectors, float32.
    pub(crate) embeddings: Vec<Vec<f32>>,
    /// Length of every vector.
    pub(crate) dimension: usize,
    /// Number of vectors.
    pub(crate) count: usize,
    /// The model that computed them.
    pub(crate) model: String,
    /// Tokens of each text as the model saw it, the two special ones included.
    pub(crate) tokens: Vec<usize>,
    /// Whether each text was cut to the model's length.
    pub(crate) truncated: Vec<bool>,
    /// How each text was padded, which may differ from what was asked for: a text that `fast` does not serve is `max-length`.
    pub(crate) padding: Vec<Padded>,
}

/// How a text was padded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Padded {
    /// Not at all.
    None,
    /// To the model's length, within the bound of fast padding.
    Fast,
    /// To the model's length, exactly.
    MaxLength,
}

impl From<Padding> for Padded {
    fn from(padding: Padding) -> Self {
        match padding {
            Padding::None => Self::None,
            Padding::Fast => Self::Fast,
            Padding::MaxLength => Self::MaxLength,
        }
    }
}

/// What embedding these texts now would cost.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "tokens": [7], "truncated": [false], "padding": ["fast"], "rows": [8], "count": 1,
    "model": "togethercomputer/m2-bert-80M-32k-retrieval",
    "queue_seconds": 0.2, "compute_seconds": 0.005, "admitted": true, "reason": null, "retry_after": null
}))]
pub(crate) struct EstimateResponse {
    /// Tokens of each text as the model would see it, the two special ones included.
    pub(crate) tokens: Vec<usize>,
    /// Whether each text would be cut to the model's length.
    pub(crate) truncated: Vec<bool>,
    /// How each text would be padded now.
    pub(crate) padding: Vec<Padded>,
    /// Tokens that the model would compute for each text, padding included: what it costs.
    pub(crate) rows: Vec<usize>,
    /// Number of texts.
    pub(crate) count: usize,
    /// The model that would compute them.
    pub(crate) model: String,
    /// Until the request's turn would come, as far as it can be foreseen.
    pub(crate) queue_seconds: f64,
    /// What its texts would take then, at the speed that this machine was seen to have; texts that are in the cache or on their
    /// way already take nothing.
    pub(crate) compute_seconds: f64,
    /// Whether the request would be let in now.
    pub(crate) admitted: bool,
    /// Why not; null where it would be.
    pub(crate) reason: Option<String>,
    /// Whole seconds after which to ask again; null where it would be let in.
    pub(crate) retry_after: Option<u64>,
}

/// Texts to tokenise.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"inputs": "What is machine learning?"}))]
pub(crate) struct TokenizeRequest {
    pub(crate) inputs: TextInput,
}

/// The tokens of each text, in order; never cut to the model's length.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenizeResponse {
    /// One per text.
    pub(crate) encodings: Vec<TokenizedText>,
    /// Number of texts.
    pub(crate) count: usize,
    /// The model they are for.
    pub(crate) model: String,
}

/// The tokens of one text, the two special ones included. The three lists have the same length.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"ids": [101, 7592, 102], "tokens": ["[CLS]", "hello", "[SEP]"], "offsets": [[0, 0], [0, 5], [0, 0]]}))]
pub(crate) struct TokenizedText {
    /// Token ids.
    pub(crate) ids: Vec<u32>,
    /// Tokens as the vocabulary spells them.
    pub(crate) tokens: Vec<String>,
    /// Start and end of each token in the text, in characters; [0, 0] for special tokens.
    #[schema(value_type = Vec<[usize; 2]>)]
    pub(crate) offsets: Vec<(usize, usize)>,
}

/// A sentence to compare with others.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"inputs": {
    "source_sentence": "How do plants make food?",
    "sentences": ["Photosynthesis turns light into sugar.", "The train leaves at noon."]
}}))]
pub(crate) struct SimilarityRequest {
    #[schema(value_type = SimilarityInputs)]
    pub(crate) inputs: Object<SimilarityInputs>,
    /// Whether a text over the model's length is cut to it instead of being refused.
    /// Default: the server's `--auto-truncate`.
    pub(crate) truncate: Option<bool>,
}

/// The sentences of a comparison.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct SimilarityInputs {
    /// Compared with each of `sentences`.
    pub(crate) source_sentence: String,
    /// At least one.
    #[schema(min_items = 1)]
    pub(crate) sentences: Vec<String>,
}

/// A ready server.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "status": "healthy", "model": "togethercomputer/m2-bert-80M-32k-retrieval", "device": "cpu", "embedding_dimension": 768
}))]
pub(crate) struct Health {
    /// `healthy`, or `preparing` while fast padding is being prepared: texts are answered meanwhile.
    pub(crate) status: &'static str,
    /// The loaded model.
    pub(crate) model: String,
    /// Where it computes: `cpu`, `cuda`, `mps` (a GPU that Metal drives) or `vulkan`.
    pub(crate) device: &'static str,
    /// Length of its vectors.
    pub(crate) embedding_dimension: usize,
    /// Present only where the status is `preparing`: passes over the model's full length that are done.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) done: Option<usize>,
    /// With it: those of the whole preparation, as far as can be told yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) total: Option<usize>,
    /// With it: until the preparation is done, about; null where that is not known yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>, required = false)]
    pub(crate) seconds_left: Option<Option<f64>>,
    /// With it: texts of 2 to so many tokens are fast by now, with mean pooling; 0 where none is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) longest_fast: Option<usize>,
    /// Present only where a GPU was given up and the CPU computes in its place: which one, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) demoted: Option<String>,
    /// Present only where the weights are synthetic.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) warning: Option<&'static str>,
}

/// How far the preparation of fast padding is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Preparing {
    /// Passes over the model's full length that are done.
    pub(crate) done: usize,
    /// Those of the whole preparation, as far as can be told yet.
    pub(crate) total: usize,
    /// Until it is done, about; null where that is not known yet.
    pub(crate) seconds_left: Option<f64>,
    /// Texts of 2 to so many tokens are fast by now, with mean pooling; 0 where none is.
    pub(crate) longest_fast: usize,
}

impl From<Progress> for Preparing {
    fn from(Progress { done, total, seconds_left, longest_fast }: Progress) -> Self {
        Self { done, total, seconds_left, longest_fast }
    }
}

/// A server that does not answer yet, or no longer.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"status": "loading", "detail": "The model is still loading"}))]
pub(crate) struct NotReady {
    /// `loading` or `shutting down`.
    pub(crate) status: &'static str,
    /// The same for people.
    pub(crate) detail: &'static str,
}

/// What runs here, and its limits.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Info {
    /// The loaded model: hub id, folder name, or `synthetic`.
    pub(crate) model: String,
    /// Its revision on the hub; null where it does not come from there.
    pub(crate) revision: Option<String>,
    /// Length of its vectors.
    pub(crate) dimension: usize,
    /// The longest text, in tokens, the two special ones included.
    pub(crate) max_tokens: usize,
    /// Type of weights and activations in the matrix products.
    pub(crate) dtype: &'static str,
    /// Where it was loaded: `cpu`, `cuda`, `metal` or `vulkan`.
    pub(crate) device: &'static str,
    /// Instruction set of the CPU kernels.
    pub(crate) instruction_set: &'static str,
    /// CPU threads that one forward pass uses.
    pub(crate) threads: usize,
    /// Present only where there is a GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) accelerator: Option<Accelerator>,
    /// Pooling where a request does not say: `mean`, `cls` or `model`.
    pub(crate) pooling: String,
    /// What surrounds a text in the encoder where a request does not say: `none`, `max-length` or `fast`.
    pub(crate) padding: String,
    /// What fast padding computes now, and its measured errors; null where nothing is prepared yet.
    pub(crate) fast_padding: Option<FastPadding>,
    /// How far the preparation of fast padding is; null where nothing is being prepared.
    pub(crate) preparation: Option<Preparing>,
    /// Whether a text over the model's length is cut where a request does not say.
    pub(crate) auto_truncate: bool,
    pub(crate) limits: Limits,
    /// Whether the weights are synthetic, so that vectors carry no meaning.
    pub(crate) synthetic: bool,
    /// Present only where the weights are synthetic.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) warning: Option<&'static str>,
    /// Version of the server.
    pub(crate) version: &'static str,
    #[serde(flatten)]
    pub(crate) tei: TeiInfo,
}

/// The GPU, and how it shares the work with the CPU.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Accelerator {
    /// Its own name.
    pub(crate) name: String,
    /// Driver and version.
    pub(crate) driver: String,
    /// Its memory in bytes; null where the driver does not tell.
    pub(crate) memory_bytes: Option<u64>,
    /// Texts of fewer rows (tokens, and padding that is computed) are computed on the CPU, which answers them sooner.
    pub(crate) crossover: usize,
    /// Type of weights and activations in the matrix products of those.
    pub(crate) cpu_dtype: &'static str,
    /// Why it is no longer used; null while it is.
    pub(crate) demoted: Option<String>,
    /// Answers that were computed again on the CPU.
    pub(crate) rechecks: Rechecks,
}

/// Answers of a GPU that were computed again on the CPU, to see whether they agree.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Rechecks {
    /// Those that agreed.
    pub(crate) agreed: u64,
    /// Those that did not.
    pub(crate) differed: u64,
}

/// What fast padding computes, and its measured errors.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FastPadding {
    /// The largest permitted error, in 1 - cosine to the vector of the padded text.
    pub(crate) bound: f64,
    /// Ranges of lengths; texts of other lengths are computed exactly.
    pub(crate) ranges: Vec<FastRange>,
}

/// How texts of a range of lengths are computed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FastRange {
    /// Fewest tokens.
    pub(crate) shortest: usize,
    /// Most tokens.
    pub(crate) longest: usize,
    /// Tokens and padding that are computed.
    pub(crate) window: usize,
    /// Positions of the padding beyond that are computed to stand for all of it; 0 where what it adds is the mean of probe texts.
    pub(crate) sketch: usize,
    /// The largest error of the probe texts by pooling, in 1 - cosine.
    pub(crate) errors: FastErrors,
    /// Which texts are computed so; others in another window, or exactly.
    pub(crate) most_equal: FastLimits,
}

/// By pooling: the largest share of equal pairs among the tokens of a text that is computed so; null where none is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FastLimits {
    /// Mean over the text's tokens.
    pub(crate) mean: Option<f64>,
    /// First token.
    pub(crate) cls: Option<f64>,
    /// What the model's configuration says.
    pub(crate) model: Option<f64>,
}

/// Errors by pooling, in 1 - cosine.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FastErrors {
    /// Mean over the text's tokens.
    pub(crate) mean: f64,
    /// First token.
    pub(crate) cls: f64,
    /// What the model's configuration says.
    pub(crate) model: f64,
}

/// What the server lets in.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Limits {
    /// Largest request body, in bytes.
    pub(crate) max_body_bytes: usize,
    /// Most texts in one request.
    pub(crate) max_inputs: usize,
    /// Most tokens computed at once.
    pub(crate) max_batch_tokens: usize,
    /// Most tokens that wait, over all requests.
    pub(crate) max_queued_tokens: usize,
    /// Most texts that wait, over all requests.
    pub(crate) max_queued_texts: usize,
    /// Longest time that a request waits for its turn, in seconds; null where there is no limit.
    pub(crate) max_queue_seconds: Option<f64>,
    /// Memory for vectors of texts that were asked for before, in bytes; 0: none are kept.
    pub(crate) cache_bytes: usize,
    /// Most connections served at once.
    pub(crate) max_connections: usize,
    /// Most bytes of requests and answers held, over all requests.
    pub(crate) max_inflight_bytes: usize,
    /// Longest silence of a client that has to send something, in seconds.
    pub(crate) read_timeout_seconds: f64,
    /// Longest time in which a client takes nothing of its answer, in seconds.
    pub(crate) write_timeout_seconds: f64,
    /// Longest time to an answer, in seconds; null where there is no limit.
    pub(crate) request_timeout_seconds: Option<f64>,
}

/// Where to go from here.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"message": "danaus embeds texts with M2-BERT", "docs": "/docs", "health": "/health"}))]
pub(crate) struct Welcome {
    /// What this server is.
    pub(crate) message: &'static str,
    /// Its documentation.
    pub(crate) docs: &'static str,
    /// Whether it is ready.
    pub(crate) health: &'static str,
}
