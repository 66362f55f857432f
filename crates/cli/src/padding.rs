//! Preparing fast padding, or finding it prepared.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use danaus_engine::padding::{Preparation, Probes, Progress, Store, StoreError, prepare};
use danaus_engine::{Backend, EngineError, Padding};
use danaus_model::{LoadError, LoadOptions, LoadedModel, Tokenizer};
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::ComputeArgs;
use crate::setup;

/// Where what is prepared for a model lies.
pub fn store(
    compute: &ComputeArgs,
    options: &LoadOptions,
    model: &LoadedModel,
    backend: &dyn Backend,
) -> Store {
    let folder = compute.cache_dir(&options.hub);
    let digest = model.digest();
    // Most of what was read for it is not needed again.
    model.weights.embeddings.word.release_pages();
    Store::new(&folder, &digest, backend.windows().dtype(), compute.fast.padding_error)
}

/// What must be known of embedding without padding, wherever it is an alternative.
pub const OTHER_VECTORS: &str =
    "--padding none gives other vectors, which are wrong for a model that was trained on padded texts";

/// The length of a text for which its price is told, in tokens.
const USUAL_TOKENS: usize = 100;

/// The padding for texts of a model; fast padding is loaded where it is prepared, and else is exact. Nothing else sets far fields in
/// a command that calls this, so that its texts all have windows of one plan.
pub fn choose(
    compute: &ComputeArgs,
    options: &LoadOptions,
    model: &LoadedModel,
    backend: &dyn Backend,
) -> Padding {
    let padding = setup::padding(compute, model);
    if padding == Padding::Fast && !load(&store(compute, options, model, backend), backend) {
        let rows = backend.max_tokens();
        let times = rows.div_ceil(USUAL_TOKENS);
        tracing::warn!(
            "fast padding is not prepared: each text is computed as {rows} rows, {times} times as many as a text of \
             {USUAL_TOKENS} tokens has. Run danaus prepare once, and it is fast. {OTHER_VECTORS}"
        );
    }
    padding
}

/// Lets fast padding be fast, if it was prepared before; says whether it was.
pub fn load(store: &Store, backend: &dyn Backend) -> bool {
    match store.read() {
        Ok(far_fields) => {
            backend.set_far_fields(Arc::new(far_fields));
            tracing::info!(file = %store.path().display(), "fast padding is prepared");
            true
        }
        Err(StoreError::Missing(_)) => false,
        Err(error @ StoreError::Unusable { .. }) => {
            tracing::warn!("{error}: fast padding has to be prepared anew");
            false
        }
    }
}

/// Prepares fast padding, and lets it be fast from now on; the result says whether it is kept for the next start, too.
pub fn make(
    store: &Store,
    backend: &dyn Backend,
    tokenizer: &Tokenizer,
    vocabulary: usize,
    preparation: &Preparation,
) -> Result<Result<(), LoadError>, EngineError> {
    let started = Instant::now();
    let bound = store.bound();
    tracing::info!(
        bound,
        "preparing fast padding, once for this model: texts are computed exactly meanwhile"
    );
    let mut report = Report::new();
    let probes = Probes::new(tokenizer, vocabulary);
    let far_fields = prepare(backend, &probes, bound, &mut |progress| {
        let (elapsed, left) = (started.elapsed().as_secs_f64(), progress.total - progress.done);
        let seconds_left = Some(elapsed / progress.done.max(1) as f64 * left as f64);
        preparation.set(Some(Progress { seconds_left, ..progress }));
        report.show(progress);
    })?;
    report.bar.finish_and_clear();
    let (ranges, megabytes) = (far_fields.bins().count(), far_fields.bytes() / 1_000_000);
    let written = store.write(&far_fields);
    backend.set_far_fields(Arc::new(far_fields));
    let seconds = started.elapsed().as_secs();
    tracing::info!(seconds, ranges, megabytes, "fast padding is ready");
    Ok(written)
}

/// Shows the progress: as a bar on a terminal, else in the log, now and then.
struct Report {
    bar: ProgressBar,
    logged: Instant,
}

impl Report {
    /// Between two lines in the log.
    const INTERVAL: Duration = Duration::from_secs(30);

    fn new() -> Self {
        let bar = if std::io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("preparing fast padding {bar:40} {pos}/{len}, {eta} left");
        Self {
            bar: bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())),
            logged: Instant::now(),
        }
    }

    fn show(&mut self, Progress { done, total, .. }: Progress) {
        self.bar.set_length(total as u64);
        self.bar.set_position(done as u64);
        if self.bar.is_hidden() && self.logged.elapsed() >= Self::INTERVAL {
            self.logged = Instant::now();
            tracing::info!(done, total, "preparing fast padding");
        }
    }
}
