//! The API of Text Embeddings Inference.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};

use super::{Dimensions, TextInput};

/// Texts to embed, as clients of Text Embeddings Inference send them.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"inputs": ["What is machine learning?", "A butterfly of the milkweed family"]}))]
pub(crate) struct TeiRequest {
    pub(crate) inputs: TextInput,
    /// Whether a text over the model's length is cut to it instead of being refused.
    /// Default: the server's `--auto-truncate`.
    pub(crate) truncate: Option<bool>,
    pub(crate) truncation_direction: Option<TruncationDirection>,
    /// Whether vectors are scaled to unit length. Default: true.
    pub(crate) normalize: Option<bool>,
    /// The name of a prompt to put before each text. M2-BERT has none, so any name is refused.
    #[schema(schema_with = null, required = false)]
    pub(crate) prompt_name: Option<String>,
    pub(crate) dimensions: Option<Dimensions>,
}

/// The schema of a field that can only be null.
fn null() -> Object {
    ObjectBuilder::new().schema_type(Type::Null).build()
}

/// Which end of a text over the model's length is cut off. Default: `Right`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(try_from = "String")]
pub(crate) enum TruncationDirection {
    Left,
    Right,
}

impl TryFrom<String> for TruncationDirection {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match name.to_ascii_lowercase().as_str() {
            "left" => Ok(Self::Left),
            "right" => Ok(Self::Right),
            _ => Err(format!("unknown direction {name:?}: expected Left or Right")),
        }
    }
}

/// One vector per text, in order.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!([[0.6, 0.0, -0.8]]))]
pub(crate) struct TeiResponse(pub(crate) Vec<Vec<f32>>);

/// Body of an error response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(example = json!({"error": "Input list cannot be empty", "error_type": "Empty"}))]
pub(crate) struct TeiError {
    /// What was expected, what came, and what to do.
    pub(crate) error: String,
    pub(crate) error_type: TeiErrorType,
}

/// The coarse kind of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) enum TeiErrorType {
    Unhealthy,
    Backend,
    Overloaded,
    Validation,
    Empty,
}

/// What clients of Text Embeddings Inference read in `/info`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TeiInfo {
    /// The same as `model`.
    pub(crate) model_id: String,
    /// The same as `revision`.
    pub(crate) model_sha: Option<String>,
    /// The same as `dtype`.
    pub(crate) model_dtype: &'static str,
    pub(crate) model_type: TeiModelType,
    /// Most texts that wait: no other limit bounds concurrent requests.
    pub(crate) max_concurrent_requests: usize,
    /// The same as `max_tokens`.
    pub(crate) max_input_length: usize,
    /// The same as in `limits`.
    pub(crate) max_batch_tokens: usize,
    /// Null: batches are bounded in tokens.
    #[schema(schema_with = null)]
    pub(crate) max_batch_requests: Option<usize>,
    /// The same as `limits.max_inputs`.
    pub(crate) max_client_batch_size: usize,
    /// Texts that are tokenised at once.
    pub(crate) tokenization_workers: usize,
}

/// What kind of model is served.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TeiModelType {
    pub(crate) embedding: TeiEmbeddingModel,
}

/// A model that embeds.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TeiEmbeddingModel {
    /// The same as `pooling` outside.
    pub(crate) pooling: String,
}
