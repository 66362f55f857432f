//! M2-BERT on an NVIDIA GPU.
//!
//! Texts are packed end to end, as on the CPU. Hidden states enter a layer channel by channel, `[H, tokens]`, since that is how
//! convolutions read them; the mixer's last product turns them into rows, and LayerNorm turns them back. A layer is seven launches
//! (and one more for each further class of lengths).

mod filters;
mod pass;
mod weights;
mod workspace;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use danaus_kernels::cuda::Element;
use danaus_kernels::cuda::{CudaError, Gpu, GpuBuffer, SineWeights};
use danaus_model::{LoadedModel, ModelConfig};

use super::{Accelerator, Description, DeviceError, PaddedText, runs};
use crate::padding::FarField;
use filters::FilterBank;
use weights::GpuWeights;
use workspace::Workspace;

/// Tokens of a pass, unless one text is longer.
const PASS_ROWS: usize = 32_768;

/// Multiprocessors of a GPU that counts as large: an A100 has 108, an H200 132.
const LARGE_GPU: usize = 100;

/// How long the GPU may take for anything that is waited for: a pass takes milliseconds.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Whether a model can be computed on a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CudaUnavailable {
    /// There is no GPU (or no driver) to try.
    Absent(String),
    /// There is one, and it cannot be used.
    Failed(String),
}

/// How to make one.
#[derive(Debug, Clone, Copy)]
pub struct CudaOptions {
    /// The GPU's number, in the driver's order.
    pub index: usize,
    /// The type of weights and activations.
    pub element: Element,
}

/// A model on an NVIDIA GPU.
#[derive(Debug)]
pub struct CudaAccelerator {
    description: Description,
    gpu: Gpu,
    config: ModelConfig,
    element: Element,
    weights: GpuWeights,
    /// Who holds this may start work.
    state: Mutex<State>,
    /// Passes that let others use the GPU between their steps: what they need must stay.
    stepwise: AtomicUsize,
}

/// A pass among the stepwise ones, as long as it lives.
struct Stepwise<'a>(&'a AtomicUsize);

impl<'a> Stepwise<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Stepwise<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What passes share.
#[derive(Debug)]
struct State {
    filters: FilterBank,
    /// Of passes that have ended.
    workspaces: Vec<Workspace>,
    /// Far fields that are on the GPU, by address; each is kept, so that its address stays its own.
    far_fields: HashMap<usize, (Arc<FarField>, GpuBuffer)>,
}

impl From<CudaError> for DeviceError {
    fn from(error: CudaError) -> Self {
        match error {
            CudaError::OutOfMemory(message) => Self::OutOfMemory(message),
            CudaError::Absent(message) | CudaError::Failed(message) => Self::Failed(message),
        }
    }
}

impl From<CudaError> for CudaUnavailable {
    fn from(error: CudaError) -> Self {
        match error {
            CudaError::Absent(message) => Self::Absent(message),
            CudaError::OutOfMemory(message) | CudaError::Failed(message) => Self::Failed(message),
        }
    }
}

/// The names of the NVIDIA GPUs here.
///
/// # Errors
/// Why there are none.
pub fn devices() -> Result<Vec<String>, CudaUnavailable> {
    Ok(danaus_kernels::cuda::devices()?)
}

impl CudaAccelerator {
    /// Loads the model's weights to a GPU.
    ///
    /// # Errors
    /// See [`CudaUnavailable`]; among them a model whose sizes the kernels do not take.
    pub fn new(model: &LoadedModel, options: &CudaOptions) -> Result<Self, CudaUnavailable> {
        let gpu = Gpu::open(options.index)?;
        let element = options.element;
        check_sizes(&gpu, &model.config)?;
        let (free, total) = gpu.memory()?;
        let weights = GpuWeights::new(&gpu, model, element)?;
        let filters = FilterBank::new(&gpu, model, free / 2)?;
        gpu.wait(TIMEOUT)?;
        let description = Description {
            device: "cuda",
            name: gpu.name().to_owned(),
            driver: gpu.driver().to_owned(),
            dtype: element.name(),
            memory_bytes: Some(total as u64),
        };
        let state = State { filters, workspaces: Vec::new(), far_fields: HashMap::new() };
        let config = model.config.clone();
        Ok(Self {
            description,
            gpu,
            config,
            element,
            weights,
            state: Mutex::new(state),
            stepwise: AtomicUsize::new(0),
        })
    }

    /// The GPU, for benchmarks.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Texts of one pass, computed without a stop.
    fn embed_pass(&self, texts: &[PaddedText<'_>]) -> Result<Vec<Vec<f32>>, DeviceError> {
        let mut state = self.state();
        let pass = self.pass(&mut state, texts)?;
        let mut workspace = self.workspace(&mut state, &pass)?;
        self.start(&mut state, &pass, &mut workspace)?;
        let sums = self.sums(&pass, &mut workspace)?;
        state.workspaces.push(workspace);
        Ok(pass.pooled(texts, &sums, self.config.hidden_size))
    }

    /// Texts of one pass, step by step: others may use the GPU in between.
    fn embed_pass_stepwise(
        &self,
        texts: &[PaddedText<'_>],
        between: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Vec<Vec<f32>>, DeviceError> {
        let _stepwise = Stepwise::new(&self.stepwise);
        let pass = self.pass(&mut self.state(), texts)?;
        let mut workspace = self.workspace(&mut self.state(), &pass)?;
        for step in 0..self.steps() {
            if between().is_break() {
                self.state().workspaces.push(workspace);
                return Err(DeviceError::Stopped);
            }
            let mut state = self.state();
            if step == 0 {
                self.write_inputs(&pass, &mut workspace)?;
                self.embed_tokens(&pass, &workspace)?;
            }
            self.step(&mut state, &pass, &workspace, step)?;
            self.gpu.wait(TIMEOUT)?;
        }
        let mut state = self.state();
        self.sum(&pass, &workspace)?;
        let sums = self.sums(&pass, &mut workspace)?;
        state.workspaces.push(workspace);
        Ok(pass.pooled(texts, &sums, self.config.hidden_size))
    }

    /// Forgets what can be made again and no pass is using.
    fn make_room(&self) {
        let mut state = self.state();
        state.workspaces.clear();
        // A pass that waits between two steps has addresses of these, and so have the graphs in its workspace. (None begins while
        // the state is held here.)
        if self.stepwise.load(Ordering::SeqCst) == 0 {
            state.far_fields.clear();
            state.filters.clear();
        }
        // The memory is free once the stream is past its release.
        let _ = self.gpu.wait(TIMEOUT);
    }
}

impl Accelerator for CudaAccelerator {
    fn description(&self) -> &Description {
        &self.description
    }

    // An H200 takes 15 ms for 32,768 rows in half precision, the 16 cores beside it 40 to 60 for a window with a sketch. Only of GPUs
    // of about its size the same is said.
    fn is_faster_than_sketches(&self) -> bool {
        self.element == Element::F16 && self.gpu.multiprocessors() >= LARGE_GPU
    }

    // An H200 in half precision: 1.3 ms for 2,048 rows, 5.5 for 16,384.
    fn batch_tokens(&self) -> usize {
        if self.gpu.multiprocessors() >= LARGE_GPU { 16_384 } else { 4096 }
    }

    fn embed(
        &self,
        texts: &[PaddedText<'_>],
        mut between: Option<&mut dyn FnMut() -> ControlFlow<()>>,
    ) -> Result<Vec<Vec<f32>>, DeviceError> {
        let mut vectors = Vec::with_capacity(texts.len());
        for texts in runs(texts, PASS_ROWS) {
            let mut pass = || match &mut between {
                Some(between) => self.embed_pass_stepwise(texts, *between),
                None => self.embed_pass(texts),
            };
            let result = match pass() {
                Err(DeviceError::OutOfMemory(_)) => {
                    self.make_room();
                    pass()
                }
                result => result,
            };
            vectors.extend(result?);
        }
        Ok(vectors)
    }
}

/// Whether the kernels take a model of these sizes.
fn check_sizes(gpu: &Gpu, config: &ModelConfig) -> Result<(), CudaUnavailable> {
    let blocks = config.monarch_mlp_nblocks;
    let (narrow, wide) = (config.hidden_size / blocks, config.intermediate_size / blocks);
    let fits = config.hidden_size <= 1024
        && blocks.is_multiple_of(2)
        && narrow.is_multiple_of(8)
        && wide.is_multiple_of(8)
        && SineWeights::fit(gpu, config.hyena_emb_dim, config.hyena_filter_order)
        && gpu.length_class(config.max_tokens())?.is_some();
    if !fits {
        return Err(CudaUnavailable::Failed(format!(
            "the CUDA kernels take up to 1,024 channels, diagonal blocks in an even number, of multiples of 8, 32,768 tokens, and \
             filters of some hundred states: the model has {} channels, {blocks} blocks of {narrow} and {wide}, {} tokens and {} \
             states",
            config.hidden_size,
            config.max_tokens(),
            config.hyena_filter_order
        )));
    }
    Ok(())
}
