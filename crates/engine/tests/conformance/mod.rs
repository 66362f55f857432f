//! What every backend has to fulfil, whatever device it computes on: each function here is a test of one property, for a device's
//! own test binary to call (`conformance_cpu.rs` shows how).
#![allow(dead_code)] // each test binary uses its part

use std::ops::{ControlFlow, RangeInclusive};
use std::sync::Arc;

use danaus_engine::padding::{distance, equal_pairs};
use danaus_engine::{Backend, EngineError, Padding, Pooling, Text, finish};
use danaus_model::{LoadedModel, ModelConfig, synthetic};

use crate::common::{
    self, Embeddings, bits, embed, golden_ids, prepared, read, small_config, smooth_model, tiny_model,
};

/// A device under test.
pub struct Suite {
    /// Puts a model on it.
    pub make: fn(&LoadedModel) -> Arc<dyn Backend>,
    /// How far its vectors may be from the true ones.
    pub tolerance: Tolerance,
}

/// Largest `1 - cosine`.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    /// Of texts without padding.
    pub plain: f64,
    /// Of padded texts: the rounding errors of padding, which is one token over and over, agree with each other.
    pub padded: f64,
}

impl Tolerance {
    /// Products in float32.
    pub const F32: Self = Self { plain: 1e-6, padded: 1e-6 };
    /// Products in bfloat16 or float16, with sums in float32.
    pub const SMALLER: Self = Self { plain: 1e-4, padded: 2e-4 };
}

/// Lengths on both sides of where anything changes: tiles, direct convolutions, powers of two.
const LENGTHS: [usize; 18] = [1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257];

impl Suite {
    fn backend(&self, model: &LoadedModel) -> Arc<dyn Backend> {
        (self.make)(model)
    }

    /// The tiny fixtures, whose vectors are the published implementation's, with every pooling and padding.
    pub fn tiny_fixtures(&self) {
        for name in ["tiny-64", "tiny-96", "tiny-2-blocks"] {
            let backend = self.backend(&tiny_model(name, "model.safetensors"));
            let golden: Embeddings = read(&format!("{name}/embeddings.json"));
            let mut worst = Worst::new(format!("{name}, {}", describe(&*backend)), self.tolerance.plain);
            for case in golden.cases {
                let got = embed(&*backend, &case.ids(), case.pooling(), case.padding());
                let what = format!("{} tokens, {}, {}", case.tokens(), case.pooling, case.padding());
                worst.note(what, distance(&got, &case.embedding));
            }
            worst.check();
        }
    }

    /// Cases of a fixture of the 80M shape, whose length in the encoder is in `range`.
    pub fn golden_80m(
        &self,
        fixture: &str,
        max_tokens: usize,
        padding: Padding,
        range: RangeInclusive<usize>,
    ) {
        let model = synthetic(&ModelConfig::m2_bert_80m(max_tokens), 1);
        let backend = self.backend(&model);
        drop(model);
        let tolerance = if padding == Padding::None { self.tolerance.plain } else { self.tolerance.padded };
        let mut worst = Worst::new(format!("{fixture}, {padding}, {}", describe(&*backend)), tolerance);
        let golden: Embeddings = read(&format!("{fixture}/embeddings.json"));
        for case in golden.cases {
            let length = case.pad_to.unwrap_or(case.tokens());
            if case.padding() == padding && range.contains(&length) {
                let got = embed(&*backend, &case.ids(), case.pooling(), padding);
                let what = format!("{} tokens, {}", case.tokens(), case.pooling);
                worst.note(what, distance(&got, &case.embedding));
            }
        }
        worst.check();
    }

    /// Models of other shapes than the published one, against the CPU in float32, that every device takes: two blocks and four, no
    /// positions, another padding token.
    pub fn other_shapes(&self) {
        let no_positions = ModelConfig { use_positional_encodings: false, pad_token_id: 5, ..small_config() };
        for config in [shape(96, 384, 2), shape(160, 320, 4), shape(64, 64, 8), no_positions] {
            self.agrees_with_the_cpu_in(config);
        }
    }

    /// Widths that are no multiple of a tile's, and a single block. Not every GPU's kernels take them; such models are refused there.
    pub fn odd_shapes(&self) {
        for config in [shape(20, 40, 4), shape(50, 70, 1), shape(100, 100, 4)] {
            self.agrees_with_the_cpu_in(config);
        }
    }

    fn agrees_with_the_cpu_in(&self, config: ModelConfig) {
        let what = format!("width {}, {} blocks", config.hidden_size, config.monarch_mlp_nblocks);
        self.agrees_with_the_cpu(&what, &synthetic(&config, 9), &[1, 7, 32, 33, 100, 129, 300]);
    }

    /// Longer texts than fit one transform in a GPU's workgroup memory, with filters kept and not.
    pub fn long_texts(&self) {
        let config = ModelConfig {
            hidden_size: 32,
            intermediate_size: 64,
            long_conv_l_max: 9000,
            max_position_embeddings: 9000,
            ..small_config()
        };
        let lengths = [512, 1000, 1024, 1025, 1537, 2048, 2049, 3000, 4096, 4097, 6145, 8192, 8193, 9000];
        self.agrees_with_the_cpu("long texts", &synthetic(&config, 6), &lengths);
    }

    /// All poolings of texts of these lengths, padded and not.
    fn agrees_with_the_cpu(&self, what: &str, model: &LoadedModel, lengths: &[usize]) {
        let (backend, oracle) = (self.backend(model), common::backend(model));
        let name = |padding| format!("{what}, {padding}, {}", describe(&*backend));
        let mut plain = Worst::new(name(Padding::None), self.tolerance.plain);
        let mut padded = Worst::new(name(Padding::MaxLength), self.tolerance.padded);
        for &tokens in lengths {
            let ids = golden_ids(tokens);
            for pooling in Pooling::ALL {
                let vector = |backend: &dyn Backend, padding| embed(backend, &ids, pooling, padding);
                let distance = |padding| distance(&vector(&*backend, padding), &vector(&oracle, padding));
                plain.note(format!("{tokens} tokens, {pooling}"), distance(Padding::None));
                // Padding costs the model's length whatever the text's: a few of them will do.
                if tokens < 40 || tokens == lengths[lengths.len() - 1] {
                    padded.note(format!("{tokens} tokens, {pooling}"), distance(Padding::MaxLength));
                }
            }
        }
        plain.check();
        padded.check();
    }

    /// Fast padding, with far fields, with sketches and exact, against the same on the CPU in float32.
    pub fn fast_padding(&self) {
        let model = smooth_model();
        // Nearly all texts have a far field alone, then a sketch as well.
        for bound in [2e-2, 1e-3] {
            let (backend, oracle) = (self.backend(&model), common::backend(&model));
            let far_fields = prepared(&oracle, bound);
            backend.set_far_fields(Arc::clone(&far_fields));
            oracle.set_far_fields(Arc::clone(&far_fields));
            let what = format!("fast padding to {bound:e}, {}", describe(&*backend));
            let mut worst = Worst::new(what, self.tolerance.padded);
            let mut fast = 0;
            for tokens in [3, 9, 22, 33, 50, 64, 77, 100, 128, 137, 200, 300] {
                let ids = golden_ids(tokens);
                for pooling in Pooling::ALL {
                    fast += usize::from(far_fields.window(tokens, equal_pairs(&ids), pooling).is_some());
                    let window = backend.window(&ids, pooling, Padding::Fast);
                    // A GPU that is faster at all of the padding than the CPU at a sketch of it computes all of it.
                    let got = embed(&*backend, &ids, pooling, Padding::Fast);
                    let expected = embed(&oracle, &ids, pooling, window.padding);
                    worst.note(format!("{tokens} tokens, {pooling}"), distance(&got, &expected));
                }
            }
            assert!(fast > 5, "only {fast} texts are fast within {bound:e}");
            worst.check();
        }
    }

    /// A text's bits are the same alone and in any company, in any order, at once and step by step, the first time and later.
    pub fn same_bits_in_any_batch(&self) {
        let model = smooth_model();
        let backend = self.backend(&model);
        backend.set_far_fields(prepared(&common::backend(&model), 1e-3));
        let all: Vec<_> = LENGTHS.into_iter().chain([300, 299]).map(golden_ids).collect();
        let paddings = [Padding::None, Padding::Fast, Padding::None, Padding::MaxLength, Padding::None];
        let mut texts: Vec<_> = all
            .iter()
            .zip(paddings.into_iter().cycle())
            .zip(Pooling::ALL.into_iter().cycle())
            .map(|((ids, padding), pooling)| backend.text(ids, pooling, padding))
            .collect();
        let alone: Vec<_> = texts.iter().map(|text| one(&*backend, text.clone())).collect();
        let together = |texts: &[Text<'_>]| -> Vec<_> {
            backend.embed(texts).unwrap().iter().map(|vector| bits(vector)).collect()
        };
        assert_eq!(together(&texts), alone, "in one batch");
        for size in [2, 3, 7] {
            let parts: Vec<_> = texts.chunks(size).flat_map(together).collect();
            assert_eq!(parts, alone, "in batches of {size}");
        }
        let stepwise = backend.embed_stepwise(&texts, &mut || ControlFlow::Continue(())).unwrap();
        assert_eq!(stepwise.iter().map(|vector| bits(vector)).collect::<Vec<_>>(), alone, "step by step");
        texts.reverse();
        let mut reversed = together(&texts);
        reversed.reverse();
        assert_eq!(reversed, alone, "in another order");
        let same = vec![texts[0].clone(); 20];
        assert!(together(&same).iter().all(|vector| vector == alone.last().unwrap()), "twenty times");
    }

    /// The same for texts of a batch that no pass takes whole.
    pub fn same_bits_in_a_large_batch(&self) {
        let backend = self.backend(&synthetic(&small_config(), 5));
        let all: Vec<_> = (0..200).map(|text| golden_ids(1 + (text * 37) % 300)).collect();
        let text = |ids| backend.text(ids, Pooling::Mean, Padding::None);
        let texts: Vec<_> = all.iter().map(|ids| text(ids)).collect();
        let vectors = backend.embed(&texts).unwrap();
        for (text, vector) in texts.iter().zip(vectors).step_by(7) {
            assert_eq!(bits(&vector), one(&*backend, text.clone()), "{} tokens", text.ids.len());
        }
    }

    /// Other texts are embedded between two steps of a long one, and one that is stopped leaves nothing behind.
    pub fn turns_between_steps(&self) {
        let backend = self.backend(&synthetic(&small_config(), 5));
        let (long, short) = (golden_ids(290), golden_ids(40));
        let text = |ids| backend.text(ids, Pooling::Model, Padding::None);
        let expected = [&long, &short].map(|ids| one(&*backend, text(ids)));
        let mut turns = 0;
        let vectors = backend.embed_stepwise(&[text(&long)], &mut || {
            turns += 1;
            assert_eq!(one(&*backend, text(&short)), expected[1]);
            ControlFlow::Continue(())
        });
        assert_eq!(bits(&vectors.unwrap()[0]), expected[0]);
        // Where a GPU's answer is checked on the CPU, there are more.
        assert!(turns >= backend.info().steps, "{turns} turns");
        for stop_at in 1..=backend.info().steps {
            let mut turns = 0;
            let stopped = backend.embed_stepwise(&[text(&long)], &mut || {
                turns += 1;
                if turns == stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            assert_eq!((stopped, turns), (Err(EngineError::Stopped), stop_at));
            assert_eq!(one(&*backend, text(&short)), expected[1]);
        }
        assert_eq!(one(&*backend, text(&long)), expected[0]);
    }

    /// Calls from several threads.
    pub fn concurrent_calls(&self) {
        let backend = self.backend(&synthetic(&small_config(), 5));
        let all: Vec<_> = (20..60).map(golden_ids).collect();
        let text = |ids| backend.text(ids, Pooling::Mean, Padding::None);
        let expected: Vec<_> = all.iter().map(|ids| one(&*backend, text(ids))).collect();
        std::thread::scope(|scope| {
            for part in 0..4 {
                let (backend, all, expected) = (&backend, &all, &expected);
                scope.spawn(move || {
                    for index in (part..all.len()).step_by(4) {
                        assert_eq!(one(&**backend, text(&all[index])), expected[index], "thread {part}");
                    }
                });
            }
        });
    }

    /// Texts that cannot be embedded are refused, with their place.
    pub fn refusals(&self) {
        let backend = self.backend(&synthetic(&small_config(), 5));
        let long = vec![1; 301];
        for (ids, error) in [
            (&[][..], EngineError::EmptyText { index: 1 }),
            (&long, EngineError::TextTooLong { index: 1, tokens: 301, max_tokens: 300 }),
            (&[5, 30_528], EngineError::UnknownToken { index: 1, id: 30_528, vocabulary: 30_528 }),
        ] {
            let batch = [&[101, 102][..], ids].map(|ids| backend.text(ids, Pooling::Mean, Padding::None));
            assert_eq!(backend.embed(&batch), Err(error.clone()));
            let stepwise = backend.embed_stepwise(&batch, &mut || unreachable!("nothing is computed"));
            assert_eq!(stepwise, Err(error));
        }
        assert!(backend.embed(&[]).unwrap().is_empty());
        assert_eq!((backend.dimension(), backend.max_tokens()), (64, 300));
    }
}

/// A small model of that width, inner width and number of blocks.
fn shape(hidden_size: usize, intermediate_size: usize, monarch_mlp_nblocks: usize) -> ModelConfig {
    ModelConfig { hidden_size, intermediate_size, monarch_mlp_nblocks, ..small_config() }
}

/// A text's bits, alone.
fn one(backend: &dyn Backend, text: Text<'_>) -> Vec<u32> {
    let vector = backend.embed(&[text]).unwrap().remove(0);
    assert!(finish(vector.clone(), None, true).is_ok(), "finite");
    bits(&vector)
}

/// Who computes; a GPU that was given up meanwhile would not be what is tested.
fn describe(backend: &dyn Backend) -> String {
    assert_eq!(backend.demoted(), None);
    let info = backend.info();
    let gpu = info.accelerator.as_ref().map_or("CPU", |gpu| &gpu.name);
    format!("{} on {gpu}", info.dtype)
}

/// The worst of several distances, to print and to bound.
struct Worst {
    of: String,
    bound: f64,
    count: usize,
    worst: (f64, String),
}

impl Worst {
    fn new(of: String, bound: f64) -> Self {
        Self { of, bound, count: 0, worst: (-1.0, String::new()) }
    }

    fn note(&mut self, what: String, distance: f64) {
        self.count += 1;
        if distance > self.worst.0 || distance.is_nan() {
            self.worst = (distance, what);
        }
    }

    #[track_caller]
    fn check(self) {
        let Self { of, bound, count, worst: (distance, what) } = self;
        println!("{of}: 1 - cosine at most {distance:.1e} of {count} vectors ({what})");
        assert!(count > 0, "{of}: nothing was compared");
        assert!(distance <= bound, "{of}: {what} is {distance:e} off, over {bound:e}");
    }
}
