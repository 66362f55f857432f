//! Long filters on the GPU: made when texts first need them, and kept while memory allows; otherwise made in each pass.

use std::collections::BTreeMap;

use danaus_kernels::cuda::{
    Block, CudaError, Element, Gpu, GpuBuffer, LengthClass, ProductArgs, ProductKind, SineWeights,
    SpectrumSource,
};
use danaus_model::{FilterMlp, LoadedModel, ModelConfig};

use super::weights::upload;

/// What makes every layer's filters, and those that are kept.
#[derive(Debug)]
pub(super) struct FilterBank {
    generators: Vec<[Generator; 2]>,
    channels: usize,
    /// Bytes that kept filters may take.
    budget: usize,
    /// By length.
    classes: BTreeMap<usize, Filters>,
    scratch: Option<Scratch>,
}

/// One class of lengths.
#[derive(Debug)]
struct Filters {
    class: LengthClass,
    /// By layer, both branches' one after the other; none where they are made in each pass.
    kept: Vec<GpuBuffer>,
}

/// Memory for making filters.
#[derive(Debug)]
struct Scratch {
    positions: usize,
    states: GpuBuffer,
    taps: [GpuBuffer; 2],
    /// Filters of a layer that are not kept.
    made: GpuBuffer,
}

/// What makes the filters of one branch of a layer.
#[derive(Debug)]
struct Generator {
    /// `[L, E]`
    features: GpuBuffer,
    time: GpuBuffer,
    deltas: GpuBuffer,
    skip: GpuBuffer,
    positions: usize,
    /// Forward and reverse.
    mlps: [(SineWeights, GpuBuffer); 2],
}

/// The class of a text and a layer's filters of it.
pub(super) struct LayerFilters<'a> {
    pub class: &'a LengthClass,
    pub filters: &'a GpuBuffer,
}

impl FilterBank {
    pub fn new(gpu: &Gpu, model: &LoadedModel, budget: usize) -> Result<Self, CudaError> {
        let config = &model.config;
        let generators = model.weights.layers.iter().map(|layer| {
            Ok([
                Generator::new(gpu, config, &layer.filter)?,
                Generator::new(gpu, config, &layer.residual_filter)?,
            ])
        });
        Ok(Self {
            generators: generators.collect::<Result<_, CudaError>>()?,
            channels: config.hidden_size,
            budget,
            classes: BTreeMap::new(),
            scratch: None,
        })
    }

    /// Sees to it that there is a class for texts of `rows` tokens, with its filters if they are to be kept. Its length.
    pub fn prepare(&mut self, gpu: &Gpu, rows: usize) -> Result<usize, CudaError> {
        let known = self.classes.range(rows..).next().map(|(&length, _)| length);
        if let Some(length) = known.filter(|&length| length < 2 * rows || length == 32) {
            return Ok(length);
        }
        let class = gpu
            .length_class(rows)?
            .ok_or_else(|| CudaError::Failed(format!("there is no kernel for texts of {rows} tokens")))?;
        let length = class.length();
        self.grow(gpu, &class)?;
        let kept = match self.keep(gpu, &class) {
            // Others took the memory: they can be made in each pass.
            Err(CudaError::OutOfMemory(_)) => Vec::new(),
            kept => kept?,
        };
        self.classes.insert(length, Filters { class, kept });
        Ok(length)
    }

    /// All layers' filters of a class; none if they do not fit the budget.
    fn keep(&self, gpu: &Gpu, class: &LengthClass) -> Result<Vec<GpuBuffer>, CudaError> {
        let bytes = 2 * class.filter_bytes(self.channels);
        if self.held() + bytes * self.generators.len() > self.budget {
            return Ok(Vec::new());
        }
        let layer = |layer| {
            let buffer = gpu.zeros(bytes)?;
            self.make(gpu, class, layer, &buffer)?;
            Ok(buffer)
        };
        (0..self.generators.len()).map(layer).collect()
    }

    /// A layer's filters of a class that was [prepared](FilterBank::prepare).
    pub fn layer(&self, gpu: &Gpu, length: usize, layer: usize) -> Result<LayerFilters<'_>, CudaError> {
        let Filters { class, kept } = &self.classes[&length];
        if let Some(filters) = kept.get(layer) {
            return Ok(LayerFilters { class, filters });
        }
        let made = &self.scratch.as_ref().expect("scratch for filters that are not kept").made;
        self.make(gpu, class, layer, made)?;
        Ok(LayerFilters { class, filters: made })
    }

    /// The class of a length that was prepared.
    pub fn class(&self, length: usize) -> &LengthClass {
        &self.classes[&length].class
    }

    /// Whether all of a class's filters are kept.
    pub fn keeps(&self, length: usize) -> bool {
        !self.classes[&length].kept.is_empty()
    }

    /// Forgets all filters.
    pub fn clear(&mut self) {
        self.classes.clear();
        self.scratch = None;
    }

    fn held(&self) -> usize {
        self.classes.values().flat_map(|filters| &filters.kept).map(GpuBuffer::bytes).sum()
    }

    /// Makes the scratch large enough for a class.
    fn grow(&mut self, gpu: &Gpu, class: &LengthClass) -> Result<(), CudaError> {
        let positions = class.length();
        if self.scratch.as_ref().is_some_and(|scratch| scratch.positions >= positions) {
            return Ok(());
        }
        let order = self.generators[0][0].mlps[0].0.order;
        let taps = || gpu.zeros(self.channels * positions * 4);
        // The old one stays where there is no memory for it: classes that are there need it.
        self.scratch = Some(Scratch {
            positions,
            states: gpu.zeros(positions * order * 4)?,
            taps: [taps()?, taps()?],
            made: gpu.zeros(2 * class.filter_bytes(self.channels))?,
        });
        Ok(())
    }

    /// Makes both branches' filters of a layer.
    fn make(&self, gpu: &Gpu, class: &LengthClass, layer: usize, out: &GpuBuffer) -> Result<(), CudaError> {
        let scratch = self.scratch.as_ref().expect("scratch was grown");
        for (branch, generator) in self.generators[layer].iter().enumerate() {
            let positions = class.length().min(generator.positions);
            for ((weights, projection), taps) in generator.mlps.iter().zip(&scratch.taps) {
                gpu.sine_layers(weights, &generator.features, positions, &scratch.states)?;
                let rows = |buffer, stride| Block { buffer, offset: 0, stride, step: 0 };
                gpu.product(&ProductArgs {
                    kind: ProductKind::Taps,
                    element: Element::F32,
                    m: self.channels,
                    n: positions,
                    k: weights.order,
                    blocks: 1,
                    a: rows(projection, weights.order),
                    b: rows(&scratch.states, weights.order),
                    gate: None,
                    bias: None,
                    residual: None,
                    c: rows(taps, positions),
                })?;
            }
            let source = SpectrumSource {
                taps: scratch.taps.each_ref(),
                time: &generator.time,
                deltas: &generator.deltas,
                skip: &generator.skip,
                positions,
                channels: self.channels,
            };
            gpu.filters(class, &source, (out, branch * class.filter_bytes(self.channels)))?;
        }
        Ok(())
    }
}

impl Generator {
    fn new(gpu: &Gpu, config: &ModelConfig, filter: &danaus_model::LongFilter) -> Result<Self, CudaError> {
        let mlp = |mlp: &FilterMlp| {
            Ok::<_, CudaError>((sine_weights(gpu, config, mlp)?, upload(gpu, &mlp.output.values())?))
        };
        Ok(Self {
            features: upload(gpu, &filter.features.values())?,
            time: upload(gpu, &filter.time.values())?,
            deltas: upload(gpu, &filter.deltas.values())?,
            skip: upload(gpu, &filter.skip.values())?,
            positions: filter.time.len(),
            mlps: [mlp(&filter.forward)?, mlp(&filter.reverse)?],
        })
    }
}

fn sine_weights(gpu: &Gpu, config: &ModelConfig, mlp: &FilterMlp) -> Result<SineWeights, CudaError> {
    let (features, order) = (config.hyena_emb_dim, config.hyena_filter_order);
    let (mut weights, mut biases, mut frequencies) = (Vec::new(), Vec::new(), Vec::new());
    for layer in &mlp.sine_layers {
        let weight = layer.linear.weight.values();
        let inputs = weight.len() / order;
        weights.extend((0..inputs).flat_map(|input| weight.iter().skip(input).step_by(inputs)));
        biases.extend_from_slice(&layer.linear.bias.values());
        frequencies.extend(layer.frequency.values().iter().map(|&f| f64::from(f) * config.hyena_w_mod));
    }
    Ok(SineWeights {
        features,
        order,
        weights: upload(gpu, &weights)?,
        biases: upload(gpu, &biases)?,
        frequencies: gpu.upload(bytemuck::cast_slice::<f64, u8>(&frequencies))?,
    })
}
