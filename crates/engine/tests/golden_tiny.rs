//! Tiny models, end to end and stage by stage, on every instruction set of this machine.

mod common;

use common::{Embeddings, Stages, backend, backends, bits, embed, largest_error, read, tiny_model};
use danaus_engine::{Observer, Padding, Pooling};
use danaus_model::LoadedModel;

/// Largest difference from the golden values that float32 may have.
const TOLERANCE: f64 = 2e-6;

/// The three fixtures, from both of their files.
fn models() -> Vec<(String, LoadedModel)> {
    let names = ["tiny-64", "tiny-96", "tiny-2-blocks"];
    names
        .iter()
        .flat_map(|name| {
            ["model.safetensors", "pytorch_model.bin"]
                .map(|file| ((*name).to_owned(), tiny_model(name, file)))
        })
        .collect()
}

#[test]
fn embeddings_agree_for_every_pooling_and_padding() {
    for (name, model) in models() {
        let golden: Embeddings = read(&format!("{name}/embeddings.json"));
        for padding in [Padding::None, Padding::MaxLength] {
            for backend in backends(&model) {
                let cases: Vec<_> = golden.cases.iter().filter(|case| case.padding() == padding).collect();
                assert!(!cases.is_empty());
                for case in cases {
                    let error = largest_error(
                        &embed(&backend, &case.ids(), case.pooling(), padding),
                        &case.embedding,
                    );
                    let what = format!("{name}, {} tokens, {}, {padding}", case.tokens(), case.pooling);
                    assert!(error <= TOLERANCE, "{what}: {error:e} off");
                }
            }
        }
    }
}

/// Collects every stage's values.
#[derive(Default)]
struct Recorder(Vec<(&'static str, Vec<f32>)>);

impl Observer for Recorder {
    fn stage(&mut self, name: &'static str, values: &[f32]) {
        self.0.push((name, values.to_vec()));
    }
}

#[test]
fn every_stage_agrees() {
    for (name, model) in models() {
        let golden: Stages = read(&format!("{name}/stages.json"));
        for backend in backends(&model) {
            let mut recorder = Recorder::default();
            let hidden = backend.hidden_states(&golden.ids, &mut recorder).unwrap();
            assert_eq!(recorder.0.len(), golden.stages.len());
            for (index, (stage, (got_name, got))) in golden.stages.iter().zip(&recorder.0).enumerate() {
                assert_eq!(&stage.stage, got_name);
                let error = largest_error(got, &stage.values);
                assert!(
                    error <= TOLERANCE,
                    "{name}: the first stage that differs is {index}, {got_name}: {error:e} off"
                );
            }
            assert!(largest_error(&hidden, &golden.last_hidden_state) <= TOLERANCE);
        }
    }
}

#[test]
fn both_files_of_a_model_give_the_same_bits() {
    for pair in models().chunks_exact(2) {
        let [safetensors, torch] = [&pair[0].1, &pair[1].1].map(|model| {
            bits(&embed(&backend(model), &[3, 1, 4, 1, 5, 9, 2, 6], Pooling::Model, Padding::None))
        });
        assert_eq!(safetensors, torch, "{}", pair[0].0);
    }
}
