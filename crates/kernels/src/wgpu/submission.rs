//! Work for a device: dispatches that are submitted together, waited for with a time limit, and checked to have been done.

use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use ::wgpu::{
    BindGroup, BindGroupDescriptor, BindGroupEntry, BindGroupLayout, BindGroupLayoutDescriptor,
    BindGroupLayoutEntry, BindingResource, BindingType, BufferBinding, BufferBindingType, BufferUsages,
    CommandEncoderDescriptor, ComputePassDescriptor, ComputePipeline, ComputePipelineDescriptor, MapMode,
    PipelineCompilationOptions, PipelineLayoutDescriptor, PollError, PollType, ShaderModuleDescriptor,
    ShaderSource, ShaderStages, SubmissionIndex,
};

use super::GpuBuffer;
use super::device::Gpu;
use super::error::GpuError;

/// Words of a kernel's parameters.
pub(super) const PARAMETERS: usize = 16;

/// Bytes before a result in what is read back: the submission's number, and padding.
const HEADER: u64 = 16;

/// Most workgroups in a dimension.
pub(super) const MOST_GROUPS: u32 = 65_535;

/// The kernel that ends each submission: it writes the submission's number, so that one that ended early is found out. It reads
/// what the kernel before it wrote last, so that it cannot run before that one.
const NONCE: &str = "
struct Params { nonce: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> done: array<u32>;
@group(0) @binding(2) var<storage, read> last: array<u32>;
@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) index: u32) {
    if (index == 0u) {
        done[0] = params.nonce;
        done[1] = last[0];
    }
}
";

/// A compiled kernel.
#[derive(Debug)]
pub(super) struct Kernel {
    pipeline: ComputePipeline,
    layout: BindGroupLayout,
    /// Of each buffer, whether it is written to.
    writable: Vec<bool>,
}

/// A part of a buffer that a kernel sees.
#[derive(Debug, Clone, Copy)]
pub struct Slice<'a> {
    /// The buffer.
    pub buffer: &'a GpuBuffer,
    /// First byte, a multiple of [`Gpu::alignment`].
    pub offset: u64,
    /// Bytes, a multiple of 4; `None`: to the end.
    pub bytes: Option<u64>,
}

impl<'a> From<&'a GpuBuffer> for Slice<'a> {
    fn from(buffer: &'a GpuBuffer) -> Self {
        Self { buffer, offset: 0, bytes: None }
    }
}

#[derive(Debug)]
struct Dispatch {
    pipeline: ComputePipeline,
    layout: BindGroupLayout,
    parameters: [u32; PARAMETERS],
    bindings: Vec<Binding>,
    groups: [u32; 3],
    /// Which of the bindings is written to.
    written: Option<usize>,
}

/// A buffer, the first byte of it that is seen, and how many are (`None`: all that follow).
type Binding = (GpuBuffer, u64, Option<u64>);

/// Dispatches, in order, that are to be submitted together.
#[derive(Debug, Default)]
pub struct Work {
    dispatches: Vec<Dispatch>,
    operations: f64,
}

/// Work that has been submitted.
#[derive(Debug)]
pub struct Pending {
    index: SubmissionIndex,
    readback: GpuBuffer,
    nonce: u32,
    mapped: Receiver<bool>,
    limit: Duration,
}

impl Work {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.dispatches.is_empty()
    }

    /// Floating-point operations of all of it, about.
    pub fn operations(&self) -> f64 {
        self.operations
    }

    /// Appends a dispatch.
    pub(super) fn dispatch(
        &mut self,
        kernel: &Kernel,
        parameters: &[u32],
        bindings: &[Slice<'_>],
        groups: [u32; 3],
        operations: f64,
    ) {
        assert_eq!(bindings.len(), kernel.writable.len(), "bindings of a kernel");
        assert!(groups.iter().all(|&count| count <= MOST_GROUPS), "workgroups");
        if groups.contains(&0) {
            return;
        }
        let mut padded = [0; PARAMETERS];
        padded[..parameters.len()].copy_from_slice(parameters);
        let bindings = bindings.iter().map(|slice| (slice.buffer.clone(), slice.offset, slice.bytes));
        self.dispatches.push(Dispatch {
            pipeline: kernel.pipeline.clone(),
            layout: kernel.layout.clone(),
            parameters: padded,
            bindings: bindings.collect(),
            groups,
            written: kernel.writable.iter().rposition(|&writable| writable),
        });
        self.operations += operations;
    }

    /// What is written last.
    fn last_written(&self) -> Option<Binding> {
        let last = self.dispatches.last()?;
        Some(last.bindings[last.written?].clone())
    }
}

impl Gpu {
    /// Compiles a kernel. `writable` says of each of its buffers, from binding 1 on, whether it writes to it.
    pub(super) fn compile(&self, label: &str, source: &str, writable: &[bool]) -> Result<Kernel, GpuError> {
        let entry = |binding: usize, ty| BindGroupLayoutEntry {
            binding: binding as u32,
            visibility: ShaderStages::COMPUTE,
            ty: BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
            count: None,
        };
        let storage = |(index, &writable): (usize, &bool)| {
            entry(index + 1, BufferBindingType::Storage { read_only: !writable })
        };
        let mut entries = vec![entry(0, BufferBindingType::Uniform)];
        entries.extend(writable.iter().enumerate().map(storage));
        let kernel = self.caught(|| {
            let device = &self.device;
            let module = device.create_shader_module(ShaderModuleDescriptor {
                label: Some(label),
                source: ShaderSource::Wgsl(source.into()),
            });
            let layout = device.create_bind_group_layout(&BindGroupLayoutDescriptor {
                label: Some(label),
                entries: &entries,
            });
            let pipeline_layout = device.create_pipeline_layout(&PipelineLayoutDescriptor {
                label: Some(label),
                bind_group_layouts: &[Some(&layout)],
                immediate_size: 0,
            });
            let pipeline = device.create_compute_pipeline(&ComputePipelineDescriptor {
                label: Some(label),
                layout: Some(&pipeline_layout),
                module: &module,
                entry_point: Some("main"),
                compilation_options: PipelineCompilationOptions {
                    constants: &[],
                    // Every kernel writes what it reads.
                    zero_initialize_workgroup_memory: false,
                },
                cache: None,
            });
            Kernel { pipeline, layout, writable: writable.to_vec() }
        })?;
        self.check()?;
        Ok(kernel)
    }

    pub(super) fn compile_nonce(&self) -> Result<Kernel, GpuError> {
        self.compile("nonce", NONCE, &[true, false])
    }

    /// Submits work, and `read`'s bytes to be read back after it. `limit` is how long it may take.
    pub(super) fn submit(
        &self,
        work: Work,
        (nonce_kernel, nonce): (&Kernel, u32),
        read: Option<Slice<'_>>,
        limit: Duration,
    ) -> Result<Pending, GpuError> {
        self.check()?;
        let done = self.buffer(HEADER)?;
        let mut work = work;
        let last = work.last_written();
        let (last, offset, bytes) = last.map_or_else(|| Ok((self.buffer(HEADER)?, 0, None)), Ok)?;
        let bindings = [(&done).into(), Slice { buffer: &last, offset, bytes }];
        work.dispatch(nonce_kernel, &[nonce], &bindings, [1, 1, 1], 0.0);
        let bytes = read.map_or(0, |read| read.bytes.unwrap_or(read.buffer.size() - read.offset));
        let readback = self.create(HEADER + bytes, BufferUsages::MAP_READ | BufferUsages::COPY_DST)?;
        let (uniforms, stride) = self.uniforms(&work)?;
        let (index, mapped) = self.scoped("a submission", || {
            let mut encoder = self.device.create_command_encoder(&CommandEncoderDescriptor::default());
            let mut pass = encoder.begin_compute_pass(&ComputePassDescriptor::default());
            for (number, dispatch) in work.dispatches.iter().enumerate() {
                let group = self.bind(dispatch, &uniforms, number as u64 * stride);
                pass.set_pipeline(&dispatch.pipeline);
                pass.set_bind_group(0, &group, &[]);
                let [x, y, z] = dispatch.groups;
                pass.dispatch_workgroups(x, y, z);
            }
            drop(pass);
            encoder.copy_buffer_to_buffer(&done, 0, &readback, 0, HEADER);
            if let Some(read) = read {
                encoder.copy_buffer_to_buffer(read.buffer, read.offset, &readback, HEADER, bytes);
            }
            let index = self.queue.submit([encoder.finish()]);
            let (sender, mapped) = channel();
            let answer = move |result: Result<(), _>| {
                // Who does not wait any more does not mind.
                let _ = sender.send(result.is_ok());
            };
            readback.map_async(MapMode::Read, .., answer);
            (index, mapped)
        })?;
        Ok(Pending { index, readback, nonce, mapped, limit })
    }

    /// All dispatches' parameters in one buffer, and how far apart they are.
    fn uniforms(&self, work: &Work) -> Result<(GpuBuffer, u64), GpuError> {
        let stride = self.alignment().max(4 * PARAMETERS as u64);
        let mut bytes = vec![0; work.dispatches.len() * stride as usize];
        for (place, dispatch) in bytes.chunks_exact_mut(stride as usize).zip(&work.dispatches) {
            place[..4 * PARAMETERS].copy_from_slice(bytemuck::bytes_of(&dispatch.parameters));
        }
        let uniforms = self.create(bytes.len() as u64, BufferUsages::UNIFORM | BufferUsages::COPY_DST)?;
        self.write(&uniforms, &bytes)?;
        Ok((uniforms, stride))
    }

    fn bind(&self, dispatch: &Dispatch, uniforms: &GpuBuffer, offset: u64) -> BindGroup {
        let view = |buffer, offset, bytes: Option<u64>| {
            let size = bytes.and_then(std::num::NonZero::new);
            BindingResource::Buffer(BufferBinding { buffer, offset, size })
        };
        let size = Some(4 * PARAMETERS as u64);
        let mut entries = vec![BindGroupEntry { binding: 0, resource: view(uniforms, offset, size) }];
        for (index, (buffer, offset, bytes)) in dispatch.bindings.iter().enumerate() {
            entries
                .push(BindGroupEntry { binding: index as u32 + 1, resource: view(buffer, *offset, *bytes) });
        }
        self.device.create_bind_group(&BindGroupDescriptor {
            label: None,
            layout: &dispatch.layout,
            entries: &entries,
        })
    }

    /// Waits for work, and returns what was to be read back.
    ///
    /// # Errors
    /// Where the device failed, took longer than it was given or did not do all of it.
    pub fn wait(&self, pending: Pending) -> Result<Vec<u8>, GpuError> {
        let Pending { index, readback, nonce, mapped, limit } = pending;
        let started = Instant::now();
        loop {
            let left = limit.saturating_sub(started.elapsed());
            let wait = PollType::Wait { submission_index: Some(index.clone()), timeout: Some(left) };
            let polled = self.caught(|| self.device.poll(wait))?;
            self.check()?;
            match mapped.try_recv() {
                Ok(true) => break,
                Ok(false) => return Err(self.fail("the device's results cannot be read")),
                Err(_) if matches!(polled, Err(PollError::Timeout)) || started.elapsed() > limit => {
                    return Err(self.fail(format!("the device did not answer within {limit:?}")));
                }
                // Another thread's poll is about to call back.
                Err(_) => std::thread::sleep(Duration::from_micros(50)),
            }
        }
        let bytes = self.caught(|| readback.get_mapped_range(..).map(|view| view.to_vec()))?;
        let bytes = bytes.map_err(|error| self.fail(format!("the device's results: {error:?}")))?;
        let (header, result) = bytes.split_at(HEADER as usize);
        if header[..4] != nonce.to_ne_bytes() {
            return Err(self.fail("the device ended early and did not say so"));
        }
        Ok(result.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wgpu::{Api, GpuOptions, adapters};

    const LIMIT: Duration = Duration::from_secs(60);

    /// A device of its own, which may be broken.
    fn device() -> Option<Gpu> {
        if adapters(Api::Any).is_empty() {
            assert!(std::env::var_os("DANAUS_REQUIRE_VULKAN").is_none(), "no device was found");
            println!("not tested: no Metal, Vulkan or DirectX 12 device was found");
            return None;
        }
        Some(Gpu::open(GpuOptions { allow_cpu: true, ..GpuOptions::default() }).unwrap())
    }

    fn says<T: std::fmt::Debug>(result: Result<T, GpuError>, what: &str) {
        match result {
            Err(GpuError::Failed(message)) => assert!(message.contains(what), "{message}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn work_that_ends_early_is_found_out() {
        let Some(gpu) = device() else { return };
        let good = gpu.compile_nonce().unwrap();
        let pending = gpu.submit(Work::default(), (&good, 5), None, LIMIT).unwrap();
        assert_eq!(gpu.wait(pending), Ok(Vec::new()));
        // As a kernel that was ended before it wrote.
        let idle =
            gpu.compile("idle", &NONCE.replace("index == 0u", "index == 100u"), &[true, false]).unwrap();
        let pending = gpu.submit(Work::default(), (&idle, 7), None, LIMIT).unwrap();
        says(gpu.wait(pending), "ended early");
        says(gpu.check(), "ended early");
    }

    #[test]
    fn what_the_driver_refuses_is_a_failure_and_no_panic() {
        let Some(gpu) = device() else { return };
        says(gpu.compile("no kernel", "fn main() {", &[true]), "no kernel");
        says(gpu.buffer(16), "no kernel");
    }

    #[test]
    fn a_lost_device_is_a_failure_and_no_panic() {
        let Some(gpu) = device() else { return };
        let kernel = gpu.compile_nonce().unwrap();
        let buffer = gpu.buffer(16).unwrap();
        let pending = gpu.submit(Work::default(), (&kernel, 5), Some((&buffer).into()), LIMIT).unwrap();
        gpu.device.destroy();
        // What was submitted may be done or not.
        let _ = gpu.wait(pending);
        says(gpu.write(&buffer, &[0; 16]).and_then(|()| gpu.buffer(16)), "");
        says(gpu.submit(Work::default(), (&kernel, 7), None, LIMIT), "");
    }
}
