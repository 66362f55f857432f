//! Instruction sets: which ones this CPU has, and running one generic piece of code compiled for the chosen one.
//!
//! A kernel is written once, as a [`Vectorized`] operation over a [`Simd`] token. [`Isa::run`] compiles it once per
//! instruction set and calls the copy that fits the CPU. The value of an [`Isa`] is a proof that the CPU has it: there is no way to make one that it lacks.

use std::fmt;
use std::str::FromStr;

use crate::Simd;
use crate::portable::Portable;
#[cfg(target_arch = "x86_64")]
use crate::tiles::Tiles;
#[cfg(target_arch = "x86_64")]
use crate::x86::{Avx2, Avx512};

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
    /// AVX-512 and matrix tiles.
    #[cfg(target_arch = "x86_64")]
    Amx(Tiles),
}

impl FromStr for Isa {
    type Err = IsaParseError;
    /// As [`Isa::by_name`].
    fn from_str(name: &str) -> Result<Self, IsaParseError> {
        Self::by_name(name)
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A piece of code that [`Isa::run`] compiles for each instruction set.
pub trait Vectorized {
    /// What it returns.
    type Output;
    /// The code. Implementations must be `#[inline(always)]`, and so must what they call in their inner loops:
    /// only code inlined into the instruction set's own function is compiled for it.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
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
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512bf16")
                && is_x86_feature_detected!("avx512vnni");
            if let (true, Some(tiles)) = (avx2 && avx512, Tiles::available()) {
                sets.push(Isa(Level::Amx(tiles)));
            }
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

    /// `amx`, `avx512`, `avx2` or `portable`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Level::Amx(_) => "amx",
        }
    }

    /// Whether one instruction multiplies and sums pairs of bfloat16 values.
    pub fn has_bf16(self) -> bool {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Amx(_) => true,
            _ => false,
        }
    }

    /// Matrix tiles, where products are computed by them.
    #[cfg(target_arch = "x86_64")]
    pub fn tiles(self) -> Option<Tiles> {
        match self.0 {
            Level::Amx(tiles) => Some(tiles),
            _ => None,
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
            // SAFETY: as above, for AVX-512 F, BW, DQ, VL, BF16, VNNI, AVX2 and FMA.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Amx(_) => unsafe { run_avx512(operation) },
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2<V: Vectorized>(operation: V) -> V::Output {
    // SAFETY: this function's own features, which its caller has found on this CPU.
    operation.run(unsafe { Avx2::new() })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,avx2,fma")]
fn run_avx512<V: Vectorized>(operation: V) -> V::Output {
    // SAFETY: this function's own features, which its caller has found on this CPU.
    operation.run(unsafe { Avx512::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dot<'a>(&'a [f32], &'a [f32]);

    impl Vectorized for Dot<'_> {
        type Output = f32;
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> f32 {
            self.0.iter().zip(self.1).fold(0.0, |sum, (&a, &b)| simd.scalar_mul_add(a, b, sum))
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
            assert_eq!(isa.to_string().parse(), Ok(isa));
        }
        let message = Isa::by_name("mmx").unwrap_err().to_string();
        assert!(message.contains("\"mmx\"") && message.contains("portable"), "{message}");
    }
}
