//! One GPU: its context, its stream and its memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cudarc::driver::sys::{self, CUdevice_attribute};
use cudarc::driver::{
    CudaContext, CudaEvent, CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr, DriverError,
};

use super::CudaError;
use super::modules::Modules;

/// The oldest GPUs that the kernels run on: asynchronous copies to shared memory begin here.
const LEAST_CAPABILITY: (i32, i32) = (8, 0);

/// The oldest version of CUDA that a driver must know: that of the kernels' PTX.
const LEAST_DRIVER: i32 = 12_040;

/// How long the host spins for a result before it sleeps between looks.
const SPIN: Duration = Duration::from_millis(2);

/// An NVIDIA GPU.
#[derive(Debug)]
pub struct Gpu {
    pub(super) context: Arc<CudaContext>,
    pub(super) stream: Arc<CudaStream>,
    pub(super) modules: Modules,
    name: String,
    driver: String,
    capability: (i32, i32),
    multiprocessors: usize,
    shared_memory: usize,
    /// Bytes that buffers hold at present.
    held: Arc<AtomicUsize>,
}

/// Memory on a GPU, in bytes; what it holds is the caller's business.
#[derive(Debug)]
pub struct GpuBuffer {
    slice: CudaSlice<u8>,
    address: u64,
    held: Arc<AtomicUsize>,
}

/// Whether there is a driver: asking a library that is not there would panic.
fn check_driver() -> Result<(), CudaError> {
    // SAFETY: loads the driver's library, as any program that uses the GPU does.
    if unsafe { !sys::is_culib_present() } {
        return Err(CudaError::Absent("no NVIDIA driver was found (libcuda)".to_owned()));
    }
    Ok(())
}

/// The names of the NVIDIA GPUs here, in the driver's order.
///
/// # Errors
/// [`CudaError::Absent`] without a driver or a GPU, or the driver's error.
pub fn devices() -> Result<Vec<String>, CudaError> {
    check_driver()?;
    let doing = "asking the NVIDIA driver for its GPUs";
    let absent = |error: DriverError| match error.0 {
        sys::CUresult::CUDA_ERROR_NO_DEVICE => CudaError::Absent("the NVIDIA driver has no GPU".to_owned()),
        _ => CudaError::driver(doing, error),
    };
    let count = CudaContext::device_count().map_err(absent)?;
    let name = |index| {
        let device = cudarc::driver::result::device::get(index)?;
        cudarc::driver::result::device::get_name(device)
    };
    (0..count).map(|index| name(index).map_err(|error| CudaError::driver(doing, error))).collect()
}

impl Gpu {
    /// The GPU of that number.
    ///
    /// # Errors
    /// [`CudaError::Absent`] where there is no driver or no such GPU or it is too old, otherwise the driver's error.
    pub fn open(index: usize) -> Result<Self, CudaError> {
        let names = devices()?;
        let Some(name) = names.get(index).cloned() else {
            let count = names.len();
            return Err(CudaError::Absent(format!("there is no NVIDIA GPU {index}: the driver has {count}")));
        };
        let error = |error| CudaError::driver("opening the GPU", error);
        let context = CudaContext::new(index).map_err(error)?;
        let capability = context.compute_capability().map_err(error)?;
        if capability < LEAST_CAPABILITY {
            let (major, minor) = capability;
            return Err(CudaError::Absent(format!(
                "{name} has compute capability {major}.{minor}: the kernels need 8.0 or later"
            )));
        }
        // SAFETY: everything runs in one stream, in order, and so does the release of buffers (see `Drop` of `GpuBuffer`).
        unsafe { context.disable_event_tracking() };
        let attribute = |attribute| context.attribute(attribute).map(|value| value as usize).map_err(error);
        let version = driver_version().map_err(error)?;
        let driver = format!("CUDA {}.{}", version / 1000, version % 1000 / 10);
        if version < LEAST_DRIVER {
            return Err(CudaError::Failed(format!(
                "the NVIDIA driver is too old: it knows {driver}, the kernels need CUDA 12.4 (driver 550 or later)"
            )));
        }
        Ok(Self {
            stream: context.new_stream().map_err(error)?,
            multiprocessors: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_memory: attribute(
                CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            )?,
            modules: Modules::new(&context),
            capability,
            name,
            driver,
            context,
            held: Arc::default(),
        })
    }

    /// Its name, such as `NVIDIA H200`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The newest version of CUDA that the driver knows.
    pub fn driver(&self) -> &str {
        &self.driver
    }

    /// Whether it is a Hopper GPU, whose own instructions nothing else has.
    pub(super) fn is_hopper(&self) -> bool {
        self.capability == (9, 0)
    }

    /// Multiprocessors: how many blocks of threads run at least at a time.
    pub fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    /// The most shared memory that a block of threads may have, in bytes.
    pub fn shared_memory(&self) -> usize {
        self.shared_memory
    }

    /// Free memory and all memory, in bytes.
    ///
    /// # Errors
    /// The driver's.
    pub fn memory(&self) -> Result<(usize, usize), CudaError> {
        self.context.mem_get_info().map_err(|error| CudaError::driver("asking for the GPU's memory", error))
    }

    /// Bytes that buffers hold at present.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// A buffer of zeros.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`], or the driver's error.
    pub fn zeros(&self, bytes: usize) -> Result<GpuBuffer, CudaError> {
        let doing = || format!("allocating {bytes} bytes on the GPU");
        let slice = self
            .stream
            .alloc_zeros::<u8>(bytes.max(16))
            .map_err(|error| CudaError::driver(&doing(), error))?;
        let address = slice.device_ptr(&self.stream).0;
        self.held.fetch_add(slice.len(), Ordering::Relaxed);
        Ok(GpuBuffer { slice, address, held: Arc::clone(&self.held) })
    }

    /// A buffer that holds a copy of `bytes`.
    ///
    /// # Errors
    /// As [`zeros`](Gpu::zeros).
    pub fn upload(&self, bytes: &[u8]) -> Result<GpuBuffer, CudaError> {
        let mut buffer = self.zeros(bytes.len())?;
        self.write(&mut buffer, bytes)?;
        Ok(buffer)
    }

    /// Copies `bytes` to the beginning of a buffer.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Panics
    /// Where they do not fit.
    pub fn write(&self, buffer: &mut GpuBuffer, bytes: &[u8]) -> Result<(), CudaError> {
        assert!(bytes.len() <= buffer.bytes(), "bytes fit the buffer");
        self.stream
            .memcpy_htod(bytes, &mut buffer.slice)
            .map_err(|error| CudaError::driver("copying to the GPU", error))
    }

    /// Copies the beginning of a buffer to `bytes`, when everything that was started before has ended. `timeout` is how long that
    /// may take.
    ///
    /// # Errors
    /// The driver's, or what it did not end in time.
    ///
    /// # Panics
    /// Where there is less in the buffer.
    pub fn read(&self, buffer: &GpuBuffer, bytes: &mut [u8], timeout: Duration) -> Result<(), CudaError> {
        self.wait(timeout)?;
        let slice = buffer.slice.slice(..bytes.len());
        let error = |error| CudaError::driver("copying from the GPU", error);
        self.stream.memcpy_dtoh(&slice, bytes).map_err(error)?;
        self.stream.synchronize().map_err(error)
    }

    /// Waits until everything that was started has ended.
    ///
    /// # Errors
    /// The driver's, or [`CudaError::Failed`] where it takes longer than `timeout`.
    pub fn wait(&self, timeout: Duration) -> Result<(), CudaError> {
        let error = |error| CudaError::driver("waiting for the GPU", error);
        let event = self.record()?;
        let start = Instant::now();
        while !event.try_is_complete().map_err(error)? {
            let waited = start.elapsed();
            if waited > timeout {
                return Err(CudaError::Failed(format!(
                    "the GPU did not answer within {} s",
                    timeout.as_secs()
                )));
            }
            if waited > SPIN {
                std::thread::sleep(Duration::from_micros(100));
            } else {
                std::hint::spin_loop();
            }
        }
        Ok(())
    }

    /// How long `work` takes on the GPU, in milliseconds.
    ///
    /// # Errors
    /// The driver's, or that of `work`.
    pub fn time(&self, work: impl FnOnce() -> Result<(), CudaError>) -> Result<f64, CudaError> {
        let error = |error| CudaError::driver("timing the GPU", error);
        let flags = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let start = self.stream.record_event(flags).map_err(error)?;
        work()?;
        let end = self.stream.record_event(flags).map_err(error)?;
        start.elapsed_ms(&end).map(f64::from).map_err(error)
    }

    fn record(&self) -> Result<CudaEvent, CudaError> {
        self.stream.record_event(None).map_err(|error| CudaError::driver("waiting for the GPU", error))
    }
}

fn driver_version() -> Result<i32, DriverError> {
    let mut version = 0;
    // SAFETY: writes one integer.
    unsafe { sys::cuDriverGetVersion(&mut version).result()? };
    Ok(version)
}

impl GpuBuffer {
    /// The same memory in half precision.
    pub(super) fn halves(&self) -> CudaView<'_, half::f16> {
        // SAFETY: any two bytes are one.
        unsafe { self.slice.transmute(self.bytes() / 2) }.expect("half as many")
    }

    /// The same memory in half precision.
    pub(super) fn halves_mut(&mut self) -> CudaViewMut<'_, half::f16> {
        let count = self.bytes() / 2;
        // SAFETY: any two bytes are one.
        unsafe { self.slice.transmute_mut(count) }.expect("half as many")
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.slice.len()
    }

    /// Where it begins, for kernels.
    pub(super) fn address(&self) -> u64 {
        self.address
    }
}

impl Drop for GpuBuffer {
    // The memory itself is freed in the stream, after whatever was started before.
    fn drop(&mut self) {
        self.held.fetch_sub(self.slice.len(), Ordering::Relaxed);
    }
}
