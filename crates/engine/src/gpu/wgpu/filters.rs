//! The long filters: their states on the host, in float64, the rest on the device.
//!
//! As on the CPU, the filters of short texts are kept as they are multiplied with, and those of longer ones, whose spectra
//! would take gigabytes, are made in each pass from states that are kept. A filter is that of its length, whatever came before.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use danaus_kernels::wgpu::{FilterLeaf, Gpu, GpuBuffer, GpuError, Kernels, Slice, Window, Work};
use danaus_kernels::{Compute, Matrix, MatrixMut, SineLayer, SineMlp};
use danaus_model::{LoadedModel, ModelConfig, Tensor};
use danaus_simd::Isa;

use super::device_error;
use super::pass::{Between, Submissions, pause};
use super::weights::floats;
use crate::gpu::DeviceError;

/// The longest filters that are kept as they are multiplied with.
const KEPT_LENGTH: usize = 2048;

/// States of longer ones that are kept, in bytes.
const STATES_BYTES: usize = 1 << 30;

/// Positions that one task generates states for.
const POSITIONS_PER_TASK: usize = 64;

/// All long filters of a model.
#[derive(Debug)]
pub(super) struct FilterBank {
    /// The mixer's and the residual's of each layer.
    generators: Vec<[Generator; 2]>,
    /// Positions that the model has taps for.
    positions: usize,
    width: usize,
    order: usize,
    compute: Compute,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    filters: BTreeMap<usize, Arc<KeptFilters>>,
    twiddles: BTreeMap<usize, GpuBuffer>,
    states: Option<Arc<States>>,
}

/// All filters of one length: by layer, the mixer's and the residual's.
#[derive(Debug)]
pub(super) struct KeptFilters(Vec<[GpuBuffer; 2]>);

/// A layer's states `[positions, F]`: by branch, forward and reverse.
pub(super) type LayerStates = [[Vec<f32>; 2]; 2];

/// The states of the first positions, in all layers.
#[derive(Debug)]
struct States {
    positions: usize,
    layers: Vec<LayerStates>,
}

/// Where the filters of some texts come from.
#[derive(Debug)]
pub(super) enum Source {
    Kept(Arc<KeptFilters>),
    /// Made in the pass, on this bench.
    Made(Box<Bench>),
}

/// Where filters are made: room for the states of a layer, the taps of one filter, and one leaf of its spectrum.
#[derive(Debug)]
pub(super) struct Bench {
    positions: usize,
    states: [[GpuBuffer; 2]; 2],
    taps: [GpuBuffer; 2],
    leaf: GpuBuffer,
    /// Of all layers, where they are kept.
    kept: Option<Arc<States>>,
}

/// What generates one filter.
#[derive(Debug)]
struct Generator {
    /// `[L, E]`; stays memory-mapped.
    features: Tensor,
    feature_count: usize,
    /// Forward and reverse.
    sine: [SineMlp; 2],
    /// Forward and reverse `[H, F]`.
    projections: [GpuBuffer; 2],
    /// `[L]`
    time: GpuBuffer,
    /// `[H]`
    deltas: GpuBuffer,
    /// `[H]`
    skip: GpuBuffer,
}

impl FilterBank {
    pub fn new(gpu: &Gpu, model: &LoadedModel) -> Result<Self, GpuError> {
        let config = &model.config;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let compute = Compute::new(Isa::best(), threads)
            .map_err(|error| GpuError::Failed(format!("no threads for filters: {error}")))?;
        let generators = model.weights.layers.iter().map(|layer| {
            let generator = |filter| Generator::new(gpu, config, filter);
            Ok([generator(&layer.filter)?, generator(&layer.residual_filter)?])
        });
        Ok(Self {
            generators: generators.collect::<Result<_, GpuError>>()?,
            positions: config.long_conv_l_max,
            width: config.hidden_size,
            order: config.hyena_filter_order,
            compute,
            kept: Mutex::default(),
        })
    }

    /// Gives back what is kept.
    pub fn forget(&self) {
        *self.kept() = Kept::default();
    }

    /// Twiddle factors for filters of a length.
    pub fn twiddles(&self, kernels: &Kernels, length: usize) -> Result<GpuBuffer, GpuError> {
        if let Some(twiddles) = self.kept().twiddles.get(&length) {
            return Ok(twiddles.clone());
        }
        let twiddles = kernels.gpu().upload(&kernels.twiddles(length))?;
        self.kept().twiddles.insert(length, twiddles.clone());
        Ok(twiddles)
    }

    /// Where the filters of a length come from. Where there is something to make that is kept, it is made layer by layer, and
    /// `between` is called before each.
    pub fn source(
        &self,
        queue: &mut Submissions<'_>,
        length: usize,
        between: &mut Option<Between<'_>>,
    ) -> Result<Source, DeviceError> {
        if let Some(filters) = self.kept().filters.get(&length) {
            return Ok(Source::Kept(Arc::clone(filters)));
        }
        let mut bench = self.bench(queue.kernels, length).map_err(device_error)?;
        if length > KEPT_LENGTH {
            bench.kept = self.keep_states(length, between)?;
            return Ok(Source::Made(Box::new(bench)));
        }
        let mut layers = Vec::new();
        for layer in 0..self.generators.len() {
            pause(between)?;
            layers.push(self.layer_filters(queue, &bench, layer, length).map_err(device_error)?);
        }
        // Whoever else made them meanwhile made the same.
        let filters = Arc::new(KeptFilters(layers));
        Ok(Source::Kept(Arc::clone(self.kept().filters.entry(length).or_insert(filters))))
    }

    /// Both filters of a layer.
    fn layer_filters(
        &self,
        queue: &mut Submissions<'_>,
        bench: &Bench,
        layer: usize,
        length: usize,
    ) -> Result<[GpuBuffer; 2], GpuError> {
        // States are written before what is submitted next.
        queue.flush()?;
        let kernels = queue.kernels;
        self.load_states(kernels.gpu(), bench, layer)?;
        let mut filter = |branch| self.whole_filter(kernels, &mut queue.work, bench, (layer, branch), length);
        let filters = [filter(0)?, filter(1)?];
        queue.flush()?;
        Ok(filters)
    }

    /// All leaves of a filter, one after the other.
    fn whole_filter(
        &self,
        kernels: &Kernels,
        work: &mut Work,
        bench: &Bench,
        (layer, branch): (usize, usize),
        length: usize,
    ) -> Result<GpuBuffer, GpuError> {
        let (leaves, values) = (kernels.leaves(length), kernels.filter_values(length, self.width));
        let filter = kernels.gpu().buffer((4 * leaves * values) as u64)?;
        self.make_taps(kernels, work, bench, (layer, branch))?;
        for leaf in 0..leaves {
            let out = leaf_of(&filter, leaf, values);
            self.make_leaf(kernels, work, bench, (layer, branch), (length, leaf), out)?;
        }
        Ok(filter)
    }

    /// Room for making filters of a length.
    fn bench(&self, kernels: &Kernels, length: usize) -> Result<Bench, GpuError> {
        let gpu = kernels.gpu();
        let positions = length.min(self.positions);
        let states = || gpu.buffer((4 * positions * self.order) as u64);
        let taps = || gpu.buffer((4 * positions * self.width) as u64);
        Ok(Bench {
            positions,
            states: [[states()?, states()?], [states()?, states()?]],
            taps: [taps()?, taps()?],
            leaf: gpu.buffer((4 * kernels.filter_values(length, self.width)) as u64)?,
            kept: None,
        })
    }

    /// Sends a layer's states to the bench: before what is submitted later.
    pub fn load_states(&self, gpu: &Gpu, bench: &Bench, layer: usize) -> Result<(), GpuError> {
        let made;
        let states = match &bench.kept {
            Some(kept) => &kept.layers[layer],
            None => {
                made = self.generate(layer, bench.positions);
                &made
            }
        };
        let count = bench.positions * self.order;
        for (buffers, states) in bench.states.iter().zip(states) {
            for (buffer, states) in buffers.iter().zip(states) {
                gpu.write(buffer, bytemuck::cast_slice(&states[..count]))?;
            }
        }
        Ok(())
    }

    /// Makes the taps of a filter from the states on the bench.
    pub fn make_taps(
        &self,
        kernels: &Kernels,
        work: &mut Work,
        bench: &Bench,
        (layer, branch): (usize, usize),
    ) -> Result<(), GpuError> {
        let generator = &self.generators[layer][branch];
        for direction in 0..2 {
            let window = Window {
                weight: &generator.projections[direction],
                time: &generator.time,
                deltas: &generator.deltas,
                inputs: self.order,
                outputs: self.width,
            };
            let (states, taps) = (&bench.states[branch][direction], &bench.taps[direction]);
            kernels.window(work, window, bench.positions, states.into(), taps.into())?;
        }
        Ok(())
    }

    /// Makes a leaf of a filter from the taps on the bench.
    pub fn make_leaf(
        &self,
        kernels: &Kernels,
        work: &mut Work,
        bench: &Bench,
        (layer, branch): (usize, usize),
        (length, leaf): (usize, usize),
        out: Slice<'_>,
    ) -> Result<(), GpuError> {
        let filter = FilterLeaf {
            width: self.width,
            length,
            positions: bench.positions,
            leaf,
            twiddles: &self.twiddles(kernels, length)?,
            skip: &self.generators[layer][branch].skip,
        };
        kernels.filter(work, filter, bench.taps.each_ref().map(Slice::from), out)
    }

    /// The states for filters of a length, where they may be kept.
    fn keep_states(
        &self,
        length: usize,
        between: &mut Option<Between<'_>>,
    ) -> Result<Option<Arc<States>>, DeviceError> {
        let positions = length.min(self.positions);
        let kept = self.kept().states.clone().filter(|states| states.positions >= positions);
        // Four vectors of states a layer, in float32.
        if kept.is_some() || 16 * positions * self.order * self.generators.len() > STATES_BYTES {
            return Ok(kept);
        }
        let mut layers = Vec::new();
        for layer in 0..self.generators.len() {
            pause(between)?;
            layers.push(self.generate(layer, positions));
        }
        let states = Arc::new(States { positions, layers });
        self.kept().states = Some(Arc::clone(&states));
        Ok(Some(states))
    }

    /// The states of a layer's first positions.
    fn generate(&self, layer: usize, positions: usize) -> LayerStates {
        let mut states: LayerStates = [0, 1].map(|_| [0, 1].map(|_| vec![0.0; positions * self.order]));
        let features = self.generators[layer].each_ref().map(|generator| generator.features.values());
        let mut tasks = Vec::new();
        for ((generator, features), states) in self.generators[layer].iter().zip(&features).zip(&mut states) {
            let features = Matrix::new(features, generator.feature_count);
            for (sine, states) in generator.sine.iter().zip(states) {
                let outs = MatrixMut::new(states, self.order).split_rows(POSITIONS_PER_TASK);
                tasks.extend(outs.into_iter().enumerate().map(|(index, out)| (features, sine, index, out)));
            }
        }
        let isa = self.compute.isa();
        self.compute.for_each_item(tasks, |(features, sine, index, out), _| {
            let start = index * POSITIONS_PER_TASK;
            sine.write_states(isa, features.slice(start..start + out.rows()), out);
        });
        states
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeptFilters {
    /// A leaf of a filter, of so many values.
    pub fn leaf(&self, (layer, branch): (usize, usize), leaf: usize, values: usize) -> Slice<'_> {
        leaf_of(&self.0[layer][branch], leaf, values)
    }
}

impl Bench {
    /// Where a leaf is made.
    pub fn leaf(&self) -> Slice<'_> {
        (&self.leaf).into()
    }
}

fn leaf_of(filter: &GpuBuffer, leaf: usize, values: usize) -> Slice<'_> {
    Slice { buffer: filter, offset: (4 * leaf * values) as u64, bytes: Some(4 * values as u64) }
}

impl Generator {
    fn new(gpu: &Gpu, config: &ModelConfig, filter: &danaus_model::LongFilter) -> Result<Self, GpuError> {
        let mlps = [&filter.forward, &filter.reverse];
        let [forward, reverse] = mlps.map(|mlp| floats(gpu, &mlp.output.values()));
        Ok(Self {
            features: filter.features.clone(),
            feature_count: config.hyena_emb_dim,
            sine: mlps.map(|mlp| sine_mlp(config, mlp)),
            projections: [forward?, reverse?],
            time: floats(gpu, &filter.time.values())?,
            deltas: floats(gpu, &filter.deltas.values())?,
            skip: floats(gpu, &filter.skip.values())?,
        })
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
