//! What identifies a model's vectors: a hash of all that they are computed from.

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::{FilterMlp, Layer, LayerNorm, Linear, LoadedModel, LongFilter, ModelConfig, Tensor, Weights};

impl LoadedModel {
    /// SHA-256 of configuration and weights, in hexadecimal: the same for the same numbers, whatever file they are in. Reads
    /// every weight.
    ///
    /// It is the hash of: the number of configuration values, each of these as `name=value` after its length in bytes, the
    /// number of tensors, and the hash of each tensor. A tensor's is that of its number of dimensions, its dimensions, and its
    /// values as float32. Numbers are little-endian; lengths and counts have 64 bits.
    pub fn digest(&self) -> String {
        let fields = fields(&self.config);
        let tensors = tensors(&self.weights);
        let mut hash = Sha256::new();
        put_count(&mut hash, fields.len());
        for (name, value) in fields {
            let field = format!("{name}={value}");
            put_count(&mut hash, field.len());
            hash.update(field);
        }
        put_count(&mut hash, tensors.len());
        let parts: Vec<_> = tensors.par_iter().map(|tensor| hash_of(tensor)).collect();
        parts.iter().for_each(|part| hash.update(part));
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The configuration's values that vectors depend on.
///
/// A new field of [`ModelConfig`] does not compile until it is either listed or named as one that changes no vector.
fn fields(config: &ModelConfig) -> Vec<(&'static str, String)> {
    let ModelConfig {
        // Which ids are taken; no vector of those depends on it.
        vocab_size: _,
        hidden_size,
        num_hidden_layers,
        intermediate_size,
        // Only row 0 of that table is used.
        type_vocab_size: _,
        layer_norm_eps,
        // Counts only as far as it limits `max_tokens`, which is listed.
        max_position_embeddings: _,
        use_positional_encodings,
        long_conv_l_max,
        hyena_emb_dim,
        hyena_filter_order,
        // What training started from: the frequencies themselves are among the weights.
        hyena_w: _,
        hyena_w_mod,
        bidirectional,
        residual_long_conv,
        hyena_training_additions,
        use_glu_mlp,
        use_monarch_mlp,
        monarch_mlp_nblocks,
        pad_token_id,
        use_cls_token,
        pool_all,
        hidden_act,
    } = config;
    vec![
        ("hidden_size", hidden_size.to_string()),
        ("num_hidden_layers", num_hidden_layers.to_string()),
        ("intermediate_size", intermediate_size.to_string()),
        ("layer_norm_eps", bits(*layer_norm_eps)),
        ("max_tokens", config.max_tokens().to_string()),
        ("use_positional_encodings", use_positional_encodings.to_string()),
        ("long_conv_l_max", long_conv_l_max.to_string()),
        ("hyena_emb_dim", hyena_emb_dim.to_string()),
        ("hyena_filter_order", hyena_filter_order.to_string()),
        ("hyena_w_mod", bits(*hyena_w_mod)),
        ("bidirectional", bidirectional.to_string()),
        ("residual_long_conv", residual_long_conv.to_string()),
        ("hyena_training_additions", hyena_training_additions.to_string()),
        ("use_glu_mlp", use_glu_mlp.to_string()),
        ("use_monarch_mlp", use_monarch_mlp.to_string()),
        ("monarch_mlp_nblocks", monarch_mlp_nblocks.to_string()),
        ("pad_token_id", pad_token_id.to_string()),
        ("use_cls_token", use_cls_token.to_string()),
        ("pool_all", pool_all.to_string()),
        ("hidden_act", hidden_act.clone()),
    ]
}

/// A float, exactly.
fn bits(value: f64) -> String {
    format!("{:016x}", value.to_bits())
}

fn put_count(hash: &mut Sha256, count: usize) {
    hash.update((count as u64).to_le_bytes());
}

/// The hash of a tensor's shape and values.
fn hash_of(tensor: &Tensor) -> impl AsRef<[u8]> + use<> {
    let mut hash = Sha256::new();
    put_count(&mut hash, tensor.shape().len());
    tensor.shape().iter().for_each(|&size| put_count(&mut hash, size));
    let values = tensor.values();
    if cfg!(target_endian = "little") {
        hash.update(bytemuck::cast_slice::<f32, u8>(&values));
    } else {
        values.iter().for_each(|value| hash.update(value.to_le_bytes()));
    }
    hash.finalize()
}

/// All tensors, in the order of the structures that hold them.
fn tensors(weights: &Weights) -> Vec<&Tensor> {
    let embeddings = &weights.embeddings;
    let mut tensors = vec![&embeddings.word, &embeddings.token_type];
    tensors.extend(&embeddings.position);
    tensors.extend(norm(&embeddings.layer_norm));
    tensors.extend(linear(&weights.pooler));
    tensors.extend(weights.layers.iter().flat_map(layer));
    tensors
}

fn layer(layer: &Layer) -> Vec<&Tensor> {
    let linears = [&layer.in_linear, &layer.short_filter, &layer.out_linear, &layer.wo];
    let mut tensors: Vec<_> = linears.into_iter().flat_map(linear).collect();
    tensors.push(&layer.gated_layers);
    tensors.extend(norm(&layer.layer_norm));
    tensors.extend([&layer.filter, &layer.residual_filter].into_iter().flat_map(filter));
    tensors
}

fn filter(filter: &LongFilter) -> Vec<&Tensor> {
    let mut tensors = vec![&filter.skip, &filter.features, &filter.time, &filter.deltas];
    tensors.extend([&filter.forward, &filter.reverse].into_iter().flat_map(filter_mlp));
    tensors
}

fn filter_mlp(mlp: &FilterMlp) -> Vec<&Tensor> {
    let sines = mlp.sine_layers.iter().flat_map(|sine| {
        let [weight, bias] = linear(&sine.linear);
        [weight, bias, &sine.frequency]
    });
    sines.chain([&mlp.output]).collect()
}

fn linear(linear: &Linear) -> [&Tensor; 2] {
    [&linear.weight, &linear.bias]
}

fn norm(norm: &LayerNorm) -> [&Tensor; 2] {
    [&norm.weight, &norm.bias]
}

#[cfg(test)]
mod tests {
    use crate::{LoadedModel, ModelConfig, Tensor, synthetic};

    /// Without positional features that are sines, whose last bit may differ between platforms.
    fn config() -> ModelConfig {
        ModelConfig {
            hidden_size: 8,
            intermediate_size: 8,
            num_hidden_layers: 1,
            vocab_size: 16,
            hyena_emb_dim: 1,
            hyena_filter_order: 4,
            ..ModelConfig::m2_bert_80m(8)
        }
    }

    /// The digest of a model whose configuration says something else, with the same weights.
    fn with(change: impl FnOnce(&mut ModelConfig)) -> String {
        let mut model = synthetic(&config(), 1);
        change(&mut model.config);
        model.digest()
    }

    /// Another digest makes every prepared far field of every user useless: it changes only on purpose.
    #[test]
    fn the_digest_of_a_model_stays_what_it_is() {
        assert_eq!(with(|_| ()), "c29cc11f2b73c4d32140c31f56367236ce915cc49ebba7458c08b90d399ac443");
    }

    #[test]
    fn one_number_more_or_less_is_another_model() {
        let digest = with(|_| ());
        assert_ne!(synthetic(&config(), 2).digest(), digest);
        let mut model = synthetic(&config(), 1);
        let word = &mut model.weights.embeddings.word;
        let mut values = word.to_vec();
        values[127] = f32::from_bits(values[127].to_bits() ^ 1);
        *word = Tensor::from_vec(&[16, 8], values.clone());
        assert_ne!(model.digest(), digest, "one bit of a weight");
        values[127] = f32::from_bits(values[127].to_bits() ^ 1);
        model.weights.embeddings.word = Tensor::from_vec(&[8, 16], values);
        assert_ne!(model.digest(), digest, "the same numbers in another shape");
    }

    #[test]
    fn fields_that_change_vectors_change_the_digest() {
        let changed = [
            with(|_| ()),
            with(|config| config.hidden_size += 1),
            with(|config| config.num_hidden_layers += 1),
            with(|config| config.intermediate_size += 1),
            with(|config| config.layer_norm_eps = 1e-5),
            with(|config| config.max_position_embeddings -= 1),
            with(|config| config.use_positional_encodings = false),
            with(|config| config.long_conv_l_max += 1),
            with(|config| config.hyena_emb_dim += 2),
            with(|config| config.hyena_filter_order += 1),
            with(|config| config.hyena_w_mod = f64::from_bits(config.hyena_w_mod.to_bits() + 1)),
            with(|config| config.bidirectional = false),
            with(|config| config.residual_long_conv = false),
            with(|config| config.hyena_training_additions = true),
            with(|config| config.use_glu_mlp = false),
            with(|config| config.use_monarch_mlp = false),
            with(|config| config.monarch_mlp_nblocks += 1),
            with(|config| config.pad_token_id = 1),
            with(|config| config.use_cls_token = true),
            with(|config| config.pool_all = true),
            with(|config| config.hidden_act = "relu".to_owned()),
        ];
        for (index, digest) in changed.iter().enumerate() {
            assert!(!changed[..index].contains(digest), "{index}");
        }
    }

    #[test]
    fn what_changes_no_vector_does_not_change_the_digest() {
        let digest = with(|_| ());
        assert_eq!(with(|config| config.vocab_size += 1), digest);
        assert_eq!(with(|config| config.type_vocab_size += 1), digest);
        assert_eq!(with(|config| config.hyena_w += 1.0), digest);
        assert_eq!(with(|config| config.max_position_embeddings += 1), digest, "no text is longer for it");
        let model = synthetic(&config(), 1);
        let renamed = LoadedModel {
            id: "other".to_owned(),
            revision: Some("commit".to_owned()),
            synthetic: false,
            padded: true,
            ..model
        };
        assert_eq!(renamed.digest(), digest);
    }
}
