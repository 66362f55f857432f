//! Measuring far fields and their errors: what is done once for a model.

use std::sync::Arc;

use super::{Bin, FarField, FarFields, Probes, Recording, Window};
use crate::padding::plan::MARGIN;
use crate::{Backend, EngineError, Pooling};

/// The longest texts that far fields are made for: beyond, the exact pass is at most some dozen times as dear as the text
/// itself, and far fields are large.
const LONGEST: usize = 1024;

/// The largest window that is tried: far fields of larger ones would fill the budget alone.
const LARGEST_WINDOW: usize = 4096;

/// Memory that a model's far fields may take, in bytes.
const BUDGET: usize = 300_000_000;

/// Probe texts of a bin.
const PROBES: usize = 5;

/// Probe texts of a pilot.
const PILOT_PROBES: usize = 3;

/// The error of a bin's probes as a share of a pilot's: both grow with 1 + 1/n, where n is the number of the others.
const BIN_SHARE: f64 = (1.0 + 1.0 / (PROBES - 1) as f64) / (1.0 + 1.0 / (PILOT_PROBES - 1) as f64);

/// The length of a pilot's short text, as a share of the others'.
const SHORTER: f64 = 0.8;

/// How finely lengths may be divided, and how coarsely: the quotient of the longest and the shortest text of a bin.
const RATIOS: (f64, f64) = (1.09, 2.0);

/// The same for windows so much larger than the text that the drift with its length matters little.
const WIDE_RATIO: f64 = 1.42;

/// Windows, as multiples of a text's length, that are tried in turn.
const FACTORS: [usize; 8] = [2, 3, 4, 6, 8, 12, 16, 24];

/// How far a preparation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Exact passes that are done.
    pub done: usize,
    /// Exact passes of the whole preparation, as far as can be told yet.
    pub total: usize,
}

/// Measures a model's far fields, so that the error of [`Padding::Fast`](crate::Padding::Fast) stays within `bound` (in
/// 1 - cosine). Takes some hundred passes of the model's full length; `progress` is called after each.
///
/// # Errors
/// The backend's.
pub fn prepare(
    backend: &dyn Backend,
    probes: &Probes,
    bound: f64,
    progress: &mut dyn FnMut(Progress),
) -> Result<FarFields, EngineError> {
    let mut preparation = Preparation { backend, probes, bound, progress, done: 0, total: 0 };
    let lengths: Vec<usize> = std::iter::successors(Some(8), |length| Some(length * 2))
        .take_while(|&length| length <= LONGEST && 2 * length <= backend.max_tokens())
        .collect();
    preparation.total = lengths.len() * (PILOT_PROBES + 1 + 4 * PROBES);
    let mut pilots = Vec::new();
    for &length in &lengths {
        pilots.push(preparation.pilot(length)?);
    }
    let planned = preparation.plan(&pilots);
    preparation.total = preparation.done + planned.len() * PROBES;
    let mut bins = Vec::new();
    for range in planned {
        let (bin, far_field) = preparation.bin(range)?;
        if Pooling::ALL.iter().any(|&pooling| bin.serves(pooling, bound)) {
            bins.push((bin, far_field));
        }
    }
    bins.sort_by_key(|(bin, _)| (bin.shortest, bin.window));
    Ok(FarFields::new(bound, backend.max_tokens(), bins))
}

/// 1 - cosine of two vectors, in float64; infinite where one of them is not finite, or alone is zero.
pub fn distance(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>();
    if a == b {
        return 0.0;
    }
    let distance = 1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    if distance.is_nan() { f64::INFINITY } else { distance }
}

/// Lengths, and the window for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    shortest: usize,
    longest: usize,
    window: usize,
}

/// What a few probes of one length say of it.
#[derive(Debug)]
struct Pilot {
    length: usize,
    /// By pooling: the smallest window that keeps the bound.
    windows: [Option<usize>; 3],
    /// The quotient of a bin's longest and shortest text, for mean pooling.
    ratio: f64,
}

/// A probe text: what the exact pass gave.
struct Probe {
    ids: Vec<u32>,
    exact: Vec<Vec<f32>>,
    recordings: Vec<Recording>,
}

struct Preparation<'a> {
    backend: &'a dyn Backend,
    probes: &'a Probes,
    bound: f64,
    progress: &'a mut dyn FnMut(Progress),
    done: usize,
    total: usize,
}

impl Preparation<'_> {
    /// Largest windows first pay where the text is short, and never where they are half of the model's length.
    fn windows(&self, length: usize) -> Vec<usize> {
        let most = LARGEST_WINDOW.min(self.backend.max_tokens() / 2);
        let larger = FACTORS.iter().map(|factor| factor * length / if length > 256 { 2 } else { 1 });
        let mut windows: Vec<_> = std::iter::once(length)
            .chain(larger.filter(|&window| window > length && window <= most))
            .collect();
        windows.dedup();
        windows
    }

    /// The exact pass of a probe text, which records the far fields of `windows`.
    fn probe(&mut self, number: usize, tokens: usize, windows: &[usize]) -> Result<Probe, EngineError> {
        let ids = self.probes.text(number, tokens);
        let encoder = self.backend.windows();
        let mut recordings: Vec<_> =
            windows.iter().map(|&window| Recording::new(encoder.shape(window))).collect();
        let whole = Window { rows: self.backend.max_tokens(), far_field: None };
        let exact = encoder.encode(&ids, whole, &mut recordings)?;
        self.done += 1;
        (self.progress)(Progress { done: self.done, total: self.total.max(self.done) });
        Ok(Probe { ids, exact, recordings })
    }

    /// By pooling: how far `far_field` takes a probe from its exact vector.
    fn errors(&self, probe: &Probe, far_field: FarField) -> Result<[f64; 3], EngineError> {
        let rows = far_field.shape().window;
        let window = Window { rows, far_field: Some(Arc::new(far_field)) };
        let fast = self.backend.windows().encode(&probe.ids, window, &mut [])?;
        Ok([0, 1, 2].map(|pooling| distance(&fast[pooling], &probe.exact[pooling])))
    }

    /// The largest errors of probes in the window of that index, each with the others' mean as its far field.
    fn left_out(&self, probes: &[Probe], window: usize) -> Result<[f64; 3], EngineError> {
        let mut worst = [0.0f64; 3];
        for (left_out, probe) in probes.iter().enumerate() {
            let others = probes.iter().enumerate().filter(|&(index, _)| index != left_out);
            let mean = FarField::mean(others.map(|(_, other)| &other.recordings[window]));
            let errors = self.errors(probe, mean)?;
            worst.iter_mut().zip(errors).for_each(|(worst, error)| *worst = worst.max(error));
        }
        Ok(worst)
    }

    fn pilot(&mut self, length: usize) -> Result<Pilot, EngineError> {
        let windows = self.windows(length);
        let probes: Vec<_> =
            (0..PILOT_PROBES).map(|number| self.probe(number, length, &windows)).collect::<Result<_, _>>()?;
        let mut found: [Option<usize>; 3] = [None; 3];
        let mut errors = Vec::new();
        while found.iter().any(Option::is_none) && errors.len() < windows.len() {
            let index = errors.len();
            errors.push(self.left_out(&probes, index)?);
            for (found, error) in found.iter_mut().zip(errors[index]) {
                let kept = error * BIN_SHARE * MARGIN <= self.bound;
                *found = found.or(kept.then_some(index));
            }
        }
        let mean = found[Pooling::Mean as usize].unwrap_or(0);
        let ratio = self.ratio(&probes, length, (mean, errors[mean][Pooling::Mean as usize]))?;
        let windows = found.map(|found| found.map(|index| windows[index]));
        Ok(Pilot { length, windows, ratio })
    }

    /// How far apart a bin's lengths may be. The far field drifts with the length, by an error that grows with the square of
    /// the difference: a shorter text in the window of a longer one shows how fast.
    fn ratio(
        &mut self,
        probes: &[Probe],
        length: usize,
        (window, same_length): (usize, f64),
    ) -> Result<f64, EngineError> {
        let shorter = self.probe(0, ((length as f64 * SHORTER) as usize).max(2), &[])?;
        let mean = FarField::mean(probes.iter().map(|probe| &probe.recordings[window]));
        let same_length = same_length * BIN_SHARE;
        let drift = (self.errors(&shorter, mean)?[Pooling::Mean as usize] - same_length).max(1e-9);
        // Half of what the bound leaves: the drift differs from text to text too.
        let permitted = (self.bound / MARGIN - same_length).max(0.0) * 0.5;
        let half_width = (1.0 - SHORTER) * (permitted / drift).sqrt();
        Ok(((1.0 + half_width) / (1.0 - half_width.min(0.5))).clamp(RATIOS.0, RATIOS.1))
    }

    /// The bins to measure, those with the most to win first, as many as the budget holds.
    fn plan(&self, pilots: &[Pilot]) -> Vec<Range> {
        let mut ranges = Vec::new();
        let mut below = 1;
        for pilot in pilots {
            let [mean, first, model] = pilot.windows;
            if let Some(window) = mean {
                let factor = window as f64 / pilot.length as f64;
                ranges.extend(
                    divided(below + 1, pilot.length, pilot.ratio).into_iter().map(|range| Range {
                        window: (range.longest as f64 * factor).ceil() as usize,
                        ..range
                    }),
                );
            } else if below > 1 {
                // Too long at its end, perhaps not at its beginning.
                ranges.extend(divided(below + 1, pilot.length, RATIOS.0).into_iter().take(4));
            }
            for window in [first, model].into_iter().flatten().filter(|&window| window > pilot.length) {
                let wide = divided(below + 1, pilot.length, WIDE_RATIO).into_iter();
                ranges.extend(wide.map(|range| Range { window, ..range }));
            }
            below = pilot.length;
        }
        ranges.sort_by_key(|range| (range.window, range.shortest));
        ranges.dedup();
        let mut bytes = 0;
        ranges.retain(|range| {
            let size = 2 * self.backend.windows().shape(range.window).len();
            let fits = bytes + size <= BUDGET;
            bytes += if fits { size } else { 0 };
            fits
        });
        ranges
    }

    /// Measures a bin.
    fn bin(&mut self, range: Range) -> Result<(Bin, Arc<FarField>), EngineError> {
        let Range { shortest, longest, window } = range;
        let width = (longest - shortest) as f64;
        // Evenly spaced lengths; which of them is prose differs from bin to bin.
        let length = |index: usize| {
            let place = (index as f64 + 0.5) / PROBES as f64;
            shortest + (place * width).round() as usize
        };
        let probes: Vec<_> = (0..PROBES)
            .map(|index| self.probe(4 + index + longest % PROBES, length(index), &[window]))
            .collect::<Result<_, _>>()?;
        let errors = self.left_out(&probes, 0)?;
        let far_field = FarField::mean(probes.iter().map(|probe| &probe.recordings[0]));
        Ok((Bin { shortest, longest, window, probes: PROBES, errors }, Arc::new(far_field)))
    }
}

/// Divides lengths into ranges of that ratio at most, each with its longest text as its window.
fn divided(shortest: usize, longest: usize, ratio: f64) -> Vec<Range> {
    let whole = longest as f64 / (shortest - 1).max(1) as f64;
    let count = ((whole.ln() / ratio.ln()).ceil() as usize).clamp(1, longest + 1 - shortest);
    let step = whole.powf(1.0 / count as f64);
    let mut ranges = Vec::new();
    let mut start = shortest;
    for index in 1..=count {
        let end = ((shortest - 1).max(1) as f64 * step.powi(index as i32)).round() as usize;
        let end = if index == count { longest } else { end.min(longest) };
        if end >= start {
            ranges.push(Range { shortest: start, longest: end, window: end });
            start = end + 1;
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_every_length_once() {
        for (shortest, longest, ratio) in
            [(2, 8, 2.0), (2, 8, 1.09), (9, 16, 1.09), (513, 1024, 1.3), (5, 5, 1.5)]
        {
            let ranges = divided(shortest, longest, ratio);
            let lengths: Vec<_> = ranges.iter().flat_map(|range| range.shortest..=range.longest).collect();
            assert_eq!(lengths, (shortest..=longest).collect::<Vec<_>>());
            assert!(ranges.iter().all(|range| range.window == range.longest));
        }
    }
}
