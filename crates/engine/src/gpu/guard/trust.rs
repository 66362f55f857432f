//! Whether a GPU is trusted: when its answers are checked, what counts as agreement, and what ends it.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::Rechecks;
use crate::gpu::{PaddedText, Pooled};
use crate::padding::distance;

/// Largest `1 - cosine` between the vectors of GPU and CPU: what bfloat16 may cost, and a hundred times what float32 does.
pub(super) const MOST: f64 = 1e-4;

/// The same where the GPU computes in bfloat16, for vectors that no mean over many tokens evens out: up to 1.8e-4 from float32's
/// was seen. (In half precision it was 6e-6.)
const MOST_UNEVEN: f64 = 5e-4;

/// Tokens from which on a mean counts as evened out.
const MANY: usize = 16;

/// Largest `1 - cosine` between the vectors of GPU and CPU for a text, in a GPU's `dtype`.
pub(super) fn most(dtype: &str, text: &PaddedText<'_>) -> f64 {
    let tokens = text.ids.len();
    let even = text.pooled == Pooled::Mean && tokens >= MANY && text.rows == tokens;
    if even || dtype != "bf16" { MOST } else { MOST_UNEVEN }
}

/// After a check, so many times as long as it took passes without another: checks take the CPU, and requests wait for them.
const PAUSE: u32 = 50;

/// So many texts in a row that go beyond half precision are no text's doing any more.
const MOST_OVERFLOWS: u64 = 16;

/// Whether all components are finite.
pub(super) fn is_finite(vector: &[f32]) -> bool {
    vector.iter().all(|component| component.is_finite())
}

/// What a comparison of a GPU's vector with the CPU's says.
pub(super) fn compare(gpu: &[f32], cpu: &[f32], most: f64) -> Result<f64, String> {
    if gpu.len() != cpu.len() {
        return Err(format!("its vector has {} components, the CPU's has {}", gpu.len(), cpu.len()));
    }
    if !is_finite(gpu) {
        return Err("its vector is not finite".to_owned());
    }
    let distance = distance(gpu, cpu);
    if distance <= most {
        return Ok(distance);
    }
    Err(format!("its vector is {distance:.1e} from the CPU's (1 - cosine; at most {most:.0e} is rounding)"))
}

/// What is known of a GPU while it serves.
#[derive(Debug)]
pub(super) struct Trust {
    /// One text in so many is checked; 0 for none.
    one_in: u64,
    /// Differs from process to process, so that the same requests are not always the ones that are checked.
    seed: u64,
    texts: AtomicU64,
    /// Texts in a row that went beyond half precision.
    overflows: AtomicU64,
    /// Until when nothing is checked.
    paused: Mutex<Option<Instant>>,
    agreed: AtomicU64,
    differed: AtomicU64,
    /// Why it is no longer used.
    demoted: OnceLock<String>,
}

impl Trust {
    pub fn new(one_in: u64) -> Self {
        let zero = || AtomicU64::new(0);
        let seed = RandomState::new().hash_one(0_u8);
        Self {
            one_in,
            seed,
            texts: zero(),
            overflows: zero(),
            paused: Mutex::default(),
            agreed: zero(),
            differed: zero(),
            demoted: OnceLock::new(),
        }
    }

    /// Whether to check the next text.
    pub fn draw(&self) -> bool {
        let text = self.texts.fetch_add(1, Ordering::Relaxed);
        let drawn = self.one_in > 0 && mix(self.seed.wrapping_add(text)).is_multiple_of(self.one_in);
        drawn && self.paused().is_none_or(|until| Instant::now() >= until)
    }

    /// Notes that a check took so long. (Where all texts are to be checked, all are.)
    pub fn pause(&self, check: Duration) {
        if self.one_in > 1 {
            *self.paused() = Instant::now().checked_add(check.saturating_mul(PAUSE));
        }
    }

    /// Notes a vector that is finite.
    pub fn finite(&self) {
        self.overflows.store(0, Ordering::Relaxed);
    }

    /// Notes a vector in half precision that is not finite where the CPU's is, and says whether that may be the text's doing.
    pub fn overflows(&self) -> bool {
        let so_far = self.overflows.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::warn!(in_a_row = so_far, "a text goes beyond half precision: it was computed on the CPU");
        so_far < MOST_OVERFLOWS
    }

    fn paused(&self) -> MutexGuard<'_, Option<Instant>> {
        self.paused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn rechecked(&self, agrees: bool) {
        let counter = if agrees { &self.agreed } else { &self.differed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub fn rechecks(&self) -> Rechecks {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Rechecks { agreed: read(&self.agreed), differed: read(&self.differed) }
    }

    pub fn demoted(&self) -> Option<&str> {
        self.demoted.get().map(String::as_str)
    }

    /// Ends it, and says so once.
    pub fn demote(&self, gpu: &str, reason: &str) {
        if self.demoted.set(format!("{gpu}: {reason}")).is_ok() {
            tracing::error!(gpu, reason, "the GPU is not used any more: all texts are computed on the CPU");
        }
    }
}

/// A number that looks random (SplitMix64).
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_one_text_in_so_many_is_drawn() {
        let drawn = |one_in| {
            let trust = Trust::new(one_in);
            (0..100_000).filter(|_| trust.draw()).count()
        };
        assert_eq!((drawn(0), drawn(1)), (0, 100_000));
        let thousandth = drawn(1000);
        assert!((50..=160).contains(&thousandth), "{thousandth}");
    }

    #[test]
    fn checks_take_a_small_part_of_the_time() {
        let (some, all) = (Trust::new(2), Trust::new(1));
        for trust in [&some, &all] {
            trust.pause(Duration::from_secs(60));
        }
        let drawn = |trust: &Trust| (0..1000).filter(|_| trust.draw()).count();
        assert_eq!((drawn(&some), drawn(&all)), (0, 1000));
        some.pause(Duration::ZERO);
        assert!(drawn(&some) > 300);
    }

    #[test]
    fn many_overflows_in_a_row_are_no_texts_doing() {
        let trust = Trust::new(0);
        for _ in 0..3 {
            assert!((1..MOST_OVERFLOWS).all(|_| trust.overflows()));
            trust.finite();
        }
        assert!((1..MOST_OVERFLOWS).all(|_| trust.overflows()));
        assert!(!trust.overflows());
    }

    #[test]
    fn vectors_agree_up_to_rounding() {
        let cpu = [1.0, 2.0, -3.0];
        assert_eq!(compare(&cpu, &cpu, MOST), Ok(0.0));
        assert!(compare(&[1.001, 2.0, -3.0], &cpu, MOST).is_ok_and(|distance| distance > 0.0));
        for (gpu, reason) in [
            (&[1.1, 2.0, -3.0][..], "from the CPU's"),
            (&[0.0, 0.0, 0.0], "from the CPU's"),
            (&[f32::NAN, 2.0, -3.0], "not finite"),
            (&[f32::INFINITY, 2.0, -3.0], "not finite"),
            (&[1.0, 2.0], "2 components"),
        ] {
            assert!(compare(gpu, &cpu, MOST).is_err_and(|why| why.contains(reason)), "{gpu:?}");
        }
        assert!(compare(&cpu, &[f32::NAN; 3], MOST).is_err());
    }

    #[test]
    fn bfloat16_may_be_further_off_where_nothing_evens_it_out() {
        let ids = [1; 40];
        let text =
            |tokens: usize, rows, pooled| PaddedText { ids: &ids[..tokens], rows, far_field: None, pooled };
        let texts = [
            text(40, 40, Pooled::Mean),
            text(15, 15, Pooled::Mean),
            text(40, 41, Pooled::Mean),
            text(40, 40, Pooled::First),
        ];
        for dtype in ["f32", "f16"] {
            assert_eq!(texts.each_ref().map(|text| most(dtype, text)), [MOST; 4]);
        }
        let bounds = [MOST, MOST_UNEVEN, MOST_UNEVEN, MOST_UNEVEN];
        assert_eq!(texts.each_ref().map(|text| most("bf16", text)), bounds);
    }

    #[test]
    fn the_first_reason_stays() {
        let trust = Trust::new(1);
        assert_eq!(trust.demoted(), None);
        trust.demote("one", "first");
        trust.demote("one", "second");
        assert_eq!(trust.demoted(), Some("one: first"));
    }
}
