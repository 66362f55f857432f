//! What identifies a model's vectors: a hash of all that they are computed from.

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::{FilterMlp, Layer, LayerNorm, Linear, LoadedModel, LongFilter, Tensor, Weights};

impl LoadedModel {
    /// SHA-256 of configuration and weights, in hexadecimal: the same for the same numbers, whatever file they are in. Reads
    /// every weight.
    pub fn digest(&self) -> String {
        let tensors = tensors(&self.weights);
        let of_tensor = |tensor: &&Tensor| {
            let mut hash = Sha256::new();
            hash.update(format!("{:?}", tensor.shape()));
            hash.update(bytemuck::cast_slice::<f32, u8>(&tensor.values()));
            hash.finalize()
        };
        let mut hash = Sha256::new();
        hash.update(format!("{:?}", self.config));
        tensors.par_iter().map(of_tensor).collect::<Vec<_>>().iter().for_each(|part| hash.update(part));
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
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
    use crate::{ModelConfig, synthetic};

    #[test]
    fn one_number_more_or_less_is_another_model() {
        let config = ModelConfig {
            hidden_size: 8,
            intermediate_size: 8,
            num_hidden_layers: 1,
            vocab_size: 16,
            hyena_filter_order: 4,
            ..ModelConfig::m2_bert_80m(8)
        };
        let digest = synthetic(&config, 1).digest();
        assert_eq!(digest.len(), 64);
        assert_eq!(synthetic(&config, 1).digest(), digest);
        assert_ne!(synthetic(&config, 2).digest(), digest);
        assert_ne!(synthetic(&ModelConfig { layer_norm_eps: 1e-5, ..config }, 1).digest(), digest);
    }
}
