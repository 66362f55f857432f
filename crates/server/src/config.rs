//! What the server lets in and how it computes, as validated values.

use std::time::Duration;

use danaus_engine::Pooling;

use crate::auth::ApiKeys;
use crate::cors::CorsOrigin;
use crate::traces::Traces;

/// Limits and defaults of one server.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Most tokens that the model computes at once; a longer text goes alone. `None`: as many as suit the device.
    pub max_batch_tokens: Option<usize>,
    /// Most tokens of a text, padding included, that never waits for a longer one's end: between two steps of those, the model
    /// computes the shorter ones that wait.
    pub short_text_tokens: usize,
    /// Whether a text over the model's length is cut where a request does not say.
    pub auto_truncate: bool,
    /// How hidden states become one vector where a request does not say.
    pub pooling: Pooling,
    /// Whether a request to OpenAI's API that names another model is refused with 404.
    pub strict_model: bool,
    /// Whether OpenAI's API takes this model's token ids instead of texts.
    pub accept_token_ids: bool,
    /// The keys of which a request must bring one; none: everybody may ask.
    pub api_keys: ApiKeys,
    /// Whose pages may call this server from a browser; none: no other server's.
    pub cors_origins: Vec<CorsOrigin>,
    /// Whether texts with fast padding are refused with 503 while it is not prepared, instead of being computed exactly.
    pub refuse_unprepared: bool,
    /// Largest request body, in bytes.
    pub max_body_bytes: usize,
    /// Most texts in one request.
    pub max_inputs: usize,
    /// Most tokens that wait for the model, over all requests; a request that comes on top is refused with 429.
    pub max_queued_tokens: usize,
    /// Most texts that wait for the model, over all requests; a request that comes on top is refused with 429.
    pub max_queued_texts: usize,
    /// Longest time that a request waits for its turn, as far as it can be foreseen; one that would wait longer is refused with
    /// 429. `None`: as long as it takes.
    pub max_queue_time: Option<Duration>,
    /// Memory for vectors of texts that were asked for before, in bytes. 0: none are kept.
    pub cache_bytes: usize,
    /// Longest time from a request that has been read to its vectors; 504 after that. `None`: as long as it takes.
    pub request_timeout: Option<Duration>,
    /// Most connections that are served at once; those on top are answered with 503 and closed.
    pub max_connections: usize,
    /// Most bytes of requests and answers that are held, over all requests; a request that comes on top is refused with 429,
    /// unless it is alone.
    pub max_inflight_bytes: usize,
    /// Longest silence of a client that is sending a request's head or body (408 after that), that has none to send, or whose
    /// TLS handshake is not over.
    pub read_timeout: Duration,
    /// Longest time in which a client takes nothing of its answer; its connection is closed after that.
    pub write_timeout: Duration,
    /// Longest time that a shutdown waits for requests in flight.
    pub shutdown_timeout: Duration,
    /// Where spans of requests go.
    pub traces: Traces,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            max_batch_tokens: None,
            short_text_tokens: 1024,
            auto_truncate: false,
            pooling: Pooling::default(),
            strict_model: false,
            accept_token_ids: false,
            api_keys: ApiKeys::default(),
            cors_origins: Vec::new(),
            refuse_unprepared: false,
            max_body_bytes: 32 * 1024 * 1024,
            max_inputs: 2048,
            // 32 MiB of token ids: a body of the largest size that is all punctuation still fits an idle queue.
            max_queued_tokens: 8 * 1024 * 1024,
            max_queued_texts: 65_536,
            max_queue_time: Some(Duration::from_secs(60)),
            cache_bytes: 0,
            request_timeout: None,
            max_connections: 4096,
            // Four bodies of the largest size.
            max_inflight_bytes: 128 * 1024 * 1024,
            read_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            shutdown_timeout: Duration::from_secs(30),
            traces: Traces::default(),
        }
    }
}
