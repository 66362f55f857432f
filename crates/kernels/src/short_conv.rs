//! The short convolution: depthwise, causal, three taps.

use danaus_simd::{Isa, Simd, Vectorized};

use crate::matrix::{Matrix, MatrixMut};
use crate::texts::Texts;

/// Taps and bias of a short convolution over C channels.
#[derive(Debug, Clone)]
pub struct ShortFilter {
    /// Taps on the token two before, one before, and the current one; each `[C]`.
    taps: [Vec<f32>; 3],
    bias: Vec<f32>,
}

impl ShortFilter {
    /// `weight` is `[C, 3]`, the last tap on the current token; `bias` `[C]`.
    ///
    /// # Panics
    /// Where `weight` has not three values for each of `bias`.
    pub fn new(weight: &[f32], bias: &[f32]) -> Self {
        assert_eq!(weight.len(), 3 * bias.len(), "three taps a channel");
        let tap = |k: usize| weight.iter().skip(k).step_by(3).copied().collect();
        Self { taps: [tap(0), tap(1), tap(2)], bias: bias.to_vec() }
    }

    /// What the convolution of a token makes of the two before it, over what it would make of the token itself in their
    /// place; all `[C]`.
    ///
    /// # Panics
    /// Where there are other than C channels.
    pub fn departure(&self, before: &[f32], previous: &[f32], current: &[f32], out: &mut [f32]) {
        let channels = self.bias.len();
        assert!([before.len(), previous.len(), current.len(), out.len()] == [channels; 4], "channels");
        for (channel, out) in out.iter_mut().enumerate() {
            let current = current[channel];
            *out = self.taps[0][channel] * (before[channel] - current)
                + self.taps[1][channel] * (previous[channel] - current);
        }
    }
}

/// Channels whose two last inputs stay in registers while the tokens go by.
const STRIP: usize = 16;

/// `x[i] = w0 * x[i-2] + w1 * x[i-1] + w2 * x[i] + bias`, channel by channel, in place, on the calling thread;
/// nothing crosses from one text to the next. `x` is `[tokens, C]`.
///
/// # Panics
/// Where the texts have more rows than the matrix or the channels disagree.
pub fn short_conv(isa: Isa, x: MatrixMut<'_>, texts: &Texts, filter: &ShortFilter) {
    check(&x, texts, filter);
    isa.run(InPlace { x, texts, filter });
}

/// [`short_conv`] of x1, x2 and v, the thirds of `x` `[tokens, 3n]`, and then `v *= x1`: the same bits as
/// the two one after the other.
///
/// # Panics
/// Where the texts have more rows than the matrix, the channels disagree or are not three times as many as something.
pub fn short_conv_gate(isa: Isa, x: MatrixMut<'_>, texts: &Texts, filter: &ShortFilter) {
    check(&x, texts, filter);
    assert!(x.cols().is_multiple_of(3), "{} columns are no thirds", x.cols());
    isa.run(Gate { x, texts, filter });
}

/// [`short_conv_gate`] of tokens each of which stands alone, as if the two before it were like it, but for a departure from
/// that: of x1, x2 and v, each `[tokens, n]`.
///
/// # Panics
/// Where the shapes disagree.
pub fn steady_conv_gate(isa: Isa, x: MatrixMut<'_>, departures: [Matrix<'_>; 3], filter: &ShortFilter) {
    assert!(x.cols() == filter.bias.len() && x.cols().is_multiple_of(3), "thirds");
    let (rows, cols) = (x.rows(), x.cols() / 3);
    assert!(departures.iter().all(|part| (part.rows(), part.cols()) == (rows, cols)), "shapes");
    isa.run(Steady { x, departures, filter });
}

fn check(x: &MatrixMut<'_>, texts: &Texts, filter: &ShortFilter) {
    assert!(x.cols() == filter.bias.len() && texts.rows() <= x.rows(), "channels and rows");
}

struct InPlace<'a> {
    x: MatrixMut<'a>,
    texts: &'a Texts,
    filter: &'a ShortFilter,
}

impl Vectorized for InPlace<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let cols = self.x.cols();
        let wide = cols - cols % STRIP;
        for start in (0..wide).step_by(STRIP) {
            convolve::<S, STRIP, 1>(simd, &mut self.x, self.texts, self.filter, [start]);
        }
        for start in wide..cols {
            convolve::<S, 1, 1>(simd, &mut self.x, self.texts, self.filter, [start]);
        }
    }
}

struct Gate<'a> {
    x: MatrixMut<'a>,
    texts: &'a Texts,
    filter: &'a ShortFilter,
}

impl Vectorized for Gate<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let n = self.x.cols() / 3;
        let wide = n - n % STRIP;
        for start in (0..wide).step_by(STRIP) {
            let starts = [start, start + n, start + 2 * n];
            convolve::<S, STRIP, 3>(simd, &mut self.x, self.texts, self.filter, starts);
        }
        for start in wide..n {
            let starts = [start, start + n, start + 2 * n];
            convolve::<S, 1, 3>(simd, &mut self.x, self.texts, self.filter, starts);
        }
    }
}

struct Steady<'a> {
    x: MatrixMut<'a>,
    departures: [Matrix<'a>; 3],
    filter: &'a ShortFilter,
}

impl Vectorized for Steady<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let n = self.x.cols() / 3;
        let [w0, w1, w2] = &self.filter.taps;
        let sums: Vec<f32> = w0.iter().zip(w1).zip(w2).map(|((w0, w1), w2)| w0 + w1 + w2).collect();
        for row in 0..self.x.rows() {
            let x = self.x.row_mut(row);
            for (part, departures) in self.departures.iter().enumerate() {
                let filter = sums[part * n..][..n].iter().zip(&self.filter.bias[part * n..][..n]);
                let x = x[part * n..][..n].iter_mut().zip(departures.row(row));
                x.zip(filter).for_each(|((x, &departure), (&sum, &bias))| {
                    *x = simd.scalar_mul_add(sum, *x, bias) + departure;
                });
            }
            let (rest, v) = x.split_at_mut(2 * n);
            v.iter_mut().zip(rest).for_each(|(v, x1)| *v *= *x1);
        }
    }
}

/// Convolves `PARTS` strips of `N` channels, which start at `starts`; where they are three, the last one is then
/// multiplied by the first.
#[inline(always)]
fn convolve<S: Simd, const N: usize, const PARTS: usize>(
    simd: S,
    x: &mut MatrixMut<'_>,
    texts: &Texts,
    filter: &ShortFilter,
    starts: [usize; PARTS],
) {
    let [w0, w1, w2] = filter.taps.each_ref().map(|tap| starts.map(|start| strip::<N>(tap, start)));
    let bias = starts.map(|start| strip::<N>(&filter.bias, start));
    for index in 0..texts.len() {
        let (mut before, mut previous) = ([[0.0; N]; PARTS], [[0.0; N]; PARTS]);
        for row in texts.range(index) {
            let row = x.row_mut(row);
            let mut out = [[0.0; N]; PARTS];
            for part in 0..PARTS {
                let current = strip::<N>(row, starts[part]);
                for c in 0..N {
                    let sum = simd.scalar_mul_add(w2[part][c], current[c], bias[part][c]);
                    let sum = simd.scalar_mul_add(w1[part][c], previous[part][c], sum);
                    out[part][c] = simd.scalar_mul_add(w0[part][c], before[part][c], sum);
                }
                before[part] = previous[part];
                previous[part] = current;
            }
            if PARTS == 3 {
                let gate = out[0];
                for c in 0..N {
                    out[PARTS - 1][c] *= gate[c];
                }
            }
            for part in 0..PARTS {
                row[starts[part]..starts[part] + N].copy_from_slice(&out[part]);
            }
        }
    }
}

/// `N` values from `start`.
#[inline(always)]
fn strip<const N: usize>(values: &[f32], start: usize) -> [f32; N] {
    let mut strip = [0.0; N];
    strip.copy_from_slice(&values[start..start + N]);
    strip
}
