//! Preparing fast padding, or finding it prepared.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use danaus_engine::padding::{Budget, FarFields, Preparation, Probes, Progress, Store, StoreError, prepare};
use danaus_engine::{Backend, EngineError, Padding};
use danaus_model::{LoadError, LoadOptions, LoadedModel, ModelSource, Tokenizer, hub};
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::ComputeArgs;
use crate::setup;

/// Where what is prepared for a model lies: what `--padding-file` names, or a file next to the model, or in the cache.
pub fn store(
    compute: &ComputeArgs,
    options: &LoadOptions,
    model: &LoadedModel,
    backend: &dyn Backend,
) -> Store {
    let digest = model.digest();
    // Most of what was read for it is not needed again.
    model.weights.embeddings.word.release_pages();
    let (dtype, error) = (backend.windows().dtype(), compute.fast.padding_error);
    let in_folder = |folder: &Path| Store::new(folder, &digest, dtype, error);
    if let Some(path) = &compute.fast.padding_file {
        return in_folder(path).at(path);
    }
    let cache = || in_folder(&compute.cache_dir(&options.hub));
    match &options.source {
        ModelSource::Folder(folder) => {
            let beside = in_folder(folder);
            if beside.path().exists() { beside } else { cache() }
        }
        ModelSource::Hub(id) => {
            let snapshot = hub::cached(id, options.revision.as_deref(), &options.hub).ok().flatten();
            let beside = snapshot.and_then(|snapshot| Some(in_folder(snapshot.config.parent()?)));
            // The hub's cache is not ours to write to, so what came from there has to be whole.
            let whole =
                |store: &Store| store.path().exists() && store.read().is_ok_and(|plan| plan.is_complete());
            beside.filter(whole).unwrap_or_else(cache)
        }
        _ => cache(),
    }
}

/// What must be known of embedding without padding, wherever it is an alternative.
pub const OTHER_VECTORS: &str =
    "--padding none gives other vectors, which are wrong for a model that was trained on padded texts";

/// The length of a text for which its price is told, in tokens.
const USUAL_TOKENS: usize = 100;

/// The padding for texts of a model; fast padding is loaded where it is prepared, and else is exact. Nothing else sets far fields in
/// a command that calls this, so that its texts all have windows of one plan.
///
/// # Errors
/// If what is prepared is a file that the user chose, and cannot be used.
pub fn choose(
    compute: &ComputeArgs,
    options: &LoadOptions,
    model: &LoadedModel,
    backend: &dyn Backend,
) -> anyhow::Result<Padding> {
    let padding = setup::padding(compute, model);
    if padding == Padding::Fast && !load(&store(compute, options, model, backend), backend)? {
        let rows = backend.max_tokens();
        let times = rows.div_ceil(USUAL_TOKENS);
        tracing::warn!(
            "fast padding is not prepared: each text is computed as {rows} rows, {times} times as many as a text of \
             {USUAL_TOKENS} tokens has. Run danaus prepare once, and it is fast. {OTHER_VECTORS}"
        );
    }
    Ok(padding)
}

/// For who measures texts with `padding`: what is said of fast padding that is not prepared; `None` where there is nothing to say.
pub fn unprepared(padding: Padding, backend: &dyn Backend) -> Option<String> {
    let prepared = backend.far_fields().is_some_and(|far_fields| far_fields.is_complete());
    let rows = backend.max_tokens();
    (padding == Padding::Fast && !prepared).then(|| {
        format!(
            "Fast padding is not prepared. Until danaus prepare has made it so, a text that is not fast is served as a pass of all \
             {rows} rows, and that is measured: max-length."
        )
    })
}

/// Lets fast padding be fast, as far as it was prepared before; says whether all of it was.
///
/// # Errors
/// If the file is one that the user chose, and cannot be used.
pub fn load(store: &Store, backend: &dyn Backend) -> anyhow::Result<bool> {
    Ok(match store.read() {
        Ok(far_fields) => {
            let complete = far_fields.is_complete();
            let longest = far_fields.longest_fast();
            backend.set_far_fields(Arc::new(far_fields));
            let file = store.path().display();
            if complete {
                tracing::info!(%file, longest, "fast padding is prepared");
            } else {
                tracing::info!(%file, longest, "fast padding is partly prepared");
            }
            complete
        }
        Err(StoreError::Missing(_)) => false,
        Err(error @ StoreError::Unusable { .. }) if store.is_chosen() => {
            bail!(
                "{error}; expected a file of this model, dtype and --padding-error: choose another one, or make it anew with \
                 danaus prepare --force --out {}",
                store.path().display()
            )
        }
        Err(error @ StoreError::Unusable { .. }) => {
            tracing::warn!("{error}: fast padding has to be prepared anew");
            false
        }
    })
}

/// Prepares what of fast padding is not prepared yet, and keeps each range of lengths as soon as it is there: in use and in `store`. The
/// result says whether all of it was kept for the next start, too.
pub fn make(
    store: &Store,
    backend: &dyn Backend,
    (tokenizer, vocabulary): (&Tokenizer, usize),
    budget: Budget,
    preparation: &Preparation,
) -> Result<Result<(), LoadError>, EngineError> {
    let started = Instant::now();
    tracing::info!(
        bound = budget.error,
        "preparing fast padding, once for this model, shortest texts first: longer texts are computed exactly meanwhile"
    );
    let mut report = Report::new();
    let probes = Probes::new(tokenizer, vocabulary);
    let mut kept = Ok(());
    let before = backend.far_fields();
    let fields = prepare(backend, &probes, budget, before, &mut |progress, fields| {
        let (elapsed, left) = (started.elapsed().as_secs_f64(), progress.total - progress.done);
        let seconds_left = Some(elapsed / progress.done.max(1) as f64 * left as f64);
        let progress = Progress { seconds_left, ..progress };
        preparation.set(Some(progress));
        report.show(progress);
        if let Some(fields) = fields {
            backend.set_far_fields(Arc::clone(fields));
            report.served(fields);
            kept = store.write(fields);
        }
    })?;
    // What was written is mapped, and takes no memory of its own.
    if let (Ok(()), Ok(mapped)) = (&kept, store.read()) {
        backend.set_far_fields(Arc::new(mapped));
    }
    report.bar.finish_and_clear();
    let seconds = started.elapsed().as_secs();
    let (longest, megabytes) = (fields.longest_fast(), fields.bytes() / 1_000_000);
    tracing::info!(seconds, longest, megabytes, "fast padding is ready");
    Ok(kept)
}

/// What fast padding may cost.
pub fn budget(compute: &ComputeArgs) -> Budget {
    Budget { error: compute.fast.padding_error, bytes: compute.fast.padding_memory.saturating_mul(1_000_000) }
}

/// Shows the progress: as a bar on a terminal, else in the log.
struct Report {
    bar: ProgressBar,
    logged: Option<Instant>,
}

impl Report {
    /// Between two lines in the log, but for those that say what is new.
    const INTERVAL: Duration = Duration::from_secs(30);

    fn new() -> Self {
        let bar = if std::io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
        let style =
            ProgressStyle::with_template("preparing fast padding {bar:40} {pos}/{len}, {eta} left, {msg}");
        Self { bar: bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())), logged: None }
    }

    fn show(&mut self, Progress { done, total, seconds_left, .. }: Progress) {
        self.bar.set_length(total as u64);
        self.bar.set_position(done as u64);
        // The first pass says how long it will take.
        if self.bar.is_hidden() && self.logged.is_none_or(|logged| logged.elapsed() >= Self::INTERVAL) {
            self.logged = Some(Instant::now());
            let seconds_left = seconds_left.map(f64::round);
            tracing::info!(done, total, seconds_left, "preparing fast padding");
        }
    }

    /// Says what is served by now.
    fn served(&mut self, fields: &FarFields) {
        let longest = fields.longest_fast();
        let message = match fields.bins().last() {
            Some(bin) => format!(
                "fast up to {longest} tokens (so far at most {:.1e} off, {} recorded, {} rows)",
                bin.errors[0], bin.probes, bin.sketch
            ),
            None => "none is fast yet".to_owned(),
        };
        if self.bar.is_hidden() {
            tracing::info!("{message}");
        }
        self.bar.set_message(message);
    }
}
