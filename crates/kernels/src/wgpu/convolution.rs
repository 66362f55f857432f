//! The long convolution: bidirectional, exact, per channel.
//!
//! `y[i] = sum_{j<=i} forward[i-j] x[j] + sum_{j>i} reverse[j-i-1] x[j] + skip x[i]`
//!
//! As on the CPU: up to [`DIRECT_ROWS`] rows by that sum, beyond as a product of polynomials modulo `z^L - i`, by a tree whose
//! leaves fit into workgroup memory. A longer text's leaves are computed one after the other, each adding its part to the
//! result in global memory.

use super::GpuBuffer;
use super::error::GpuError;
use super::kernels::Kernels;
use super::source::{self, Branch};
use super::submission::{MOST_GROUPS, Slice, Work};
use super::tree::{self, Transform};

/// The longest text that is convolved by the sum.
pub const DIRECT_ROWS: usize = 32;

/// The rows of a text, as the device reads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextRows {
    /// The first one.
    pub first: u32,
    /// How many.
    pub rows: u32,
}

/// Both long convolutions of a layer, of texts of one filter length.
///
/// Of each text alone: `mixed = long_conv(v * x1) * x2 + residual_long_conv(hidden)`, where x1, x2 and v go through their short
/// convolutions first.
#[derive(Debug, Clone, Copy)]
pub struct Convolution<'a> {
    /// Channels.
    pub width: usize,
    /// Taps in a direction: [`gpu_filter_length`](super::gpu_filter_length) of each text's rows.
    pub length: usize,
    /// All texts' rows on the device, as [`TextRows`].
    pub texts: &'a GpuBuffer,
    /// Which of them: the first, and how many.
    pub range: (usize, usize),
    /// Twiddle factors of this length; any buffer where it is at most [`DIRECT_ROWS`].
    pub twiddles: &'a GpuBuffer,
    /// For each channel of x1, x2 and v: three taps (the last one on the current row) and the bias.
    pub short: &'a GpuBuffer,
    /// The leaf of the tree whose part of the result is computed; below [`Kernels::leaves`].
    pub leaf: usize,
}

/// A leaf of a filter that is to be made.
#[derive(Debug, Clone, Copy)]
pub struct FilterLeaf<'a> {
    /// Channels.
    pub width: usize,
    /// Taps in a direction.
    pub length: usize,
    /// Those of them that there are: the others are zero.
    pub positions: usize,
    /// Below [`Kernels::leaves`].
    pub leaf: usize,
    /// As in [`Convolution`].
    pub twiddles: &'a GpuBuffer,
    /// Weights of the skip connection `[width]`, in float32.
    pub skip: &'a GpuBuffer,
}

impl Kernels {
    /// Leaves of filters of `length` taps: parts that are computed one after the other.
    pub fn leaves(&self, length: usize) -> usize {
        if length <= DIRECT_ROWS { 1 } else { self.transform(length).leaves(length) as usize }
    }

    /// Float32 values of a leaf of a filter of `length` taps over `width` channels.
    pub fn filter_values(&self, length: usize, width: usize) -> usize {
        if length <= DIRECT_ROWS {
            (2 * DIRECT_ROWS - 1) * width
        } else {
            2 * self.transform(length).points as usize * width
        }
    }

    /// The twiddle factors of a length, as bytes to upload.
    pub fn twiddles(&self, length: usize) -> Vec<u8> {
        if length <= DIRECT_ROWS {
            return vec![0; 16];
        }
        bytemuck::cast_slice(&tree::twiddles(self.transform(length), length)).to_vec()
    }

    fn transform(&self, length: usize) -> Transform {
        Transform::of(length, self.gpu().workgroup_bytes(), self.transform_bytes())
    }

    /// Makes a leaf of a filter, of [`filter_values`](Kernels::filter_values), from the filter's `taps` forward and reverse
    /// `[positions, width]`. All is in float32.
    ///
    /// # Errors
    /// Where the kernel cannot be compiled.
    pub fn filter(
        &self,
        work: &mut Work,
        filter: FilterLeaf<'_>,
        taps: [Slice<'_>; 2],
        out: Slice<'_>,
    ) -> Result<(), GpuError> {
        let FilterLeaf { width, length, positions, leaf, twiddles, skip } = filter;
        if length <= DIRECT_ROWS {
            let kernel = self.kernel("direct_taps", &[false, false, false, true], source::direct_taps)?;
            let groups = [(width as u32).div_ceil(64), 1, 1];
            let bindings = [taps[0], taps[1], skip.into(), out];
            work.dispatch(&kernel, &[width as u32, positions as u32], &bindings, groups, 0.0);
            return Ok(());
        }
        let transform = self.transform(length);
        let name = format!("spectrum {} of {}", transform.points, transform.lanes);
        let writable = [false, false, false, false, false, true];
        let kernel = self.kernel(&name, &writable, || source::spectrum(transform))?;
        let mut parameters = parameters(transform, length, width, leaf).to_vec();
        parameters.extend([positions as u32, (1.0 / length as f32).to_bits()]);
        let bindings = [twiddles.into(), twiddles.into(), taps[0], taps[1], skip.into(), out];
        let groups = [(width as u32).div_ceil(transform.lanes), 1, 1];
        work.dispatch(&kernel, &parameters, &bindings, groups, operations(length, width));
        Ok(())
    }

    /// A leaf of the mixer's convolution: `mixed` (in float32) becomes it, or it is added where it is not the first.
    ///
    /// # Errors
    /// Where the kernel cannot be compiled.
    pub fn convolve_mixer(
        &self,
        work: &mut Work,
        convolution: Convolution<'_>,
        filter: Slice<'_>,
        [x1, x2, v]: [Slice<'_>; 3],
        mixed: Slice<'_>,
    ) -> Result<(), GpuError> {
        let rest = [filter, x1, x2, v, convolution.short.into(), mixed];
        self.convolve(work, convolution, Branch::Mixer, &rest)
    }

    /// A leaf of the residual convolution: it is added to `mixed` (in float32), or where it is the last one, the sum is written
    /// to `out`.
    ///
    /// # Errors
    /// Where the kernel cannot be compiled.
    pub fn convolve_residual(
        &self,
        work: &mut Work,
        convolution: Convolution<'_>,
        filter: Slice<'_>,
        hidden: Slice<'_>,
        [mixed, out]: [Slice<'_>; 2],
    ) -> Result<(), GpuError> {
        self.convolve(work, convolution, Branch::Residual, &[filter, hidden, mixed, out])
    }

    fn convolve(
        &self,
        work: &mut Work,
        convolution: Convolution<'_>,
        branch: Branch,
        rest: &[Slice<'_>],
    ) -> Result<(), GpuError> {
        let Convolution { width, length, texts, range: (first, count), twiddles, leaf, .. } = convolution;
        let storage = self.gpu().storage();
        let direct = length <= DIRECT_ROWS;
        let transform = self.transform(length);
        let (kernel, lanes) = if direct {
            let name = format!("direct {branch:?}");
            (self.kernel(&name, branch.writable(), || source::direct(storage, branch))?, 64)
        } else {
            let name = format!("convolve {} of {} {branch:?}", transform.points, transform.lanes);
            let source = || source::convolve(storage, transform, branch);
            (self.kernel(&name, branch.writable(), source)?, transform.lanes)
        };
        let mut bindings = vec![texts.into(), twiddles.into()];
        bindings.extend_from_slice(rest);
        for start in (0..count).step_by(MOST_GROUPS as usize) {
            let count = (count - start).min(MOST_GROUPS as usize);
            let first = (first + start) as u32;
            let mut parameters = if direct {
                vec![width as u32, first, 0, 1]
            } else {
                parameters(transform, length, width, leaf).to_vec()
            };
            parameters[1] = first;
            let groups = [(width as u32).div_ceil(lanes), count as u32, 1];
            let each =
                if direct { (2 * length * length * width) as f64 } else { 2.0 * operations(length, width) };
            work.dispatch(&kernel, &parameters, &bindings, groups, count as f64 * each);
        }
        Ok(())
    }
}

fn parameters(transform: Transform, length: usize, width: usize, leaf: usize) -> [u32; 6] {
    let (twiddles, roots) = transform.offsets(length, leaf as u32);
    [width as u32, 0, leaf as u32, transform.leaves(length), twiddles, roots]
}

/// Of a transform of a leaf, about, with the reading of all leaves' inputs.
fn operations(length: usize, width: usize) -> f64 {
    (length * width) as f64 * (8.0 + 4.0 * length.ilog2() as f64)
}
