//! Measuring far fields and their errors: what is done once for a model.

use std::sync::Arc;

use super::plan::Fields;
use super::{
    Bin, FarField, FarFields, Probes, Progress, Record, Recording, Samples, SegmentTaps, Segments, Sketch,
    Window, equal_pairs,
};
use crate::{Backend, EngineError, Pooling};

/// The longest texts that far fields are made for: beyond, the exact pass is at most some dozen times as dear as the text
/// itself, and far fields are large.
const LONGEST: usize = 1024;

/// The longest texts of the first range: of fewer rows, each costs next to nothing.
const SHORTEST: usize = 8;

/// The quotient of the longest texts of a range and of the one before it.
const RATIO: f64 = 1.25;

/// Memory that a model's far fields may take, in bytes.
const BUDGET: usize = 300_000_000;

/// Probe texts of a range.
const PROBES: usize = 6;

/// How much below the bound the errors of the probes must be: other texts have larger ones.
const MARGIN: f64 = 1.15;

/// Texts with up to this share of equal pairs are served where none of the probes is too far off.
const REPETITIVE: f64 = 0.125;

/// A far field without a sketch that serves only texts with fewer equal pairs than this is not worth its memory: most have more.
const PROSE: f64 = 0.03;

/// Windows, as multiples of the longest text, that are tried for a range, those of a line together.
const FACTORS: [[f64; 3]; 3] = [[1.5, 2.0, 3.0], [4.0, 6.0, 8.0], [12.0, 16.0, 24.0]];

/// The quotient of the longest and the shortest text of a range with larger windows.
const WIDE_RATIO: usize = 2;

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
    let taps = Arc::new(backend.windows().segment_taps());
    let ranges = ranges(backend.max_tokens());
    let total = PROBES * ranges.len();
    let mut preparation =
        Preparation { backend, probes, bound, taps, progress, done: 0, total, bytes: 0, bins: Vec::new() };
    let mut rest = &ranges[..];
    while let Some(first) = rest.first() {
        let together = |range: &&Range| range.longest <= WIDE_RATIO * first.shortest.max(SHORTEST);
        let (group, others) = rest.split_at(rest.iter().take_while(together).count().max(1));
        preparation.group(group)?;
        rest = others;
    }
    let mut bins = preparation.bins;
    bins.sort_by_key(|(bin, _)| (bin.shortest, bin.window, bin.sketch));
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

/// Lengths of texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    shortest: usize,
    longest: usize,
}

/// The ranges of lengths whose window is their longest text.
fn ranges(max_tokens: usize) -> Vec<Range> {
    let ends = std::iter::successors(Some(LONGEST as f64), |end| Some(end / RATIO));
    let ends = ends.map(|end| end.round() as usize).take_while(|&end| end > SHORTEST);
    let mut ends: Vec<_> = ends.chain([SHORTEST]).filter(|&end| end <= max_tokens / 2).collect();
    ends.reverse();
    let mut below = 1;
    let range = |longest| Range { shortest: std::mem::replace(&mut below, longest) + 1, longest };
    ends.into_iter().map(range).collect()
}

/// A probe text: what the exact pass gave.
struct Probe {
    ids: Vec<u32>,
    equal: f64,
    exact: Vec<Vec<f32>>,
    far_fields: Vec<Recording>,
    samples: Vec<Samples>,
}

/// What a window does to each of the probes: their shares of equal pairs, and errors by pooling.
type Errors = Vec<(f64, [f64; 3])>;

struct Preparation<'a> {
    backend: &'a dyn Backend,
    probes: &'a Probes,
    bound: f64,
    taps: Arc<SegmentTaps>,
    progress: &'a mut dyn FnMut(Progress),
    done: usize,
    total: usize,
    bytes: usize,
    bins: Vec<(Bin, Fields)>,
}

impl Preparation<'_> {
    /// Computes the probe texts of a range exactly, and records the far fields of `windows`.
    fn probes(&mut self, range: Range, windows: &[usize]) -> Result<Vec<Probe>, EngineError> {
        let width = range.longest - range.shortest;
        // Evenly spaced lengths; which of them is prose differs from range to range.
        let length = |index| range.shortest + (index + range.longest) % PROBES * width / (PROBES - 1);
        (0..PROBES).map(|index| self.probe(index + PROBES * range.longest, length(index), windows)).collect()
    }

    fn probe(&mut self, number: usize, tokens: usize, windows: &[usize]) -> Result<Probe, EngineError> {
        let ids = self.probes.text(number, tokens);
        let encoder = self.backend.windows();
        let shapes = windows.iter().map(|&window| encoder.shape(window));
        let far_fields: Vec<_> = shapes.map(Recording::new).collect();
        let samples = windows.iter().map(|&window| Samples::new(&self.taps, window)).collect();
        let mut record = Record { far_fields, samples };
        let exact = encoder.encode(&ids, Window::alone(self.backend.max_tokens()), &mut record)?;
        self.done += 1;
        let total = self.total.max(self.done);
        (self.progress)(Progress { done: self.done, total, ..Progress::default() });
        let Record { far_fields, samples } = record;
        Ok(Probe { equal: equal_pairs(&ids), ids, exact, far_fields, samples })
    }

    /// The far field of the window of that index for texts like the probes, with a sketch or without.
    fn fields(&self, probes: &[&Probe], window: usize, sketched: bool) -> Fields {
        let mut far = Recording::mean(probes.iter().map(|probe| &probe.far_fields[window]));
        let sketch = sketched.then(|| {
            let samples = Samples::mean(probes.iter().map(|probe| &probe.samples[window]));
            Arc::new(Sketch::new(&self.taps, &samples, &mut far))
        });
        Fields { far_field: Arc::new(FarField::from(&far)), sketch }
    }

    /// The errors of probes in the window of that index, each with the fields of the others.
    fn left_out(&self, probes: &[Probe], window: usize, sketched: bool) -> Result<Errors, EngineError> {
        let errors = probes.iter().enumerate().map(|(left_out, probe)| {
            let others = probes.iter().enumerate().filter(|&(index, _)| index != left_out);
            let others: Vec<_> = others.map(|(_, other)| other).collect();
            let rows = probe.far_fields[window].shape().window;
            let fields = self.fields(&others, window, sketched);
            let fast =
                self.backend.windows().encode(&probe.ids, fields.window(rows), &mut Record::default())?;
            let error = |pooling: usize| distance(&fast[pooling], &probe.exact[pooling]);
            Ok((probe.equal, [0, 1, 2].map(error)))
        });
        errors.collect()
    }

    /// Measures a window of a range, of that index in the probes' recordings.
    fn bin(
        &self,
        range: Range,
        probes: &[Probe],
        window: usize,
        sketched: bool,
    ) -> Result<(Bin, Fields), EngineError> {
        let errors = self.left_out(probes, window, sketched)?;
        let fields = self.fields(&probes.iter().collect::<Vec<_>>(), window, sketched);
        let worst = |pooling: usize| errors.iter().map(|(_, errors)| errors[pooling]).fold(0.0, f64::max);
        let bin = Bin {
            shortest: range.shortest,
            longest: range.longest,
            window: probes[0].far_fields[window].shape().window,
            sketch: fields.sketch.as_ref().map_or(0, |sketch| sketch.rows()),
            probes: probes.len(),
            errors: [0, 1, 2].map(worst),
            most_equal: Pooling::ALL.map(|pooling| most_equal(&errors, pooling, self.bound)),
        };
        Ok((bin, fields))
    }

    /// Keeps a bin where it serves a text and memory is left for it.
    fn keep(&mut self, bin: Bin, fields: Fields) -> bool {
        let first_sketch = fields.sketch.is_some() && self.bins.iter().all(|(bin, _)| bin.sketch == 0);
        let taps = if first_sketch { size_of_val(self.taps.values()) } else { 0 };
        let bytes = self.bytes + fields.bytes() + taps;
        let kept = bytes <= BUDGET && bin.most_equal.iter().any(Option::is_some);
        if kept {
            self.bytes = bytes;
            self.bins.push((bin, fields));
        }
        kept
    }

    /// Makes the bins of a range with its longest text as their window. What is left are poolings that none of them serves well.
    fn narrow(&mut self, range: Range) -> Result<Vec<Pooling>, EngineError> {
        let probes = self.probes(range, &[range.longest])?;
        let (bin, fields) = self.bin(range, &probes, 0, false)?;
        let (sketched, sketched_fields) = self.bin(range, &probes, 0, true)?;
        let better = Pooling::ALL.iter().any(|&pooling| {
            let [plain, sketched] = [&bin, &sketched].map(|bin| bin.most_equal[pooling as usize]);
            sketched > plain && plain.is_none_or(|most| most < REPETITIVE)
        });
        let good = |bin: &Bin, pooling: Pooling| bin.serves(pooling, PROSE);
        let plain = Pooling::ALL.iter().any(|&pooling| good(&bin, pooling));
        let mut left = Pooling::ALL.to_vec();
        if (plain || !better) && self.keep(bin.clone(), fields) {
            left.retain(|&pooling| !good(&bin, pooling));
        }
        if better && self.keep(sketched.clone(), sketched_fields) {
            left.retain(|&pooling| !good(&sketched, pooling));
        }
        Ok(left)
    }

    /// Makes the bins of neighbouring ranges, shorter texts first: what memory there is goes to them.
    fn group(&mut self, ranges: &[Range]) -> Result<(), EngineError> {
        let mut unserved: Option<(Range, Vec<Pooling>)> = None;
        for &range in ranges.iter() {
            let poolings = if self.fits(range.longest) { self.narrow(range)? } else { Pooling::ALL.to_vec() };
            if !poolings.is_empty() {
                let (all, missing) = unserved.get_or_insert((range, Vec::new()));
                all.longest = range.longest;
                missing.extend(poolings);
            }
        }
        let Some((range, missing)) = unserved else { return Ok(()) };
        self.wider(range, Pooling::ALL.into_iter().filter(|pooling| missing.contains(pooling)).collect())
    }

    /// Whether there is memory for another window of so many rows.
    fn fits(&self, rows: usize) -> bool {
        self.bytes + size_of::<u16>() * self.backend.windows().shape(rows).len() <= BUDGET
    }

    /// Makes a bin with a larger window, for poolings that the ranges in it serve not at all or badly.
    fn wider(&mut self, range: Range, mut poolings: Vec<Pooling>) -> Result<(), EngineError> {
        let most = Segments::largest_window(self.backend.max_tokens());
        let mut before = f64::INFINITY;
        for factors in FACTORS {
            let windows = factors.map(|factor| (factor * range.longest as f64) as usize);
            let windows: Vec<_> =
                windows.into_iter().filter(|&window| window <= most && self.fits(window)).collect();
            if poolings.is_empty() || windows.is_empty() {
                break;
            }
            self.total += PROBES;
            let probes = self.probes(range, &windows)?;
            let mut error = 0.0;
            for window in 0..windows.len() {
                let (bin, fields) = self.bin(range, &probes, window, true)?;
                error = poolings
                    .iter()
                    .map(|&pooling| bin.errors[pooling as usize])
                    .fold(f64::INFINITY, f64::min);
                let (good, left): (Vec<_>, Vec<_>) =
                    poolings.iter().partition(|&&pooling| bin.serves(pooling, PROSE));
                if !good.is_empty() && self.keep(bin, fields) {
                    poolings = left;
                }
                if poolings.is_empty() {
                    break;
                }
            }
            // Where larger windows are hardly better, still larger ones will not do either.
            if error > before / 2.0 || error > 8.0 * self.bound {
                break;
            }
            before = error;
        }
        Ok(())
    }
}

/// The largest share of equal pairs up to which no probe is too far off. Only the error of mean pooling follows that share: with
/// another pooling, all probes must be near enough.
fn most_equal(errors: &Errors, pooling: Pooling, bound: f64) -> Option<f64> {
    let mut errors: Vec<_> =
        errors.iter().map(|(equal, errors)| (*equal, errors[pooling as usize])).collect();
    errors.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
    let within = errors.iter().take_while(|(_, error)| error * MARGIN <= bound).count();
    let most = errors[..within].last()?.0;
    if within == errors.len() {
        return Some(most.max(REPETITIVE));
    }
    (pooling == Pooling::Mean).then_some(most)
}
