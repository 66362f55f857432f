//! A model on a GPU that is driven by Metal, Vulkan or DirectX 12, by the kernels in [`danaus_kernels::wgpu`].

mod far_fields;
mod filters;
mod groups;
mod pass;
mod tiles;
mod weights;
mod workspace;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use danaus_kernels::wgpu::{Gpu, GpuError, GpuOptions, Kernels, Storage, adapters};
use danaus_model::{LoadedModel, ModelConfig};

use super::{Accelerator, Description, DeviceError, PaddedText, runs};
use far_fields::FarFieldBank;
use filters::FilterBank;
use tiles::Tiles;
use weights::{DeviceWeights, EmbeddingTables};
use workspace::Workspace;

pub use danaus_kernels::wgpu::{AdapterDescription, Api};

/// Workspaces that are kept between passes.
const KEPT_WORKSPACES: usize = 2;

/// How to put a model on a GPU.
#[derive(Debug, Clone, Default)]
pub struct WgpuOptions {
    /// The interfaces to look at.
    pub backends: Api,
    /// Whether a device that is a program on the CPU will do: slower than the CPU backend, good for tests.
    pub allow_cpu: bool,
    /// Whether weights and activations are stored as float16. Where it is not said, they are where a GPU can.
    pub f16: Option<bool>,
    /// Where to remember which tiles of matrix products are fastest; `None`: nowhere.
    pub cache_dir: Option<PathBuf>,
}

/// The devices that the interfaces offer, those that are programs on the CPU included.
pub fn list_adapters(backends: Api) -> Vec<AdapterDescription> {
    adapters(backends)
}

/// A model on a GPU.
///
/// Activations of all of a pass's texts are packed end to end as `[rows, H]`. Token and position tables stay on the host, which
/// sends the sums of their rows.
#[derive(Debug)]
pub struct WgpuAccelerator {
    kernels: Kernels,
    description: Description,
    config: ModelConfig,
    tables: EmbeddingTables,
    weights: DeviceWeights,
    filters: FilterBank,
    far_fields: FarFieldBank,
    tiles: Tiles,
    /// Memory of passes, for the next ones.
    workspaces: Mutex<Vec<Workspace>>,
}

impl WgpuAccelerator {
    /// Opens the best device that the options allow, and sends it the model's weights.
    ///
    /// # Errors
    /// Why there is no such device, or it cannot take this model.
    pub fn new(model: &LoadedModel, options: &WgpuOptions) -> Result<Self, String> {
        check_sizes(&model.config)?;
        let gpu_options =
            GpuOptions { api: options.backends, allow_cpu: options.allow_cpu, f16: options.f16 };
        let gpu = Gpu::open(gpu_options)?;
        let description = describe(&gpu);
        let says = |error: GpuError| format!("{}: {error}", description.name);
        let kernels = Kernels::new(gpu).map_err(says)?;
        let weights = DeviceWeights::new(kernels.gpu(), model).map_err(says)?;
        let filters = FilterBank::new(kernels.gpu(), model).map_err(says)?;
        let mut accelerator = Self {
            kernels,
            config: model.config.clone(),
            tables: EmbeddingTables::new(&model.weights.embeddings),
            weights,
            filters,
            far_fields: FarFieldBank::default(),
            tiles: Tiles::default(),
            workspaces: Mutex::default(),
            description,
        };
        accelerator.tiles = accelerator
            .choose_tiles(options.cache_dir.as_deref())
            .map_err(|error| format!("{}: {error}", accelerator.description.name))?;
        Ok(accelerator)
    }

    fn take_workspace(&self) -> Workspace {
        self.lock_workspaces().pop().unwrap_or_default()
    }

    fn keep_workspace(&self, workspace: Workspace) {
        let mut kept = self.lock_workspaces();
        if kept.len() < KEPT_WORKSPACES {
            kept.push(workspace);
        }
    }

    fn lock_workspaces(&self) -> std::sync::MutexGuard<'_, Vec<Workspace>> {
        self.workspaces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Accelerator for WgpuAccelerator {
    fn description(&self) -> &Description {
        &self.description
    }

    fn embed(
        &self,
        texts: &[PaddedText<'_>],
        mut between: Option<&mut dyn FnMut() -> ControlFlow<()>>,
    ) -> Result<Vec<Vec<f32>>, DeviceError> {
        self.kernels.gpu().check().map_err(device_error)?;
        let mut vectors = Vec::with_capacity(texts.len());
        for group in runs(texts, self.most_rows()) {
            let mut workspace = self.take_workspace();
            let between = between.as_mut().map(|between| &mut **between as &mut dyn FnMut() -> _);
            let embedded = self.embed_group(group, &mut workspace, between);
            match &embedded {
                // What was kept is what others may need.
                Err(DeviceError::OutOfMemory(_)) => {
                    self.lock_workspaces().clear();
                    self.filters.forget();
                    self.far_fields.forget();
                }
                _ => self.keep_workspace(workspace),
            }
            vectors.extend(embedded?);
        }
        Ok(vectors)
    }
}

fn device_error(error: GpuError) -> DeviceError {
    match error {
        GpuError::OutOfMemory(what) => DeviceError::OutOfMemory(what),
        GpuError::Failed(what) => DeviceError::Failed(what),
    }
}

fn describe(gpu: &Gpu) -> Description {
    let found = gpu.description();
    Description {
        device: found.backend,
        name: found.name.clone(),
        driver: found.driver.clone(),
        dtype: match gpu.storage() {
            Storage::F32 => "f32",
            Storage::F16 => "f16",
        },
        memory_bytes: None,
    }
}

/// Kernels take channels in fours.
fn check_sizes(config: &ModelConfig) -> Result<(), String> {
    let blocks = config.monarch_mlp_nblocks;
    let sizes = [
        ("hidden_size / monarch_mlp_nblocks", config.hidden_size / blocks),
        ("intermediate_size / monarch_mlp_nblocks", config.intermediate_size / blocks),
        ("hyena_filter_order", config.hyena_filter_order),
    ];
    match sizes.iter().find(|(_, size)| !size.is_multiple_of(4)) {
        Some((what, size)) => Err(format!("{what} is {size}: GPUs take multiples of 4")),
        None => Ok(()),
    }
}
