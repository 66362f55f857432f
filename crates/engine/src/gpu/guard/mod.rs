//! A GPU beside the CPU that watches it.

mod crossover;
mod self_test;
mod supervised;
mod trust;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Accelerator, Description, DeviceError, PaddedText};
use crate::padding::{FarFields, Window, WindowEncoder};
use crate::{
    AcceleratorInfo, Backend, BackendInfo, BackendOptions, CpuBackend, EngineError, Padding, Pooling,
    Rechecks, Text,
};
pub use crossover::{Crossover, Measured};
pub(super) use crossover::{measure, measure_length};
pub(super) use self_test::self_test;
pub use self_test::{ProbeResult, SelfTest};
use supervised::Turns;
pub(super) use supervised::{Supervised, panic_message};
use trust::{Trust, compare, is_finite, most};

/// How a GPU is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardOptions {
    /// Texts of fewer rows are computed on the CPU; `None` to measure which those are.
    pub crossover: Option<usize>,
    /// Where the measured crossover is kept; `None` to keep nothing.
    pub cache_dir: Option<PathBuf>,
    /// Time that the CPU may take for the self-test.
    pub self_test: Duration,
    /// While serving, one text in so many is computed again on the CPU; 0 for none.
    pub recheck_one_in: u64,
    /// Most rows of a text that is.
    pub recheck_rows: usize,
    /// How long the GPU may leave us without a sign, on top of what it may take for each row.
    pub patience: Duration,
}

impl Default for GuardOptions {
    fn default() -> Self {
        Self {
            crossover: None,
            cache_dir: None,
            self_test: Duration::from_secs(2),
            recheck_one_in: 1000,
            recheck_rows: 2048,
            patience: Duration::from_secs(30),
        }
    }
}

impl From<&BackendOptions> for GuardOptions {
    fn from(options: &BackendOptions) -> Self {
        let (crossover, cache_dir) = (options.crossover, options.cache_dir.clone());
        Self { crossover, cache_dir, ..Self::default() }
    }
}

/// Why a GPU does not serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    /// It failed, or computes something else than the CPU.
    #[error("{0}")]
    Device(String),
    /// The CPU cannot compute the model either.
    #[error(transparent)]
    Cpu(EngineError),
}

/// Why a batch has no vectors from the GPU.
enum Trouble {
    /// It is not to be used any more.
    Gpu(String),
    /// Its request has none at all.
    Request(EngineError),
}

/// A model on a GPU and on the CPU.
///
/// The GPU computes what it is faster at, once it has shown that it computes what the CPU does, and as long as it keeps doing so.
/// Where it fails, is late, or disagrees with the CPU, its answer is not used, and it is never asked again.
///
/// Where a text is computed follows from the text alone (and from far fields being there), so that its bits do.
#[derive(Debug)]
pub struct GuardedBackend {
    info: BackendInfo,
    cpu: CpuBackend,
    gpu: Supervised,
    crossover: usize,
    recheck_rows: usize,
    /// Lengths of texts that the self-test left out.
    untested: Vec<usize>,
    trust: Trust,
}

impl GuardedBackend {
    /// Tests the GPU and finds the crossover. Both must be of the same model.
    ///
    /// # Errors
    /// A self-test that fails.
    pub fn new(cpu: CpuBackend, gpu: Box<dyn Accelerator>, options: &GuardOptions) -> Result<Self, Distrust> {
        let gpu = Supervised::new(gpu, options.patience);
        let test = self_test(&cpu, &gpu, options.self_test).map_err(Distrust::Cpu)?;
        if let Some(reason) = test.failure {
            return Err(Distrust::Device(format!("it failed its self-test: {reason}")));
        }
        tracing::debug!(probes = test.probes.len(), skipped = ?test.skipped, "the GPU passed its self-test");
        let crossover = match options.crossover {
            Some(rows) => rows,
            None => crossover::remembered(&cpu, &gpu, options.cache_dir.as_deref())?.rows,
        };
        Ok(Self {
            info: info(&cpu, gpu.description(), crossover),
            cpu,
            gpu,
            crossover,
            recheck_rows: options.recheck_rows,
            untested: test.skipped,
            trust: Trust::new(options.recheck_one_in),
        })
    }

    /// Whether the CPU was found to be faster at every length.
    pub(super) fn is_slower(&self) -> bool {
        self.crossover > self.cpu.max_tokens()
    }

    /// A text as the GPU takes it; `None` where it is the CPU's.
    fn placed<'a>(&self, text: &Text<'a>) -> Option<PaddedText<'a>> {
        let Window { rows, far_field, sketch, .. } = &text.window;
        let (rows, far_field) = ((*rows).max(text.ids.len()), far_field.clone());
        if sketch.is_some() || rows < self.crossover {
            return None;
        }
        Some(PaddedText { ids: text.ids, rows, far_field, pooled: self.cpu.pooled_from(text.pooling) })
    }

    fn embed_with(&self, texts: &[Text<'_>], mut turns: Turns<'_>) -> Result<Vec<Vec<f32>>, EngineError> {
        self.cpu.check(texts.iter().map(|text| text.ids))?;
        let mut vectors = vec![None; texts.len()];
        self.embed_on_gpu(texts, &mut vectors, &mut turns)?;
        let missing: Vec<_> = texts
            .iter()
            .zip(&vectors)
            .filter(|(_, vector)| vector.is_none())
            .map(|(text, _)| text.clone())
            .collect();
        let computed = if missing.is_empty() { Vec::new() } else { turns.embed(&self.cpu, &missing)? };
        let places = vectors.iter_mut().filter(|vector| vector.is_none());
        places.zip(computed).for_each(|(place, vector)| *place = Some(vector));
        Ok(vectors.into_iter().flatten().collect())
    }

    /// Fills in the vectors of those texts that are the GPU's, unless it is not trusted by the end.
    fn embed_on_gpu(
        &self,
        texts: &[Text<'_>],
        vectors: &mut [Option<Vec<f32>>],
        turns: &mut Turns<'_>,
    ) -> Result<(), EngineError> {
        if self.trust.demoted().is_some() {
            return Ok(());
        }
        let placed = texts.iter().enumerate().filter_map(|(index, text)| Some((index, self.placed(text)?)));
        let (indices, batch): (Vec<_>, Vec<_>) = placed.unzip();
        if batch.is_empty() {
            return Ok(());
        }
        let watched = self.compute(&indices, &batch, turns).and_then(|computed| {
            let texts = indices.iter().map(|&index| &texts[index]);
            let watched = texts.zip(&batch).zip(computed);
            watched.map(|((text, padded), vector)| self.watch(text, padded, vector, turns)).collect()
        });
        let watched: Vec<_> = match watched {
            Ok(watched) => watched,
            Err(Trouble::Request(error)) => return Err(error),
            Err(Trouble::Gpu(reason)) => {
                self.demote(&reason);
                return Ok(());
            }
        };
        // Somebody else's text may have found out in between.
        if self.trust.demoted().is_none() {
            indices.into_iter().zip(watched).for_each(|(index, vector)| vectors[index] = Some(vector));
        }
        Ok(())
    }

    /// What the GPU makes of a batch. One that is too large for its memory is computed text by text.
    fn compute(
        &self,
        indices: &[usize],
        batch: &[PaddedText<'_>],
        turns: &mut Turns<'_>,
    ) -> Result<Vec<Vec<f32>>, Trouble> {
        let vectors = match (self.gpu.embed(batch, turns), batch) {
            (Ok(vectors), _) => vectors,
            (Err(DeviceError::Stopped), _) => return Err(Trouble::Request(EngineError::Stopped)),
            (Err(DeviceError::Failed(reason)), _) => return Err(Trouble::Gpu(reason)),
            (Err(DeviceError::OutOfMemory(reason)), [text]) => {
                let error = EngineError::OutOfMemory { index: indices[0], rows: text.rows, reason };
                return Err(Trouble::Request(error));
            }
            (Err(DeviceError::OutOfMemory(_)), _) => {
                let mut vectors = Vec::with_capacity(batch.len());
                for (index, text) in indices.iter().zip(batch) {
                    let (index, text) = (std::slice::from_ref(index), std::slice::from_ref(text));
                    vectors.extend(self.compute(index, text, turns)?);
                }
                vectors
            }
        };
        match vectors.iter().find(|vector| vector.len() != self.cpu.dimension()) {
            Some(vector) => Err(Trouble::Gpu(format!("a vector of {} components", vector.len()))),
            None => Ok(vectors),
        }
    }

    /// Finishes the GPU's vector of a text, and compares it with the CPU's where chance says so, or where it cannot be right.
    fn watch(
        &self,
        text: &Text<'_>,
        padded: &PaddedText<'_>,
        vector: Vec<f32>,
        turns: &mut Turns<'_>,
    ) -> Result<Vec<f32>, Trouble> {
        let broken = !is_finite(&vector);
        let vector = self.cpu.after_pooling(vector, text.pooling);
        let drawn = self.trust.draw() && padded.rows <= self.recheck_rows;
        if !broken {
            self.trust.finite();
        }
        if !drawn && !broken {
            return Ok(vector);
        }
        let start = Instant::now();
        let expected =
            turns.embed(&self.cpu, std::slice::from_ref(text)).map_err(Trouble::Request)?.remove(0);
        if drawn {
            self.trust.pause(start.elapsed());
        }
        let dtype = self.gpu.description().dtype;
        let compared = match broken {
            // The model's doing, not the device's.
            _ if !is_finite(&expected) => return Ok(vector),
            // So is this: what goes beyond half precision is the CPU's to compute.
            true if dtype == "f16" && self.trust.overflows() => return Ok(expected),
            true => Err("its vector is not finite".to_owned()),
            false => compare(&vector, &expected, most(dtype, padded)),
        };
        self.trust.rechecked(compared.is_ok());
        match compared {
            Ok(_) => Ok(vector),
            Err(reason) => Err(Trouble::Gpu(format!("a text of {} tokens: {reason}", text.ids.len()))),
        }
    }

    fn demote(&self, reason: &str) {
        self.trust.demote(&self.gpu.description().name, reason);
    }
}

fn info(cpu: &CpuBackend, gpu: &Description, crossover: usize) -> BackendInfo {
    BackendInfo {
        device: gpu.device,
        dtype: gpu.dtype,
        accelerator: Some(AcceleratorInfo {
            name: gpu.name.clone(),
            driver: gpu.driver.clone(),
            memory_bytes: gpu.memory_bytes,
            crossover,
            cpu_dtype: cpu.info().dtype,
        }),
        ..cpu.info().clone()
    }
}

impl Backend for GuardedBackend {
    fn info(&self) -> &BackendInfo {
        &self.info
    }

    fn demoted(&self) -> Option<&str> {
        self.trust.demoted()
    }

    fn rechecks(&self) -> Rechecks {
        self.trust.rechecks()
    }

    fn finish_self_test(&self) {
        for &tokens in &self.untested {
            if self.trust.demoted().is_some() {
                return;
            }
            match self_test::test_later(&self.cpu, &self.gpu, tokens) {
                Ok(()) => tracing::debug!(tokens, "the GPU passed a test of a long text"),
                Err(Distrust::Device(reason)) => self.demote(&reason),
                Err(Distrust::Cpu(error)) => tracing::warn!(tokens, %error, "the GPU cannot be tested"),
            }
        }
    }

    fn dimension(&self) -> usize {
        self.cpu.dimension()
    }

    fn max_tokens(&self) -> usize {
        self.cpu.max_tokens()
    }

    /// That of the CPU, or all of the text where that would need a sketch and the GPU is faster at all of it.
    fn window(&self, ids: &[u32], pooling: Pooling, padding: Padding) -> Window {
        let window = self.cpu.window(ids, pooling, padding);
        let exact =
            window.sketch.is_some() && self.gpu.is_faster_than_sketches() && self.trust.demoted().is_none();
        if exact { Window::exact(self.cpu.max_tokens()) } else { window }
    }

    fn batch_tokens(&self) -> usize {
        if self.demoted().is_some() { self.cpu.batch_tokens() } else { self.gpu.batch_tokens() }
    }

    fn windows(&self) -> &dyn WindowEncoder {
        self.cpu.windows()
    }

    fn far_fields(&self) -> Option<Arc<FarFields>> {
        self.cpu.far_fields()
    }

    fn set_far_fields(&self, far_fields: Arc<FarFields>) {
        self.cpu.set_far_fields(far_fields);
    }

    fn embed(&self, texts: &[Text<'_>]) -> Result<Vec<Vec<f32>>, EngineError> {
        self.embed_with(texts, Turns(None))
    }

    fn embed_stepwise(
        &self,
        texts: &[Text<'_>],
        between: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        self.embed_with(texts, Turns(Some(between)))
    }
}
