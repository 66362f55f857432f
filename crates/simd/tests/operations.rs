//! Every operation of every instruction set of this machine does to each lane what it says.

use danaus_simd::{Isa, Simd, Vectorized};

/// Lanes of the widest vector.
const WIDEST: usize = 16;

/// Checks all operations of an instruction set, whose name it takes.
struct Operations(&'static str);

impl Vectorized for Operations {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        assert!(S::LANES <= WIDEST && S::LANES.is_multiple_of(2), "{}", self.0);
        float32(simd, self.0);
        float64(simd, self.0);
        bfloat16(simd, self.0);
        integers(simd, self.0);
    }
}

/// The lanes of a vector, stored where no vector starts; what lies beside them must stay as it is.
fn lanes<S: Simd>(simd: S, vector: S::F32) -> Vec<f32> {
    let mut memory = [f32::NAN; WIDEST + 2];
    // SAFETY: the memory holds a vector and a value on either side.
    unsafe { simd.store(vector, memory[1..].as_mut_ptr()) };
    assert!(memory[0].is_nan() && memory[S::LANES + 1..].iter().all(|x| x.is_nan()));
    memory[1..=S::LANES].to_vec()
}

fn load<S: Simd>(simd: S, values: &[f32; WIDEST + 1]) -> S::F32 {
    // SAFETY: there are as many values as the widest vector takes after the first.
    unsafe { simd.load(values[1..].as_ptr()) }
}

fn load_words<S: Simd>(simd: S, words: &[u32; WIDEST + 1]) -> S::Words {
    // SAFETY: as in `load`.
    unsafe { simd.load_words(words[1..].as_ptr()) }
}

fn float32<S: Simd>(simd: S, isa: &str) {
    let a: [f32; WIDEST + 1] = std::array::from_fn(|i| i as f32 + 1.5);
    let b: [f32; WIDEST + 1] = std::array::from_fn(|i| 3.0 - 2.0 * i as f32);
    let c: [f32; WIDEST + 1] = std::array::from_fn(|i| 7.0 * i as f32 - 20.0);
    let [va, vb, vc] = [&a, &b, &c].map(|values| load(simd, values));
    let check = |what: &str, got: S::F32, expected: &dyn Fn(f32, f32, f32) -> f32| {
        let expected: Vec<_> = (1..=S::LANES).map(|i| expected(a[i], b[i], c[i])).collect();
        assert_eq!(lanes(simd, got), expected, "{isa}: {what}");
    };
    check("load", va, &|a, _, _| a);
    check("splat", simd.splat(-0.25), &|_, _, _| -0.25);
    check("add", simd.add(va, vb), &|a, b, _| a + b);
    check("sub", simd.sub(va, vb), &|a, b, _| a - b);
    check("mul", simd.mul(va, vb), &|a, b, _| a * b);
    check("mul_add", simd.mul_add(va, vb, vc), &|a, b, c| a * b + c);
    check("neg_mul_add", simd.neg_mul_add(va, vb, vc), &|a, b, c| c - a * b);
    // The square's last digit is lost where it is rounded before the sum.
    let (near, square) = (1.0 + 2f32.powi(-12), 1.0 + 2f32.powi(-11));
    let rest = if S::FUSED { 2f32.powi(-24) } else { 0.0 };
    let fused = simd.mul_add(simd.splat(near), simd.splat(near), simd.splat(-square));
    check("fused", fused, &|_, _, _| rest);
    let fused = simd.neg_mul_add(simd.splat(near), simd.splat(near), simd.splat(square));
    check("fused, negative", fused, &|_, _, _| -rest);
    assert_eq!(simd.scalar_mul_add(near, near, -square), rest, "{isa}");
    simd.prefetch(std::ptr::null());
}

fn float64<S: Simd>(simd: S, isa: &str) {
    let values: [f64; WIDEST / 2 + 1] = std::array::from_fn(|i| i as f64 - 2.5);
    let mut memory = [f64::NAN; WIDEST / 2 + 2];
    let near = 1.0 + 2f64.powi(-27);
    // SAFETY: the memory holds a vector and a value on either side, and there are as many values.
    unsafe {
        let x = simd.load_f64(values[1..].as_ptr());
        simd.store_f64(simd.mul_add_f64(x, simd.splat_f64(3.0), x), memory[1..].as_mut_ptr());
    }
    let count = S::LANES / 2;
    assert!((1..=count).all(|i| memory[i] == 4.0 * values[i]), "{isa}: {memory:?}");
    assert!(memory[0].is_nan() && memory[count + 1..].iter().all(|x| x.is_nan()), "{isa}");
    let rest = if S::FUSED { 2f64.powi(-54) } else { 0.0 };
    assert_eq!(simd.scalar_mul_add_f64(near, near, -1.0 - 2f64.powi(-26)), rest, "{isa}");
}

fn bfloat16<S: Simd>(simd: S, isa: &str) {
    // Upper halves of float32 values that need no more.
    let word = |first: f32, second: f32| first.to_bits() >> 16 | second.to_bits();
    let a: [u32; WIDEST + 1] = std::array::from_fn(|i| word(i as f32, 1.5 - i as f32));
    let b: [u32; WIDEST + 1] = std::array::from_fn(|i| word(-2.0, 4.0 + i as f32));
    let sum = simd.dot_bf16(simd.splat(100.0), load_words(simd, &a), load_words(simd, &b));
    let expected = (1..=S::LANES).map(|i| i as f32).map(|i| 100.0 - 2.0 * i + (1.5 - i) * (4.0 + i));
    assert_eq!(lanes(simd, sum), expected.collect::<Vec<_>>(), "{isa}");
}

/// Sums of products of bfloat16 values, whose roundings depend on the order of additions.
struct RoundedDots;

impl Vectorized for RoundedDots {
    type Output = Vec<u32>;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Vec<u32> {
        let mut state = 1u64;
        let mut value = |bits: u32| {
            state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
            // A sign, one of 32 exponents around that of 1, and as many bits of the mantissa as are asked for.
            let random = (state >> 32) as u32;
            let sign_and_mantissa = random & (0x8000_0000 | ((1 << bits) - 1) << (23 - bits));
            f32::from_bits(sign_and_mantissa | (111 + (random >> 24 & 31)) << 23)
        };
        let mut dot = || {
            let mut word = || value(7).to_bits() >> 16 | value(7).to_bits();
            let (a, b) = (word(), word());
            let dot = simd.dot_bf16(simd.splat(value(23)), simd.splat_word(a), simd.splat_word(b));
            lanes(simd, dot)[0].to_bits()
        };
        (0..10_000).map(|_| dot()).collect()
    }
}

#[test]
fn bfloat16_sums_are_the_same_bits_everywhere() {
    let isas = Isa::available();
    let all: Vec<_> = isas.iter().map(|isa| isa.run(RoundedDots)).collect();
    for (isa, dots) in isas.iter().zip(&all) {
        assert!(*dots == all[0], "{isa} has other bits than {}", isas[0]);
    }
}

/// All pairs of 8-bit integers, the extreme ones beside each other: partial sums must not saturate.
fn integers<S: Simd>(simd: S, isa: &str) {
    let start: [i32; WIDEST + 1] = std::array::from_fn(|i| 1000 - 300 * i as i32);
    let sums = load_words(simd, &start.map(i32::cast_unsigned));
    for b in i8::MIN..=i8::MAX {
        let weights = simd.splat_word(u32::from_le_bytes([b, b, -128, 127].map(i8::cast_unsigned)));
        for first in (0..256).step_by(S::LANES) {
            let value = |lane: usize| (first + lane - 1).min(255) as u8;
            let a = std::array::from_fn(|lane| match lane {
                0 => 0,
                _ => u32::from_le_bytes([value(lane), 255, value(lane), 255]),
            });
            let got = simd.integers_to_floats(simd.dot_u8_i8(sums, load_words(simd, &a), weights));
            let expected = |lane: usize| {
                let (a, b) = (i32::from(value(lane)), i32::from(b));
                (start[lane] + a * b + 255 * b - 128 * a + 255 * 127) as f32
            };
            let expected: Vec<_> = (1..=S::LANES).map(expected).collect();
            assert_eq!(lanes(simd, got), expected, "{isa}: {b}");
        }
    }
    let (first, second) =
        (|lane: usize| -32_768 + 4000 * lane as i32, |lane: usize| 32_767 - 4001 * lane as i32);
    let pairs =
        std::array::from_fn(|lane| second(lane).cast_unsigned() << 16 | first(lane).cast_unsigned() & 0xffff);
    let pairs = load_words(simd, &pairs);
    let expected = |value: fn(usize) -> i32| (1..=S::LANES).map(|i| value(i) as f32).collect::<Vec<_>>();
    assert_eq!(lanes(simd, simd.first_i16(pairs)), expected(first), "{isa}");
    assert_eq!(lanes(simd, simd.second_i16(pairs)), expected(second), "{isa}");
    let bits = 1.5f32.to_bits();
    assert_eq!(lanes(simd, simd.floats(simd.splat_word(bits))), vec![1.5; S::LANES], "{isa}");
}

#[test]
fn every_operation_does_what_it_says() {
    for isa in Isa::available() {
        isa.run(Operations(isa.name()));
    }
}
