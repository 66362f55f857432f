//! From arguments to a loaded model, a backend and a tokenizer.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use danaus_engine::{Backend, BackendOptions, Padding, Pooling, Profile};
use danaus_model::{HubOptions, LoadOptions, LoadedModel, ModelSource, Tokenizer};
use danaus_server::scheduler::{Load, Speed};

use crate::args::{ComputeArgs, ModelArgs};

impl ModelArgs {
    pub fn load_options(&self) -> LoadOptions {
        LoadOptions {
            source: self.model.clone(),
            revision: self.revision.clone(),
            hub: HubOptions::from_env(),
        }
    }
}

impl ComputeArgs {
    /// Where what is prepared for a model and measured of this machine is kept.
    pub fn cache_dir(&self, hub: &HubOptions) -> PathBuf {
        let beside_the_hub = || hub.cache_dir.with_file_name("danaus");
        self.fast.padding_cache.clone().unwrap_or_else(beside_the_hub)
    }

    pub fn backend_options(&self) -> BackendOptions {
        BackendOptions {
            device: self.device,
            dtype: self.dtype,
            threads: self.threads,
            filter_cache_bytes: self.filter_cache.saturating_mul(1 << 20),
            instruction_set: self.isa.map(|isa| isa.name().to_owned()),
            profile: None,
            crossover: self.crossover,
            cache_dir: Some(self.cache_dir(&HubOptions::from_env())),
        }
    }
}

/// Loads a model and makes its backend, saying how long each took.
pub fn load(options: &LoadOptions, compute: &ComputeArgs) -> anyhow::Result<(LoadedModel, Arc<dyn Backend>)> {
    load_profiled(options, compute, None)
}

/// As [`load`], for a backend that counts the time of its stages in `profile`.
pub fn load_profiled(
    options: &LoadOptions,
    compute: &ComputeArgs,
    profile: Option<Arc<Profile>>,
) -> anyhow::Result<(LoadedModel, Arc<dyn Backend>)> {
    compute.backend_options().check()?;
    if let (Some(revision), false) = (&options.revision, matches!(options.source, ModelSource::Hub(_))) {
        tracing::warn!("revision {revision} is ignored: {} is no hub model", options.source);
    }
    if let Some(threads) = compute.threads {
        danaus_model::use_threads(threads).context("the threads to load with cannot be started")?;
    }
    let started = Instant::now();
    tracing::info!(model = %options.source, "loading");
    let model = danaus_model::load(options)
        .with_context(|| format!("the model {} cannot be loaded", options.source))?;
    let loaded = started.elapsed();
    let backend =
        danaus_engine::load_backend(&model, &BackendOptions { profile, ..compute.backend_options() })?;
    if model.synthetic {
        tracing::warn!("the weights of {} are synthetic: its vectors carry no meaning", model.id);
    }
    if model.padded && compute.padding == Some(Padding::None) {
        tracing::warn!(
            "texts are embedded without padding. {}, as this one was. Leave the option out, and run danaus prepare once: \
             then padding is fast",
            crate::padding::OTHER_VECTORS
        );
    }
    let info = backend.info();
    tracing::info!(
        model = model.id,
        revision = model.revision,
        device = info.device,
        instruction_set = info.instruction_set,
        dtype = info.dtype,
        threads = info.threads,
        gpu = info.accelerator.as_ref().map(|gpu| gpu.name.as_str()),
        crossover = info.accelerator.as_ref().map(|gpu| gpu.crossover),
        padding = %padding(compute, &model),
        load_seconds = loaded.as_secs_f64(),
        prepare_seconds = (started.elapsed() - loaded).as_secs_f64(),
        "model ready"
    );
    Ok((model, backend))
}

/// The padding that was asked for, or the one that the model was trained with.
pub fn padding(compute: &ComputeArgs, model: &LoadedModel) -> Padding {
    compute.padding.unwrap_or(if model.padded { Padding::Fast } else { Padding::None })
}

/// Lengths, in tokens, of the texts that [`warm_up`] embeds: those of queries and of passages.
const WARM_UP: [usize; 3] = [16, 64, 192];

/// Tokens that are computed together where nobody waits for the first of them: several batches of the device, and few enough to show
/// progress.
pub fn tokens_together(backend: &dyn Backend) -> usize {
    2 * backend.batch_tokens()
}

/// Embeds a few texts, so that the first request need not wait for filters and buffers to be made. Returns how fast that was
/// once they were.
pub fn warm_up(backend: &dyn Backend) -> anyhow::Result<Speed> {
    let mut speed = Speed::default();
    for length in WARM_UP {
        let ids = vec![0; length.min(backend.max_tokens())];
        let text = [backend.text(&ids, Pooling::Mean, Padding::None)];
        backend.embed(&text)?;
        let started = Instant::now();
        backend.embed(&text)?;
        speed.observe(&Load::from_iter([text[0].window.cost()]), started.elapsed());
    }
    Ok(speed)
}

/// The built-in tokenizer, or the one in `file`, which must not know more tokens than the model.
pub fn tokenizer(file: Option<&Path>, vocabulary: usize) -> anyhow::Result<Tokenizer> {
    let tokenizer = match file {
        Some(file) => Tokenizer::from_file(file)?,
        None => Tokenizer::bert_base_uncased(),
    };
    let largest = tokenizer.max_id();
    if largest as usize >= vocabulary {
        bail!(
            "the tokenizer has token ids up to {largest}, but the model's vocabulary ends at {}: \
             give the model's own tokenizer.json with --tokenizer",
            vocabulary - 1
        );
    }
    Ok(tokenizer)
}
