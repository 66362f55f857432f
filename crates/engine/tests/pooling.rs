//! Every pooling, for every way a configuration can define the model's own.

mod common;

use common::{embed, golden_ids, largest_error, small_config};
use danaus_engine::{BackendOptions, CpuBackend, Dtype, Padding, Pooling, finish};
use danaus_model::{LoadedModel, ModelConfig, synthetic};

/// Columns of the hidden states: first token's, and mean over tokens.
fn first_and_mean(hidden: &[f32], width: usize) -> (Vec<f32>, Vec<f32>) {
    let tokens = hidden.len() / width;
    let mean = |c: usize| (0..tokens).map(|t| f64::from(hidden[t * width + c])).sum::<f64>() / tokens as f64;
    (hidden[..width].to_vec(), (0..width).map(|c| mean(c) as f32).collect())
}

/// `tanh(dense(x))`, written out.
fn pooler(model: &LoadedModel, x: &[f32]) -> Vec<f32> {
    let (weight, bias) = (model.weights.pooler.weight.to_vec(), model.weights.pooler.bias.to_vec());
    let output = |(row, bias): (&[f32], &f32)| {
        let dot: f64 = row.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum();
        (dot + f64::from(*bias)).tanh() as f32
    };
    weight.chunks_exact(x.len()).zip(&bias).map(output).collect()
}

#[test]
fn each_pooling_is_what_it_says() {
    let ids = golden_ids(40);
    for (use_cls_token, pool_all, use_positional_encodings) in
        [(false, false, true), (true, false, true), (false, true, false), (true, true, false)]
    {
        // A width that is no multiple of any vector's, and one block.
        let config = ModelConfig {
            hidden_size: 50,
            intermediate_size: 70,
            monarch_mlp_nblocks: 1,
            use_cls_token,
            pool_all,
            use_positional_encodings,
            ..small_config()
        };
        let model = synthetic(&config, 9);
        let backend =
            CpuBackend::new(&model, &BackendOptions { dtype: Dtype::F32, ..BackendOptions::default() })
                .unwrap();
        let (first, mean) = first_and_mean(&backend.hidden_states(&ids, &mut ()).unwrap(), 50);
        let own = match (use_cls_token, pool_all) {
            (true, _) => first.clone(),
            (false, true) => pooler(&model, &mean),
            (false, false) => pooler(&model, &first),
        };
        for (pooling, expected) in [(Pooling::Cls, first), (Pooling::Mean, mean), (Pooling::Model, own)] {
            let error = largest_error(
                &embed(&backend, &ids, pooling, Padding::None),
                &finish(expected, None, true).unwrap(),
            );
            assert!(
                error < 1e-6,
                "{pooling}, use_cls_token {use_cls_token}, pool_all {pool_all}: {error:e} off"
            );
        }
    }
}
