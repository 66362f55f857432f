//! Long convolutions of a sequence that is known by segments: a state stands for all positions of its segment.

use danaus_simd::{Isa, Simd, Vectorized};

use crate::matrix::{Matrix, MatrixMut};

/// Sums of the rows of `x` `[tokens, C]` between each two of `edges`, divided by `size`: `[segments, C]`.
///
/// # Panics
/// Where the shapes disagree, or the edges do not ascend.
pub fn segment_means(isa: Isa, x: Matrix<'_>, edges: &[usize], size: usize, out: MatrixMut<'_>) {
    assert!(out.rows() + 1 == edges.len() && out.cols() == x.cols(), "a row for each segment");
    isa.run(Means { x, edges, scale: 1.0 / size as f32, out });
}

/// `out[a] += sum_b taps[rows(a, b)] * states[b]`, channel by channel: `out` `[A, C]`, `states` `[B, C]`; `taps` are the bits
/// of bfloat16 values.
///
/// # Panics
/// Where the channels disagree, or there are no such taps.
pub fn convolve_segments(
    isa: Isa,
    out: MatrixMut<'_>,
    taps: Matrix<'_, u16>,
    states: Matrix<'_>,
    rows: SegmentRows,
) {
    assert!(taps.cols() == out.cols() && states.cols() == out.cols(), "channels");
    isa.run(Convolve { out, taps, states, rows });
}

/// Which taps lead from a segment to another: row `first + to * a + from * b` from segment b to segment a.
#[derive(Debug, Clone, Copy)]
pub struct SegmentRows {
    /// From segment 0 to segment 0.
    pub first: usize,
    /// By how much more for the next segment that is led to.
    pub to: isize,
    /// By how much more for the next segment that is led from.
    pub from: isize,
}

impl SegmentRows {
    /// The row that leads from segment `from` to segment `to`.
    ///
    /// # Panics
    /// Where that is none.
    #[inline(always)]
    pub fn row(self, to: usize, from: usize) -> usize {
        let row = self.first as isize + self.to * to as isize + self.from * from as isize;
        usize::try_from(row).expect("a row of the taps")
    }
}

/// `out[row] += values[a] * gate[row]` (without a gate, `+= values[a]`) for the rows between edges a and a + 1.
///
/// # Panics
/// Where the shapes disagree, or the edges do not ascend.
pub fn add_segments(
    isa: Isa,
    out: MatrixMut<'_>,
    values: Matrix<'_>,
    edges: &[usize],
    gate: Option<Matrix<'_>>,
) {
    assert!(values.rows() + 1 == edges.len() && values.cols() == out.cols(), "a row for each segment");
    if let Some(gate) = gate {
        assert!(gate.rows() == out.rows() && gate.cols() == out.cols(), "shape of the gate");
    }
    isa.run(Add { out, values, edges, gate });
}

struct Means<'a> {
    x: Matrix<'a>,
    edges: &'a [usize],
    scale: f32,
    out: MatrixMut<'a>,
}

impl Vectorized for Means<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, _: S) {
        for (segment, edges) in self.edges.windows(2).enumerate() {
            let out = self.out.row_mut(segment);
            out.fill(0.0);
            for row in edges[0]..edges[1] {
                out.iter_mut().zip(self.x.row(row)).for_each(|(out, x)| *out += x);
            }
            out.iter_mut().for_each(|out| *out *= self.scale);
        }
    }
}

struct Convolve<'a> {
    out: MatrixMut<'a>,
    taps: Matrix<'a, u16>,
    states: Matrix<'a>,
    rows: SegmentRows,
}

/// Channels whose sums stay in registers while the sources go by.
const STRIP: usize = 16;

/// Targets that are summed side by side.
const TARGETS: usize = 4;

impl Vectorized for Convolve<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let (targets, channels) = (self.out.rows(), self.out.cols());
        let (whole, wide) = (targets - targets % TARGETS, channels - channels % STRIP);
        for target in (0..whole).step_by(TARGETS) {
            (0..wide).step_by(STRIP).for_each(|start| self.sum::<S, TARGETS, STRIP>(simd, target, start));
            (wide..channels).for_each(|start| self.sum::<S, TARGETS, 1>(simd, target, start));
        }
        for target in whole..targets {
            (0..wide).step_by(STRIP).for_each(|start| self.sum::<S, 1, STRIP>(simd, target, start));
            (wide..channels).for_each(|start| self.sum::<S, 1, 1>(simd, target, start));
        }
    }
}

impl Convolve<'_> {
    /// Adds all sources to `N` channels of `T` targets.
    #[inline(always)]
    fn sum<S: Simd, const T: usize, const N: usize>(&mut self, simd: S, target: usize, start: usize) {
        let mut sums = [[0.0; N]; T];
        for (index, sums) in sums.iter_mut().enumerate() {
            sums.copy_from_slice(&self.out.view().row(target + index)[start..start + N]);
        }
        for source in 0..self.states.rows() {
            let state = &self.states.row(source)[start..start + N];
            for (index, sums) in sums.iter_mut().enumerate() {
                let taps = &self.taps.row(self.rows.row(target + index, source))[start..start + N];
                for channel in 0..N {
                    let tap = f32::from_bits(u32::from(taps[channel]) << 16);
                    sums[channel] = simd.scalar_mul_add(tap, state[channel], sums[channel]);
                }
            }
        }
        for (index, sums) in sums.iter().enumerate() {
            self.out.row_mut(target + index)[start..start + N].copy_from_slice(sums);
        }
    }
}

struct Add<'a> {
    out: MatrixMut<'a>,
    values: Matrix<'a>,
    edges: &'a [usize],
    gate: Option<Matrix<'a>>,
}

impl Vectorized for Add<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        for (segment, edges) in self.edges.windows(2).enumerate() {
            let values = self.values.row(segment);
            for row in edges[0]..edges[1] {
                let out = self.out.row_mut(row).iter_mut().zip(values);
                match &self.gate {
                    Some(gate) => out.zip(gate.row(row)).for_each(|((out, &value), &gate)| {
                        *out = simd.scalar_mul_add(value, gate, *out);
                    }),
                    None => out.for_each(|(out, value)| *out += value),
                }
            }
        }
    }
}
