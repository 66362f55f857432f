//! Finding a device, and its buffers.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use ::wgpu::{
    Adapter, Backend, Backends, BufferDescriptor, BufferUsages, Device, DeviceDescriptor, DeviceType,
    ErrorFilter, ExperimentalFeatures, Features, Instance, InstanceDescriptor, InstanceFlags, Limits,
    MemoryHints, Queue, Trace,
};

use super::GpuBuffer;
use super::error::GpuError;
use super::source::Storage;

/// Bytes of one upload: staging memory is of its size.
const UPLOAD_BYTES: usize = 16 << 20;

/// Bytes that kernels can tell apart, whose indices have 32 bits.
const INDEXED_BYTES: u64 = 1 << 32;

/// Workgroup memory that kernels use at most: what Metal has.
const WORKGROUP_BYTES: u32 = 32 << 10;

/// The interface a device is driven by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Api {
    /// Whichever there is.
    #[default]
    Any,
    /// Metal: Apple's.
    Metal,
    /// Vulkan.
    Vulkan,
    /// DirectX 12: Windows.
    Dx12,
}

/// Which device, and how it computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GpuOptions {
    /// The interface.
    pub api: Api,
    /// Whether a device that is a program on the CPU will do.
    pub allow_cpu: bool,
    /// Whether weights and activations are stored as float16. Where it is not said, they are where a GPU can.
    pub f16: Option<bool>,
}

/// What a machine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterDescription {
    /// Its own name, such as `Apple M2`.
    pub name: String,
    /// Driver and version.
    pub driver: String,
    /// `metal`, `vulkan` or `dx12`.
    pub backend: &'static str,
    /// `discrete GPU`, `integrated GPU`, `virtual GPU`, `CPU` or `other`.
    pub device_type: &'static str,
    /// Whether it can store float16.
    pub f16: bool,
}

/// An open device.
#[derive(Debug)]
pub struct Gpu {
    pub(super) device: Device,
    pub(super) queue: Queue,
    description: AdapterDescription,
    limits: Limits,
    storage: Storage,
    /// What ended it.
    failure: Arc<Mutex<Option<GpuError>>>,
}

/// The devices that an interface offers, those that are programs on the CPU included.
pub fn adapters(api: Api) -> Vec<AdapterDescription> {
    enumerate(api).iter().map(describe).collect()
}

impl Gpu {
    /// Opens the best device that the options allow: a GPU of its own before one of the processor's.
    ///
    /// # Errors
    /// What there is instead, or why it would not open.
    pub fn open(options: GpuOptions) -> Result<Self, String> {
        let found = enumerate(options.api);
        let mut fit: Vec<_> = found.iter().filter(|adapter| options.allow_cpu || !is_cpu(adapter)).collect();
        fit.sort_by_key(|adapter| rank(adapter.get_info().device_type));
        let Some(adapter) = fit.first() else {
            return Err(nothing_fits(&found));
        };
        let description = describe(adapter);
        let f16 = options.f16.unwrap_or(description.f16 && !is_cpu(adapter));
        if f16 && !description.f16 {
            return Err(format!("{} cannot store float16", description.name));
        }
        let features = if f16 { Features::SHADER_F16 } else { Features::empty() };
        let limits = adapter.limits();
        let descriptor = DeviceDescriptor {
            label: Some("danaus"),
            required_features: features,
            required_limits: limits.clone(),
            experimental_features: ExperimentalFeatures::disabled(),
            memory_hints: MemoryHints::MemoryUsage,
            trace: Trace::Off,
        };
        let opened = caught(|| ready(adapter.request_device(&descriptor)));
        let (device, queue) = opened
            .map_err(|error| error.to_string())?
            .ok_or("the device does not answer")?
            .map_err(|error| format!("{} does not open: {error}", description.name))?;
        let failure = watch(&device);
        let storage = if f16 { Storage::F16 } else { Storage::F32 };
        Ok(Self { device, queue, description, limits, storage, failure })
    }

    /// What it is.
    pub fn description(&self) -> &AdapterDescription {
        &self.description
    }

    /// Whether it is a program on the CPU.
    pub fn is_cpu(&self) -> bool {
        self.description.device_type == type_name(DeviceType::Cpu)
    }

    /// How weights and activations are stored.
    pub fn storage(&self) -> Storage {
        self.storage
    }

    /// The most bytes of a buffer that a kernel may see.
    pub fn largest_binding(&self) -> u64 {
        let limits = &self.limits;
        limits.max_storage_buffer_binding_size.min(limits.max_buffer_size).min(INDEXED_BYTES)
    }

    /// Where in a buffer a kernel's view of it may start: at multiples of so many bytes.
    pub fn alignment(&self) -> u64 {
        let limits = &self.limits;
        u64::from(limits.min_storage_buffer_offset_alignment.max(limits.min_uniform_buffer_offset_alignment))
    }

    /// Bytes of memory that the invocations of a workgroup may share.
    pub fn workgroup_bytes(&self) -> u32 {
        self.limits.max_compute_workgroup_storage_size.min(WORKGROUP_BYTES)
    }

    /// Invocations of a workgroup, at most.
    pub fn workgroup_size(&self) -> u32 {
        let limits = &self.limits;
        limits.max_compute_invocations_per_workgroup.min(limits.max_compute_workgroup_size_x)
    }

    /// What ended it, if anything has.
    ///
    /// # Errors
    /// That.
    pub fn check(&self) -> Result<(), GpuError> {
        lock(&self.failure).clone().map_or(Ok(()), Err)
    }

    /// Notes that the device cannot be relied on any more, and returns why.
    pub(super) fn fail(&self, what: impl Into<String>) -> GpuError {
        lock(&self.failure).get_or_insert(GpuError::Failed(what.into())).clone()
    }

    /// A buffer for kernels, and for copies both ways. Its content is zero.
    ///
    /// # Errors
    /// Where there is no memory for it, or it is larger than kernels may see.
    pub fn buffer(&self, bytes: u64) -> Result<GpuBuffer, GpuError> {
        if bytes > self.largest_binding() {
            let most = self.largest_binding();
            return Err(GpuError::OutOfMemory(format!(
                "a buffer of {bytes} bytes, of at most {most} on this device"
            )));
        }
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
        self.create(bytes.max(16).next_multiple_of(16), usage)
    }

    /// A buffer with that content.
    ///
    /// # Errors
    /// Where there is no memory for it, or the device has failed.
    pub fn upload(&self, bytes: &[u8]) -> Result<GpuBuffer, GpuError> {
        let buffer = self.buffer(bytes.len() as u64)?;
        self.write(&buffer, bytes)?;
        Ok(buffer)
    }

    /// Writes to the beginning of a buffer: before what is submitted later, after what was.
    ///
    /// # Errors
    /// Where the device has failed.
    ///
    /// # Panics
    /// Where the buffer is shorter.
    pub fn write(&self, buffer: &GpuBuffer, bytes: &[u8]) -> Result<(), GpuError> {
        assert!(bytes.len() as u64 <= buffer.size(), "a buffer of {} bytes", buffer.size());
        for (index, part) in bytes.chunks(UPLOAD_BYTES).enumerate() {
            let offset = (index * UPLOAD_BYTES) as u64;
            self.scoped("an upload", || {
                let (words, rest) = part.split_at(part.len() / 4 * 4);
                self.queue.write_buffer(buffer, offset, words);
                if !rest.is_empty() {
                    let mut last = [0; 4];
                    last[..rest.len()].copy_from_slice(rest);
                    self.queue.write_buffer(buffer, offset + words.len() as u64, &last);
                }
                // Staging memory is given back after the next submission.
                if bytes.len() > UPLOAD_BYTES {
                    self.queue.submit([]);
                }
            })?;
        }
        Ok(())
    }

    pub(super) fn create(&self, size: u64, usage: BufferUsages) -> Result<GpuBuffer, GpuError> {
        self.check()?;
        if size > self.limits.max_buffer_size {
            return Err(GpuError::OutOfMemory(format!("no buffer of {size} bytes on this device")));
        }
        let descriptor = BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
        self.scoped(&format!("a buffer of {size} bytes"), || self.device.create_buffer(&descriptor))
    }

    /// Calls the driver, and tells memory that there is none of for `what` from failures.
    pub(super) fn scoped<R>(&self, what: &str, call: impl FnOnce() -> R) -> Result<R, GpuError> {
        // Scopes belong to this thread: whoever else allocates does not hear of it.
        let (result, error) = self.caught(|| {
            let scope = self.device.push_error_scope(ErrorFilter::OutOfMemory);
            let result = call();
            (result, ready(scope.pop()))
        })?;
        self.check()?;
        match error {
            Some(None) => Ok(result),
            Some(Some(_)) => Err(GpuError::OutOfMemory(what.to_owned())),
            None => Err(self.fail("the device does not answer")),
        }
    }

    /// Calls the driver. A panic in the interface below is the device's failure.
    pub(super) fn caught<R>(&self, call: impl FnOnce() -> R) -> Result<R, GpuError> {
        caught(call).map_err(|error| self.fail(error.to_string()))
    }
}

fn caught<R>(call: impl FnOnce() -> R) -> Result<R, GpuError> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| {
        let what = panic.downcast_ref::<String>().map(String::as_str);
        let what = what.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
        GpuError::Failed(format!("the graphics interface gave up: {what}"))
    })
}

/// Where errors that no scope catches end up.
fn watch(device: &Device) -> Arc<Mutex<Option<GpuError>>> {
    let failure: Arc<Mutex<Option<GpuError>>> = Arc::default();
    let noted = Arc::clone(&failure);
    device.on_uncaptured_error(Arc::new(move |error: ::wgpu::Error| {
        lock(&noted).get_or_insert(GpuError::Failed(error.to_string()));
    }));
    let noted = Arc::clone(&failure);
    device.set_device_lost_callback(move |reason, message| {
        let error = GpuError::Failed(format!("the device was lost ({reason:?}): {message}"));
        lock(&noted).get_or_insert(error);
    });
    failure
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a future gives that needs no waiting: on native interfaces they all are of that kind.
pub(super) fn ready<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

fn enumerate(api: Api) -> Vec<Adapter> {
    let backends = match api {
        Api::Any => Backends::METAL | Backends::VULKAN | Backends::DX12,
        Api::Metal => Backends::METAL,
        Api::Vulkan => Backends::VULKAN,
        Api::Dx12 => Backends::DX12,
    };
    let descriptor = InstanceDescriptor {
        backends,
        flags: InstanceFlags::empty(),
        ..InstanceDescriptor::new_without_display_handle()
    };
    let found = caught(|| ready(Instance::new(descriptor).enumerate_adapters(backends)));
    found.ok().flatten().unwrap_or_default()
}

fn describe(adapter: &Adapter) -> AdapterDescription {
    let info = adapter.get_info();
    let backend = match info.backend {
        Backend::Metal => "metal",
        Backend::Vulkan => "vulkan",
        Backend::Dx12 => "dx12",
        _ => "other",
    };
    AdapterDescription {
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        name: info.name,
        backend,
        device_type: type_name(info.device_type),
        f16: adapter.features().contains(Features::SHADER_F16),
    }
}

fn is_cpu(adapter: &Adapter) -> bool {
    adapter.get_info().device_type == DeviceType::Cpu
}

fn type_name(device_type: DeviceType) -> &'static str {
    match device_type {
        DeviceType::DiscreteGpu => "discrete GPU",
        DeviceType::IntegratedGpu => "integrated GPU",
        DeviceType::VirtualGpu => "virtual GPU",
        DeviceType::Cpu => "CPU",
        DeviceType::Other => "other",
    }
}

fn rank(device_type: DeviceType) -> u32 {
    match device_type {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu => 2,
        DeviceType::Other => 3,
        DeviceType::Cpu => 4,
    }
}

fn nothing_fits(found: &[Adapter]) -> String {
    if found.is_empty() {
        return "no Metal, Vulkan or DirectX 12 device was found".to_owned();
    }
    let names: Vec<_> = found.iter().map(|adapter| adapter.get_info().name).collect();
    format!("only programs on the CPU were found: {}", names.join(", "))
}
