//! How far bfloat16 and 8-bit integers move the vectors: of real English texts, from float32's; of the golden texts, from
//! the published implementation's in float64. On the 80M shape with synthetic weights.

mod common;

use common::{Embeddings, embed, fixture, golden_ids, read};
use danaus_engine::padding::distance;
use danaus_engine::{BackendOptions, CpuBackend, Dtype, Padding, Pooling};
use danaus_model::{LoadedModel, ModelConfig, Tokenizer, synthetic};

/// Largest `1 - cosine` of a vector in float32 from the published implementation's.
const F32_DISTANCE: f64 = 1e-6;
/// Largest `1 - cosine` that bfloat16 may cost.
const BF16_DISTANCE: f64 = 1e-4;
/// Largest `1 - cosine` that 8-bit integers may cost.
const INT8_DISTANCE: f64 = 2e-3;

/// Longest golden text that is computed here; `golden_80m.rs` computes all of them in float32.
const GOLDEN_TOKENS: usize = 512;

/// A backend on the instruction set that `DANAUS_ISA` names, or else the CPU's best.
fn backend(model: &LoadedModel, dtype: Dtype) -> CpuBackend {
    let instruction_set = std::env::var("DANAUS_ISA").ok();
    let options = BackendOptions { dtype, instruction_set, ..BackendOptions::default() };
    CpuBackend::new(model, &options).unwrap()
}

/// Names and token ids of the English texts.
fn english() -> Vec<(String, Vec<u32>)> {
    let file = std::fs::read_to_string(fixture("english/texts.txt")).unwrap();
    let tokenizer = Tokenizer::bert_base_uncased();
    let text = |part: &str| {
        let (name, text) = part.split_once('\n').unwrap();
        (name.to_owned(), tokenizer.encode_ids(text.trim(), usize::MAX).unwrap())
    };
    let file = file.strip_prefix("# ").expect("a name first");
    file.split("\n# ").map(text).collect()
}

/// Distances of several texts, to print and to bound.
#[derive(Default)]
struct Distances(Vec<(f64, String)>);

impl Distances {
    fn push(&mut self, name: String, distance: f64) {
        // A vector with NaN is as far as can be.
        self.0.push((if distance.is_nan() { f64::INFINITY } else { distance }, name));
    }

    #[track_caller]
    fn check(mut self, what: &str, bound: f64) {
        self.0.sort_by(|a, b| a.0.total_cmp(&b.0));
        let median = self.0[self.0.len() / 2].0;
        let (worst, name) = self.0.last().unwrap();
        println!(
            "{what}: 1 - cosine {median:.1e} in the median of {}, at most {worst:.1e} ({name})",
            self.0.len()
        );
        assert!(*worst <= bound, "{what}: {name} is {worst:e} off");
    }
}

#[test]
fn english_texts_keep_their_vectors() {
    let model = synthetic(&ModelConfig::m2_bert_80m(2048), 1);
    let texts = english();
    assert_eq!(texts.len(), 40);
    let vectors = |dtype| {
        let backend = backend(&model, dtype);
        texts.iter().map(|(_, ids)| embed(&backend, ids, Pooling::Mean, Padding::None)).collect::<Vec<_>>()
    };
    let expected = vectors(Dtype::F32);
    for (dtype, bound) in [(Dtype::Bf16, BF16_DISTANCE), (Dtype::Int8, INT8_DISTANCE)] {
        let mut distances = Distances::default();
        for (((name, ids), got), expected) in texts.iter().zip(vectors(dtype)).zip(&expected) {
            distances.push(format!("{name}, {} tokens", ids.len()), distance(&got, expected));
        }
        distances.check(&format!("English texts, {dtype} from f32"), bound);
    }
}

#[test]
fn golden_texts_keep_theirs() {
    let bounds = [(Dtype::F32, F32_DISTANCE), (Dtype::Bf16, BF16_DISTANCE), (Dtype::Int8, INT8_DISTANCE)];
    for (fixture, max_tokens) in [("m2-bert-80m-2k", 2048), ("m2-bert-80m-32k", 32768)] {
        let model = synthetic(&ModelConfig::m2_bert_80m(max_tokens), 1);
        let golden: Embeddings = read(&format!("{fixture}/embeddings.json"));
        let short = |case: &&common::Case| case.pad_to.is_none() && case.tokens() <= GOLDEN_TOKENS;
        let cases: Vec<_> = golden.cases.iter().filter(short).collect();
        for (dtype, bound) in bounds {
            let backend = backend(&model, dtype);
            for pooling in ["mean", "cls", "pooler"] {
                let mut distances = Distances::default();
                for case in cases.iter().filter(|case| case.pooling == pooling) {
                    let got = embed(&backend, &case.ids(), case.pooling(), Padding::None);
                    distances.push(format!("{} tokens", case.tokens()), distance(&got, &case.embedding));
                }
                distances.check(&format!("{fixture}, {dtype} from float64, {pooling}"), bound);
            }
        }
    }
}

/// Long texts, whose filters are made in each pass and in bfloat16, move no further.
#[test]
#[ignore = "takes minutes"]
fn long_texts_keep_theirs() {
    let model = synthetic(&ModelConfig::m2_bert_80m(32_768), 1);
    for tokens in [8192, 32_768] {
        let ids = golden_ids(tokens);
        let vector = |dtype| embed(&backend(&model, dtype), &ids, Pooling::Mean, Padding::None);
        let expected = vector(Dtype::F32);
        for (dtype, bound) in [(Dtype::Bf16, BF16_DISTANCE), (Dtype::Int8, INT8_DISTANCE)] {
            let mut distances = Distances::default();
            distances.push(format!("{tokens} tokens"), distance(&vector(dtype), &expected));
            distances.check(&format!("long text, {dtype} from f32"), bound);
        }
    }
}
