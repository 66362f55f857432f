//! Complex numbers in vector lanes, and small discrete Fourier transforms of them.

use danaus_simd::Simd;

/// A complex number per lane.
pub(super) struct Complex<S: Simd> {
    pub(super) re: S::F32,
    pub(super) im: S::F32,
}

impl<S: Simd> Clone for Complex<S> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Simd> Copy for Complex<S> {}

impl<S: Simd> Complex<S> {
    #[inline(always)]
    pub(super) fn zero(simd: S) -> Self {
        Self { re: simd.splat(0.0), im: simd.splat(0.0) }
    }

    #[inline(always)]
    fn add(self, simd: S, b: Self) -> Self {
        Self { re: simd.add(self.re, b.re), im: simd.add(self.im, b.im) }
    }

    #[inline(always)]
    fn sub(self, simd: S, b: Self) -> Self {
        Self { re: simd.sub(self.re, b.re), im: simd.sub(self.im, b.im) }
    }

    /// `self + factor * b`
    #[inline(always)]
    fn add_scaled(self, simd: S, factor: S::F32, b: Self) -> Self {
        Self { re: simd.mul_add(factor, b.re, self.re), im: simd.mul_add(factor, b.im, self.im) }
    }

    /// `self - factor * b`
    #[inline(always)]
    fn sub_scaled(self, simd: S, factor: S::F32, b: Self) -> Self {
        Self { re: simd.neg_mul_add(factor, b.re, self.re), im: simd.neg_mul_add(factor, b.im, self.im) }
    }

    /// `self + i b`, or `self - i b` in an inverse transform.
    #[inline(always)]
    fn add_turned<const INVERSE: bool>(self, simd: S, b: Self) -> Self {
        if INVERSE {
            Self { re: simd.add(self.re, b.im), im: simd.sub(self.im, b.re) }
        } else {
            Self { re: simd.sub(self.re, b.im), im: simd.add(self.im, b.re) }
        }
    }

    /// `self - i b`, or `self + i b` in an inverse transform.
    #[inline(always)]
    fn sub_turned<const INVERSE: bool>(self, simd: S, b: Self) -> Self {
        if INVERSE { self.add_turned::<false>(simd, b) } else { self.add_turned::<true>(simd, b) }
    }

    /// `self * b`, or `self * conj(b)` in an inverse transform.
    #[inline(always)]
    pub(super) fn mul<const INVERSE: bool>(self, simd: S, b: Self) -> Self {
        let (re, im) = (simd.mul(self.re, b.re), simd.mul(self.im, b.re));
        if INVERSE {
            Self { re: simd.mul_add(self.im, b.im, re), im: simd.neg_mul_add(self.re, b.im, im) }
        } else {
            Self { re: simd.neg_mul_add(self.im, b.im, re), im: simd.mul_add(self.re, b.im, im) }
        }
    }

    /// `twiddles[index]` in every lane.
    ///
    /// # Safety
    /// It is readable: a pair of values.
    #[inline(always)]
    pub(super) unsafe fn twiddle(simd: S, twiddles: *const f32, index: usize) -> Self {
        // SAFETY: the caller's.
        unsafe {
            Self { re: simd.splat(*twiddles.add(2 * index)), im: simd.splat(*twiddles.add(2 * index + 1)) }
        }
    }
}

/// `v[m] = sum_k w^(m k) v[k]` with `w = exp(2 pi i / R)`, or its conjugate in an inverse transform: not divided by R.
/// R is 4, 6 or 8.
#[inline(always)]
pub(super) fn dft<S: Simd, const R: usize, const INVERSE: bool>(simd: S, v: &mut [Complex<S>; R]) {
    match R {
        4 => dft4::<S, R, INVERSE>(simd, v, [0, 1, 2, 3]),
        6 => dft6::<S, R, INVERSE>(simd, v),
        8 => dft8::<S, R, INVERSE>(simd, v),
        _ => unreachable!(),
    }
}

/// Of four values of `v`, in place.
#[inline(always)]
fn dft4<S: Simd, const R: usize, const INVERSE: bool>(simd: S, v: &mut [Complex<S>; R], at: [usize; 4]) {
    let [a, b, c, d] = [v[at[0]], v[at[1]], v[at[2]], v[at[3]]];
    let (even, odd) = (a.add(simd, c), b.add(simd, d));
    let (even_turned, odd_turned) = (a.sub(simd, c), b.sub(simd, d));
    v[at[0]] = even.add(simd, odd);
    v[at[1]] = even_turned.add_turned::<INVERSE>(simd, odd_turned);
    v[at[2]] = even.sub(simd, odd);
    v[at[3]] = even_turned.sub_turned::<INVERSE>(simd, odd_turned);
}

/// Of three values of `v`, in place.
#[inline(always)]
fn dft3<S: Simd, const R: usize, const INVERSE: bool>(simd: S, v: &mut [Complex<S>; R], at: [usize; 3]) {
    let [a, b, c] = [v[at[0]], v[at[1]], v[at[2]]];
    let (sum, difference) = (b.add(simd, c), b.sub(simd, c));
    let middle = a.sub_scaled(simd, simd.splat(0.5), sum);
    let height = simd.splat(3f32.sqrt() / 2.0);
    let turned = Complex { re: simd.mul(height, difference.re), im: simd.mul(height, difference.im) };
    v[at[0]] = a.add(simd, sum);
    v[at[1]] = middle.add_turned::<INVERSE>(simd, turned);
    v[at[2]] = middle.sub_turned::<INVERSE>(simd, turned);
}

/// By the prime factors of 6, which need no factors between them (Good 1958).
#[inline(always)]
fn dft6<S: Simd, const R: usize, const INVERSE: bool>(simd: S, v: &mut [Complex<S>; R]) {
    dft3::<S, R, INVERSE>(simd, v, [0, 2, 4]);
    dft3::<S, R, INVERSE>(simd, v, [3, 5, 1]);
    let [a, b, c, d, e, f] = [v[0], v[2], v[4], v[3], v[5], v[1]];
    [v[0], v[3]] = [a.add(simd, d), a.sub(simd, d)];
    [v[4], v[1]] = [b.add(simd, e), b.sub(simd, e)];
    [v[2], v[5]] = [c.add(simd, f), c.sub(simd, f)];
}

#[inline(always)]
fn dft8<S: Simd, const R: usize, const INVERSE: bool>(simd: S, v: &mut [Complex<S>; R]) {
    dft4::<S, R, INVERSE>(simd, v, [0, 2, 4, 6]);
    dft4::<S, R, INVERSE>(simd, v, [1, 3, 5, 7]);
    let [a, c, e, g] = [v[0], v[2], v[4], v[6]];
    let [b, d, f, h] = [v[1], v[3], v[5], v[7]];
    let half = simd.splat(std::f32::consts::FRAC_1_SQRT_2);
    // Eighths of a turn: (1 + i) d and (1 - i) h, by -1 of which h differs from three eighths.
    let (d, h) = (d.add_turned::<INVERSE>(simd, d), h.sub_turned::<INVERSE>(simd, h));
    [v[0], v[4]] = [a.add(simd, b), a.sub(simd, b)];
    [v[1], v[5]] = [c.add_scaled(simd, half, d), c.sub_scaled(simd, half, d)];
    [v[2], v[6]] = [e.add_turned::<INVERSE>(simd, f), e.sub_turned::<INVERSE>(simd, f)];
    [v[3], v[7]] = [g.sub_scaled(simd, half, h), g.add_scaled(simd, half, h)];
}
