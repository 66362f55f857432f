//! The long filters: generated from position alone, kept for the next pass while memory lasts.
//!
//! A filter comes about in two steps. The sine layers give each position a state of some 128 values, whatever the channel;
//! a projection and a window make a channel's taps of it, and those become what the convolution multiplies with. Filters of
//! short texts are kept as they are multiplied with; of longer ones, which would take gigabytes, the states are kept, and
//! each pass makes the rest anew, chunk by chunk.

mod running_sums;
mod states;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use danaus_kernels::gemm::{Activations, PackedWeight, Precision};
use danaus_kernels::{
    Buffer, Compute, ConvScratch, FilterForm, FilterWindow, LongFilter, Matrix, MatrixMut, SineLayer,
    SineMlp, filter_length, filter_taps,
};
use danaus_model::{LoadedModel, ModelConfig, Tensor};
use danaus_simd::Isa;

use super::team::map;
use super::weights::CHUNK;
use crate::BackendOptions;
use crate::profile::{Clock, Profile, Stage};

/// The longest filters that are kept as they are multiplied with: from here on, making them is a small part of a pass.
const KEPT_LENGTH: usize = 2048;

/// Which of a layer's two long convolutions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Branch {
    /// Over `v * x1`.
    Mixer,
    /// Over the layer's input.
    Residual,
}

/// All long filters of a model.
///
/// A text's filter is that of its [`filter_length`], a function of its own length: a filter is the same bits whether it or its
/// states were kept or are computed anew, and whatever lengths came before.
#[derive(Debug)]
pub(super) struct FilterBank {
    /// The mixer's and the residual's filter of each layer.
    generators: Vec<[Generator; 2]>,
    isa: Isa,
    precision: Precision,
    channels: usize,
    budget: usize,
    profile: Option<Arc<Profile>>,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    filters: BTreeMap<usize, Arc<KeptFilters>>,
    states: Option<Arc<States>>,
}

/// All filters of one length.
#[derive(Debug)]
pub(super) struct KeptFilters {
    /// By layer, branch and chunk.
    filters: Vec<[Vec<LongFilter>; 2]>,
}

/// The states of the first `positions` positions, in all layers.
#[derive(Debug)]
struct States {
    positions: usize,
    layers: Vec<LayerStates>,
}

/// The states `[positions, words]` of a layer: by branch, forward and reverse.
#[derive(Debug)]
pub(super) struct LayerStates {
    precision: Precision,
    states: [[Buffer<u32>; 2]; 2],
}

/// The states of a layer for the filters that a pass makes: for those of up to [`KEPT_LENGTH`] taps, and for longer ones,
/// whose precision may be another.
#[derive(Debug, Default)]
pub(super) struct FreshStates([LayerStates; 2]);

/// The [`FreshStates`] of a layer, or kept ones; `None` where the pass makes no such filter.
#[derive(Debug, Clone, Copy)]
pub(super) struct PassStates<'a>([Option<&'a LayerStates>; 2]);

/// The states of a branch, forward and reverse.
#[derive(Debug, Clone, Copy)]
pub(super) struct BranchStates<'a> {
    precision: Precision,
    states: &'a [Buffer<u32>; 2],
}

impl Default for LayerStates {
    fn default() -> Self {
        Self { precision: Precision::F32, states: Default::default() }
    }
}

/// Where the filters of a pass come from.
#[derive(Debug)]
pub(super) struct FilterPlan {
    /// One for each length that was asked for.
    pub sources: Vec<Source>,
    /// For the filters of up to [`KEPT_LENGTH`] taps that are made in the pass, and for longer ones.
    states: [StatesSource; 2],
}

/// Where a text's filters come from.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// Kept ones.
    Kept(Arc<KeptFilters>),
    /// Made for this pass, with this many taps a direction.
    Made(usize),
}

#[derive(Debug)]
enum StatesSource {
    /// No text needs any.
    None,
    Kept(Arc<States>),
    /// Generated for filters of so many taps, layer by layer.
    Generated(usize),
}

/// Where a filter is made that is used once: its taps, what they become, and room to work.
pub(super) struct Workbench<'a> {
    pub taps: &'a mut [Buffer<f32>; 2],
    pub scratch: &'a mut ConvScratch,
    pub filter: &'a mut LongFilter,
}

/// What generates one filter.
#[derive(Debug)]
pub(super) struct Generator {
    /// `[L, E]`; stays memory-mapped.
    features: Tensor,
    feature_count: usize,
    /// `[L]`
    time: Vec<f32>,
    /// `[H]`
    deltas: Vec<f32>,
    /// `[H]`
    skip: Vec<f32>,
    /// Forward and reverse.
    sine: [SineMlp; 2],
    /// Forward and reverse `[H, F]`; stay memory-mapped, a chunk's rows are packed when they are used.
    projections: [Tensor; 2],
}

impl FilterBank {
    /// A bank that keeps filters and states while they fit the options' cache. Those of more than
    /// [`KEPT_LENGTH`] taps are made in `precision`, others in float32.
    pub fn new(
        compute: &Compute,
        model: &LoadedModel,
        precision: Precision,
        options: &BackendOptions,
    ) -> Self {
        let generators = map(compute, &model.weights.layers, |layer| {
            [&layer.filter, &layer.residual_filter].map(|filter| Generator::new(&model.config, filter))
        });
        Self {
            generators,
            isa: compute.isa(),
            precision,
            channels: model.config.hidden_size,
            budget: options.filter_cache_bytes,
            profile: options.profile.clone(),
            kept: Mutex::default(),
        }
    }

    /// Where the filters of a pass over texts (or windows) of these lengths come from. Makes and keeps those that are worth it.
    pub fn plan(&self, compute: &Compute, lengths: impl Iterator<Item = usize>) -> FilterPlan {
        let mut sources = BTreeMap::new();
        let sources: Vec<_> = lengths
            .map(filter_length)
            .map(|length| sources.entry(length).or_insert_with(|| self.source(compute, length)).clone())
            .collect();
        self.plan_from(compute, sources)
    }

    /// A plan with the states for the filters that are made in the pass.
    fn plan_from(&self, compute: &Compute, sources: Vec<Source>) -> FilterPlan {
        let states = [false, true].map(|long| {
            let made = sources.iter().filter_map(|source| match source {
                &Source::Made(length) => (is_long(length) == long).then_some(length),
                Source::Kept(_) => None,
            });
            made.max().map_or(StatesSource::None, |length| self.states(compute, length))
        });
        FilterPlan { sources, states }
    }

    pub fn generator(&self, layer: usize, branch: Branch) -> &Generator {
        &self.generators[layer][branch as usize]
    }

    /// The form of filters of `length` taps: those that may be kept are as compact as the products' precision allows.
    pub fn form(&self, length: usize) -> FilterForm {
        let compact = self.precision != Precision::F32 && !is_long(length);
        FilterForm { isa: self.isa, length, compact }
    }

    fn source(&self, compute: &Compute, length: usize) -> Source {
        if let Some(filters) = self.kept().filters.get(&length) {
            return Source::Kept(Arc::clone(filters));
        }
        if is_long(length) || !self.make_room(length) {
            return Source::Made(length);
        }
        let filters = Arc::new(self.make(compute, length));
        // The projections are not needed again before the next length.
        self.generators.iter().flatten().for_each(|generator| generator.projections[0].release_pages());
        // Whoever else made them meanwhile made the same.
        Source::Kept(Arc::clone(self.kept().filters.entry(length).or_insert(filters)))
    }

    /// All filters of a length.
    fn make(&self, compute: &Compute, length: usize) -> KeptFilters {
        let mut states = LayerStates::default();
        let layer = |layer| {
            self.generate(compute, layer, length, &mut states);
            [Branch::Mixer, Branch::Residual].map(|branch| {
                let generator = self.generator(layer, branch);
                let chunks: Vec<_> = (0..self.channels.div_ceil(CHUNK)).collect();
                map(compute, &chunks, |&chunk| {
                    let mut clock = Clock::start(self.profile.as_deref());
                    let (mut taps, mut scratch) = Default::default();
                    let mut filter = LongFilter::default();
                    let bench = Workbench { taps: &mut taps, scratch: &mut scratch, filter: &mut filter };
                    generator.filter(self.form(length), states.of(branch), chunk, bench);
                    clock.lap(Stage::Filters);
                    filter
                })
            })
        };
        KeptFilters { filters: (0..self.generators.len()).map(layer).collect() }
    }

    /// Whether filters of `length` taps are kept from now on. Longer ones and states give way, the longest first: making a
    /// filter costs least where it is short, and short texts are the ones that cannot wait.
    fn make_room(&self, length: usize) -> bool {
        let mut kept = self.kept();
        let shorter = kept.filters.range(..length).map(|(length, _)| length);
        let needed = self.filter_bytes(shorter.chain([&length]));
        if needed > self.budget {
            return false;
        }
        // States longer than any kept filter serve texts that have none.
        let states = kept.states.as_ref().map_or(0, |states| self.states_bytes(states.positions));
        if states + needed > self.budget {
            kept.states = None;
        }
        let states = kept.states.as_ref().map_or(0, |states| self.states_bytes(states.positions));
        while states + self.filter_bytes(kept.filters.keys().chain([&length])) > self.budget {
            kept.filters.pop_last();
        }
        true
    }

    fn filter_bytes<'a>(&self, lengths: impl Iterator<Item = &'a usize>) -> usize {
        let count = 2 * self.generators.len();
        lengths.map(|&length| count * self.form(length).bytes(self.channels)).sum()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FilterPlan {
    /// The states of a layer that the pass needs: kept ones, or `fresh` ones.
    pub fn layer_states<'a>(
        &'a self,
        bank: &FilterBank,
        compute: &Compute,
        layer: usize,
        fresh: &'a mut FreshStates,
    ) -> PassStates<'a> {
        let [short, long] = &mut fresh.0;
        let [of_short, of_long] = &self.states;
        PassStates([(of_short, short), (of_long, long)].map(|(source, fresh)| match source {
            StatesSource::None => None,
            StatesSource::Kept(states) => Some(&states.layers[layer]),
            &StatesSource::Generated(length) => {
                bank.generate(compute, layer, length, fresh);
                Some(&*fresh)
            }
        }))
    }
}

/// Whether filters of `length` taps are made in each pass, and in the products' precision.
fn is_long(length: usize) -> bool {
    length > KEPT_LENGTH
}

impl<'a> PassStates<'a> {
    /// Those of a branch, for filters of `length` taps.
    ///
    /// # Panics
    /// Where the pass makes no filters of about that length.
    pub fn of(self, branch: Branch, length: usize) -> BranchStates<'a> {
        self.0[usize::from(is_long(length))].expect("a plan with filters to make has states").of(branch)
    }
}

impl Source {
    /// A chunk's filter: the kept one, or `made`.
    pub fn filter<'a>(
        &'a self,
        (layer, branch, chunk): (usize, Branch, usize),
        made: &'a LongFilter,
    ) -> &'a LongFilter {
        match self {
            Source::Kept(kept) => kept.filter(layer, branch, chunk),
            Source::Made(_) => made,
        }
    }
}

impl KeptFilters {
    fn filter(&self, layer: usize, branch: Branch, chunk: usize) -> &LongFilter {
        &self.filters[layer][branch as usize][chunk]
    }
}

impl LayerStates {
    fn of(&self, branch: Branch) -> BranchStates<'_> {
        BranchStates { precision: self.precision, states: &self.states[branch as usize] }
    }
}

impl Generator {
    fn new(config: &ModelConfig, filter: &danaus_model::LongFilter) -> Self {
        let mlps = [&filter.forward, &filter.reverse];
        Self {
            features: filter.features.clone(),
            feature_count: config.hyena_emb_dim,
            time: filter.time.to_vec(),
            deltas: filter.deltas.to_vec(),
            skip: filter.skip.to_vec(),
            sine: mlps.map(|mlp| sine_mlp(config, mlp)),
            projections: mlps.map(|mlp| mlp.output.clone()),
        }
    }

    /// Makes the filter of that form for a chunk of channels, from at least as many states (or all that the
    /// model has).
    pub fn filter(&self, form: FilterForm, states: BranchStates<'_>, chunk: usize, bench: Workbench<'_>) {
        let Workbench { taps, scratch, filter } = bench;
        let channels = self.taps(form, states, chunk, taps);
        let taps = taps.each_ref().map(|taps| Matrix::new(taps, channels.len()));
        filter.set(form, scratch, taps, &self.skip[channels]);
    }

    /// Makes the forward and reverse taps `[positions, n]` of a chunk's n channels, and says which these are.
    fn taps(
        &self,
        form: FilterForm,
        states: BranchStates<'_>,
        chunk: usize,
        taps: &mut [Buffer<f32>; 2],
    ) -> std::ops::Range<usize> {
        let BranchStates { precision, states } = states;
        let positions = form.length.min(self.time.len());
        let start = chunk * CHUNK;
        let channels = start..(start + CHUNK).min(self.skip.len());
        let projections = self.projections.each_ref().map(|weight| {
            let (weight, order) = (weight.values(), weight.len() / self.skip.len());
            let rows = &weight[channels.start * order..channels.end * order];
            PackedWeight::new(form.isa, precision, rows, channels.len(), order)
        });
        let window = FilterWindow { time: &self.time[..positions], deltas: &self.deltas[channels.clone()] };
        taps.iter_mut().for_each(|taps| taps.resize(positions * channels.len()));
        let states = [0, 1].map(|direction| {
            let words = precision.words(projections[direction].inputs());
            Activations::words(precision, Matrix::new(&states[direction], words)).slice(0..positions)
        });
        let outs = taps.each_mut().map(|taps| MatrixMut::new(taps, channels.len()));
        filter_taps(form.isa, states, projections.each_ref(), window, outs);
        channels
    }
}

fn sine_mlp(config: &ModelConfig, mlp: &danaus_model::FilterMlp) -> SineMlp {
    let layer = |layer: &danaus_model::SineLayer| {
        let frequency = layer.frequency.to_vec();
        let frequency: Vec<_> = frequency.iter().map(|&f| f64::from(f) * config.hyena_w_mod).collect();
        SineLayer::new(&layer.linear.weight.to_vec(), &layer.linear.bias.to_vec(), &frequency)
    };
    SineMlp::new(mlp.sine_layers.iter().map(layer).collect())
}
