//! Sizes: what `config.json` states, and what the tensors' shapes say.

use crate::checkpoint::Checkpoint;
use crate::config::{ConfigFile, ModelConfig};
use crate::error::CheckpointError;

/// Completes a configuration from a checkpoint's shapes. A size that the file does not state is what the tensors say.
///
/// # Errors
/// A stated size that contradicts a tensor, or sizes that cannot be computed with.
pub(crate) fn resolve(file: ConfigFile, checkpoint: &Checkpoint) -> Result<ModelConfig, CheckpointError> {
    let ConfigFile { values: mut config, stated, .. } = file;
    for claim in claims(checkpoint, config.use_positional_encodings) {
        let Some(field) = size_mut(&mut config, claim.key) else { continue };
        if !stated.contains(claim.key) || agrees(claim.key, *field, claim.size) {
            *field = claim.size;
        } else if *field != claim.size {
            let (key, stated, evidence) = (claim.key, *field, claim.evidence);
            return Err(CheckpointError::Contradiction { key, stated, evidence });
        }
    }
    config.validate().map_err(CheckpointError::Config)?;
    Ok(config)
}

/// Whether a table has more rows than stated only because the published code rounds a vocabulary up to a multiple of 8.
fn agrees(key: &str, stated: usize, rows: usize) -> bool {
    key == "vocab_size" && stated.checked_next_multiple_of(8) == Some(rows)
}

/// What a tensor says about one size.
struct Claim {
    key: &'static str,
    size: usize,
    evidence: String,
}

/// All claims of a checkpoint. A tensor of an unexpected number of dimensions makes none: its shape is an error later.
fn claims(checkpoint: &Checkpoint, positions: bool) -> Vec<Claim> {
    let mut claims = Vec::new();
    let mut claim = |key, size: usize, name: &str| {
        let stored = checkpoint.stored_names(name).next().unwrap_or(name);
        let shape = checkpoint.shape(name).unwrap_or_default();
        claims.push(Claim {
            key,
            size,
            evidence: format!("tensor {stored} has shape {shape:?}, which makes it {size}"),
        });
    };
    let table = |name| match checkpoint.shape(name) {
        Some(&[rows, columns]) => Some((rows, columns)),
        _ => None,
    };
    let word = "embeddings.word_embeddings.weight";
    if let Some((rows, columns)) = table(word) {
        claim("vocab_size", rows, word);
        claim("hidden_size", columns, word);
    }
    let position = "embeddings.position_embeddings.weight";
    if let Some((rows, _)) = table(position).filter(|_| positions) {
        claim("max_position_embeddings", rows, position);
    }
    let token_type = "embeddings.token_type_embeddings.weight";
    if let Some((rows, _)) = table(token_type) {
        claim("type_vocab_size", rows, token_type);
    }
    let gated = "encoder.layer.0.mlp.gated_layers.weight";
    if let Some(&[blocks, outputs, _]) = checkpoint.shape(gated) {
        claim("monarch_mlp_nblocks", blocks, gated);
        if let Some(twice) = blocks.checked_mul(outputs).filter(|twice| twice % 2 == 0) {
            claim("intermediate_size", twice / 2, gated);
        }
    }
    let first = "encoder.layer.0.attention.filter_fn.implicit_filter.0.weight";
    if let Some((order, features)) = table(first) {
        claim("hyena_filter_order", order, first);
        claim("hyena_emb_dim", features, first);
    }
    for name in ["pos_emb.z", "pos_emb.t"] {
        let name = format!("encoder.layer.0.attention.filter_fn.{name}");
        if let Some(&[1, length, _]) = checkpoint.shape(&name) {
            claim("long_conv_l_max", length, &name);
        }
    }
    claims.extend(layers(checkpoint));
    claims
}

/// How many layers the names of the tensors count.
fn layers(checkpoint: &Checkpoint) -> Option<Claim> {
    let index = |name: &str| name.strip_prefix("encoder.layer.")?.split('.').next()?.parse::<usize>().ok();
    let last = checkpoint.names().filter_map(index).max()?;
    let size = last.checked_add(1)?;
    let evidence = format!("the tensors encoder.layer.0 to encoder.layer.{last} make it {size}");
    Some(Claim { key: "num_hidden_layers", size, evidence })
}

fn size_mut<'a>(config: &'a mut ModelConfig, key: &str) -> Option<&'a mut usize> {
    config.sizes_mut().into_iter().find(|(name, _)| *name == key).map(|(_, size)| size)
}
