//! Long filters: states, taps, and what convolutions take of them.

use cudarc::driver::DeviceRepr;

use super::launch::{Grid, part};
use super::{CudaError, Gpu, GpuBuffer, LengthClass};

/// Positions of a block: `TOGETHER` of `filters.cu`.
const TOGETHER: usize = 8;

/// Three sine layers: weights transposed (`[E, F]`, `[F, F]`, `[F, F]`, one after the other) and biases `[3, F]` in float32,
/// frequencies `[3, F]` in float64.
#[derive(Debug)]
pub struct SineWeights {
    /// E: positional features.
    pub features: usize,
    /// F: states.
    pub order: usize,
    /// See the structure.
    pub weights: GpuBuffer,
    /// See the structure.
    pub biases: GpuBuffer,
    /// See the structure.
    pub frequencies: GpuBuffer,
}

/// What a branch's filters are made of.
#[derive(Debug)]
pub struct SpectrumSource<'a> {
    /// Taps `[H, positions]`, before the window, in float32: on tokens before, and on tokens behind.
    pub taps: [&'a GpuBuffer; 2],
    /// Of the window: `[positions]` and `[H]`.
    pub time: &'a GpuBuffer,
    /// See `time`.
    pub deltas: &'a GpuBuffer,
    /// `[H]`
    pub skip: &'a GpuBuffer,
    /// Positions that there are taps for.
    pub positions: usize,
    /// H.
    pub channels: usize,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct RawSineLayers {
    features: u64,
    feature_count: i32,
    order: i32,
    positions: i32,
    weights: u64,
    biases: u64,
    frequencies: u64,
    out: u64,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct RawSpectra {
    forward: u64,
    reverse: u64,
    time: u64,
    deltas: u64,
    skip: u64,
    positions: i32,
    channels: i32,
    roots: u64,
    out: u64,
}

// SAFETY: the structures of `filters.cu` and `long_conv.cuh`, in C's order.
unsafe impl DeviceRepr for RawSineLayers {}
// SAFETY: likewise.
unsafe impl DeviceRepr for RawSpectra {}

impl SineWeights {
    /// Shared memory of a block: states before and after a layer.
    fn shared(features: usize, order: usize) -> usize {
        2 * TOGETHER * order.max(features) * 8
    }

    /// Whether a GPU has room for so many features and states.
    pub fn fit(gpu: &Gpu, features: usize, order: usize) -> bool {
        Self::shared(features, order) <= gpu.shared_memory()
    }
}

impl Gpu {
    /// `out [positions, F]`: the states of a filter, of features `[positions, E]`; float32 both, float64 in between.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Panics
    /// Where sizes do not fit the buffers.
    pub fn sine_layers(
        &self,
        weights: &SineWeights,
        features: &GpuBuffer,
        positions: usize,
        out: &GpuBuffer,
    ) -> Result<(), CudaError> {
        let &SineWeights { features: inputs, order, .. } = weights;
        let parameters = RawSineLayers {
            features: part(features, 0, positions * inputs * 4),
            feature_count: inputs as i32,
            order: order as i32,
            positions: positions as i32,
            weights: part(&weights.weights, 0, (inputs + 2 * order) * order * 4),
            biases: part(&weights.biases, 0, 3 * order * 4),
            frequencies: part(&weights.frequencies, 0, 3 * order * 8),
            out: part(out, 0, positions * order * 4),
        };
        let shared = SineWeights::shared(inputs, order);
        assert!(shared <= self.shared_memory(), "states fit into shared memory");
        let function = self.modules.function("filters", "sine_layers", shared)?;
        let threads = order.next_multiple_of(32).min(256);
        let grid = Grid { blocks: [positions.div_ceil(TOGETHER), 1, 1], threads, shared };
        // SAFETY: sizes were checked.
        unsafe { self.launch(&function, grid, &parameters) }
    }

    /// Makes what convolutions of a class take of one branch's filters, at `offset` bytes of `out`: see
    /// [`LengthClass::filter_bytes`].
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Panics
    /// Where sizes do not fit the buffers.
    pub fn filters(
        &self,
        class: &LengthClass,
        source: &SpectrumSource<'_>,
        (out, offset): (&GpuBuffer, usize),
    ) -> Result<(), CudaError> {
        let &SpectrumSource { positions, channels, .. } = source;
        let [forward, reverse] = source.taps.map(|taps| part(taps, 0, channels * positions * 4));
        let parameters = RawSpectra {
            forward,
            reverse,
            time: part(source.time, 0, positions * 4),
            deltas: part(source.deltas, 0, channels * 4),
            skip: part(source.skip, 0, channels * 4),
            positions: positions as i32,
            channels: channels as i32,
            roots: class.roots_address(),
            out: part(out, offset, class.filter_bytes(channels)),
        };
        let (name, grid) = class.filter_kernel(channels);
        let function = self.modules.function(class.module(), name, grid.shared)?;
        // SAFETY: sizes were checked.
        unsafe { self.launch(&function, grid, &parameters) }
    }
}
