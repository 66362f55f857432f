//! From texts to embeddings: tokenise, queue, wait, finish.

use std::sync::Arc;
use std::time::{Duration, Instant};

use danaus_engine::padding::{Preparation, equal_pairs};
use danaus_engine::{Backend, EngineError, Padding, Pooling, finish};
use danaus_model::{Encoding, Tokenizer, truncate, truncate_start};

use crate::cache::{CacheSize, Pooled, VectorCache};
use crate::config::ServerConfig;
use crate::error::{ApiError, ErrorKind, Overload};
use crate::metrics::{Metrics, Stage, Waiting};
use crate::offload::Offload;
use crate::scheduler::{Estimate, Lanes, QueueLimits, Refusal, Speed};
use crate::traces;
use crate::worker::{Computed, Policy, QueuedText, SubmitError, WorkError, Worker, batch_tokens};

/// Shown wherever a synthetic model could be taken for a real one.
const SYNTHETIC_WARNING: &str = "synthetic weights: vectors carry no meaning";

/// How far a text over the model's length is tokenised, in multiples of that length: beyond, its exact number of tokens
/// helps nobody.
const COUNTED_LENGTHS: usize = 4;

/// By how much short texts that came later go before a long one, which need not end before other short ones have their turn.
const AGEING: Duration = Duration::from_secs(1);

/// Most bytes of text in one request for all its tokens.
const MOST_TOKENIZED_BYTES: usize = 1024 * 1024;

/// A loaded model and what it takes to serve it.
pub struct Service {
    /// Computes.
    pub backend: Arc<dyn Backend>,
    /// Turns texts into token ids of the backend's vocabulary.
    pub tokenizer: Arc<Tokenizer>,
    /// What to call the model.
    pub model: ModelInfo,
    /// What surrounds a text in the encoder where a request does not say.
    pub padding: Padding,
    /// How far the preparation of fast padding is, where it goes on while the server runs.
    pub preparation: Arc<Preparation>,
    /// How fast the backend was seen to compute; what is not known yet is learned while serving.
    pub speed: Speed,
}

/// What a model is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInfo {
    /// Hub id, folder name, or `synthetic`.
    pub id: String,
    /// The hub's commit, where it came from there.
    pub revision: Option<String>,
    /// Whether its weights are synthetic, so that vectors carry no meaning.
    pub synthetic: bool,
}

impl ModelInfo {
    /// A plain statement for synthetic models.
    pub(crate) fn warning(&self) -> Option<&'static str> {
        self.synthetic.then_some(SYNTHETIC_WARNING)
    }
}

/// How a request wants its texts embedded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EmbedOptions {
    pub(crate) truncate: Truncate,
    pub(crate) dimensions: Option<usize>,
    pub(crate) normalize: bool,
    pub(crate) pooling: Pooling,
    pub(crate) padding: Padding,
}

/// What becomes of a text over the model's length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Truncate {
    /// It is refused.
    Never,
    /// Its beginning is embedded.
    End,
    /// Its end is embedded.
    Start,
}

impl From<bool> for Truncate {
    fn from(truncate: bool) -> Self {
        if truncate { Self::End } else { Self::Never }
    }
}

/// What a text can come as.
pub(crate) trait Source: Send + 'static {
    /// Its size, for what it takes to tokenise it.
    fn bytes(&self) -> usize;

    /// Its token ids, special ones included; if there are more than `at_most`, enough of them to see that.
    fn token_ids(self, tokenizer: &Tokenizer, at_most: usize) -> Result<Vec<u32>, String>;
}

impl Source for String {
    fn bytes(&self) -> usize {
        self.len()
    }

    fn token_ids(self, tokenizer: &Tokenizer, at_most: usize) -> Result<Vec<u32>, String> {
        tokenizer.encode_ids(&self, at_most).map_err(|error| error.to_string())
    }
}

/// Token ids, special ones included, as `POST /tokenize` gives them.
impl Source for Vec<u32> {
    fn bytes(&self) -> usize {
        size_of_val(self.as_slice())
    }

    fn token_ids(self, tokenizer: &Tokenizer, _: usize) -> Result<Vec<u32>, String> {
        let last = tokenizer.max_id();
        match self.iter().find(|&&id| id > last) {
            _ if self.is_empty() => Err("expected at least one token id".to_owned()),
            Some(id) => Err(format!("there is no token {id}: this model's vocabulary has ids 0 to {last}")),
            None => Ok(self),
        }
    }
}

/// A request's texts, and what to call each of them in an error.
#[derive(Debug)]
pub(crate) struct NamedTexts<T = String> {
    pub(crate) texts: Vec<T>,
    /// The place of the text with this index in the request, like `query[3]`.
    pub(crate) name: fn(usize) -> String,
    /// What the request can do about a text over the model's length.
    pub(crate) remedy: &'static str,
}

/// A request's embeddings.
#[derive(Debug)]
pub(crate) struct Embedded {
    /// One vector per text, in order.
    pub(crate) vectors: Vec<Vec<f32>>,
    /// Tokens of each text as the model saw it.
    pub(crate) tokens: Vec<usize>,
    /// Whether each text was cut.
    pub(crate) truncated: Vec<bool>,
    /// How each text was padded.
    pub(crate) padding: Vec<Padding>,
    pub(crate) timing: Timing,
}

/// Where a request's time went.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    pub(crate) tokenise: Duration,
    pub(crate) queue: Duration,
    pub(crate) compute: Duration,
}

/// A served model: tokeniser, worker thread and backend.
pub(crate) struct Ready {
    service: Service,
    worker: Worker,
    offload: Offload,
    metrics: Metrics,
    config: ServerConfig,
}

/// What a request would cost.
#[derive(Debug)]
pub(crate) struct Estimated {
    /// Tokens of each text as the model would see it.
    pub(crate) tokens: Vec<usize>,
    /// Whether each text would be cut.
    pub(crate) truncated: Vec<bool>,
    /// How each text would be padded.
    pub(crate) padding: Vec<Padding>,
    /// Tokens that the model would compute for each text, padding included.
    pub(crate) rows: Vec<usize>,
    pub(crate) estimate: Estimate,
}

/// A text as the model will see it.
struct Prepared {
    text: QueuedText,
    truncated: bool,
}

impl Ready {
    /// Starts the worker thread.
    pub(crate) fn start(
        service: Service,
        config: &ServerConfig,
        metrics: Metrics,
        offload: Offload,
    ) -> std::io::Result<Self> {
        let backend = Arc::clone(&service.backend);
        let policy = Policy {
            limits: QueueLimits {
                texts: config.max_queued_texts,
                tokens: config.max_queued_tokens,
                wait: config.max_queue_time.unwrap_or(Duration::MAX),
            },
            lanes: Lanes { short: config.short_text_tokens, ageing: AGEING, steps: backend.info().steps },
            speed: service.speed,
            max_batch_tokens: config.max_batch_tokens,
            cache: VectorCache::new(config.cache_bytes, backend.dimension()),
        };
        let worker = Worker::start(backend, policy, metrics.clone())?;
        Ok(Self { service, worker, offload, metrics, config: config.clone() })
    }

    pub(crate) fn service(&self) -> &Service {
        &self.service
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        self.service.backend.as_ref()
    }

    /// Most tokens that are computed at once.
    pub(crate) fn batch_tokens(&self) -> usize {
        batch_tokens(self.config.max_batch_tokens, self.backend())
    }

    pub(crate) fn model(&self) -> &ModelInfo {
        &self.service.model
    }

    /// What surrounds a text where a request does not say.
    pub(crate) fn padding(&self) -> Padding {
        self.service.padding
    }

    /// How texts are embedded where a request does not say.
    pub(crate) fn defaults(&self) -> EmbedOptions {
        EmbedOptions {
            truncate: self.config.auto_truncate.into(),
            dimensions: None,
            normalize: true,
            pooling: self.config.pooling,
            padding: self.service.padding,
        }
    }

    pub(crate) fn waiting(&self) -> Waiting {
        self.worker.waiting()
    }

    /// What the cache holds.
    pub(crate) fn cached(&self) -> CacheSize {
        self.worker.cached()
    }

    /// Seconds in which what waits now is computed, about; at least 1.
    pub(crate) fn backlog_seconds(&self) -> u64 {
        self.worker.backlog_seconds()
    }

    /// Ends the worker thread; requests that still wait are answered with 503.
    pub(crate) fn stop(&self) {
        self.worker.stop();
    }

    /// Embeds a request's texts. Dropping the future takes the request out of the queue.
    pub(crate) async fn embed<T: Source>(
        &self,
        request: NamedTexts<T>,
        options: EmbedOptions,
    ) -> Result<Embedded, ApiError> {
        self.check(request.texts.len(), options)?;
        let Some(limit) = self.config.request_timeout else {
            return self.embed_checked(request, options).await;
        };
        tokio::time::timeout(limit, self.embed_checked(request, options)).await.unwrap_or_else(|_elapsed| {
            let message =
                format!("No result within the server's limit of {} s per request", limit.as_secs_f64());
            Err(ApiError::new(ErrorKind::DeadlineExceeded, message))
        })
    }

    async fn embed_checked<T: Source>(
        &self,
        request: NamedTexts<T>,
        options: EmbedOptions,
    ) -> Result<Embedded, ApiError> {
        let started = Instant::now();
        let prepared = self.prepare(request, options).await;
        let (queued, tokenise) = (Instant::now(), started.elapsed());
        self.metrics.stage_finished(Stage::Tokenise, started, tokenise);
        let (tokens, truncated, texts) = unzip(prepared?);
        let padding = texts.iter().map(QueuedText::padding).collect();
        traces::size(tokens.len(), tokens.iter().sum());
        let computed = self.compute(texts).await?;
        let timing = Timing { tokenise, queue: computed.queue, compute: computed.compute };
        self.metrics.queued_for(timing.queue);
        self.metrics.stage_finished(Stage::Queue, queued, timing.queue);
        self.metrics.stage_finished(Stage::Compute, computed.started, timing.compute);
        self.metrics.truncated(truncated.iter().filter(|&&truncated| truncated).count());
        let started = Instant::now();
        let vectors = self.finish(computed.vectors, options).await?;
        self.metrics.stage_finished(Stage::Finish, started, started.elapsed());
        Ok(Embedded { vectors, tokens, truncated, padding, timing })
    }

    /// What embedding a request's texts now would cost.
    pub(crate) async fn estimate<T: Source>(
        &self,
        request: NamedTexts<T>,
        options: EmbedOptions,
    ) -> Result<Estimated, ApiError> {
        self.check(request.texts.len(), options)?;
        let (tokens, truncated, texts) = unzip(self.prepare(request, options).await?);
        let (padding, rows) = texts.iter().map(|text| (text.padding(), text.cost())).unzip();
        Ok(Estimated { tokens, truncated, padding, rows, estimate: self.worker.estimate(texts) })
    }

    fn check(&self, texts: usize, options: EmbedOptions) -> Result<(), ApiError> {
        self.check_dimensions(options.dimensions)?;
        self.check_count(texts)
    }

    /// Tokenises texts as they are, over the model's length or not.
    pub(crate) async fn tokenize(&self, request: NamedTexts) -> Result<Vec<Encoding>, ApiError> {
        self.check_count(request.texts.len())?;
        let bytes: usize = request.texts.iter().map(String::len).sum();
        if bytes > MOST_TOKENIZED_BYTES {
            let message = format!(
                "The texts have {bytes} bytes, over this route's limit of {MOST_TOKENIZED_BYTES}: split them"
            );
            return Err(ApiError::new(ErrorKind::BatchTooLarge, message));
        }
        let encode =
            |tokenizer: &Tokenizer, text: String| tokenizer.encode(&text).map_err(|error| error.to_string());
        self.for_each_text(request, encode, |encoding, _name| Ok(encoding)).await
    }

    fn check_count(&self, count: usize) -> Result<(), ApiError> {
        let limit = self.config.max_inputs;
        if count <= limit {
            return Ok(());
        }
        let message = format!("The request has {count} texts, over the limit of {limit}: split it");
        Err(ApiError::new(ErrorKind::BatchTooLarge, message))
    }

    fn check_dimensions(&self, dimensions: Option<usize>) -> Result<(), ApiError> {
        let most = self.backend().dimension();
        match dimensions {
            Some(wanted) if wanted > most => {
                let message =
                    format!("the model's vectors have {most} components, cannot keep {wanted} of them");
                Err(ApiError::at(ErrorKind::InvalidField, "dimensions", message))
            }
            _ => Ok(()),
        }
    }

    async fn prepare<T: Source>(
        &self,
        request: NamedTexts<T>,
        options: EmbedOptions,
    ) -> Result<Vec<Prepared>, ApiError> {
        let (cut, EmbedOptions { pooling, padding, .. }) = (options.truncate, options);
        let preparation = Arc::clone(&self.service.preparation);
        let refuse = self.config.refuse_unprepared && padding == Padding::Fast;
        let backend = Arc::clone(&self.service.backend);
        let limit = backend.max_tokens();
        let remedy = request.remedy;
        // Where the end is wanted, all before it must be read.
        let counted = if cut == Truncate::Start { usize::MAX } else { limit.saturating_mul(COUNTED_LENGTHS) };
        let tokenise = move |tokenizer: &Tokenizer, text: T| text.token_ids(tokenizer, counted);
        let prepare = move |mut ids: Vec<u32>, name: String| {
            let count = ids.len();
            let truncated = match cut {
                Truncate::Never if count > limit => {
                    let more = if count > counted { "more than " } else { "" };
                    let message = format!(
                        "the text has {more}{} tokens, over the model's limit of {limit}: {remedy}",
                        count.min(counted)
                    );
                    return Err(ApiError::at(ErrorKind::TextTooLong, name, message));
                }
                Truncate::Never | Truncate::End => truncate(&mut ids, limit),
                Truncate::Start => truncate_start(&mut ids, limit),
            };
            if refuse && waits_for_its_range(&*backend, &preparation, &ids, pooling) {
                return Err(ApiError::preparing());
            }
            Ok(Prepared { text: QueuedText::new(&*backend, ids, pooling, padding), truncated })
        };
        self.for_each_text(request, tokenise, prepare).await
    }

    /// Tokenises every text off the runtime's threads; stops at the first error, or when the request is dropped.
    async fn for_each_text<S: Source, T, R: Send + 'static>(
        &self,
        request: NamedTexts<S>,
        tokenise: impl Fn(&Tokenizer, S) -> Result<T, String> + Send + 'static,
        make: impl Fn(T, String) -> Result<R, ApiError> + Send + 'static,
    ) -> Result<Vec<R>, ApiError> {
        let tokenizer = Arc::clone(&self.service.tokenizer);
        let bytes = request.texts.iter().map(Source::bytes).sum();
        let alive = Arc::new(());
        let watched = Arc::downgrade(&alive);
        let work = move || {
            let still_wanted = || watched.strong_count() > 0;
            let texts = request.texts.into_iter().enumerate().take_while(|_| still_wanted());
            let made = texts.map(|(index, text)| {
                let name = (request.name)(index);
                match tokenise(&tokenizer, text) {
                    Ok(tokens) => make(tokens, name),
                    Err(error) => Err(ApiError::at(ErrorKind::InvalidField, name, error)),
                }
            });
            made.collect()
        };
        let result = self.offload.tokenise(bytes, work).await?;
        drop(alive);
        result
    }

    async fn compute(&self, texts: Vec<QueuedText>) -> Result<Computed, ApiError> {
        let submission = self.worker.submit(texts).map_err(|error| match error {
            SubmitError::Refused(refusal) => {
                let seconds = refusal.retry_after();
                let message = format!("The server is busy: {refusal}; try again in about {seconds} s");
                let overload = match refusal {
                    Refusal::Full { .. } => Overload::Queue,
                    Refusal::Late { .. } => Overload::Wait,
                };
                ApiError::new(ErrorKind::Overloaded(overload), message).retry_after(seconds)
            }
            SubmitError::Stopped => ApiError::shutting_down(),
        })?;
        submission.computed().await.map_err(|error| match error {
            WorkError::Failed => ApiError::internal(),
            WorkError::OutOfMemory => ApiError::device_memory(),
            WorkError::Stopped => ApiError::shutting_down(),
        })
    }

    /// Shortens and normalises the vectors.
    async fn finish(&self, pooled: Vec<Pooled>, options: EmbedOptions) -> Result<Vec<Vec<f32>>, ApiError> {
        let bytes = pooled.iter().map(|vector| size_of_val(vector.as_slice())).sum();
        let work = move || {
            let finish_one =
                |vector| finish(Arc::unwrap_or_clone(vector), options.dimensions, options.normalize);
            pooled.into_iter().map(finish_one).collect::<Result<Vec<Vec<f32>>, EngineError>>()
        };
        self.offload.quick(bytes, work).await?.map_err(|error| {
            tracing::error!(%error, "a request has no vectors");
            ApiError::internal()
        })
    }
}

/// Whether fast padding of a text would be exact now and may be fast later, when the range of its length is prepared.
fn waits_for_its_range(
    backend: &dyn Backend,
    preparation: &Preparation,
    ids: &[u32],
    pooling: Pooling,
) -> bool {
    if ids.len() == backend.max_tokens() {
        return false;
    }
    let goes_on = preparation.progress().is_some();
    match backend.far_fields() {
        Some(fields) => goes_on && fields.window(ids.len(), equal_pairs(ids), pooling).is_none(),
        None => true,
    }
}

/// Each text's tokens, whether it was cut, and the texts.
fn unzip(prepared: Vec<Prepared>) -> (Vec<usize>, Vec<bool>, Vec<QueuedText>) {
    let tokens = prepared.iter().map(|text| text.text.tokens()).collect();
    let truncated = prepared.iter().map(|text| text.truncated).collect();
    (tokens, truncated, prepared.into_iter().map(|text| text.text).collect())
}
