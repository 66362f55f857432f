//! `danaus synth`

use std::path::Path;

use anyhow::Context;
use danaus_model::{ModelConfig, SyntheticFilters, read_config, write_synthetic};

use crate::args::SynthArgs;
use crate::stdout;

pub fn run(args: SynthArgs) -> anyhow::Result<()> {
    let config = config(&args.config)?;
    let filters = SyntheticFilters { family: args.filters, strength: args.strength };
    write_synthetic(&config, args.seed, filters, &args.out, args.force)?;
    stdout::print(args.out.display())
}

fn config(name: &str) -> anyhow::Result<ModelConfig> {
    let shape = match name {
        "80m-2k" => 2048,
        "80m-8k" => 8192,
        "80m-32k" => 32_768,
        file => {
            let path = Path::new(file);
            return read_config(path)
                .and_then(|config| {
                    let path = path.to_owned();
                    config.into_config().map_err(|error| danaus_model::LoadError::Config { path, error })
                })
                .context("--config is neither 80m-2k, 80m-8k, 80m-32k nor a config.json that can be used");
        }
    };
    Ok(ModelConfig::m2_bert_80m(shape))
}
