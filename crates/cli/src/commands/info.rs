//! `danaus info`

use std::path::PathBuf;

use danaus_engine::padding::Bin;
use danaus_engine::{Backend, Isa, Padding};
use danaus_model::{HubError, HubOptions, LoadError, LoadOptions, LoadedModel, ModelSource};
use serde::Serialize;

use crate::args::InfoArgs;
use crate::{padding, setup, stdout};

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
    #[serde(skip_serializing_if = "Option::is_none")]
    accelerator: Option<Accelerator>,
    padding: String,
    /// What fast padding computes; where it is not prepared, what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    fast_padding: Option<FastPadding>,
}

/// The GPU.
#[derive(Serialize)]
struct Accelerator {
    name: String,
    driver: String,
    memory_bytes: Option<u64>,
    /// Texts of fewer rows are computed on the CPU.
    crossover: usize,
    cpu_dtype: &'static str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum FastPadding {
    Prepared { bound: f64, megabytes: f64, ranges: Vec<Bin> },
    Unprepared(String),
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

fn describe(args: &InfoArgs, model: &LoadedModel, backend: &dyn Backend) -> Loaded {
    let (info, padding) = (backend.info(), setup::padding(&args.compute, model));
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
        accelerator: info.accelerator.clone().map(|gpu| Accelerator {
            name: gpu.name,
            driver: gpu.driver,
            memory_bytes: gpu.memory_bytes,
            crossover: gpu.crossover,
            cpu_dtype: gpu.cpu_dtype,
        }),
        padding: padding.to_string(),
        fast_padding: (padding == Padding::Fast).then(|| fast_padding(args, model, backend)),
    }
}

fn fast_padding(args: &InfoArgs, model: &LoadedModel, backend: &dyn Backend) -> FastPadding {
    match padding::store(&args.compute, &args.model.load_options(), model, backend).read() {
        Ok(far_fields) => FastPadding::Prepared {
            bound: far_fields.bound(),
            megabytes: far_fields.bytes() as f64 / 1e6,
            ranges: far_fields.bins().cloned().collect(),
        },
        Err(reason) => FastPadding::Unprepared(format!("not prepared (danaus prepare): {reason}")),
    }
}
