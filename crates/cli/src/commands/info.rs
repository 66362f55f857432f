//! `danaus info`

use std::path::PathBuf;

use danaus_engine::Isa;
use danaus_model::{HubError, HubOptions, LoadError, LoadOptions, ModelSource};
use serde::Serialize;

use crate::args::InfoArgs;
use crate::{setup, stdout};

/// What `danaus info` prints.
#[derive(Serialize)]
struct Info {
    version: &'static str,
    cores: usize,
    /// Instruction sets that this CPU has, the best one first.
    instruction_sets: Vec<&'static str>,
    cache: PathBuf,
    model: String,
    #[serde(flatten)]
    loaded: Option<Loaded>,
    /// Why the model's details are not here.
    #[serde(skip_serializing_if = "Option::is_none")]
    unavailable: Option<String>,
}

#[derive(Serialize)]
struct Loaded {
    revision: Option<String>,
    synthetic: bool,
    dimension: usize,
    max_tokens: usize,
    layers: usize,
    device: &'static str,
    instruction_set: &'static str,
    dtype: &'static str,
    threads: usize,
    padding: String,
}

/// Shows the model where it is at hand; downloads nothing.
pub fn run(args: InfoArgs) -> anyhow::Result<()> {
    let options = args.model.load_options();
    let cache = options.hub.cache_dir.clone();
    let offline = LoadOptions { hub: HubOptions { offline: true, ..options.hub }, ..options };
    let (loaded, unavailable) = match setup::load(&offline, &args.compute) {
        Ok((model, backend)) => (Some(describe(&args, &model, &*backend)), None),
        Err(error) if is_not_cached(&offline.source, &error) => {
            (None, Some("not downloaded yet (danaus download)".to_owned()))
        }
        Err(error) => return Err(error),
    };
    let info = Info {
        version: env!("CARGO_PKG_VERSION"),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        instruction_sets: Isa::available().into_iter().map(Isa::name).collect(),
        cache,
        model: offline.source.to_string(),
        loaded,
        unavailable,
    };
    let json = serde_json::to_value(&info)?;
    if args.json {
        return stdout::print(serde_json::to_string_pretty(&json)?);
    }
    for (name, value) in json.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        let name = name.replace('_', " ");
        match value.as_str() {
            Some(text) => stdout::print(format_args!("{name:<16} {text}"))?,
            None => stdout::print(format_args!("{name:<16} {value}"))?,
        }
    }
    Ok(())
}

fn is_not_cached(source: &ModelSource, error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<LoadError>();
    matches!(source, ModelSource::Hub(_)) && matches!(cause, Some(LoadError::Hub(HubError::Offline { .. })))
}

fn describe(
    args: &InfoArgs,
    model: &danaus_model::LoadedModel,
    backend: &dyn danaus_engine::Backend,
) -> Loaded {
    let info = backend.info();
    Loaded {
        revision: model.revision.clone(),
        synthetic: model.synthetic,
        dimension: backend.dimension(),
        max_tokens: backend.max_tokens(),
        layers: model.config.num_hidden_layers,
        device: info.device,
        instruction_set: info.instruction_set,
        dtype: info.dtype,
        threads: info.threads,
        padding: args.compute.padding.to_string(),
    }
}
