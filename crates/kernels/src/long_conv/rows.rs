//! Where a panel's rows are: a lane's width of columns of a strided matrix.

use danaus_simd::Simd;

use super::{ConvEpilogue, WIDEST};
use crate::matrix::{Matrix, MatrixMut};

/// As many as the widest vector holds, in a cache line.
#[repr(align(64))]
struct Zeros([f32; WIDEST]);

static ZEROS: Zeros = Zeros([0.0; WIDEST]);

/// Rows of a vector each, to read. Rows from `count` on are zero.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub(super) data: *const f32,
    pub(super) stride: usize,
    pub(super) count: usize,
}

impl Rows {
    /// The vectors that start at column `start` of `matrix`.
    pub(super) fn of(matrix: Matrix<'_>, start: usize, lanes: usize) -> Self {
        let (data, count, _, stride) = matrix.columns(start, lanes).into_parts();
        Self { data, stride, count }
    }

    /// Asks for row `index`, which need not exist.
    #[inline(always)]
    pub(super) fn prefetch<S: Simd>(self, simd: S, index: usize) {
        simd.prefetch(self.data.wrapping_add(index * self.stride).cast());
    }

    /// Row `index`, which need not exist.
    ///
    /// # Safety
    /// The rows that exist are readable.
    #[inline(always)]
    pub(super) unsafe fn load<S: Simd>(self, simd: S, index: usize) -> S::F32 {
        let row =
            if index < self.count { self.data.wrapping_add(index * self.stride) } else { ZEROS.0.as_ptr() };
        // SAFETY: the caller's; and a line of zeros is no shorter than any vector.
        unsafe { simd.load(row) }
    }
}

/// What becomes of a row of results, as in [`ConvEpilogue`].
#[derive(Clone, Copy)]
pub(super) enum Finish {
    Store,
    Gate(Rows),
    Add,
}

/// Rows of a vector each, to write.
#[derive(Clone, Copy)]
pub(super) struct Sink {
    pub(super) data: *mut f32,
    pub(super) stride: usize,
    pub(super) count: usize,
    pub(super) finish: Finish,
}

impl Sink {
    /// The vectors that start at column `start` of `out`.
    pub(super) fn of(out: MatrixMut<'_>, start: usize, lanes: usize, epilogue: ConvEpilogue<'_>) -> Self {
        let (data, count, _, stride) = out.columns(start, lanes).into_parts();
        let finish = match epilogue {
            ConvEpilogue::Store => Finish::Store,
            ConvEpilogue::Gate(gate) => Finish::Gate(Rows::of(gate, start, lanes)),
            ConvEpilogue::Add => Finish::Add,
        };
        Self { data, stride, count, finish }
    }

    /// Asks for row `index`, which need not exist.
    #[inline(always)]
    pub(super) fn prefetch<S: Simd>(self, simd: S, index: usize) {
        simd.prefetch(self.data.wrapping_add(index * self.stride).cast::<u8>().cast_const());
        if let Finish::Gate(gate) = self.finish {
            gate.prefetch(simd, index);
        }
    }

    /// Writes the result of row `index`, if there is one.
    ///
    /// # Safety
    /// The rows are writable, and those of a gate readable.
    #[inline(always)]
    pub(super) unsafe fn write<S: Simd>(self, simd: S, index: usize, value: S::F32) {
        if index >= self.count {
            return;
        }
        let row = self.data.wrapping_add(index * self.stride);
        // SAFETY: the caller's; the index was checked.
        unsafe {
            let value = match self.finish {
                Finish::Store => value,
                Finish::Gate(gate) => simd.mul(value, gate.load(simd, index)),
                Finish::Add => simd.add(simd.load(row), value),
            };
            simd.store(value, row);
        }
    }
}
