//! From arguments to a loaded model, a backend and a tokenizer.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use danaus_engine::{Backend, BackendOptions};
use danaus_model::{HubOptions, LoadOptions, LoadedModel, Tokenizer};

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
    pub fn backend_options(&self) -> BackendOptions {
        BackendOptions {
            device: self.device,
            dtype: self.dtype,
            threads: self.threads,
            padding: self.padding,
            filter_cache_bytes: self.filter_cache.saturating_mul(1 << 20),
            ..BackendOptions::default()
        }
    }
}

/// Loads a model and makes its backend, saying how long each took.
pub fn load(options: &LoadOptions, compute: &ComputeArgs) -> anyhow::Result<(LoadedModel, Arc<dyn Backend>)> {
    compute.device.check()?;
    let started = Instant::now();
    tracing::info!(model = %options.source, "loading");
    let model = danaus_model::load(options)
        .with_context(|| format!("the model {} cannot be loaded", options.source))?;
    let loaded = started.elapsed();
    let backend = danaus_engine::load_backend(&model, &compute.backend_options())?;
    if model.synthetic {
        tracing::warn!("the weights of {} are synthetic: its vectors carry no meaning", model.id);
    }
    let info = backend.info();
    tracing::info!(
        model = model.id,
        revision = model.revision,
        device = info.device,
        instruction_set = info.instruction_set,
        dtype = info.dtype,
        threads = info.threads,
        padding = %compute.padding,
        load_seconds = loaded.as_secs_f64(),
        prepare_seconds = (started.elapsed() - loaded).as_secs_f64(),
        "model ready"
    );
    Ok((model, backend))
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
