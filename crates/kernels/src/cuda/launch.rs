//! Starting a kernel.

use cudarc::driver::{CudaFunction, DeviceRepr, LaunchConfig, PushKernelArg};

use super::{CudaError, Gpu, GpuBuffer};

/// Blocks and threads of a launch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    /// Blocks of threads, by dimension.
    pub blocks: [usize; 3],
    /// Threads of a block.
    pub threads: usize,
    /// Shared memory of a block that is not declared in the kernel, in bytes.
    pub shared: usize,
}

/// The most blocks of a launch's second and third dimension.
pub(super) const MOST_BLOCKS: usize = 65_535;

impl Gpu {
    /// Starts a kernel whose only parameter is `parameters`.
    ///
    /// # Safety
    /// The parameters are what the kernel takes, and with this grid it stays within the memory that they name, which lives until
    /// the stream is past it.
    pub(super) unsafe fn launch<P: DeviceRepr>(
        &self,
        function: &CudaFunction,
        grid: Grid,
        parameters: &P,
    ) -> Result<(), CudaError> {
        let [x, y, z] = grid.blocks;
        if x == 0 || y == 0 || z == 0 {
            return Ok(());
        }
        assert!(y <= MOST_BLOCKS && z <= MOST_BLOCKS, "a grid that can be launched");
        let config = LaunchConfig {
            grid_dim: (x as u32, y as u32, z as u32),
            block_dim: (grid.threads as u32, 1, 1),
            shared_mem_bytes: grid.shared as u32,
        };
        let mut launch = self.stream.launch_builder(function);
        launch.arg(parameters);
        // SAFETY: the caller's promise.
        unsafe { launch.launch(config) }.map_err(|error| CudaError::driver("starting a kernel", error))?;
        Ok(())
    }
}

/// The address of a buffer that holds at least so many bytes from `offset` on.
///
/// # Panics
/// Where it does not.
pub(super) fn part(buffer: &GpuBuffer, offset: usize, bytes: usize) -> u64 {
    assert!(offset + bytes <= buffer.bytes(), "{bytes} bytes at {offset} of {}", buffer.bytes());
    buffer.address() + offset as u64
}

/// Structures of the kernels, as bytes.
pub(super) fn bytes_of<T: DeviceRepr>(values: &[T]) -> &[u8] {
    // SAFETY: what is laid out for kernels has no padding that they would read, and any byte is a `u8`.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}
