//! Elementary functions as straight-line code, which the compiler vectorises.
//!
//! Polynomials were fitted by Lawson's algorithm (iteratively reweighted least squares), which approaches the
//! smallest largest error.

use std::f64::consts::PI;

use danaus_simd::Simd;

/// Adding and subtracting this rounds a float64 of magnitude below 2^51 to an integer, and leaves that integer in the
/// low bits of the sum.
const ROUND: f64 = 6_755_399_441_055_744.0; // 1.5 * 2^52

/// The largest magnitude that [`sin`] reduces accurately.
pub(crate) const SIN_LIMIT: f64 = 1e6;

/// Sine of `x`, for `|x| <= SIN_LIMIT`, within 2e-10 (and 3e-11 for `|x| < 1000`): reduction to [-pi/2, pi/2], then a
/// polynomial of degree 11 (2e-11).
#[inline(always)]
pub(crate) fn sin<S: Simd>(simd: S, x: f64) -> f64 {
    let shifted = simd.scalar_mul_add_f64(x, 1.0 / PI, ROUND);
    let r = simd.scalar_mul_add_f64(shifted - ROUND, -PI, x);
    let r2 = r * r;
    let mut p = -2.384_669_370_844_697_5e-8;
    for coefficient in [
        2.752_261_883_612_452e-6,
        -1.984_080_403_881_663_5e-4,
        8.333_330_495_668_053e-3,
        -0.166_666_666_064_668_67,
    ] {
        p = simd.scalar_mul_add_f64(p, r2, coefficient);
    }
    let s = simd.scalar_mul_add_f64(r * r2, p, r);
    // An odd number of half turns changes the sign.
    f64::from_bits(s.to_bits() ^ (shifted.to_bits() << 63))
}

/// As [`ROUND`], for float32 of magnitude below 2^22.
const ROUND_F32: f32 = 12_582_912.0; // 1.5 * 2^23

/// `e^x` for `x <= 0` (and up to 88), within 3e-7 of itself: the power of two through the exponent's bits, the rest
/// by a polynomial (2e-9). Zero where the result would be below the least normal float32; 1 at 0.
#[inline(always)]
pub(crate) fn exp_nonpositive<S: Simd>(simd: S, x: f32) -> f32 {
    /// The first digits of ln 2, few enough that their product with an integer is exact, and the rest.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    /// ln(2^-126)
    const LEAST: f32 = -87.336_54;
    let shifted = simd.scalar_mul_add(x, std::f32::consts::LOG2_E, ROUND_F32);
    let whole = shifted - ROUND_F32;
    let r = simd.scalar_mul_add(whole, -LN_2[1], simd.scalar_mul_add(whole, -LN_2[0], x));
    let mut p = 0.001_383_679_4;
    for coefficient in [0.008_374_857, 0.041_668_23, 0.166_664_2, 0.499_999_9, 1.0, 1.0] {
        p = simd.scalar_mul_add(p, r, coefficient);
    }
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < LEAST { 0.0 } else { p * power }
}

/// GELU, `x * Phi(x)` with the exact normal distribution function, within 3e-7 of `|x|`, which is float32's
/// accuracy: Phi itself lies between 0 and 1.
///
/// As `max(x, 0) - |x| * Phi(-|x|)`, where `Phi(-z)^(1/4)` is a polynomial on `[0, LARGEST]` (Phi is then within
/// 5e-8; a power spares the exponential and the division of the usual forms, and can be no negative number). Beyond,
/// Phi(-z) is taken to be what it is at LARGEST: 1e-8 in truth, 1e-18 here.
#[inline(always)]
pub(crate) fn gelu<S: Simd>(simd: S, x: f32) -> f32 {
    /// Where the polynomial is zero.
    const LARGEST: f32 = 5.615_557;
    const ROOT: [f32; 8] = [
        5.901_292e-5,
        -3.106_737_6e-4,
        -2.623_070_4e-5,
        3.782_144_5e-3,
        4.660_662_7e-3,
        -0.050_202_27,
        -0.167_733_2,
        0.840_896_4,
    ];
    // Both comparisons are false for NaN; `f32::max` would drop it.
    let positive = if x < 0.0 { 0.0 } else { x };
    let z = if x.abs() > LARGEST { LARGEST } else { x.abs() };
    let mut root = -3.443_696_6e-6;
    for coefficient in ROOT {
        root = simd.scalar_mul_add(root, z, coefficient);
    }
    let square = root * root;
    simd.scalar_mul_add(-(z * square), square, positive)
}

#[cfg(test)]
mod tests {
    use danaus_simd::{Isa, Vectorized};

    use super::*;

    fn sweep(from: f32, to: f32) -> impl Iterator<Item = f32> {
        let steps = 200_003;
        (0..=steps).map(move |i| from + (to - from) * (i as f32 / steps as f32))
    }

    #[test]
    fn sine_is_more_accurate_than_float32() {
        for isa in Isa::available() {
            for x in sweep(-40.0, 40.0).chain(sweep(-1e6, 1e6)) {
                let error = (isa.run(Sine(f64::from(x))) - f64::from(x).sin()).abs();
                let tolerance = if x.abs() < 1e3 { 3e-11 } else { 2e-10 };
                assert!(error <= tolerance, "{}: sin({x}) is {error:e} off", isa.name());
            }
            assert!(isa.run(Sine(f64::NAN)).is_nan());
        }
    }

    /// Runs `f` on every instruction set.
    fn everywhere(f: fn(&dyn Fn(f32) -> f32, &str), which: Function) {
        for isa in Isa::available() {
            f(&|x| isa.run(Evaluate(which, x)), isa.name());
        }
    }

    struct Sine(f64);

    impl Vectorized for Sine {
        type Output = f64;
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> f64 {
            sin(simd, self.0)
        }
    }

    #[derive(Clone, Copy)]
    enum Function {
        Exp,
        Gelu,
    }

    struct Evaluate(Function, f32);

    impl Vectorized for Evaluate {
        type Output = f32;
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> f32 {
            match self.0 {
                Function::Exp => exp_nonpositive(simd, self.1),
                Function::Gelu => gelu(simd, self.1),
            }
        }
    }

    #[test]
    fn float32_exponential_is_accurate_down_to_underflow() {
        let check = |exp: &dyn Fn(f32) -> f32, isa: &str| {
            for x in sweep(-87.33, 0.0).chain(sweep(-1.0, 0.0)) {
                let expected = f64::from(x).exp();
                let error = (f64::from(exp(x)) - expected).abs() / expected;
                assert!(error <= 3e-7, "{isa}: exp({x}) is {error:e} of itself off");
            }
            for x in [-87.34, -88.0, -104.0, -1e3, -1e9, f32::MIN, f32::NEG_INFINITY] {
                assert_eq!(exp(x), 0.0, "{isa}: exp({x})");
            }
            assert_eq!((exp(0.0), exp(-0.0)), (1.0, 1.0), "{isa}");
            assert!(exp(f32::NAN).is_nan(), "{isa}");
        };
        everywhere(check, Function::Exp);
    }

    #[test]
    fn gelu_is_accurate_relative_to_its_input() {
        let check = |gelu: &dyn Fn(f32) -> f32, isa: &str| {
            for x in sweep(-12.0, 12.0).chain(sweep(-1e-3, 1e-3)) {
                let expected = crate::reference::gelu(f64::from(x));
                let error = (f64::from(gelu(x)) - expected).abs();
                // Relative to the result, which is tiny below -5, accuracy would take an exponential; whatever the
                // result is added to or multiplied by is of the size of the other results.
                assert!(error <= 3e-7 * f64::from(x.abs()), "{isa}: gelu({x}) is {error:e} off {expected}");
            }
            for x in [-6.0, -1e3, f32::MIN, f32::NEG_INFINITY] {
                assert!(gelu(x) <= 0.0 && gelu(x) > -1e-15, "{isa}: gelu({x}) is {:e}", gelu(x));
            }
            for x in [6.0, 1e3, f32::MAX, f32::INFINITY] {
                assert_eq!(gelu(x), x, "{isa}");
            }
            assert_eq!((gelu(0.0), gelu(-0.0)), (0.0, 0.0), "{isa}");
            assert!(gelu(f32::NAN).is_nan() && gelu(-f32::NAN).is_nan(), "{isa}");
        };
        everywhere(check, Function::Gelu);
    }
}
