//! Elementary functions as straight-line code, which the compiler vectorises.
//!
//! Sine and exponential compute in float64, to more than float32's accuracy.

use std::f64::consts::{LOG2_E, PI};

/// Adding and subtracting this rounds a float64 of magnitude below 2^51 to an integer, and leaves that integer in the
/// low bits of the sum.
const ROUND: f64 = 6_755_399_441_055_744.0; // 1.5 * 2^52

/// The largest magnitude that [`sin`] reduces accurately.
pub(crate) const SIN_LIMIT: f64 = 1e6;

/// Sine of `x`, for `|x| <= SIN_LIMIT`, within 2e-10: reduction to [-pi/2, pi/2], then the Taylor polynomial of degree 15
/// (its first dropped term is below 7e-12 there).
#[inline(always)]
pub(crate) fn sin(x: f64) -> f64 {
    let shifted = x * (1.0 / PI) + ROUND;
    let r = x - (shifted - ROUND) * PI;
    let r2 = r * r;
    let mut p = -1.0 / 1_307_674_368_000.0;
    for coefficient in
        [1.0 / 6_227_020_800.0, -1.0 / 39_916_800.0, 1.0 / 362_880.0, -1.0 / 5_040.0, 1.0 / 120.0, -1.0 / 6.0]
    {
        p = p * r2 + coefficient;
    }
    let s = r + r * r2 * p;
    // An odd number of half turns changes the sign.
    f64::from_bits(s.to_bits() ^ (shifted.to_bits() << 63))
}

/// `e^x` for `x <= 0`: the power of two through the exponent's bits, the rest by a Taylor polynomial of degree 9.
#[inline(always)]
pub(crate) fn exp_negative(x: f64) -> f64 {
    let x = x.max(-700.0);
    let shifted = x * LOG2_E + ROUND;
    let r = x - (shifted - ROUND) * std::f64::consts::LN_2;
    let mut p = 1.0 / 362_880.0;
    for coefficient in
        [1.0 / 40_320.0, 1.0 / 5_040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0]
    {
        p = p * r + coefficient;
    }
    let power = f64::from_bits((shifted.to_bits() << 52).wrapping_add(1023 << 52));
    p * power
}

/// GELU, `x * Phi(x)` with the exact normal distribution function, to float32 accuracy on both sides of zero.
///
/// `Phi(-z) = e^(-z^2/2) * t * Q(t)` with `t = 1 / (1 + 0.4 z / sqrt 2)`; `Q` was fitted to the scaled complementary
/// error function on `[0, 7]`, minimising the largest absolute error of erfc (1e-8).
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    const Q: [f32; 8] = [
        0.072_950_85,
        -0.387_139_7,
        0.667_540_4,
        -0.353_503_88,
        0.394_448_5,
        0.145_455_1,
        0.235_186_35,
        0.225_062_4,
    ];
    let z = x.abs();
    let t = 1.0 / (1.0 + 0.4 * std::f32::consts::FRAC_1_SQRT_2 * z);
    let mut q = 0.0;
    for coefficient in Q {
        q = q * t + coefficient;
    }
    let squared = f64::from(x) * f64::from(x);
    let tail = 0.5 * (q * t) * exp_negative(-0.5 * squared) as f32;
    let phi = if x < 0.0 { tail } else { 1.0 - tail };
    x * phi
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweep(from: f32, to: f32) -> impl Iterator<Item = f32> {
        let steps = 200_003;
        (0..=steps).map(move |i| from + (to - from) * (i as f32 / steps as f32))
    }

    #[test]
    fn sine_is_more_accurate_than_float32() {
        for x in sweep(-40.0, 40.0).chain(sweep(-1e6, 1e6)) {
            let error = (sin(f64::from(x)) - f64::from(x).sin()).abs();
            assert!(error <= 2e-10, "sin({x}) is {error:e} off");
        }
    }

    #[test]
    fn exponential_is_within_one_ulp() {
        for x in sweep(-90.0, 0.0) {
            let expected = f64::from(x).exp();
            assert!((exp_negative(f64::from(x)) - expected).abs() <= 1e-9 * expected, "exp({x})");
        }
        assert_eq!(exp_negative(0.0), 1.0);
        assert_eq!(exp_negative(f64::NEG_INFINITY) as f32, 0.0);
    }

    #[test]
    fn gelu_is_accurate_relative_to_its_input() {
        for x in sweep(-12.0, 12.0) {
            let expected = crate::reference::gelu(f64::from(x));
            let error = (f64::from(gelu(x)) - expected).abs();
            assert!(error <= 3e-7 * f64::from(x.abs()), "gelu({x}) is {error:e} off {expected}");
            // Far below zero, where the result itself is tiny, its own digits count.
            assert!(x < -9.0 || error <= 2e-6 * expected.abs(), "gelu({x}) is {error:e} off {expected:e}");
        }
        assert_eq!(gelu(0.0), 0.0);
        assert!(gelu(f32::NAN).is_nan());
        assert_eq!(gelu(f32::INFINITY), f32::INFINITY);
    }
}
