//! The one list of an M2-BERT checkpoint's tensors: names, shapes, and the ranges of their synthetic values.

use crate::config::ModelConfig;
use crate::synthetic::{FilterPart, Values};
use crate::tensor::Tensor;
use crate::weights::{Embeddings, FilterMlp, Layer, LayerNorm, Linear, LongFilter, SineLayer, Weights};

/// Where tensors come from: a checkpoint, or a generator.
pub(crate) trait Source {
    type Error;

    /// The tensor of that name and shape. `values` says what it holds in a synthetic model.
    fn tensor(&mut self, name: &str, shape: &[usize], values: Values) -> Result<Tensor, Self::Error>;

    /// The sine frequencies of a filter under their [`FREQUENCY_NAMES`], which follow `filter`: one tensor under the
    /// first of the names, shared by all.
    fn frequencies(
        &mut self,
        filter: &str,
        shape: &[usize],
        values: Values,
    ) -> Result<[Tensor; 6], Self::Error> {
        let shared = self.tensor(&format!("{filter}{}", FREQUENCY_NAMES[0]), shape, values)?;
        Ok(std::array::from_fn(|_| shared.clone()))
    }
}

/// The names of a filter's one frequency vector, in order of preference: three sines of two MLPs.
pub(crate) const FREQUENCY_NAMES: [&str; 6] = [
    "implicit_filter.1.freq",
    "implicit_filter.3.freq",
    "implicit_filter.5.freq",
    "implicit_filter_rev.1.freq",
    "implicit_filter_rev.3.freq",
    "implicit_filter_rev.5.freq",
];

/// Asks `source` for every tensor of a model. `config` must be valid.
pub(crate) fn assemble<S: Source>(config: &ModelConfig, source: &mut S) -> Result<Weights, S::Error> {
    let h = config.hidden_size;
    let embeddings = embeddings(config, source)?;
    let layers = (0..config.num_hidden_layers)
        .map(|layer| self::layer(config, source, layer))
        .collect::<Result<_, _>>()?;
    let pooler = linear(source, "pooler.dense", &[h, h], unit(h), 0.1)?;
    Ok(Weights { embeddings, layers, pooler })
}

fn embeddings<S: Source>(config: &ModelConfig, source: &mut S) -> Result<Embeddings, S::Error> {
    let h = config.hidden_size;
    let mut table = |name: &str, rows: usize, values: Values| {
        source.tensor(&format!("embeddings.{name}_embeddings.weight"), &[rows, h], values)
    };
    let word = table("word", config.vocab_size, around(0.0, 1.0))?;
    let position = match config.use_positional_encodings {
        true => Some(table("position", config.max_position_embeddings, Values::Positions { scale: 0.25 })?),
        false => None,
    };
    let token_type = table("token_type", config.type_vocab_size, around(0.0, 0.25))?;
    Ok(Embeddings { word, position, token_type, layer_norm: layer_norm(source, "embeddings.LayerNorm", h)? })
}

fn layer<S: Source>(config: &ModelConfig, source: &mut S, index: usize) -> Result<Layer, S::Error> {
    let (h, i, n) = (config.hidden_size, config.intermediate_size, config.monarch_mlp_nblocks);
    let mixer = format!("encoder.layer.{index}.attention.");
    let mlp = format!("encoder.layer.{index}.mlp.");
    let gated_layers = format!("{mlp}gated_layers.weight");
    Ok(Layer {
        in_linear: linear(source, &format!("{mixer}in_linear"), &[3 * h, h], 0.5 * unit(h), 0.1)?,
        short_filter: linear(source, &format!("{mixer}short_filter"), &[3 * h, 1, 3], unit(3), 0.1)?,
        filter: long_filter(config, source, &format!("{mixer}filter_fn."), 0.0)?,
        residual_filter: long_filter(config, source, &format!("{mixer}filter_fn2."), 1.0)?,
        out_linear: linear(source, &format!("{mixer}out_linear"), &[h, h], unit(h), 0.1)?,
        gated_layers: source.tensor(&gated_layers, &[n, 2 * i / n, h / n], around(0.0, unit(h / n)))?,
        wo: Linear {
            weight: source.tensor(
                &format!("{mlp}wo.weight"),
                &[n, h / n, i / n],
                around(0.0, 0.5 * unit(i / n)),
            )?,
            bias: source.tensor(&format!("{mlp}wo.bias"), &[h], around(0.0, 0.1))?,
        },
        layer_norm: layer_norm(source, &format!("{mlp}layernorm"), h)?,
    })
}

fn long_filter<S: Source>(
    config: &ModelConfig,
    source: &mut S,
    prefix: &str,
    skip: f64,
) -> Result<LongFilter, S::Error> {
    let (h, f, l) = (config.hidden_size, config.hyena_filter_order, config.long_conv_l_max);
    let frequencies = source.frequencies(prefix, &[1, f], around(config.hyena_w, 0.5))?;
    let [forward, reverse] = split(frequencies);
    Ok(LongFilter {
        skip: source.tensor(&format!("{prefix}bias"), &[h], around(skip, 0.5))?,
        features: source.tensor(
            &format!("{prefix}pos_emb.z"),
            &[1, l, config.hyena_emb_dim],
            Values::Features,
        )?,
        time: source.tensor(&format!("{prefix}pos_emb.t"), &[1, l, 1], Values::Time)?,
        deltas: source.tensor(&format!("{prefix}modulation.deltas"), &[1, 1, h], Values::Decay)?,
        forward: filter_mlp(config, source, &format!("{prefix}implicit_filter."), forward)?,
        reverse: filter_mlp(config, source, &format!("{prefix}implicit_filter_rev."), reverse)?,
    })
}

fn split([a, b, c, d, e, f]: [Tensor; 6]) -> [[Tensor; 3]; 2] {
    [[a, b, c], [d, e, f]]
}

fn filter_mlp<S: Source>(
    config: &ModelConfig,
    source: &mut S,
    prefix: &str,
    frequencies: [Tensor; 3],
) -> Result<FilterMlp, S::Error> {
    let (h, f, e) = (config.hidden_size, config.hyena_filter_order, config.hyena_emb_dim);
    let weight = |part, scale| Values::FilterWeight { part, scale };
    let mut sine = |index: usize, inputs: usize, part: FilterPart, frequency: Tensor| {
        let name = format!("{prefix}{index}");
        let values = weight(part, unit(inputs));
        let linear = Linear {
            weight: source.tensor(&format!("{name}.weight"), &[f, inputs], values)?,
            bias: source.tensor(&format!("{name}.bias"), &[f], around(0.0, 0.3))?,
        };
        Ok(SineLayer { linear, frequency })
    };
    let [first, second, third] = frequencies;
    let inner = FilterPart::Inner;
    let sine_layers =
        [sine(0, e, FilterPart::First, first)?, sine(2, f, inner, second)?, sine(4, f, inner, third)?];
    let last = weight(FilterPart::Last, 0.02 * unit(f));
    let output = source.tensor(&format!("{prefix}6.weight"), &[h, f], last)?;
    Ok(FilterMlp { sine_layers, output })
}

/// `name.weight` of that shape, and `name.bias` over its first dimension.
fn linear<S: Source>(
    source: &mut S,
    name: &str,
    shape: &[usize],
    weight_scale: f64,
    bias_scale: f64,
) -> Result<Linear, S::Error> {
    Ok(Linear {
        weight: source.tensor(&format!("{name}.weight"), shape, around(0.0, weight_scale))?,
        bias: source.tensor(&format!("{name}.bias"), &shape[..1], around(0.0, bias_scale))?,
    })
}

fn layer_norm<S: Source>(source: &mut S, name: &str, width: usize) -> Result<LayerNorm, S::Error> {
    Ok(LayerNorm {
        weight: source.tensor(&format!("{name}.weight"), &[width], around(1.0, 0.2))?,
        bias: source.tensor(&format!("{name}.bias"), &[width], around(0.0, 0.2))?,
    })
}

/// Half the range of a uniform distribution that keeps a unit variance through `fan_in` inputs.
fn unit(fan_in: usize) -> f64 {
    (3.0 / fan_in as f64).sqrt()
}

fn around(centre: f64, scale: f64) -> Values {
    Values::Uniform { centre, scale }
}
