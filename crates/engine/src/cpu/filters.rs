//! The long filters: generated from position alone, kept for the next pass while memory lasts.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use danaus_kernels::old::{
    FftPlans, FilterMlp, FilterTaps, LongFilter, PackedWeight, SineLayer, filter_length,
};
use danaus_kernels::{Compute, Matrix};
use danaus_model::{LoadedModel, ModelConfig};

/// Which of a layer's two long convolutions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Branch {
    /// Over `v * x1`.
    Mixer,
    /// Over the layer's input.
    Residual,
}

/// All long filters of a model.
///
/// A text's filter is that of its [`filter_length`], a function of its own length: a filter is the same bits whether it
/// was kept or is computed anew, and whatever lengths came before.
#[derive(Debug)]
pub(super) struct FilterBank {
    /// The mixer's and the residual's filter of each layer.
    generators: Vec<[Generator; 2]>,
    channels: usize,
    plans: FftPlans,
    budget: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Lengths whose filters are kept, or will be as soon as they are made.
    lengths: BTreeSet<usize>,
    filters: HashMap<(usize, Branch, usize), Arc<LongFilter>>,
}

/// What generates one filter.
#[derive(Debug)]
struct Generator {
    /// `[L, E]`
    features: Vec<f32>,
    feature_count: usize,
    /// `[L]`
    time: Vec<f32>,
    /// `[H]`
    deltas: Vec<f32>,
    /// `[H]`
    skip: Vec<f32>,
    forward: FilterMlp,
    reverse: FilterMlp,
}

impl FilterBank {
    /// A bank that keeps up to `budget` bytes of filters.
    pub fn new(compute: &Compute, model: &LoadedModel, budget: usize) -> Self {
        let generator = |filter| Generator::new(compute, &model.config, filter);
        let layers = model.weights.layers.iter();
        Self {
            generators: layers.map(|layer| [&layer.filter, &layer.residual_filter].map(generator)).collect(),
            channels: model.config.hidden_size,
            plans: FftPlans::default(),
            budget,
            kept: Mutex::default(),
        }
    }

    /// One filter of a layer for each text, given the texts' lengths in tokens.
    pub fn filters(
        &self,
        compute: &Compute,
        layer: usize,
        branch: Branch,
        lengths: impl Iterator<Item = usize>,
    ) -> Vec<Arc<LongFilter>> {
        // Filters that are not kept still serve all texts of their length in this pass.
        let mut passing = HashMap::new();
        let get = |tokens| {
            let length = filter_length(tokens);
            Arc::clone(passing.entry(length).or_insert_with(|| self.filter(compute, layer, branch, length)))
        };
        lengths.map(get).collect()
    }

    fn filter(&self, compute: &Compute, layer: usize, branch: Branch, length: usize) -> Arc<LongFilter> {
        let key = (layer, branch, length);
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(filter) = kept().filters.get(&key) {
            return Arc::clone(filter);
        }
        let generator = &self.generators[layer][branch as usize];
        let filter = Arc::new(generator.filter(compute, &self.plans, length));
        let mut kept = kept();
        let first_of_length = layer == 0 && branch == Branch::Mixer;
        if kept.lengths.contains(&length) || (first_of_length && self.make_room(&mut kept, length)) {
            kept.filters.insert(key, Arc::clone(&filter));
        }
        filter
    }

    /// Whether `length` is kept from now on: all of its filters or none, since half of them would save half the time and
    /// cost all the memory. Longer ones give way, the longest first: making a filter costs least where it is short, and
    /// short texts are the ones that cannot wait.
    fn make_room(&self, kept: &mut Kept, length: usize) -> bool {
        let bytes_for = |length| LongFilter::bytes_for(length, self.channels) * 2 * self.generators.len();
        let bytes_of =
            |lengths: &BTreeSet<usize>| lengths.iter().map(|&length| bytes_for(length)).sum::<usize>();
        let shorter: BTreeSet<usize> = kept.lengths.range(..length).copied().collect();
        if bytes_of(&shorter) + bytes_for(length) > self.budget {
            return false;
        }
        kept.lengths.insert(length);
        while bytes_of(&kept.lengths) > self.budget {
            kept.lengths.pop_last();
        }
        let Kept { lengths, filters } = kept;
        filters.retain(|(_, _, length), _| lengths.contains(length));
        true
    }
}

impl Generator {
    fn new(compute: &Compute, config: &ModelConfig, filter: &danaus_model::LongFilter) -> Self {
        let mlp = |mlp: &danaus_model::FilterMlp| packed_mlp(compute, config, mlp);
        Self {
            features: filter.features.to_vec(),
            feature_count: config.hyena_emb_dim,
            time: filter.time.to_vec(),
            deltas: filter.deltas.to_vec(),
            skip: filter.skip.to_vec(),
            forward: mlp(&filter.forward),
            reverse: mlp(&filter.reverse),
        }
    }

    fn filter(&self, compute: &Compute, plans: &FftPlans, length: usize) -> LongFilter {
        let positions = length.min(self.time.len());
        let features = Matrix::new(&self.features[..positions * self.feature_count], self.feature_count);
        let taps = |mlp: &FilterMlp| mlp.taps(compute, features, &self.time[..positions], &self.deltas);
        let taps = FilterTaps { forward: taps(&self.forward), reverse: taps(&self.reverse) };
        LongFilter::new(compute, plans, &taps, &self.skip, length)
    }
}

fn packed_mlp(compute: &Compute, config: &ModelConfig, mlp: &danaus_model::FilterMlp) -> FilterMlp {
    let sine_layer = |layer: &danaus_model::SineLayer| {
        let frequency = layer.frequency.to_vec();
        let frequency: Vec<_> = frequency.iter().map(|&f| f64::from(f) * config.hyena_w_mod).collect();
        SineLayer::new(&layer.linear.weight.to_vec(), &layer.linear.bias.to_vec(), &frequency)
    };
    FilterMlp {
        sine_layers: mlp.sine_layers.iter().map(sine_layer).collect(),
        output: PackedWeight::new(
            compute,
            &mlp.output.to_vec(),
            config.hidden_size,
            config.hyena_filter_order,
        ),
    }
}
