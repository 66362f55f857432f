//! The 80M shape against the published implementation's vectors, computed in float64 with the same synthetic weights.

mod common;

use common::{Embeddings, backend, embed, largest_error, read};
use danaus_engine::Padding;
use danaus_engine::padding::distance;
use danaus_model::{ModelConfig, synthetic};

/// Checks the cases of a fixture whose length in the encoder is in `range`.
fn check(fixture: &str, max_tokens: usize, padding: Padding, range: std::ops::RangeInclusive<usize>) {
    let model = synthetic(&ModelConfig::m2_bert_80m(max_tokens), 1);
    let backend = backend(&model);
    drop(model);
    let golden: Embeddings = read(&format!("{fixture}/embeddings.json"));
    let mut checked = 0;
    for case in golden.cases {
        let length = case.pad_to.unwrap_or(case.tokens());
        if case.padding() != padding || !range.contains(&length) {
            continue;
        }
        let got = embed(&backend, &case.ids(), case.pooling(), padding);
        let (error, distance) = (largest_error(&got, &case.embedding), distance(&got, &case.embedding));
        let name = format!("{fixture}, {} tokens, {}, {padding}", case.tokens(), case.pooling);
        println!("{name}: 1 - cosine {distance:.1e}, largest error {error:.1e}");
        assert!(
            error <= 5e-6 && distance <= 1e-6,
            "{name}: 1 - cosine {distance:e}, largest error {error:e}"
        );
        checked += 1;
    }
    assert!(checked > 0, "no case of {fixture} is in {range:?}");
}

#[test]
fn lengths_to_2048_of_the_32k_model() {
    check("m2-bert-80m-32k", 32768, Padding::None, 1..=2048);
}

#[test]
fn the_2k_model() {
    check("m2-bert-80m-2k", 2048, Padding::None, 1..=2048);
}

#[test]
fn the_2k_model_padded_to_its_length() {
    check("m2-bert-80m-2k", 2048, Padding::MaxLength, 2048..=2048);
}

#[test]
#[ignore = "takes seconds to minutes: run with --ignored"]
fn length_8192_of_the_32k_model() {
    check("m2-bert-80m-32k", 32768, Padding::None, 8192..=8192);
}

#[test]
#[ignore = "takes a minute: run with --ignored"]
fn length_32768() {
    check("m2-bert-80m-32k-padded", 32768, Padding::None, 32768..=32768);
}

#[test]
#[ignore = "takes minutes: run with --ignored"]
fn the_32k_model_padded_to_its_length() {
    check("m2-bert-80m-32k-padded", 32768, Padding::MaxLength, 32768..=32768);
}
