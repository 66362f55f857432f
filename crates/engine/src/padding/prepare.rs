//! Measuring far fields, sketches and their errors: what is done once for a model.

use std::sync::Arc;

use super::plan::Fields;
use super::{Bin, Cells, FarFields, Probes, Progress, RunningSums, Window, WindowRecord, equal_pairs};
use crate::{Backend, EngineError, Pooling};

mod ranges;

use ranges::{Range, ranges};

/// Rows of a sketch that are tried, fewest first.
const ROWS: [usize; 4] = [48, 64, 96, 128];

/// Recorded passes whose mean is tried, fewest first.
const RECORDED: [usize; 4] = [1, 2, 4, 6];

/// How far below the bound the errors of the tests, which are hard ones, must be.
const MARGIN: f64 = 1.2;

/// The same without a sketch, where all of what a text changes stays as an error: texts differ far more in that than in what a sketch
/// leaves of it.
const MARGIN_ALONE: f64 = 3.0;

/// The same in a window of longer texts, whose recorded passes are further from the shortest of a range than from the tests.
const MARGIN_OTHERS: f64 = 2.0;

/// Times the bound that an error may be before more recorded passes are of no use.
const PROMISING: f64 = 3.0;

/// Times an error that it must be with more recorded passes, for still more to be tried.
const IMPROVED: f64 = 0.85;

/// Texts with up to this share of equal pairs are served where none of the tests is too far off.
const REPETITIVE: f64 = 0.125;

/// Times as much repetition as the most repetitive test has that texts may have which are served.
const BEYOND: f64 = 2.0;

/// Parts of the model's length between two knots of a far field at the least, but for small windows.
const FINEST: usize = 2048;

/// The largest windows whose far fields may be kept at every position.
const EVERYWHERE: usize = 512;

/// Ranges in a row of which no text is served, after which longer ones are not tried.
const HOPELESS: usize = 2;

/// The largest windows that shorter texts are tried in, whose own do not serve them, and times their longest text that it may have.
const WIDEST: [usize; 2] = [4096, 32];

/// What far fields may cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    /// The largest permitted error of a vector, in 1 - cosine.
    pub error: f64,
    /// Memory, in bytes.
    pub bytes: usize,
}

/// Measures a model's far fields, so that the error of [`Padding::Fast`](crate::Padding::Fast) stays within the budget's; goes on from
/// `before`, which must be of the same model. Takes some dozen passes of the model's full length. `report` is called after each of them,
/// and with the far fields so far after each range of lengths.
///
/// # Errors
/// The backend's.
pub fn prepare(
    backend: &dyn Backend,
    probes: &Probes,
    budget: Budget,
    before: Option<Arc<FarFields>>,
    report: &mut dyn FnMut(Progress, Option<&Arc<FarFields>>),
) -> Result<Arc<FarFields>, EngineError> {
    let fields = before.unwrap_or_else(|| Arc::new(FarFields::new(budget.error, backend.max_tokens())));
    let (before, mut rest): (Vec<_>, _) =
        ranges(backend.max_tokens()).into_iter().partition(|range| range.longest() <= fields.prepared_to());
    let mut work = Work {
        backend,
        probes,
        budget,
        report,
        done: 0,
        expected: 0,
        left: 0,
        sums: None,
        fields,
        unserved: Vec::new(),
    };
    let mut hopeless = 0;
    for range in before {
        hopeless = if work.is_served(&range) { 0 } else { hopeless + 1 };
        work.leave_to_others(range, Vec::new());
    }
    while !rest.is_empty() {
        let range = rest.remove(0);
        work.left = rest.iter().map(Range::passes).sum::<usize>();
        work.expected = work.done + range.passes();
        let longest = range.longest();
        hopeless = if work.range(range)? { 0 } else { hopeless + 1 };
        if hopeless >= HOPELESS {
            rest.clear();
            work.left = 0;
        }
        let to = if rest.is_empty() { backend.max_tokens() / 2 } else { longest };
        work.publish(to);
    }
    Ok(work.fields)
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

/// A probe text and what its exact pass gave.
struct Probe {
    ids: Vec<u32>,
    equal: f64,
    exact: Vec<Vec<f32>>,
}

/// A way to compute a range: recorded passes, and which rows of a sketch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Setting {
    recorded: usize,
    /// The number among the range's [`ROWS`].
    rows: Option<usize>,
}

/// Whether trials from `last` on have clearly smaller errors than those before: whether more recorded passes help.
fn improved(trials: &[(Setting, Errors)], last: usize) -> bool {
    let worst =
        |(_, errors): &(Setting, Errors)| errors.iter().flat_map(|test| test.errors).fold(0.0, f64::max);
    let best = |trials: &[(Setting, Errors)]| trials.iter().map(worst).fold(f64::INFINITY, f64::min);
    best(&trials[last..]) < IMPROVED * best(&trials[..last])
}

/// What tests have in a window.
type Errors = Vec<Measured>;

/// A test's errors in a window.
#[derive(Debug, Clone, Copy)]
struct Measured {
    tokens: usize,
    /// The share of equal pairs.
    equal: f64,
    /// By pooling.
    errors: [f64; 3],
    /// How far below the bound they must be.
    margin: f64,
}

/// Texts of some poolings that no window serves yet.
struct Unserved {
    range: Range,
    poolings: Vec<Pooling>,
    /// None where their passes were another preparation's.
    tests: Vec<Probe>,
}

struct Work<'a> {
    backend: &'a dyn Backend,
    probes: &'a Probes,
    budget: Budget,
    report: &'a mut dyn FnMut(Progress, Option<&Arc<FarFields>>),
    done: usize,
    /// Exact passes that are done at the end of the range that is being prepared, at least.
    expected: usize,
    /// Exact passes of the ranges to come.
    left: usize,
    sums: Option<Arc<RunningSums>>,
    fields: Arc<FarFields>,
    unserved: Vec<Unserved>,
}

impl Work<'_> {
    /// An exact pass.
    fn probe(&mut self, ids: Vec<u32>, record: &mut [WindowRecord]) -> Result<Probe, EngineError> {
        let exact = Window::exact(self.backend.max_tokens());
        let exact = self.backend.windows().encode(&ids, exact, record)?;
        self.done += 1;
        let progress = self.progress();
        (self.report)(progress, None);
        Ok(Probe { equal: equal_pairs(&ids), ids, exact })
    }

    fn progress(&self) -> Progress {
        let total = self.done.max(self.expected) + self.left;
        let longest_fast = self.fields.longest_fast();
        Progress { done: self.done, total, seconds_left: None, longest_fast }
    }

    /// The running sums of the filters, which the first range makes.
    fn sums(&mut self) -> Arc<RunningSums> {
        let known = self.sums.take().or_else(|| self.fields.running_sums().cloned());
        let sums = known.unwrap_or_else(|| Arc::new(self.backend.windows().running_sums()));
        self.sums = Some(Arc::clone(&sums));
        sums
    }

    /// The tests of a range.
    fn tests(&mut self, range: &Range) -> Result<Vec<Probe>, EngineError> {
        let tests = range.tests.iter().enumerate();
        tests.map(|(number, &tokens)| self.probe(self.probes.test(number, tokens), &mut [])).collect()
    }

    /// One more test: a text that repeats itself little.
    fn mild_test(&mut self, range: &Range) -> Result<Probe, EngineError> {
        self.probe(self.probes.text(0, range.longest()), &mut [])
    }

    /// Prepares a range of lengths, and says whether it has a window of its own.
    fn range(&mut self, range: Range) -> Result<bool, EngineError> {
        let mut tests = self.tests(&range)?;
        let mut records = Vec::new();
        let mut trials = self.trials(&range, &tests, &mut records)?;
        let all = |errors: &Errors| Pooling::ALL.iter().all(|&pooling| self.within(errors, pooling));
        if !trials.iter().any(|(_, errors)| all(errors)) {
            // A text that repeats itself little may do.
            tests.push(self.mild_test(&range)?);
            let settings: Vec<_> = trials.iter().map(|(setting, _)| *setting).collect();
            let last = settings.iter().map(|setting| setting.recorded).max();
            trials.clear();
            for setting in settings.into_iter().filter(|setting| Some(setting.recorded) == last) {
                let fields = self.fields_of(&records, range.windows.len() - 1, setting);
                trials.push((setting, self.errors(&tests, &fields, range.longest())?));
            }
        }
        let served = |errors: &Errors| {
            let poolings = Pooling::ALL.iter();
            let most =
                poolings.map(|&pooling| self.most_equal(errors, pooling).map_or(0.0, |most| 1.0 + most));
            most.sum::<f64>()
        };
        let mut best: Option<(Setting, Errors, f64)> = None;
        for (setting, errors) in trials {
            let served = served(&errors);
            if served > best.as_ref().map_or(0.0, |(.., best)| *best) {
                best = Some((setting, errors, served));
            }
        }
        if let Some((setting, errors, _)) = best {
            self.keep(&range, &records, setting, &errors, tests.len());
        }
        self.serve_others(&range)?;
        let served = self.is_served(&range);
        // Without the mild one, these are not the tests that another preparation would go on with.
        if tests.len() == range.tests.len() {
            tests.clear();
        }
        self.leave_to_others(range, tests);
        Ok(served)
    }

    /// Whether a range has a window of its own.
    fn is_served(&self, range: &Range) -> bool {
        self.fields.bins().any(|bin| bin.longest == bin.window && range.windows.contains(&bin.window))
    }

    /// Leaves the poolings for which no window serves a range's longest texts to the windows of longer ones.
    fn leave_to_others(&mut self, range: Range, tests: Vec<Probe>) {
        let serves = |bin: &Bin, pooling| {
            (bin.shortest..=bin.longest).contains(&range.longest())
                && bin.most_equal[pooling as usize].is_some()
        };
        let mut poolings = Pooling::ALL.to_vec();
        poolings.retain(|&pooling| !self.fields.bins().any(|bin| serves(bin, pooling)));
        if !poolings.is_empty() {
            self.unserved.push(Unserved { range, poolings, tests });
        }
    }

    /// Tries settings of a range, cheapest to prepare first, until one serves all poolings or more recorded passes promise nothing.
    fn trials(
        &mut self,
        range: &Range,
        tests: &[Probe],
        records: &mut Vec<Vec<WindowRecord>>,
    ) -> Result<Vec<(Setting, Errors)>, EngineError> {
        let max_tokens = self.backend.max_tokens();
        let (shape, last) = (self.backend.windows().shape(), range.windows.len() - 1);
        let mut trials = Vec::new();
        for recorded in range.recordings() {
            while records.len() < recorded {
                let number = records.len();
                let (ids, windows) = range.recorded(number, self.probes);
                let record = windows.iter().map(|&window| {
                    let step = if window <= EVERYWHERE { 1 } else { max_tokens.div_ceil(FINEST) };
                    let cells = range.rows.iter().map(|&rows| Cells::new(window, max_tokens, rows));
                    WindowRecord::new(window, step, cells.collect(), shape)
                });
                let mut record: Vec<_> = record.collect();
                self.probe(ids, &mut record)?;
                records.push(record);
            }
            let mut promising = false;
            let before = trials.len();
            for rows in range.tried(recorded) {
                let setting = Setting { recorded, rows };
                let fields = self.fields_of(records, last, setting);
                let errors = self.errors(tests, &fields, range.longest())?;
                let missed = |pooling: &Pooling| !self.within(&errors, *pooling);
                let good = !Pooling::ALL.iter().any(missed);
                promising |= Pooling::ALL.iter().filter(|pooling| missed(pooling)).any(|&pooling| {
                    errors.iter().all(|test| test.errors[pooling as usize] <= PROMISING * self.budget.error)
                });
                tracing::debug!(?setting, ?errors, longest = range.longest(), "tried a sketch");
                trials.push((setting, errors));
                if good {
                    return Ok(trials);
                }
            }
            if !promising || (recorded > 2 && !improved(&trials, before)) {
                break;
            }
        }
        Ok(trials)
    }

    /// What a range's window of that number computes with.
    fn fields_of(&mut self, records: &[Vec<WindowRecord>], window: usize, setting: Setting) -> Fields {
        let sums = self.sums();
        let records: Vec<_> =
            records[..setting.recorded].iter().filter_map(|record| record.get(window)).collect();
        let (far_field, sketch) = WindowRecord::mean(&records).fields(&sums, setting.rows);
        Fields { far_field: Arc::new(far_field), sketch: sketch.map(Arc::new) }
    }

    /// The errors of tests in a window.
    fn errors(&self, tests: &[Probe], fields: &Fields, window: usize) -> Result<Errors, EngineError> {
        let margin = if fields.sketch.is_some() { MARGIN } else { MARGIN_ALONE };
        let errors = tests.iter().map(|test| {
            let fast = self.backend.windows().encode(&test.ids, fields.window(window), &mut [])?;
            let errors = [0, 1, 2].map(|pooling| distance(&fast[pooling], &test.exact[pooling]));
            Ok(Measured { tokens: test.ids.len(), equal: test.equal, errors, margin })
        });
        errors.collect()
    }

    fn is_within(&self, test: &Measured, pooling: Pooling) -> bool {
        test.errors[pooling as usize] * test.margin <= self.budget.error
    }

    fn within(&self, errors: &Errors, pooling: Pooling) -> bool {
        errors.iter().all(|test| self.is_within(test, pooling))
    }

    /// The largest share of equal pairs up to which texts are served. Only the error of mean pooling follows that share: with
    /// another pooling, all tests must be near enough. It grows with the length, too: a short test says nothing for longer texts.
    fn most_equal(&self, errors: &Errors, pooling: Pooling) -> Option<f64> {
        let most = errors.iter().map(|test| test.equal).fold(0.0, f64::max);
        if self.within(errors, pooling) {
            return Some((BEYOND * most).max(REPETITIVE));
        }
        let (good, bad): (Vec<&Measured>, Vec<&Measured>) =
            errors.iter().partition(|test| self.is_within(test, pooling));
        let longest = errors.iter().map(|test| test.tokens).max();
        let least_bad = bad.iter().map(|test| test.equal).fold(f64::INFINITY, f64::min);
        let good = good.iter().filter(|test| Some(test.tokens) == longest && test.equal < least_bad);
        let good = good.map(|test| test.equal).reduce(f64::max);
        good.filter(|_| pooling == Pooling::Mean)
    }

    /// Keeps what a setting makes of each window of a range, while memory lasts.
    fn keep(
        &mut self,
        range: &Range,
        records: &[Vec<WindowRecord>],
        setting: Setting,
        errors: &Errors,
        tests: usize,
    ) {
        let mut shortest = range.shortest;
        for (number, &window) in range.windows.iter().enumerate() {
            let fields = self.fields_of(records, number, setting);
            let counts = (setting.recorded, tests);
            let bin = self.bin((shortest, window), window, &fields, errors, counts);
            let sums = if self.fields.running_sums().is_none() { fields.sketch.as_ref() } else { None };
            let sums = sums.map_or(0, |sketch| sketch.sums().bytes());
            if self.fields.bytes() + fields.bytes() + sums > self.budget.bytes {
                tracing::warn!(
                    tokens = window,
                    budget = self.budget.bytes,
                    "no memory for fast padding's far field"
                );
                break;
            }
            let to = self.fields.prepared_to();
            self.fields = Arc::new((*self.fields).clone().with_bins(to, [(bin, fields)]));
            shortest = window + 1;
        }
    }

    fn bin(
        &self,
        (shortest, longest): (usize, usize),
        window: usize,
        fields: &Fields,
        errors: &Errors,
        (probes, tests): (usize, usize),
    ) -> Bin {
        let worst = |pooling: usize| errors.iter().map(|test| test.errors[pooling]).fold(0.0, f64::max);
        Bin {
            shortest,
            longest,
            window,
            sketch: fields.rows(),
            probes,
            tests,
            errors: [0, 1, 2].map(worst),
            most_equal: Pooling::ALL.map(|pooling| self.most_equal(errors, pooling)),
        }
    }

    /// Serves shorter texts whose own windows do not in the windows of a range, where those do.
    fn serve_others(&mut self, range: &Range) -> Result<(), EngineError> {
        let last = self.fields.fields().filter(|(bin, _)| bin.longest == range.longest()).last();
        let Some((of_range, fields)) = last.cloned() else {
            return Ok(());
        };
        let mut unserved = std::mem::take(&mut self.unserved);
        for others in &mut unserved {
            if of_range.window > WIDEST[0].min(WIDEST[1] * others.range.longest()) {
                continue;
            }
            if others.tests.is_empty() {
                others.tests = self.tests(&others.range)?;
                others.tests.push(self.mild_test(&others.range)?);
            }
            let mut errors = self.errors(&others.tests, &fields, of_range.window)?;
            errors.iter_mut().for_each(|test| test.margin = test.margin.max(MARGIN_OTHERS));
            let served = |pooling: &Pooling| self.most_equal(&errors, *pooling).is_some();
            if others.poolings.iter().any(served) {
                let lengths = (others.range.shortest, others.range.longest());
                let counts = (of_range.probes, others.tests.len());
                let bin = self.bin(lengths, of_range.window, &fields, &errors, counts);
                others.poolings.retain(|pooling| !served(pooling));
                let to = self.fields.prepared_to();
                self.fields = Arc::new((*self.fields).clone().with_bins(to, [(bin, fields.clone())]));
            }
        }
        unserved.retain(|others| !others.poolings.is_empty());
        self.unserved = unserved;
        Ok(())
    }

    /// Hands on what is there so far, which serves texts of up to so many tokens as far as any can.
    fn publish(&mut self, prepared_to: usize) {
        self.fields = Arc::new((*self.fields).clone().with_bins(prepared_to, []));
        let progress = self.progress();
        (self.report)(progress, Some(&self.fields));
    }
}
