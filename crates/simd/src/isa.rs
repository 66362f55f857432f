//! Instruction sets: which ones this CPU has, and running one generic piece of code compiled for the chosen one.
//!
//! A kernel is written once, as a [`Vectorized`] operation over a [`Simd`] token, with fixed-size [`Lanes`](crate::Lanes)
//! that the compiler turns into vector instructions. [`Isa::run`] compiles it once per instruction set and calls the copy
//! that fits the CPU. The value of an [`Isa`] is a proof that the CPU has it: there is no way to make one that it lacks.

use std::fmt;

/// An instruction set that this CPU is known to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isa(Level);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// A piece of code that [`Isa::run`] compiles for each instruction set.
pub trait Vectorized {
    /// What it returns.
    type Output;
    /// The code. Implementations must be `#[inline(always)]`, and so must what they call in their inner loops:
    /// only code inlined into the instruction set's own function is compiled for it.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// What differs between instruction sets for code that is otherwise the same.
pub trait Simd: Copy {
    /// Whether [`mul_add`](Simd::mul_add) rounds once.
    const FUSED: bool;
    /// 32-bit lanes that a register holds.
    const LANES: usize;
    /// `a * b + c`: fused where the CPU has the instruction, else rounded twice (a call of libm's `fma` would be 100
    /// times slower).
    #[inline(always)]
    fn mul_add(self, a: f32, b: f32, c: f32) -> f32 {
        if Self::FUSED { a.mul_add(b, c) } else { a * b + c }
    }
    /// [`mul_add`](Simd::mul_add) in float64.
    #[inline(always)]
    fn mul_add_f64(self, a: f64, b: f64, c: f64) -> f64 {
        if Self::FUSED { a.mul_add(b, c) } else { a * b + c }
    }
}

/// AVX-512 F, BW, DQ and VL, with FMA.
#[derive(Debug, Clone, Copy)]
pub struct Avx512(());

/// AVX2 and FMA.
#[derive(Debug, Clone, Copy)]
pub struct Avx2(());

/// What the compilation target guarantees: SSE2 on x86-64, NEON on aarch64.
#[derive(Debug, Clone, Copy)]
pub struct Portable(());

impl Simd for Avx512 {
    const FUSED: bool = true;
    const LANES: usize = 16;
}

impl Simd for Avx2 {
    const FUSED: bool = true;
    const LANES: usize = 8;
}

impl Simd for Portable {
    const FUSED: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));
    const LANES: usize = 4;
}

/// A name that is no instruction set of this CPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IsaParseError {
    name: String,
}

impl fmt::Display for IsaParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = Isa::available().into_iter().map(Isa::name).collect();
        write!(
            f,
            "instruction set {:?} is unknown or not on this CPU: expected one of {}",
            self.name,
            names.join(", ")
        )
    }
}

impl std::error::Error for IsaParseError {}

impl Isa {
    /// Every instruction set that this CPU has, the best one first.
    pub fn available() -> Vec<Isa> {
        let mut sets = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            if avx2 && avx512 {
                sets.push(Isa(Level::Avx512));
            }
            if avx2 {
                sets.push(Isa(Level::Avx2));
            }
        }
        sets.push(Isa(Level::Portable));
        sets
    }

    /// The best instruction set of this CPU.
    pub fn best() -> Isa {
        Self::available()[0]
    }

    /// The instruction set of that name.
    ///
    /// # Errors
    /// A name that is unknown, or one that this CPU does not have.
    pub fn by_name(name: &str) -> Result<Isa, IsaParseError> {
        Self::available()
            .into_iter()
            .find(|isa| isa.name() == name)
            .ok_or_else(|| IsaParseError { name: name.to_owned() })
    }

    /// `avx512`, `avx2` or `portable`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512",
        }
    }

    /// Runs `operation`, compiled for this instruction set.
    #[inline]
    pub fn run<V: Vectorized>(self, operation: V) -> V::Output {
        match self.0 {
            Level::Portable => operation.run(Portable(())),
            // SAFETY: a value of this level is only made in `available`, after the CPU was found to have AVX2 and FMA.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { run_avx2(operation) },
            // SAFETY: as above, for AVX-512 F, BW, DQ, VL, AVX2 and FMA.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { run_avx512(operation) },
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2<V: Vectorized>(operation: V) -> V::Output {
    operation.run(Avx2(()))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
fn run_avx512<V: Vectorized>(operation: V) -> V::Output {
    operation.run(Avx512(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dot<'a>(&'a [f32], &'a [f32]);

    impl Vectorized for Dot<'_> {
        type Output = f32;
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> f32 {
            self.0.iter().zip(self.1).fold(0.0, |sum, (&a, &b)| simd.mul_add(a, b, sum))
        }
    }

    #[test]
    fn every_instruction_set_runs_the_same_code() {
        let a: Vec<f32> = (0..37).map(|i| i as f32).collect();
        let expected: f32 = a.iter().map(|x| x * x).sum();
        for isa in Isa::available() {
            assert_eq!(isa.run(Dot(&a, &a)), expected, "{}", isa.name());
        }
    }

    #[test]
    fn names_round_trip_and_unknown_ones_are_listed() {
        for isa in Isa::available() {
            assert_eq!(Isa::by_name(isa.name()), Ok(isa));
        }
        let message = Isa::by_name("mmx").unwrap_err().to_string();
        assert!(message.contains("\"mmx\"") && message.contains("portable"), "{message}");
    }
}
