//! Synthetic weights: any shape, a pure function of a seed, with realistic ranges. Their vectors carry no meaning.
//!
//! Value `i` of a tensor is splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014)
//! in counter mode: the mixed state `start + (i + 1) * golden`, where `start` is the FNV-1a hash of the tensor's name,
//! xor `seed * golden`. Its top 24 bits make a float32 in [-1, 1), exactly. So every tensor can be made alone, in any
//! order and in parallel, with the same bits everywhere.

use std::cell::OnceCell;
use std::convert::Infallible;

use rayon::prelude::*;

use crate::architecture::{Source, assemble};
use crate::config::ModelConfig;
use crate::tensor::Tensor;
use crate::weights::Weights;

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// Natural logarithm of 0.01, to which the exponential windows of the long filters decay.
const LN_TARGET: f64 = -4.605_170_185_988_091;

/// `count` values in [-1, 1), a pure function of tensor name, seed and index.
pub fn uniform(name: &str, seed: u64, count: usize) -> Vec<f32> {
    scaled(name, seed, count, 1.0)
}

/// [`uniform`] times `scale`.
fn scaled(name: &str, seed: u64, count: usize, scale: f32) -> Vec<f32> {
    const BLOCK: usize = 1 << 16;
    let start = fnv1a64(name) ^ seed.wrapping_mul(GOLDEN);
    let mut values = vec![0.0; count];
    values.par_chunks_mut(BLOCK).enumerate().for_each(|(block, values)| {
        let mut state = start.wrapping_add(GOLDEN.wrapping_mul((block * BLOCK) as u64));
        for value in values {
            state = state.wrapping_add(GOLDEN);
            let top = (splitmix64(state) >> 40) as f32; // 24 bits: exact in float32
            *value = (top * (1.0 / (1 << 23) as f32) - 1.0) * scale;
        }
    });
    values
}

fn splitmix64(state: u64) -> u64 {
    let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn fnv1a64(text: &str) -> u64 {
    text.bytes()
        .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3))
}

/// What a synthetic tensor's values are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Values {
    /// Uniform in `centre` plus or minus `scale`.
    Uniform { centre: f64, scale: f64 },
    /// Positional features, as if trained a little.
    Features,
    /// Time in [0, 1].
    Time,
    /// Decay rates.
    Decay,
}

/// Initial value of `pos_emb.z`, [length, features] row-major: time in [0, 1], then cosines, then minus sines. Trained:
/// a checkpoint holds its own. `features` must be odd.
pub(crate) fn positional_features(length: usize, features: usize) -> Vec<f32> {
    let bands = (features - 1) / 2;
    let time = linspace(0.0, 1.0, length);
    let frequencies = linspace(1e-4, bands as f64 - 1.0, bands);
    let rows = time.into_iter().enumerate().flat_map(|(row, time)| {
        let angle = std::f64::consts::TAU * row as f64 / length as f64;
        let cosines = frequencies.iter().map(move |f| (angle * f).cos() as f32);
        let sines = frequencies.iter().map(move |f| -(angle * f).sin() as f32);
        std::iter::once(time as f32).chain(cosines).chain(sines)
    });
    rows.collect()
}

/// Value of `pos_emb.t`, `[length]`: time from 0 to 1.
pub(crate) fn time(length: usize) -> Vec<f32> {
    linspace(0.0, 1.0, length).into_iter().map(|t| t as f32).collect()
}

/// Initial value of `modulation.deltas`, `[hidden]`: decay rates from slow to fast.
pub(crate) fn decay_rates(hidden: usize) -> Vec<f32> {
    linspace(LN_TARGET / 1.5, LN_TARGET / 0.3, hidden).into_iter().map(|rate| rate as f32).collect()
}

/// `count` evenly spaced numbers from `start` to `stop`, with NumPy's roundings: index times step, plus start, and the
/// last one exactly `stop`.
fn linspace(start: f64, stop: f64, count: usize) -> Vec<f64> {
    let step = (stop - start) / count.saturating_sub(1).max(1) as f64;
    let mut values: Vec<f64> = (0..count).map(|i| i as f64 * step + start).collect();
    if count > 1 {
        values[count - 1] = stop;
    }
    values
}

/// Makes the tensors of one synthetic model, each when it is asked for.
pub(crate) struct Generator<'a> {
    config: &'a ModelConfig,
    seed: u64,
    /// Untrained positional features, the same for every filter.
    features: OnceCell<Vec<f32>>,
}

impl<'a> Generator<'a> {
    /// `config` must be valid.
    pub(crate) fn new(config: &'a ModelConfig, seed: u64) -> Self {
        Self { config, seed, features: OnceCell::new() }
    }

    /// The `count` values of a tensor.
    pub(crate) fn values(&self, name: &str, count: usize, values: Values) -> Vec<f32> {
        let config = self.config;
        match values {
            Values::Uniform { centre, scale } => {
                let mut data = scaled(name, self.seed, count, scale as f32);
                if centre != 0.0 {
                    data.iter_mut().for_each(|x| *x += centre as f32);
                }
                data
            }
            Values::Features => {
                let untrained = self
                    .features
                    .get_or_init(|| positional_features(config.long_conv_l_max, config.hyena_emb_dim));
                let mut data = scaled(name, self.seed, count, 0.01);
                data.iter_mut().zip(untrained).for_each(|(x, feature)| *x += feature);
                data
            }
            Values::Time => time(config.long_conv_l_max),
            Values::Decay => decay_rates(config.hidden_size),
        }
    }
}

impl Source for Generator<'_> {
    type Error = Infallible;

    fn tensor(&mut self, name: &str, shape: &[usize], values: Values) -> Result<Tensor, Infallible> {
        Ok(Tensor::from_vec(shape, self.values(name, shape.iter().product(), values)))
    }
}

/// Weights of any shape: a pure function of configuration and seed. `config` must be valid.
pub(crate) fn weights(config: &ModelConfig, seed: u64) -> Weights {
    let Ok(weights) = assemble(config, &mut Generator::new(config, seed));
    weights
}
