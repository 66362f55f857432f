//! The forward pass: texts end to end, and what is launched for them.

use std::collections::hash_map::Entry;
use std::ops::Range;
use std::sync::Arc;

use danaus_kernels::cuda::{
    Block, CudaError, EmbeddingArgs, GatedProduct, GpuBuffer, GpuText, LongConvArgs, NormArgs, ProductArgs,
    ProductKind, ShortConvArgs, Stretch,
};

use super::weights::{GpuLayer, GpuNorm};
use super::workspace::{Needs, Workspace};
use super::{CudaAccelerator, State, TIMEOUT};
use crate::cpu::STEPS_PER_LAYER;
use crate::gpu::{PaddedText, Pooled};
use crate::padding::FarField;

/// Rows are padded to a multiple of this.
const ROWS: usize = 32;

/// Rows that are summed one after the other: longer texts are several stretches, whose sums the host adds up in order.
const STRETCH: usize = 256;

/// Passes of up to so many rows are recorded: longer ones take much longer than launching them.
const RECORDED_ROWS: usize = 4096;

/// Recorded passes of a workspace.
const MOST_GRAPHS: usize = 64;

/// Texts of a class of lengths: which of the pass's descriptions.
type Class = (usize, Range<usize>);

/// What decides which launches a pass takes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Signature {
    pitch: usize,
    classes: Vec<(usize, usize)>,
    stretches: usize,
}

/// Texts packed end to end.
#[derive(Debug)]
pub(super) struct Pass {
    /// Columns: all rows, and those that fill them up.
    pitch: usize,
    ids: Vec<u32>,
    positions: Vec<u32>,
    /// By class.
    texts: Vec<GpuText>,
    classes: Vec<Class>,
    stretches: Vec<Stretch>,
    collected_bytes: usize,
    /// Whether nothing is made in the pass but results.
    kept: bool,
}

impl Pass {
    /// One vector a text, of the sums of its stretches.
    pub fn pooled(&self, texts: &[PaddedText<'_>], sums: &[f32], width: usize) -> Vec<Vec<f32>> {
        let mut sums = sums.chunks_exact(width);
        let pooled = texts.iter().map(|text| {
            let mut vector = sums.next().expect("a stretch of each text").to_vec();
            for sum in sums.by_ref().take(stretches(text).count() - 1) {
                vector.iter_mut().zip(sum).for_each(|(total, sum)| *total += sum);
            }
            if text.pooled == Pooled::Mean {
                let count = text.ids.len() as f32;
                vector.iter_mut().for_each(|total| *total /= count);
            }
            vector
        });
        pooled.collect()
    }

    fn signature(&self) -> Signature {
        let classes = self.classes.iter().map(|(length, range)| (*length, range.len())).collect();
        Signature { pitch: self.pitch, classes, stretches: self.stretches.len() }
    }
}

/// The stretches of rows of a text that its vector is made of.
fn stretches(text: &PaddedText<'_>) -> impl Iterator<Item = Range<usize>> + use<> {
    let count = if text.pooled == Pooled::Mean { text.ids.len() } else { 1 };
    (0..count).step_by(STRETCH).map(move |start| start..(start + STRETCH).min(count))
}

/// A far field's values, each channel's rows beside each other.
fn channel_by_channel(far_field: &FarField) -> Vec<u16> {
    let (layers, width) = (far_field.layers(), far_field.width());
    let mut values = Vec::with_capacity(2 * layers * far_field.window() * width);
    for layer in 0..layers {
        for branch in 0..2 {
            let rows = far_field.everywhere(layer, branch);
            values.extend((0..width).flat_map(|channel| rows.iter().skip(channel).step_by(width)));
        }
    }
    values
}

impl CudaAccelerator {
    /// Packs texts, and prepares what they need.
    pub(super) fn pass(&self, state: &mut State, texts: &[PaddedText<'_>]) -> Result<Pass, CudaError> {
        let rows: usize = texts.iter().map(|text| text.rows).sum();
        let pitch = rows.next_multiple_of(ROWS);
        let (mut ids, mut positions) = (Vec::with_capacity(pitch), Vec::with_capacity(pitch));
        let (mut described, mut sums) = (Vec::with_capacity(texts.len()), Vec::new());
        for text in texts {
            let start = ids.len();
            let length = state.filters.prepare(&self.gpu, text.rows)?;
            ids.extend_from_slice(text.ids);
            ids.resize(start + text.rows, self.config.pad_token_id);
            positions.extend(0..text.rows as u32);
            let far_field = text.far_field.as_ref().map(|far_field| self.far_field(state, far_field));
            let far_field = far_field.transpose()?;
            described.push((length, GpuText::new(start, text.rows, far_field)));
            sums.extend(
                stretches(text)
                    .map(|rows| Stretch { start: (start + rows.start) as i32, rows: rows.len() as i32 }),
            );
        }
        ids.resize(pitch, self.config.pad_token_id);
        positions.resize(pitch, 0);
        described.sort_by_key(|&(length, _)| length);
        let mut classes: Vec<Class> = Vec::new();
        for (index, &(length, _)) in described.iter().enumerate() {
            match classes.last_mut() {
                Some((last, range)) if *last == length => range.end = index + 1,
                _ => classes.push((length, index..index + 1)),
            }
        }
        let width = self.config.hidden_size;
        let collected = classes
            .iter()
            .map(|(length, range)| state.filters.class(*length).collected_bytes(width, range.len()));
        Ok(Pass {
            pitch,
            ids,
            positions,
            collected_bytes: collected.max().unwrap_or(0),
            kept: classes.iter().all(|(length, _)| state.filters.keeps(*length)),
            texts: described.into_iter().map(|(_, text)| text).collect(),
            classes,
            stretches: sums,
        })
    }

    /// A far field on the GPU, channel by channel, and its layers and channels.
    fn far_field<'a>(
        &self,
        state: &'a mut State,
        far_field: &Arc<FarField>,
    ) -> Result<(&'a GpuBuffer, [usize; 2]), CudaError> {
        let (_, buffer) = match state.far_fields.entry(Arc::as_ptr(far_field) as usize) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let values = channel_by_channel(far_field);
                let buffer = self.gpu.upload(bytemuck::cast_slice::<u16, u8>(&values))?;
                entry.insert((Arc::clone(far_field), buffer))
            }
        };
        Ok((buffer, [far_field.layers(), far_field.width()]))
    }

    /// A workspace for the pass: one that another has left, or a new one.
    pub(super) fn workspace(&self, state: &mut State, pass: &Pass) -> Result<Workspace, CudaError> {
        let needs = Needs {
            pitch: pass.pitch,
            texts: pass.texts.len(),
            stretches: pass.stretches.len(),
            collected_bytes: pass.collected_bytes,
        };
        // The smallest that serves: it has this pass's recordings.
        let serves = state.workspaces.iter().enumerate().filter(|(_, workspace)| workspace.serves(&needs));
        if let Some((index, _)) = serves.min_by_key(|(_, workspace)| workspace.capacity.pitch) {
            return Ok(state.workspaces.swap_remove(index));
        }
        let larger = Needs { pitch: needs.pitch.next_power_of_two().max(512), ..needs };
        // What is too small for this pass is not worth its memory.
        state.workspaces.clear();
        Workspace::new(&self.gpu, &self.config, self.element, larger)
    }

    /// Starts all of a pass: by one call, if it was recorded.
    pub(super) fn start(
        &self,
        state: &mut State,
        pass: &Pass,
        workspace: &mut Workspace,
    ) -> Result<(), CudaError> {
        self.write_inputs(pass, workspace)?;
        let signature = pass.signature();
        if let Some(Some(graph)) = workspace.graphs.get_mut(&signature) {
            return graph.start();
        }
        let launch = |state: &mut State, workspace: &Workspace| {
            self.embed_tokens(pass, workspace)?;
            (0..self.steps()).try_for_each(|step| self.step(state, pass, workspace, step))?;
            self.sum(pass, workspace)
        };
        if pass.pitch > RECORDED_ROWS || !pass.kept {
            return launch(state, workspace);
        }
        // Recorded when it comes again: by then the driver has loaded all kernels.
        if workspace.graphs.contains_key(&signature) {
            let mut graph = self.gpu.record_graph(|| launch(state, workspace))?;
            graph.start()?;
            workspace.graphs.insert(signature, Some(graph));
            return Ok(());
        }
        if workspace.graphs.len() >= MOST_GRAPHS {
            workspace.graphs.clear();
        }
        workspace.graphs.insert(signature, None);
        launch(state, workspace)
    }

    /// Copies what the pass is made of to the GPU.
    pub(super) fn write_inputs(&self, pass: &Pass, workspace: &mut Workspace) -> Result<(), CudaError> {
        self.gpu.write(&mut workspace.ids, bytemuck::cast_slice(&pass.ids))?;
        self.gpu.write(&mut workspace.positions, bytemuck::cast_slice(&pass.positions))?;
        self.gpu.write(&mut workspace.texts, GpuText::bytes(&pass.texts))?;
        self.gpu.write(&mut workspace.stretches, Stretch::bytes(&pass.stretches))
    }

    fn norm<'a>(&self, pass: &Pass, norm: &'a GpuNorm, out: &'a GpuBuffer) -> NormArgs<'a> {
        NormArgs {
            weight: &norm.weight,
            bias: &norm.bias,
            epsilon: self.config.layer_norm_eps as f32,
            width: self.config.hidden_size,
            rows: pass.pitch,
            pitch: pass.pitch,
            out,
            element: self.element,
        }
    }

    /// The first layer's input.
    pub(super) fn embed_tokens(&self, pass: &Pass, workspace: &Workspace) -> Result<(), CudaError> {
        let args = EmbeddingArgs {
            ids: &workspace.ids,
            positions: &workspace.positions,
            word: &self.weights.word,
            position: self.weights.position.as_ref(),
            token_type: &self.weights.token_type,
        };
        self.gpu.embed(&self.norm(pass, &self.weights.norm, &workspace.hidden), &args)
    }

    /// Steps of a pass.
    pub(super) fn steps(&self) -> usize {
        STEPS_PER_LAYER * self.config.num_hidden_layers
    }

    /// Starts a step: half a layer.
    pub(super) fn step(
        &self,
        state: &mut State,
        pass: &Pass,
        workspace: &Workspace,
        step: usize,
    ) -> Result<(), CudaError> {
        let layer = step / STEPS_PER_LAYER;
        if step.is_multiple_of(STEPS_PER_LAYER) {
            self.mix_sequence(state, pass, workspace, layer)
        } else {
            self.mix_state(pass, workspace, layer)
        }
    }

    /// A layer's first product and its convolutions.
    fn mix_sequence(
        &self,
        state: &mut State,
        pass: &Pass,
        workspace: &Workspace,
        layer: usize,
    ) -> Result<(), CudaError> {
        let (weights, width) = (&self.weights.layers[layer], self.config.hidden_size);
        let (a, b) = (rows(&weights.in_linear.weight, width), rows(&workspace.hidden, pass.pitch));
        let c = rows(&workspace.wide, pass.pitch);
        let bias = &weights.in_linear.bias;
        self.dense(ProductKind::InLinear, [3 * width, pass.pitch], [a, b], bias, c)?;
        // The result of the convolutions takes the place of what the mixer's branch convolves; the mixer's last product is not there yet.
        self.gpu.short_conv(&ShortConvArgs {
            projected: &workspace.wide,
            gated: &workspace.mixed,
            gate: &workspace.product,
            element: self.element,
            positions: &workspace.positions,
            taps: &weights.short_filter.weight,
            bias: &weights.short_filter.bias,
            pitch: pass.pitch,
            channels: width,
        })?;
        self.convolve(state, pass, workspace, layer)
    }

    /// A layer's long convolutions, each class of lengths by itself.
    fn convolve(
        &self,
        state: &mut State,
        pass: &Pass,
        workspace: &Workspace,
        layer: usize,
    ) -> Result<(), CudaError> {
        for (length, range) in &pass.classes {
            let filters = state.filters.layer(&self.gpu, *length, layer)?;
            let args = LongConvArgs {
                gated: &workspace.mixed,
                gate: &workspace.product,
                hidden: &workspace.hidden,
                mixed: &workspace.mixed,
                element: self.element,
                pitch: pass.pitch,
                channels: self.config.hidden_size,
                layer,
                texts: &workspace.texts,
                range: range.clone(),
                filters: filters.filters,
                collected: &workspace.collected,
            };
            self.gpu.long_conv(filters.class, &args)?;
        }
        Ok(())
    }

    /// The rest of a layer: nothing here looks across tokens.
    fn mix_state(&self, pass: &Pass, workspace: &Workspace, layer: usize) -> Result<(), CudaError> {
        let (weights, width) = (&self.weights.layers[layer], self.config.hidden_size);
        let (a, b) = (rows(&workspace.mixed, pass.pitch), rows(&weights.out_linear.weight, width));
        let c = rows(&workspace.product, width);
        let bias = &weights.out_linear.bias;
        self.dense(ProductKind::OutLinear, [pass.pitch, width], [a, b], bias, c)?;
        self.mlp(pass, workspace, weights)?;
        if layer + 1 < self.config.num_hidden_layers {
            self.gpu.layer_norm(&self.norm(pass, &weights.norm, &workspace.hidden), &workspace.sums)
        } else {
            self.gpu.last_layer_norm(&self.norm(pass, &weights.norm, &workspace.wide), &workspace.sums)
        }
    }

    /// One of the mixer's products, `[m, n]`, over all channels.
    fn dense(
        &self,
        kind: ProductKind,
        [m, n]: [usize; 2],
        [a, b]: [Block<'_>; 2],
        bias: &GpuBuffer,
        c: Block<'_>,
    ) -> Result<(), CudaError> {
        self.gpu.product(&ProductArgs {
            kind,
            element: self.element,
            m,
            n,
            k: self.config.hidden_size,
            blocks: 1,
            a,
            b,
            gate: None,
            bias: Some(bias),
            residual: None,
            c,
        })
    }

    /// Both of the MLP's products, block-diagonal: a diagonal block of the second takes what two of the first give.
    fn mlp(&self, pass: &Pass, workspace: &Workspace, weights: &GpuLayer) -> Result<(), CudaError> {
        let (width, inner) = (self.config.hidden_size, self.config.intermediate_size);
        let blocks = self.config.monarch_mlp_nblocks;
        let (narrow, wide) = (width / blocks, inner / blocks);
        let part = |buffer, offset, stride, step| Block { buffer, offset, stride, step };
        self.gpu.product(&ProductArgs {
            kind: ProductKind::Gated,
            element: self.element,
            m: pass.pitch,
            n: wide,
            k: narrow,
            blocks,
            a: part(&workspace.product, 0, width, narrow),
            b: part(&weights.gated, 0, narrow, wide * narrow),
            gate: Some(GatedProduct {
                a: part(&workspace.product, blocks / 2 * narrow, width, narrow),
                b: part(&weights.gated, inner * narrow, narrow, wide * narrow),
                share: 2,
            }),
            bias: None,
            residual: None,
            c: part(&workspace.wide, 0, inner, wide),
        })?;
        self.gpu.product(&ProductArgs {
            kind: ProductKind::Down,
            element: self.element,
            m: pass.pitch,
            n: narrow,
            k: wide,
            blocks,
            a: part(&workspace.wide, 0, inner, wide),
            b: part(&weights.down.weight, 0, wide, narrow * wide),
            gate: None,
            bias: Some(&weights.down.bias),
            residual: Some(&workspace.product),
            c: part(&workspace.sums, 0, width, narrow),
        })
    }

    /// Sums the last hidden states over each stretch.
    pub(super) fn sum(&self, pass: &Pass, workspace: &Workspace) -> Result<(), CudaError> {
        let hidden = (&workspace.wide, pass.pitch, self.config.hidden_size);
        self.gpu.sum_rows(hidden, (&workspace.stretches, pass.stretches.len()), &workspace.pooled)
    }

    /// The sums, once they are there.
    pub(super) fn sums(&self, pass: &Pass, workspace: &mut Workspace) -> Result<Vec<f32>, CudaError> {
        let mut sums = vec![0.0f32; pass.stretches.len() * self.config.hidden_size];
        self.gpu.read(&workspace.pooled, bytemuck::cast_slice_mut(&mut sums), TIMEOUT)?;
        Ok(sums)
    }
}

/// All of a buffer, its rows so far apart.
fn rows(buffer: &GpuBuffer, stride: usize) -> Block<'_> {
    Block { buffer, offset: 0, stride, step: 0 }
}
