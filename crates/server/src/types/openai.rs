//! OpenAI's API.

mod input;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub(crate) use input::{EmbeddingsInput, with_token_ids};

use super::Dimensions;

/// Texts to embed, as clients of OpenAI send them.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"input": ["What is machine learning?", "A butterfly of the milkweed family"], "model": "m2-bert"}))]
pub(crate) struct EmbeddingsRequest {
    pub(crate) input: EmbeddingsInput,
    /// Repeated in the answer. Any name will do, unless the server runs with `--strict-model`.
    pub(crate) model: Option<String>,
    pub(crate) encoding_format: Option<EncodingFormat>,
    pub(crate) dimensions: Option<Dimensions>,
}

/// How vectors are written: as lists of numbers, or as base64 of little-endian float32. Default: `float`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(rename_all = "lowercase")]
pub(crate) enum EncodingFormat {
    #[default]
    Float,
    Base64,
}

impl TryFrom<String> for EncodingFormat {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match name.as_str() {
            "float" => Ok(Self::Float),
            "base64" => Ok(Self::Base64),
            _ => Err(format!("unknown format {name:?}: expected float or base64")),
        }
    }
}

/// One vector per text, in order.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.6, 0.0, -0.8]}],
    "model": "m2-bert", "usage": {"prompt_tokens": 7, "total_tokens": 7}
}))]
pub(crate) struct EmbeddingsResponse {
    /// `list`.
    pub(crate) object: &'static str,
    pub(crate) data: Vec<Embedding>,
    /// The request's `model`, or the loaded model.
    pub(crate) model: String,
    pub(crate) usage: Usage,
}

/// One text's vector.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Embedding {
    /// `embedding`.
    pub(crate) object: &'static str,
    /// The text's place in the request.
    pub(crate) index: usize,
    pub(crate) embedding: EncodedVector,
}

/// A vector as the request's `encoding_format` wants it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum EncodedVector {
    /// Numbers.
    Float(Vec<f32>),
    /// Base64 of little-endian float32.
    Base64(String),
}

/// What the request was made of.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Usage {
    /// Tokens of all texts as the model saw them, the special ones included.
    pub(crate) prompt_tokens: usize,
    /// The same.
    pub(crate) total_tokens: usize,
}

/// The models that this server has: one.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"object": "list", "data": [{
    "id": "togethercomputer/m2-bert-80M-32k-retrieval", "object": "model", "created": 1700000000, "owned_by": "togethercomputer"
}]}))]
pub(crate) struct ModelList {
    /// `list`.
    pub(crate) object: &'static str,
    pub(crate) data: Vec<ModelCard>,
}

/// A model.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelCard {
    /// The loaded model: hub id, folder name, or `synthetic`.
    pub(crate) id: String,
    /// `model`.
    pub(crate) object: &'static str,
    /// When this server was started, in seconds since 1970.
    pub(crate) created: u64,
    /// The owner in a hub id, else `danaus`.
    pub(crate) owned_by: String,
}

/// Body of an error response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct OpenAiError {
    pub(crate) error: OpenAiErrorDetails,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct OpenAiErrorDetails {
    /// What was expected, what came, and what to do.
    #[schema(example = "Input list cannot be empty")]
    pub(crate) message: String,
    /// `invalid_request_error`, `rate_limit_error` or `server_error`.
    #[serde(rename = "type")]
    #[schema(example = "invalid_request_error")]
    pub(crate) error_type: &'static str,
    /// The field that is wrong; null where it is none.
    #[schema(example = "input")]
    pub(crate) param: Option<String>,
    /// Stable name of the error, for programs.
    #[schema(example = "empty_list")]
    pub(crate) code: &'static str,
}
