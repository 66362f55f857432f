//! Synthetic weights: any shape, a pure function of a seed, with realistic ranges. Their vectors carry no meaning.
//!
//! Value `i` of a tensor is splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014)
//! in counter mode: the mixed state `start + (i + 1) * golden`, where `start` is the FNV-1a hash of the tensor's name,
//! xor `seed * golden`. Its top 24 bits make a float32 in [-1, 1), exactly. So every tensor can be made alone, in any
//! order and in parallel, with the same bits everywhere.
//!
//! A normal value is the sum of 12 such values, divided by 2: the sum is exact, so that no platform's logarithm or cosine
//! decides the bits. It never leaves [-6, 6].

use std::cell::OnceCell;
use std::convert::Infallible;

use rayon::prelude::*;

use crate::architecture::{Source, assemble};
use crate::config::ModelConfig;
use crate::families::{REFERENCE_LENGTH, SyntheticFilters};
use crate::tensor::Tensor;
use crate::weights::Weights;

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// Natural logarithm of 0.01, to which the exponential windows of the long filters decay.
const LN_TARGET: f64 = -4.605_170_185_988_091;

/// `count` values in [-1, 1), a pure function of tensor name, seed and index.
pub fn uniform(name: &str, seed: u64, count: usize) -> Vec<f32> {
    scaled(name, seed, count, 1.0)
}

/// `count` values of a standard normal distribution (nearly: see the module), a pure function of tensor name, seed and index.
/// They are made of the same draws as [`uniform`]'s, so one name should be asked for one of the two.
pub fn normal(name: &str, seed: u64, count: usize) -> Vec<f32> {
    scaled_normal(name, seed, count, 1.0)
}

/// [`uniform`] times `scale`.
fn scaled(name: &str, seed: u64, count: usize, scale: f32) -> Vec<f32> {
    drawn(name, seed, count, |[top]| (top as f32 * (1.0 / (1 << 23) as f32) - 1.0) * scale)
}

/// [`normal`] times `scale`.
fn scaled_normal(name: &str, seed: u64, count: usize, scale: f64) -> Vec<f32> {
    drawn(name, seed, count, |draws: [u32; 12]| {
        let sum: u32 = draws.iter().sum(); // 12 draws of 24 bits: no overflow, and exact in float64
        ((f64::from(sum) / f64::from(1 << 24) - 6.0) * scale) as f32
    })
}

/// `count` values, value `i` of the draws `N * i` to `N * (i + 1)`, 24 bits each.
fn drawn<const N: usize>(
    name: &str,
    seed: u64,
    count: usize,
    value_of: impl Fn([u32; N]) -> f32 + Sync,
) -> Vec<f32> {
    const BLOCK: usize = 1 << 16;
    let start = fnv1a64(name) ^ seed.wrapping_mul(GOLDEN);
    let mut values = vec![0.0; count];
    values.par_chunks_mut(BLOCK).enumerate().for_each(|(block, values)| {
        let mut state = start.wrapping_add(GOLDEN.wrapping_mul((block * BLOCK * N) as u64));
        for value in values {
            *value = value_of(std::array::from_fn(|_| {
                state = state.wrapping_add(GOLDEN);
                (splitmix64(state) >> 40) as u32
            }));
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
    /// The position table: uniform in plus or minus `scale`, unless the family of filters has its own.
    Positions { scale: f64 },
    /// Weights of a filter's MLP: uniform in plus or minus `scale`, unless the family of filters has its own.
    FilterWeight { part: FilterPart, scale: f64 },
    /// Positional features, as if trained a little.
    Features,
    /// Time in [0, 1].
    Time,
    /// Decay rates.
    Decay,
}

/// A linear layer of a filter's MLP.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum FilterPart {
    /// `0`, which reads the positional features.
    First,
    /// `2` and `4`.
    Inner,
    /// `6`, which makes the taps.
    Last,
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
    filters: SyntheticFilters,
    /// Untrained positional features, the same for every filter.
    features: OnceCell<Vec<f32>>,
}

impl<'a> Generator<'a> {
    /// `config` must be valid.
    pub(crate) fn new(config: &'a ModelConfig, seed: u64, filters: SyntheticFilters) -> Self {
        Self { config, seed, filters, features: OnceCell::new() }
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
            Values::Positions { scale } => {
                let scale = self.filters.family.shape().map_or(scale, |shape| shape.positions);
                scaled(name, self.seed, count, scale as f32)
            }
            Values::FilterWeight { part, scale } => self.filter_weight(name, count, part, scale),
            Values::Features => self.trained_features(name, count),
            Values::Time => time(config.long_conv_l_max),
            Values::Decay => decay_rates(config.hidden_size),
        }
    }

    fn filter_weight(&self, name: &str, count: usize, part: FilterPart, scale: f64) -> Vec<f32> {
        let strength = match part {
            FilterPart::First | FilterPart::Inner => 1.0,
            FilterPart::Last => self.filters.strength.get(),
        };
        let Some(shape) = self.filters.family.shape() else {
            return scaled(name, self.seed, count, (scale * strength) as f32);
        };
        let deviation = match part {
            FilterPart::First => 3.0 * shape.weight,
            FilterPart::Inner => shape.weight,
            FilterPart::Last => shape.last * REFERENCE_LENGTH / self.config.long_conv_l_max as f64,
        };
        scaled_normal(name, self.seed, count, deviation * strength)
    }

    fn trained_features(&self, name: &str, count: usize) -> Vec<f32> {
        let config = self.config;
        let untrained =
            self.features.get_or_init(|| positional_features(config.long_conv_l_max, config.hyena_emb_dim));
        let mut data = match self.filters.family.shape() {
            Some(shape) => scaled_normal(name, self.seed, count, shape.noise),
            None => scaled(name, self.seed, count, 0.01),
        };
        data.iter_mut().zip(untrained).for_each(|(x, feature)| *x += feature);
        data
    }
}

impl Source for Generator<'_> {
    type Error = Infallible;

    fn tensor(&mut self, name: &str, shape: &[usize], values: Values) -> Result<Tensor, Infallible> {
        Ok(Tensor::from_vec(shape, self.values(name, shape.iter().product(), values)))
    }
}

/// Weights of any shape: a pure function of configuration, seed and filters. `config` must be valid.
pub(crate) fn weights(config: &ModelConfig, seed: u64, filters: SyntheticFilters) -> Weights {
    let Ok(weights) = assemble(config, &mut Generator::new(config, seed, filters));
    weights
}
