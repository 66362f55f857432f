//! The forward pass: as [`crate::CpuBackend`]'s, in dispatches.

use std::collections::VecDeque;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::time::Duration;

use danaus_kernels::wgpu::{Convolution, FarField, GpuBuffer, GpuError, Kernels, Pending, Slice, Work};

use super::far_fields::DeviceFarField;
use super::filters::Source;
use super::groups::{Layout, table};
use super::workspace::{Buffers, Sizes, Workspace, most_rows};
use super::{WgpuAccelerator, device_error};
use crate::gpu::{DeviceError, PaddedText};

/// Operations of one submission, about: systems end what runs for long.
const OPERATIONS: f64 = 4e10;

/// Operations below which a layer is not worth a submission of its own.
const FEW_OPERATIONS: f64 = 5e8;

/// Submissions under way: one is prepared while another one runs.
const UNDER_WAY: usize = 2;

/// How long a submission may take in any case, and operations a second that are the least to be expected.
const PATIENCE: Duration = Duration::from_secs(20);
const LEAST_SPEED: f64 = 5e9;
/// The same for a program on the CPU.
const CPU_SPEED: f64 = 5e7;

/// What results are before they are written: bits of a float32 that no computation gives.
const POISON: u32 = 0x7fc5_a5a5;

/// Rows of all texts in one pass, at most, unless one text is longer.
const MOST_ROWS: usize = 32_768;

/// A pass on its way.
struct Pass<'a> {
    accelerator: &'a WgpuAccelerator,
    layout: Layout,
    buffers: &'a Buffers,
    places: GpuBuffer,
    sources: Vec<Filters>,
    /// Of the texts as they lie in memory.
    far_fields: Vec<Option<Arc<DeviceFarField>>>,
    queue: Submissions<'a>,
}

/// The filters of texts of one length.
struct Filters {
    length: usize,
    places: Range<usize>,
    source: Source,
    twiddles: GpuBuffer,
}

/// Work that is collected, and what has been submitted.
pub(super) struct Submissions<'a> {
    /// Where it goes.
    pub kernels: &'a Kernels,
    pub work: Work,
    pending: VecDeque<Pending>,
}

/// What lets others compute between two steps.
pub(super) type Between<'a> = &'a mut dyn FnMut() -> ControlFlow<()>;

/// Calls it, where there is one.
pub(super) fn pause(between: &mut Option<Between<'_>>) -> Result<(), DeviceError> {
    match between.as_mut().map(|between| between()) {
        Some(ControlFlow::Break(())) => Err(DeviceError::Stopped),
        Some(ControlFlow::Continue(())) | None => Ok(()),
    }
}

impl WgpuAccelerator {
    /// Rows of a pass, at most.
    pub(super) fn most_rows(&self) -> usize {
        most_rows(self.kernels.gpu(), self.config.hidden_size).min(MOST_ROWS)
    }

    /// One vector for each text.
    pub(super) fn embed_group(
        &self,
        texts: &[PaddedText<'_>],
        workspace: &mut Workspace,
        mut between: Option<Between<'_>>,
    ) -> Result<Vec<Vec<f32>>, DeviceError> {
        let layout = Layout::new(texts);
        let width = self.config.hidden_size;
        if layout.rows > most_rows(self.kernels.gpu(), width) {
            let what = format!("a text of {} rows is too long for this device's buffers", layout.rows);
            return Err(DeviceError::OutOfMemory(what));
        }
        let sizes = Sizes { rows: layout.rows, width, intermediate: self.config.intermediate_size };
        let buffers = workspace.prepare(self.kernels.gpu(), sizes).map_err(device_error)?;
        let mut queue = Submissions::new(&self.kernels);
        let mut sources = Vec::new();
        for (length, places) in &layout.lengths {
            let source = self.filters.source(&mut queue, *length, &mut between)?;
            let twiddles = self.filters.twiddles(&self.kernels, *length).map_err(device_error)?;
            sources.push(Filters { length: *length, places: places.clone(), source, twiddles });
        }
        let mut pass = self.begin(texts, layout, buffers, sources, queue).map_err(device_error)?;
        pass.layers(between)?;
        pass.finish().map_err(device_error)
    }

    fn begin<'a>(
        &'a self,
        texts: &[PaddedText<'_>],
        layout: Layout,
        buffers: &'a Buffers,
        sources: Vec<Filters>,
        mut queue: Submissions<'a>,
    ) -> Result<Pass<'a>, GpuError> {
        let (kernels, gpu) = (&self.kernels, self.kernels.gpu());
        let mut sums = Vec::with_capacity(layout.rows * self.config.hidden_size);
        for &index in &layout.order {
            self.tables.sum(&texts[index], self.config.pad_token_id, &mut sums);
        }
        gpu.write(&buffers.sums, bytemuck::cast_slice(&sums))?;
        let places = gpu.upload(&table(&layout.places))?;
        let far_field = |&index: &usize| {
            texts[index].far_field.as_ref().map(|far| self.far_fields.get(gpu, far)).transpose()
        };
        let far_fields = layout.order.iter().map(far_field).collect::<Result<_, _>>()?;
        let (sums, hidden) = ((&buffers.sums).into(), (&buffers.hidden).into());
        kernels.layer_norm(&mut queue.work, self.weights.norm(), layout.rows, sums, hidden)?;
        Ok(Pass { accelerator: self, layout, buffers, places, sources, far_fields, queue })
    }
}

impl Pass<'_> {
    fn layers(&mut self, mut between: Option<Between<'_>>) -> Result<(), DeviceError> {
        for layer in 0..self.accelerator.weights.layers.len() {
            self.pause(&mut between)?;
            self.mix_sequence(layer).map_err(device_error)?;
            self.pause(&mut between)?;
            self.mix_state(layer).map_err(device_error)?;
            self.queue.flush_if_over(FEW_OPERATIONS).map_err(device_error)?;
        }
        Ok(())
    }

    /// Lets others compute before a step, when what was submitted is done.
    fn pause(&mut self, between: &mut Option<Between<'_>>) -> Result<(), DeviceError> {
        if between.is_some() {
            self.queue.settle().map_err(device_error)?;
        }
        pause(between)
    }

    /// `mixed = long_conv(v * x1) * x2 + residual_long_conv(hidden)`
    fn mix_sequence(&mut self, layer: usize) -> Result<(), GpuError> {
        let Self { accelerator, buffers, queue, layout, .. } = self;
        let linear = accelerator.weights.in_linear(layer);
        let tile = accelerator.tiles.dense(layout.rows);
        let hidden = (&buffers.hidden).into();
        accelerator.kernels.linear_three(
            &mut queue.work,
            (linear, tile),
            layout.rows,
            hidden,
            buffers.projections(),
        )?;
        for index in 0..self.sources.len() {
            if let Source::Made(bench) = &self.sources[index].source {
                // States are written before what is submitted next.
                self.queue.flush()?;
                self.accelerator.filters.load_states(self.queue.kernels.gpu(), bench, layer)?;
            }
            self.convolve(layer, index, 0)?;
            self.add_far_fields(layer, index)?;
            self.convolve(layer, index, 1)?;
        }
        Ok(())
    }

    /// One of the two convolutions of texts of one length.
    fn convolve(&mut self, layer: usize, index: usize, branch: usize) -> Result<(), GpuError> {
        let Self { accelerator, buffers, queue, places, .. } = self;
        let (kernels, bank) = (&accelerator.kernels, &accelerator.filters);
        let Filters { length, places: range, source, twiddles } = &self.sources[index];
        let width = accelerator.config.hidden_size;
        let values = kernels.filter_values(*length, width);
        if let Source::Made(bench) = source {
            bank.make_taps(kernels, &mut queue.work, bench, (layer, branch))?;
        }
        for leaf in 0..kernels.leaves(*length) {
            let filter = match source {
                Source::Kept(kept) => kept.leaf((layer, branch), leaf, values),
                Source::Made(bench) => {
                    let what = ((layer, branch), (*length, leaf));
                    bank.make_leaf(kernels, &mut queue.work, bench, what.0, what.1, bench.leaf())?;
                    bench.leaf()
                }
            };
            let convolution = Convolution {
                width,
                length: *length,
                texts: places,
                range: (range.start, range.len()),
                twiddles,
                short: &accelerator.weights.layers[layer].short,
                leaf,
            };
            let sums = (&buffers.sums).into();
            if branch == 0 {
                let parts = buffers.projections();
                kernels.convolve_mixer(&mut queue.work, convolution, filter, parts, sums)?;
            } else {
                let outs = [sums, (&buffers.mixed).into()];
                let hidden = (&buffers.hidden).into();
                kernels.convolve_residual(&mut queue.work, convolution, filter, hidden, outs)?;
            }
            queue.flush_if_over(OPERATIONS)?;
        }
        Ok(())
    }

    /// What padding behind texts of one length adds to their convolutions.
    fn add_far_fields(&mut self, layer: usize, index: usize) -> Result<(), GpuError> {
        let Self { accelerator, buffers, queue, layout, .. } = self;
        for place in self.sources[index].places.clone() {
            let Some(far) = &self.far_fields[place] else { continue };
            let [mixer, residual] = &far[layer];
            let far = FarField {
                branches: [mixer, residual],
                short: &accelerator.weights.layers[layer].short,
                first: layout.places[place].first as usize,
                rows: layout.places[place].rows as usize,
                width: accelerator.config.hidden_size,
            };
            let x2 = (&buffers.projected[1]).into();
            accelerator.kernels.far_field(&mut queue.work, far, x2, (&buffers.sums).into())?;
        }
        Ok(())
    }

    /// `hidden = layer_norm(down(gelu(gated) * gate) + x)`, where `x = out_linear(mixed)`
    fn mix_state(&mut self, layer: usize) -> Result<(), GpuError> {
        let Self { accelerator, buffers, queue, layout, .. } = self;
        let WgpuAccelerator { kernels, weights, tiles, .. } = accelerator;
        let rows = layout.rows;
        // The projections are not needed any more.
        let product = Slice::from(&buffers.projected[0]);
        let (mixed, sums) = ((&buffers.mixed).into(), Slice::from(&buffers.sums));
        let linear = (weights.out_linear(layer), tiles.dense(rows));
        kernels.linear(&mut queue.work, linear, rows, mixed, product)?;
        let gated = Slice::from(&buffers.gated);
        for start in (0..rows).step_by(buffers.block) {
            let part = (start, buffers.block.min(rows - start));
            let gate = (weights.gate(layer), tiles.gate(part.1));
            kernels.gate(&mut queue.work, gate, part, product, gated)?;
            let down = (weights.down(layer), tiles.down(part.1));
            kernels.residual(&mut queue.work, down, part, gated, [product, sums])?;
            queue.flush_if_over(OPERATIONS)?;
        }
        let norm = weights.layer_norm(layer);
        kernels.layer_norm(&mut queue.work, norm, rows, sums, (&buffers.hidden).into())
    }

    /// The vectors, in the order of the texts.
    fn finish(mut self) -> Result<Vec<Vec<f32>>, GpuError> {
        let Self { accelerator, buffers, layout, .. } = &self;
        let (kernels, gpu) = (&accelerator.kernels, accelerator.kernels.gpu());
        let width = accelerator.config.hidden_size;
        let pooled = gpu.upload(&table(&layout.pooled))?;
        let poison = vec![POISON; layout.pooled.len() * width];
        let out = gpu.upload(bytemuck::cast_slice(&poison))?;
        let (hidden, texts) = ((&buffers.hidden).into(), (&pooled, layout.pooled.len()));
        kernels.pool(&mut self.queue.work, texts, width, hidden, (&out).into())?;
        let bytes = Some(4 * poison.len() as u64);
        let read = self.queue.finish(Slice { buffer: &out, offset: 0, bytes })?;
        let mut vectors = vec![Vec::new(); self.layout.order.len()];
        for (&index, values) in self.layout.order.iter().zip(read.chunks_exact(width)) {
            if values.iter().any(|value| value.to_bits() == POISON) {
                return Err(GpuError::Failed("the device did not write its results".to_owned()));
            }
            vectors[index] = values.to_vec();
        }
        Ok(vectors)
    }
}

impl<'a> Submissions<'a> {
    pub fn new(kernels: &'a Kernels) -> Self {
        Self { kernels, work: Work::default(), pending: VecDeque::new() }
    }

    /// Submits what is collected, if anything is, and waits for older work.
    pub fn flush(&mut self) -> Result<(), GpuError> {
        if self.work.is_empty() {
            return Ok(());
        }
        self.submit(None)?;
        while self.pending.len() > UNDER_WAY {
            self.wait()?;
        }
        Ok(())
    }

    /// Submits what is collected where it is more than so many operations.
    fn flush_if_over(&mut self, operations: f64) -> Result<(), GpuError> {
        if self.work.operations() > operations { self.flush() } else { Ok(()) }
    }

    /// Waits for everything.
    pub fn settle(&mut self) -> Result<(), GpuError> {
        self.flush()?;
        while !self.pending.is_empty() {
            self.wait()?;
        }
        Ok(())
    }

    /// Submits the last work, waits, and returns the values at `read` after it.
    fn finish(&mut self, read: Slice<'_>) -> Result<Vec<f32>, GpuError> {
        self.submit(Some(read))?;
        let mut last = Vec::new();
        while !self.pending.is_empty() {
            last = self.wait()?;
        }
        Ok(last.as_chunks().0.iter().map(|&bytes| f32::from_ne_bytes(bytes)).collect())
    }

    fn submit(&mut self, read: Option<Slice<'_>>) -> Result<(), GpuError> {
        let work = std::mem::take(&mut self.work);
        let speed = if self.kernels.gpu().is_cpu() { CPU_SPEED } else { LEAST_SPEED };
        let limit = PATIENCE + Duration::from_secs_f64(work.operations() / speed);
        self.pending.push_back(self.kernels.submit(work, read, limit)?);
        Ok(())
    }

    fn wait(&mut self) -> Result<Vec<u8>, GpuError> {
        match self.pending.pop_front() {
            Some(pending) => self.kernels.gpu().wait(pending),
            None => Ok(Vec::new()),
        }
    }
}
