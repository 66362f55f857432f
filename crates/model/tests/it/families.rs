//! Families of synthetic filters: how smooth their taps are, and what else they change.

use danaus_model::synthetic::normal;
use danaus_model::{
    FilterFamily, FilterMlp, LongFilter, ModelConfig, Strength, SyntheticFilters, Tensor, load_folder,
    synthetic, synthetic_with, write_synthetic,
};

use crate::common::{assert_same, bits, small_config, tensors};

/// Channels whose taps are looked at: one in so many.
const CHANNEL_STEP: usize = 16;

#[test]
fn normal_values_are_a_pure_function_with_the_moments_of_a_normal_distribution() {
    let few = normal("noise", 3, 5);
    assert_eq!(few.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), NORMAL_BITS);
    let many = normal("noise", 3, 200_000);
    assert_eq!(many[..5], few, "values do not depend on how many there are");
    let mean_of =
        |power: i32| many.iter().map(|&x| f64::from(x).powi(power)).sum::<f64>() / many.len() as f64;
    let (mean, variance, third, fourth) = (mean_of(1), mean_of(2), mean_of(3), mean_of(4));
    assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.02, "{mean}, {variance}");
    assert!(third.abs() < 0.05, "{third}");
    // 3 for a normal distribution, 2.9 for the sum of 12 uniform values.
    assert!((fourth - 2.9).abs() < 0.1, "{fourth}");
}

/// From NumPy: sums of 12 values of the uniform stream, halved.
const NORMAL_BITS: [u32; 5] = [0xbe9ee7e6, 0x3ea4738e, 0x3fc28279, 0x3e7bafd4, 0x3eca8134];

/// Taps of one of a filter's two MLPs, for one channel in [`CHANNEL_STEP`]: by channel, then by position.
fn taps(filter: &LongFilter, mlp: &FilterMlp, config: &ModelConfig) -> Vec<Vec<f64>> {
    let length = config.long_conv_l_max;
    let numbers = |tensor: &Tensor| tensor.to_vec().into_iter().map(f64::from).collect::<Vec<_>>();
    let mut hidden = numbers(&filter.features);
    let mut width = config.hyena_emb_dim;
    for layer in &mlp.sine_layers {
        let [weight, bias, frequency] =
            [&layer.linear.weight, &layer.linear.bias, &layer.frequency].map(numbers);
        let row = |inputs: &[f64]| {
            let sums = weight.chunks(width).zip(&bias).map(|(weight, bias)| dot(weight, inputs) + bias);
            sums.zip(&frequency).map(|(sum, f)| (config.hyena_w_mod * f * sum).sin()).collect::<Vec<_>>()
        };
        hidden = hidden.chunks(width).flat_map(row).collect();
        width = bias.len();
    }
    let (output, time, rates) = (numbers(&mlp.output), numbers(&filter.time), numbers(&filter.deltas));
    let channel = |channel: usize| {
        let weight = &output[channel * width..][..width];
        let tap =
            |t: usize| dot(weight, &hidden[t * width..][..width]) * (-time[t] * rates[channel].abs()).exp();
        (0..length).map(tap).collect()
    };
    (0..config.hidden_size).step_by(CHANNEL_STEP).map(channel).collect()
}

fn dot(one: &[f64], other: &[f64]) -> f64 {
    one.iter().zip(other).map(|(a, b)| a * b).sum()
}

/// Correlation of taps that far apart, over all layers, filters and directions, and the root of the taps' mean square.
fn correlations(config: &ModelConfig, filters: SyntheticFilters, distances: [usize; 3]) -> ([f64; 3], f64) {
    let model = synthetic_with(config, 11, filters);
    let (mut products, mut squares, mut count) = ([0.0; 3], 0.0, 0);
    for filter in model.weights.layers.iter().flat_map(|layer| [&layer.filter, &layer.residual_filter]) {
        for taps in [&filter.forward, &filter.reverse].into_iter().flat_map(|mlp| taps(filter, mlp, config)) {
            for (product, distance) in products.iter_mut().zip(distances) {
                *product += dot(&taps[distance..], &taps[..taps.len() - distance]);
            }
            squares += dot(&taps, &taps);
            count += taps.len();
        }
    }
    (products.map(|product| product / squares), (squares / count as f64).sqrt())
}

/// The 80M shape, with two layers and a small vocabulary.
fn two_layers(length: usize) -> ModelConfig {
    ModelConfig { num_hidden_layers: 2, vocab_size: 8, ..ModelConfig::m2_bert_80m(length) }
}

#[test]
fn taps_correlate_as_each_family_says() {
    let bands = [
        (FilterFamily::Init, [(0.99, 1.0), (0.93, 0.98), (0.70, 0.85)]),
        (FilterFamily::Smooth, [(0.98, 0.998), (0.72, 0.90), (-0.05, 0.30)]),
        (FilterFamily::Mid, [(0.86, 0.94), (0.18, 0.42), (-0.06, 0.08)]),
        (FilterFamily::Rough, [(-0.04, 0.06), (-0.04, 0.04), (-0.04, 0.04)]),
    ];
    for (family, bands) in bands {
        let (seen, _) = correlations(&two_layers(2048), family.into(), [1, 8, 32]);
        println!("{family}: {seen:.3?}");
        for (seen, (least, most)) in seen.into_iter().zip(bands) {
            assert!((least..=most).contains(&seen), "{family}: {seen}, expected {least} to {most}");
        }
    }
}

/// Smooth means smooth over a share of the length, and the sum over all taps stays as large.
#[test]
fn a_longer_model_has_weaker_taps_and_a_stronger_one_stronger_ones() {
    let smooth = SyntheticFilters::from(FilterFamily::Smooth);
    let (_, short) = correlations(&two_layers(512), smooth, [1, 2, 8]);
    let (_, long) = correlations(&two_layers(2048), smooth, [1, 8, 32]);
    assert!((short / long - 4.0).abs() < 0.4, "{short}, {long}");
    for family in FilterFamily::ALL {
        let [one, two] = [1.0, 2.0].map(|factor| {
            let filters = SyntheticFilters { family, strength: Strength::new(factor).unwrap() };
            tensors(&synthetic_with(&small_config(), 1, filters).weights)
        });
        for (name, tensor) in &one {
            let factor = if name.ends_with(".6.weight") { 2.0 } else { 1.0 };
            let expected: Vec<_> = tensor.to_vec().iter().map(|x| (x * factor).to_bits()).collect();
            assert_eq!(bits(&two[name]), expected, "{family}: {name}");
        }
    }
}

#[test]
fn a_family_changes_filters_and_positions_and_nothing_else() {
    let config = small_config();
    let rough = tensors(&synthetic(&config, 5).weights);
    assert_same(
        &synthetic_with(&config, 5, FilterFamily::Rough.into()).weights,
        &synthetic(&config, 5).weights,
    );
    for (family, positions) in
        [(FilterFamily::Init, 0.4), (FilterFamily::Smooth, 1.0), (FilterFamily::Mid, 1.0)]
    {
        for (name, tensor) in tensors(&synthetic_with(&config, 5, family.into()).weights) {
            let own =
                name.ends_with("pos_emb.z") || name.contains("implicit_filter") && name.ends_with(".weight");
            if name == "embeddings.position_embeddings.weight" {
                let scaled = rough[&name].to_vec().into_iter().map(|x| x * positions);
                let same = tensor.to_vec().into_iter().zip(scaled).all(|(a, b)| (a - b).abs() <= 1e-7);
                assert!(same, "{family}: {name}");
            } else {
                assert_eq!(bits(&tensor) != bits(&rough[&name]), own, "{family}: {name}");
            }
        }
    }
}

#[test]
fn a_written_model_has_the_filters_that_were_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let filters = SyntheticFilters { family: FilterFamily::Mid, strength: Strength::new(4.0).unwrap() };
    write_synthetic(&small_config(), 3, filters, folder.path(), false).unwrap();
    let loaded = load_folder(folder.path()).unwrap();
    assert_same(&loaded.weights, &synthetic_with(&small_config(), 3, filters).weights);
    assert!(loaded.synthetic && !loaded.padded);
}

#[test]
fn names_and_strengths_that_make_no_sense_are_refused() {
    for family in FilterFamily::ALL {
        assert_eq!(family.to_string().parse(), Ok(family));
    }
    let error = "Smooth".parse::<FilterFamily>().unwrap_err().to_string();
    assert_eq!(error, "\"Smooth\" is no family of filters: expected init, smooth, mid or rough");
    assert_eq!("2.5".parse::<Strength>().unwrap().get(), 2.5);
    for text in ["", "0", "-1", "NaN", "inf", "1000.1", "strong"] {
        let error = text.parse::<Strength>().unwrap_err().to_string();
        assert!(error.ends_with("expected a number above 0, at most 1000"), "{error}");
    }
}
