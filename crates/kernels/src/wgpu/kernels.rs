//! The kernels of a device, compiled when they are first used; those that work row by row are here.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::GpuBuffer;
use super::device::{Gpu, lock};
use super::error::GpuError;
use super::source;
use super::submission::{Kernel, MOST_GROUPS, Pending, Slice, Work};

/// Workgroup memory of transforms where it was not measured: room for two workgroups at a time in Metal's.
const USUAL_TRANSFORM_BYTES: u32 = 16 << 10;

/// A device and its kernels.
#[derive(Debug)]
pub struct Kernels {
    gpu: Gpu,
    nonce: Kernel,
    submissions: AtomicU32,
    transform_bytes: AtomicU32,
    compiled: Mutex<HashMap<String, Arc<Kernel>>>,
}

/// Scale and shift `[width]` of a LayerNorm, in float32.
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a> {
    /// Scale.
    pub weight: &'a GpuBuffer,
    /// Shift.
    pub bias: &'a GpuBuffer,
    /// Added to the variance.
    pub epsilon: f32,
    /// A multiple of 4.
    pub width: usize,
}

/// What padding behind a text adds to its long convolutions.
#[derive(Debug, Clone, Copy)]
pub struct FarField<'a> {
    /// The bits of bfloat16 values `[rows, width]`: the mixer's and the residual's.
    pub branches: [&'a GpuBuffer; 2],
    /// `[3 * width, 4]`: see [`Convolution`](super::Convolution).
    pub short: &'a GpuBuffer,
    /// The text's rows.
    pub first: usize,
    /// How many.
    pub rows: usize,
    /// An even number.
    pub width: usize,
}

impl Kernels {
    /// The kernels of a device.
    ///
    /// # Errors
    /// Where the device compiles nothing.
    pub fn new(gpu: Gpu) -> Result<Self, GpuError> {
        let nonce = gpu.compile_nonce()?;
        let (submissions, transform_bytes) = (AtomicU32::new(0), AtomicU32::new(USUAL_TRANSFORM_BYTES));
        Ok(Self { gpu, nonce, submissions, transform_bytes, compiled: Mutex::default() })
    }

    /// Workgroup memory that transforms take: one of [`TRANSFORM_BYTES`](super::TRANSFORM_BYTES).
    pub fn transform_bytes(&self) -> u32 {
        self.transform_bytes.load(Ordering::Relaxed)
    }

    /// Chooses it. Filters that were made before serve as well.
    pub fn set_transform_bytes(&self, bytes: u32) {
        self.transform_bytes.store(bytes, Ordering::Relaxed);
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Submits work, to be waited for with [`Gpu::wait`]; `read` is read back after it. `limit` is how long it may take.
    ///
    /// # Errors
    /// Where there is no memory, or the device has failed.
    pub fn submit(&self, work: Work, read: Option<Slice<'_>>, limit: Duration) -> Result<Pending, GpuError> {
        // No number is 0, which is what memory may hold that nothing was written to.
        let nonce = self.submissions.fetch_add(1, Ordering::Relaxed).wrapping_mul(2) | 1;
        self.gpu.submit(work, (&self.nonce, nonce), read, limit)
    }

    /// A compiled kernel. A name stands for one source.
    pub(super) fn kernel(
        &self,
        name: &str,
        writable: &[bool],
        source: impl FnOnce() -> String,
    ) -> Result<Arc<Kernel>, GpuError> {
        let mut compiled = lock(&self.compiled);
        if let Some(kernel) = compiled.get(name) {
            return Ok(Arc::clone(kernel));
        }
        let kernel = Arc::new(self.gpu.compile(name, &source(), writable)?);
        compiled.insert(name.to_owned(), Arc::clone(&kernel));
        Ok(kernel)
    }

    /// LayerNorm of `rows` rows of `x` (in float32) to `out`.
    ///
    /// # Errors
    /// Where the kernel cannot be compiled.
    pub fn layer_norm(
        &self,
        work: &mut Work,
        norm: Norm<'_>,
        rows: usize,
        x: Slice<'_>,
        out: Slice<'_>,
    ) -> Result<(), GpuError> {
        let Norm { weight, bias, epsilon, width } = norm;
        let storage = self.gpu.storage();
        let writable = [false, false, false, true];
        let kernel = self.kernel("layer_norm", &writable, || source::layer_norm(storage))?;
        let (across, down) = spread(rows);
        let parameters = [rows as u32, width as u32 / 4, (width as f32).to_bits(), epsilon.to_bits(), across];
        let bindings = [x, weight.into(), bias.into(), out];
        work.dispatch(&kernel, &parameters, &bindings, [across, down, 1], 8.0 * (rows * width) as f64);
        Ok(())
    }

    /// The mean of some rows of `x` for each of the `texts` (on the device, as [`TextRows`](super::TextRows)), to the rows of `out`
    /// `[texts, width]`, in float32.
    ///
    /// # Errors
    /// Where the kernel cannot be compiled.
    pub fn pool(
        &self,
        work: &mut Work,
        (texts, count): (&GpuBuffer, usize),
        width: usize,
        x: Slice<'_>,
        out: Slice<'_>,
    ) -> Result<(), GpuError> {
        let storage = self.gpu.storage();
        let kernel = self.kernel("pool", &[false, false, true], || source::pool(storage))?;
        let columns = (width as u32 / 4).div_ceil(16);
        for first in (0..count).step_by(MOST_GROUPS as usize) {
            let parameters = [width as u32 / 4, first as u32];
            let groups = [columns, (count - first).min(MOST_GROUPS as usize) as u32, 1];
            work.dispatch(&kernel, &parameters, &[texts.into(), x, out], groups, 0.0);
        }
        Ok(())
    }

    /// Adds a text's far field to what its convolutions have given so far, `mixed` (in float32); `x2` is the gate before its
    /// short convolution. Both are of all texts.
    ///
    /// # Errors
    /// Where the kernel cannot be compiled.
    pub fn far_field(
        &self,
        work: &mut Work,
        far: FarField<'_>,
        x2: Slice<'_>,
        mixed: Slice<'_>,
    ) -> Result<(), GpuError> {
        let FarField { branches, short, first, rows, width } = far;
        let storage = self.gpu.storage();
        let writable = [false, false, false, false, true];
        let kernel = self.kernel("far_field", &writable, || source::far_field(storage))?;
        let (across, down) = spread((rows * width / 2).div_ceil(64));
        let parameters = [width as u32, first as u32, rows as u32, across];
        let bindings = [branches[0].into(), branches[1].into(), x2, short.into(), mixed];
        work.dispatch(&kernel, &parameters, &bindings, [across, down, 1], 10.0 * (rows * width) as f64);
        Ok(())
    }
}

/// So many workgroups in two dimensions, or a few more.
pub(super) fn spread(count: usize) -> (u32, u32) {
    let across = count.clamp(1, MOST_GROUPS as usize);
    (across as u32, count.div_ceil(across) as u32)
}
