//! The CPU backend.

mod filters;
mod forward;
mod mixer;
mod mlp;
mod pooling;
mod recording;
mod sketch;
mod team;
mod weights;
mod workspace;

use std::ops::{ControlFlow, Range};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use danaus_kernels::gemm::Precision;
use danaus_kernels::{Compute, Texts};
use danaus_model::{LoadedModel, ModelConfig};

use crate::padding::{
    FarField, FarFields, RunningSums, Sketch, Window, WindowEncoder, WindowRecord, equal_pairs,
};
use crate::profile::{Clock, Profile, Stage};
use crate::{Backend, BackendInfo, BackendOptions, Dtype, EngineError, Padding, Pooling, Text};
use crate::{gpu, machine};
use filters::FilterBank;
pub(crate) use forward::STEPS_PER_LAYER;
use weights::EncoderWeights;
use workspace::Workspace;

/// Tokens that one forward pass takes (a longer text has a pass to itself): enough rows to keep every core busy, few
/// enough that activations stay small.
const PASS_TOKENS: usize = 2048;

/// How long a pass that prepares fast padding leaves the threads to others after each layer.
const TURN: Duration = Duration::from_micros(100);

/// Receives the values of each stage of a forward pass, for tests and for finding where two implementations part.
pub trait Observer {
    /// `values` is `[tokens, channels]`. Stages, layer by layer: `embeddings` (once), then `short_conv`, `long_conv`,
    /// `residual_long_conv`, `mixer`, `layer`.
    fn stage(&mut self, name: &'static str, values: &[f32]);
    /// Whether it does anything with them: some are made for it alone.
    fn wants(&self) -> bool {
        true
    }
}

impl Observer for () {
    fn stage(&mut self, _: &'static str, _: &[f32]) {}
    fn wants(&self) -> bool {
        false
    }
}

/// M2-BERT on the CPU.
#[derive(Debug)]
pub struct CpuBackend {
    info: BackendInfo,
    config: ModelConfig,
    precision: Precision,
    compute: Compute,
    profile: Option<Arc<Profile>>,
    weights: EncoderWeights,
    filters: FilterBank,
    /// What fast padding needs, once it is prepared.
    far_fields: RwLock<Option<Arc<FarFields>>>,
    /// The buffers of a pass: there is one at a time.
    workspace: Mutex<Workspace>,
}

/// One forward pass: token ids end to end, and which of them belong to which text; after them, the sketches' rows.
#[derive(Debug, Default)]
pub(crate) struct Pass {
    ids: Vec<u32>,
    /// Where in its text each row stands.
    positions: Vec<usize>,
    /// Rows of each text, its padding included.
    texts: Texts,
    /// What padding beyond its rows adds to each text's convolutions.
    far_fields: Vec<Option<Arc<FarField>>>,
    sketches: Vec<Sketched>,
}

/// A text's sketch of its padding, and the rows that are computed for it.
#[derive(Debug)]
struct Sketched {
    text: usize,
    sketch: Arc<Sketch>,
    rows: Range<usize>,
}

/// Who looks on while a pass is computed.
pub(crate) struct Watch<'a> {
    observer: &'a mut (dyn Observer + Send),
    /// What is recorded of the pass's only text.
    records: &'a mut [WindowRecord],
}

impl Pass {
    /// Texts in their windows, padded with `pad`.
    fn new<'a>(texts: impl IntoIterator<Item = (&'a [u32], Window)>, pad: u32) -> Self {
        let mut pass = Self::default();
        for (ids, window) in texts {
            pass.texts.push(window.rows.max(ids.len()));
            pass.ids.extend_from_slice(ids);
            pass.ids.resize(pass.texts.rows(), pad);
            pass.positions.extend(0..window.rows.max(ids.len()));
            pass.far_fields.push(window.far_field);
            let text = pass.texts.len() - 1;
            pass.sketches.extend(window.sketch.map(|sketch| Sketched { text, sketch, rows: 0..0 }));
        }
        for sketched in &mut pass.sketches {
            let start = pass.ids.len();
            sketched.rows = start..start + sketched.sketch.rows();
            pass.ids.resize(sketched.rows.end, pad);
            pass.positions.extend(sketched.sketch.cells().positions());
        }
        pass
    }
}

impl CpuBackend {
    /// Packs the model's weights for this CPU.
    ///
    /// # Errors
    /// A configuration that cannot be computed with, an instruction set that the CPU does not have, or threads that the
    /// system refuses.
    pub fn new(model: &LoadedModel, options: &BackendOptions) -> Result<Self, EngineError> {
        model.config.validate().map_err(|error| EngineError::InvalidModel(error.to_string()))?;
        gpu::check_cpu(options.dtype)?;
        let compute = machine::compute(options)?;
        let isa = compute.isa();
        let (precision, dtype) = match options.dtype {
            // Where there is no instruction for it, bfloat16 only saves memory.
            Dtype::Auto if isa.has_bf16() => (Precision::Bf16, "bf16"),
            Dtype::Auto | Dtype::F32 | Dtype::F16 => (Precision::F32, "f32"),
            Dtype::Bf16 => (Precision::Bf16, "bf16"),
            Dtype::Int8 => (Precision::Int8, "int8"),
        };
        // Taps that are eight bits coarse would be the largest error of all.
        let filter_precision = if precision == Precision::F32 { Precision::F32 } else { Precision::Bf16 };
        let info = BackendInfo {
            device: "cpu",
            instruction_set: isa.name(),
            dtype,
            threads: compute.threads(),
            accelerator: None,
            steps: STEPS_PER_LAYER * model.config.num_hidden_layers,
        };
        let weights = compute.enter(|| EncoderWeights::new(&compute, model, precision));
        let filters = compute.enter(|| FilterBank::new(&compute, model, filter_precision, options));
        // What was packed is not needed a second time, and the embeddings' rows only now and then.
        weights.word.release_pages();
        Ok(Self {
            info,
            config: model.config.clone(),
            precision,
            profile: options.profile.clone(),
            weights,
            filters,
            far_fields: RwLock::default(),
            workspace: Mutex::default(),
            compute,
        })
    }

    /// Last hidden states `[tokens, H]` of one text, without padding, each stage shown to `observer`.
    ///
    /// # Errors
    /// As [`Backend::embed`].
    pub fn hidden_states(
        &self,
        ids: &[u32],
        observer: &mut (dyn Observer + Send),
    ) -> Result<Vec<f32>, EngineError> {
        self.check([ids])?;
        let pass = Pass::new([(ids, Window::alone(ids.len()))], self.config.pad_token_id);
        Ok(self.with_workspace(|workspace| {
            self.forward(&pass, workspace, &mut Watch { observer, records: &mut [] });
            workspace.hidden().to_vec()
        }))
    }

    /// Times the stages of one thread's work, if anybody wants to know.
    fn clock(&self) -> Clock<'_> {
        Clock::start(self.profile.as_deref())
    }

    /// Runs `pass` when all threads are its own: concurrent passes take turns.
    fn with_workspace<R>(&self, pass: impl FnOnce(&mut Workspace) -> R) -> R {
        self.compute.enter(|| {
            let mut workspace = self.workspace.lock().unwrap_or_else(PoisonError::into_inner);
            let result = pass(&mut workspace);
            workspace.shrink(self.config.hidden_size);
            result
        })
    }

    /// Checks the token ids of each text of a batch.
    pub(crate) fn check<'a>(&self, texts: impl IntoIterator<Item = &'a [u32]>) -> Result<(), EngineError> {
        let (max_tokens, vocabulary) = (self.max_tokens(), self.config.vocab_size);
        for (index, ids) in texts.into_iter().enumerate() {
            let tokens = ids.len();
            if tokens == 0 {
                return Err(EngineError::EmptyText { index });
            }
            if tokens > max_tokens {
                return Err(EngineError::TextTooLong { index, tokens, max_tokens });
            }
            if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
                return Err(EngineError::UnknownToken { index, id, vocabulary });
            }
        }
        Ok(())
    }

    /// Computes `pass` step by step in buffers of its own, and hands them to `result` at the end. Before each step, `between`
    /// is called and other passes may be computed, and likewise while filters are made.
    fn stepwise<R>(
        &self,
        pass: &Pass,
        records: &mut [WindowRecord],
        between: &mut dyn FnMut() -> ControlFlow<()>,
        result: impl FnOnce(&Workspace) -> R,
    ) -> Result<R, EngineError> {
        if self.filters.make_states(&self.compute, filter_lengths(pass, records), between).is_break() {
            return Err(EngineError::Stopped);
        }
        let lock = || self.workspace.lock().unwrap_or_else(PoisonError::into_inner);
        let mut workspace = std::mem::take(&mut *lock());
        let mut watch = Watch { observer: &mut (), records };
        let mut running = self.compute.enter(|| self.begin(pass, &mut workspace, &mut watch));
        loop {
            if between().is_break() {
                return Err(EngineError::Stopped);
            }
            if !self.compute.enter(|| self.step(&mut running, &mut workspace, &mut watch)) {
                break;
            }
        }
        let result = self.compute.enter(|| result(&workspace));
        workspace.shrink(self.config.hidden_size);
        *lock() = workspace;
        Ok(result)
    }

    /// The vectors of one text in a window, by pooling, in the order of [`Pooling::ALL`]: as [`WindowEncoder::encode`] gives
    /// them, in one go.
    pub(crate) fn vectors(&self, ids: &[u32], window: Window) -> Result<Vec<Vec<f32>>, EngineError> {
        self.check([ids])?;
        let pass = Pass::new([(ids, window)], self.config.pad_token_id);
        Ok(self.with_workspace(|workspace| {
            self.forward(&pass, workspace, &mut Watch { observer: &mut (), records: &mut [] });
            self.pool_all_ways(ids, workspace)
        }))
    }

    /// The vectors of a pass's only text, by pooling.
    fn pool_all_ways(&self, ids: &[u32], workspace: &Workspace) -> Vec<Vec<f32>> {
        let hidden = &workspace.hidden()[..ids.len() * self.config.hidden_size];
        Pooling::ALL.iter().map(|&pooling| self.pool(hidden, pooling)).collect()
    }

    /// The model's shape.
    pub(crate) fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Texts in one pass.
    fn pass(&self, texts: &[Text<'_>]) -> Pass {
        Pass::new(texts.iter().map(|text| (text.ids, text.window.clone())), self.config.pad_token_id)
    }

    /// The pooled vectors of a pass over `texts`, whose hidden states are in the workspace.
    fn pooled(&self, texts: &[Text<'_>], pass: &Pass, workspace: &Workspace) -> Vec<Vec<f32>> {
        let hidden = workspace.hidden();
        let width = self.config.hidden_size;
        let mut clock = self.clock();
        let pooled = texts.iter().zip(pass.texts.iter()).map(|(text, rows)| {
            let hidden = &hidden[rows.start * width..(rows.start + text.ids.len()) * width];
            self.pool(hidden, text.pooling)
        });
        let pooled = pooled.collect();
        clock.lap(Stage::Pooling);
        pooled
    }

    /// Embeds texts, by `embed_pass` in passes of at most [`PASS_TOKENS`] tokens.
    fn embed_passes(
        &self,
        texts: &[Text<'_>],
        mut embed_pass: impl FnMut(&[Text<'_>]) -> Result<Vec<Vec<f32>>, EngineError>,
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        self.check(texts.iter().map(|text| text.ids))?;
        let mut embeddings = Vec::with_capacity(texts.len());
        let mut rest = texts;
        while !rest.is_empty() {
            let mut tokens = 0;
            let fits = rest.iter().take_while(|text| {
                tokens += text.window.cost();
                tokens <= PASS_TOKENS
            });
            let (pass, others) = rest.split_at(fits.count().max(1));
            embeddings.extend(embed_pass(pass)?);
            rest = others;
        }
        Ok(embeddings)
    }
}

/// Lengths of the texts, and of the windows that are recorded beside them, that a pass needs filters for.
fn filter_lengths<'a>(pass: &'a Pass, records: &'a [WindowRecord]) -> impl Iterator<Item = usize> + 'a {
    let windows = records.iter().map(WindowRecord::window);
    pass.texts.iter().map(|rows| rows.len()).chain(windows)
}

impl Backend for CpuBackend {
    fn info(&self) -> &BackendInfo {
        &self.info
    }

    fn dimension(&self) -> usize {
        self.config.hidden_size
    }

    fn max_tokens(&self) -> usize {
        self.config.max_tokens()
    }

    fn window(&self, ids: &[u32], pooling: Pooling, padding: Padding) -> Window {
        let exact = Window::exact(self.config.max_tokens());
        match padding {
            Padding::None => Window::alone(ids.len()),
            Padding::MaxLength => exact,
            Padding::Fast => {
                let fields = self.far_fields();
                let window = fields.and_then(|fields| fields.window(ids.len(), equal_pairs(ids), pooling));
                window.unwrap_or(exact)
            }
        }
    }

    fn windows(&self) -> &dyn WindowEncoder {
        self
    }

    fn far_fields(&self) -> Option<Arc<FarFields>> {
        self.far_fields.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_far_fields(&self, far_fields: Arc<FarFields>) {
        *self.far_fields.write().unwrap_or_else(PoisonError::into_inner) = Some(far_fields);
    }

    fn embed(&self, texts: &[Text<'_>]) -> Result<Vec<Vec<f32>>, EngineError> {
        self.embed_passes(texts, |texts| {
            let pass = self.pass(texts);
            Ok(self.with_workspace(|workspace| {
                let mut watch = Watch { observer: &mut (), records: &mut [] };
                self.forward(&pass, workspace, &mut watch);
                self.pooled(texts, &pass, workspace)
            }))
        })
    }

    fn embed_stepwise(
        &self,
        texts: &[Text<'_>],
        between: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        self.embed_passes(texts, |texts| {
            let pass = self.pass(texts);
            let pooled = |workspace: &Workspace| self.pooled(texts, &pass, workspace);
            self.stepwise(&pass, &mut [], between, pooled)
        })
    }
}

impl WindowEncoder for CpuBackend {
    fn dtype(&self) -> &'static str {
        self.info.dtype
    }

    fn shape(&self) -> (usize, usize) {
        (self.weights.layers.len(), self.config.hidden_size)
    }

    fn running_sums(&self) -> RunningSums {
        self.compute.enter(|| self.filters.running_sums(&self.compute, self.max_tokens()))
    }

    fn encode(
        &self,
        ids: &[u32],
        window: Window,
        records: &mut [WindowRecord],
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        self.check([ids])?;
        let pass = Pass::new([(ids, window)], self.config.pad_token_id);
        // Waiting passes get their turn only from who gives it up for a moment.
        let mut between = || {
            std::thread::sleep(TURN);
            ControlFlow::Continue(())
        };
        self.stepwise(&pass, records, &mut between, |workspace| self.pool_all_ways(ids, workspace))
    }
}
