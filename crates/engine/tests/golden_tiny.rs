//! Tiny models, end to end and stage by stage, on every instruction set of this machine.

mod common;

use common::{Embeddings, Stages, backends, embed, largest_error, read};
use danaus_engine::{Observer, Padding};
use danaus_model::{ConfigFile, LoadedModel};

/// Largest difference from the golden values that float32 may have.
const TOLERANCE: f64 = 2e-6;

fn models() -> Vec<(&'static str, LoadedModel)> {
    [("tiny-64", 1), ("tiny-96", 2), ("tiny-2-blocks", 3)]
        .map(|(name, seed)| {
            let json = std::fs::read_to_string(common::fixture(&format!("{name}/config.json"))).unwrap();
            (name, danaus_model::synthetic(&ConfigFile::parse(&json).unwrap().into_config().unwrap(), seed))
        })
        .into()
}

#[test]
fn embeddings_agree_for_every_pooling_and_padding() {
    for (name, model) in models() {
        let golden: Embeddings = read(&format!("{name}/embeddings.json"));
        for padding in [Padding::None, Padding::MaxLength] {
            for backend in backends(&model, padding) {
                let cases: Vec<_> = golden.cases.iter().filter(|case| case.padding() == padding).collect();
                assert!(!cases.is_empty());
                for case in cases {
                    let error = largest_error(&embed(&backend, &case.ids(), case.pooling()), &case.embedding);
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
        for backend in backends(&model, Padding::None) {
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
