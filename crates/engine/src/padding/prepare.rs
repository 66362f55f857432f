//! Measuring far fields, sketches and their errors: what is done once for a model.

use std::sync::Arc;

use super::plan::Fields;
use super::{Bin, Cells, FarFields, Probes, Progress, RunningSums, Window, WindowRecord, equal_pairs};
use crate::{Backend, EngineError, Pooling, Text};

mod ranges;
mod trial;

use ranges::{Range, ranges};
use trial::{Errors, Measured, Probe, Setting, Tests, Trial};

/// Rows of a sketch that are tried, fewest first.
const ROWS: [usize; 6] = [32, 48, 64, 80, 96, 128];

/// Rows that are tried where those serve no text, and for longer texts from then on: still many times faster than all of the padding.
const MANY_ROWS: [usize; 2] = [256, 512];

/// Recorded passes whose mean is tried, fewest first.
const RECORDED: [usize; 4] = [1, 2, 4, 6];

/// Times an error that it must be with more recorded passes, for still more to be tried.
const IMPROVED: f64 = 0.85;

/// Times the rows of the setting that serves all texts that a cheaper one may have at most.
const CHEAPER: f64 = 0.93;

/// Parts of the model's length between two knots of a far field at the least, but for small windows.
const FINEST: usize = 2048;

/// The largest windows whose far fields may be kept at every position.
const EVERYWHERE: usize = 512;

/// Ranges in a row of which no text is served, after which longer ones are not tried.
const HOPELESS: usize = 2;

/// The largest windows that shorter texts are tried in, whose own do not serve them, and times their longest text that it may have.
const WIDEST: [usize; 2] = [4096, 64];

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
        work.leave_to_others(range, None);
    }
    while !rest.is_empty() {
        let range = rest.remove(0);
        work.left = rest.iter().map(Range::passes).sum();
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

/// A text's vectors in a window, by pooling in the order of [`Pooling::ALL`], as the device computes them that serves them; not
/// normalized.
///
/// # Errors
/// As [`Backend::embed`].
pub fn encode(backend: &dyn Backend, ids: &[u32], window: &Window) -> Result<Vec<Vec<f32>>, EngineError> {
    if backend.info().accelerator.is_none() {
        // All poolings of one pass.
        return backend.windows().encode(ids, window.clone(), &mut []);
    }
    let text = |pooling| Text { ids, pooling, window: window.clone() };
    backend.embed(&Pooling::ALL.map(text))
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

/// Whether trials have a clearly smaller error than those before: whether more recorded passes help.
fn improved(before: &[Trial], trials: &[Trial]) -> bool {
    let best = |trials: &[Trial]| {
        trials.iter().map(|trial| trial.errors.of_mild_tests()).fold(f64::INFINITY, f64::min)
    };
    best(trials) < IMPROVED * best(before)
}

/// Texts of some poolings that no window serves yet.
struct Unserved {
    range: Range,
    poolings: Vec<Pooling>,
    /// `None` where another preparation made their passes.
    tests: Option<Tests>,
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
    /// A text's exact pass.
    fn probe(&mut self, ids: Vec<u32>) -> Result<Probe, EngineError> {
        let exact = encode(self.backend, &ids, &Window::exact(self.backend.max_tokens()))?;
        self.count_pass();
        Ok(Probe { ids, exact })
    }

    fn count_pass(&mut self) {
        self.done += 1;
        let progress = self.progress();
        (self.report)(progress, None);
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

    /// Computes the tests of a range.
    fn tests(&mut self, range: &Range) -> Result<Tests, EngineError> {
        let mild = range.mild_tests.iter().map(|&tokens| self.probe(self.probes.mild_test(tokens)));
        let mild = mild.collect::<Result<_, _>>()?;
        let hard = range.hard_test.then(|| self.probe(self.probes.hard_test(range.longest())));
        Ok(Tests { mild, hard: hard.transpose()? })
    }

    /// Prepares a range of lengths, and says whether it has a window of its own.
    fn range(&mut self, mut range: Range) -> Result<bool, EngineError> {
        let tests = self.tests(&range)?;
        let many = self.fields.bins().any(|bin| bin.sketch > ROWS[ROWS.len() - 1]);
        if many {
            range.rows = MANY_ROWS.to_vec();
        }
        let (mut trials, mut records) = self.trials(&range, &tests)?;
        if best(&trials).is_none() && !many {
            range.rows = MANY_ROWS.to_vec();
            (trials, records) = self.trials(&range, &tests)?;
        }
        let mut chosen: Vec<_> = best(&trials).into_iter().collect();
        if let Some(rows) = chosen.first().map(|best| best.fields.rows()) {
            chosen.extend(cheaper(&trials, range.longest(), rows));
        }
        self.keep(&range, &records, &chosen);
        self.serve_others(&range)?;
        let served = self.is_served(&range);
        self.leave_to_others(range, Some(tests));
        Ok(served)
    }

    /// Whether a range has a window of its own.
    fn is_served(&self, range: &Range) -> bool {
        self.fields.bins().any(|bin| bin.longest == bin.window && range.windows.contains(&bin.window))
    }

    /// Leaves the poolings for which no window serves a range's longest texts to the windows of longer ones.
    fn leave_to_others(&mut self, range: Range, tests: Option<Tests>) {
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

    /// Tries settings of a range, cheapest to prepare first, until one serves enough, or more recorded passes promise nothing. Returns what
    /// was recorded, too.
    fn trials(
        &mut self,
        range: &Range,
        tests: &Tests,
    ) -> Result<(Vec<Trial>, Vec<Vec<WindowRecord>>), EngineError> {
        let (mut trials, mut records): (Vec<Trial>, Vec<_>) = Default::default();
        for recorded in range.recordings() {
            while records.len() < recorded {
                records.push(self.record(range, records.len())?);
            }
            let before = trials.len();
            // The first one is without a sketch.
            for rows in range.tried() {
                let setting = Setting { recorded, rows };
                let fields = self.fields_of(&records, range.windows.len() - 1, setting);
                let errors = self.errors(tests, &fields, trials.get(before).map(|alone| &alone.errors))?;
                tracing::debug!(?setting, ?errors, longest = range.longest(), "tried a sketch");
                let served = errors.least();
                trials.push(Trial { setting, fields, errors });
                if served >= Some(range.enough()) {
                    return Ok((trials, records));
                }
            }
            let (old, new) = trials.split_at(before);
            let served = new.iter().any(|trial| trial.errors.least().is_some());
            let promising = new.iter().any(|trial| trial.errors.is_promising(self.budget.error));
            if served || !promising || (recorded > 2 && !improved(old, new)) {
                break;
            }
        }
        Ok((trials, records))
    }

    /// Records pass `number` of a range.
    fn record(&mut self, range: &Range, number: usize) -> Result<Vec<WindowRecord>, EngineError> {
        let max_tokens = self.backend.max_tokens();
        let shape = self.backend.windows().shape();
        let (ids, windows) = range.recorded(number, self.probes);
        let record = windows.iter().map(|&window| {
            let step = if window <= EVERYWHERE { 1 } else { max_tokens.div_ceil(FINEST) };
            let cells = range.rows.iter().map(|&rows| Cells::new(window, max_tokens, rows));
            WindowRecord::new(window, step, cells.collect(), shape)
        });
        let mut record: Vec<_> = record.collect();
        self.backend.windows().encode(&ids, Window::exact(max_tokens), &mut record)?;
        self.count_pass();
        Ok(record)
    }

    /// What a range's window of that number computes with.
    fn fields_of(&mut self, records: &[Vec<WindowRecord>], window: usize, setting: Setting) -> Fields {
        let sums = self.sums();
        let records: Vec<_> =
            records[..setting.recorded].iter().filter_map(|record| record.get(window)).collect();
        let (far_field, sketch) = WindowRecord::mean(&records).fields(&sums, setting.rows);
        Fields { far_field: Arc::new(far_field), sketch: sketch.map(Arc::new) }
    }

    /// The errors of tests in a window, in which those without a sketch are `alone`.
    fn errors(&self, tests: &Tests, fields: &Fields, alone: Option<&Errors>) -> Result<Errors, EngineError> {
        let mild =
            tests.mild.iter().enumerate().map(|(number, test)| {
                self.measured(test, fields, alone.map(|alone| alone.mild[number].errors))
            });
        let mild = mild.collect::<Result<_, _>>()?;
        let hard = tests.hard.as_ref().map(|test| {
            let alone = alone.and_then(|alone| alone.hard.as_ref());
            self.measured(test, fields, alone.map(|alone| alone.errors))
        });
        Ok(Errors { mild, hard: hard.transpose()? })
    }

    /// The errors of a test in a window, in which those without a sketch are `alone`; `None` where it has none, or they are not known.
    fn measured(
        &self,
        test: &Probe,
        fields: &Fields,
        alone: Option<[f64; 3]>,
    ) -> Result<Measured, EngineError> {
        let window = fields.window(fields.far_field.window());
        let fast = encode(self.backend, &test.ids, &window)?;
        let errors = [0, 1, 2].map(|pooling| distance(&fast[pooling], &test.exact[pooling]));
        Ok(Measured::new(equal_pairs(&test.ids), errors, alone.unwrap_or(errors), self.budget.error))
    }

    /// Keeps what settings make of each window of a range, while memory lasts.
    fn keep(&mut self, range: &Range, records: &[Vec<WindowRecord>], chosen: &[&Trial]) {
        let mut shortest = range.shortest;
        for (number, &window) in range.windows.iter().enumerate() {
            for Trial { setting, errors, .. } in chosen {
                let fields = self.fields_of(records, number, *setting);
                if self.fields.bytes_with(&fields) > self.budget.bytes {
                    tracing::warn!(
                        tokens = window,
                        budget = self.budget.bytes,
                        "no memory for fast padding's far field"
                    );
                    return;
                }
                self.add((shortest, window), &fields, errors, setting.recorded);
            }
            shortest = window + 1;
        }
    }

    /// Adds a range of lengths that are computed with these fields.
    fn add(&mut self, (shortest, longest): (usize, usize), fields: &Fields, errors: &Errors, probes: usize) {
        let bin = Bin {
            shortest,
            longest,
            window: fields.far_field.window(),
            sketch: fields.rows(),
            probes,
            tests: errors.tests(),
            errors: errors.largest(),
            most_equal: Pooling::ALL.map(|pooling| errors.most_equal(pooling)),
        };
        let to = self.fields.prepared_to();
        self.fields = Arc::new((*self.fields).clone().with_bins(to, [(bin, fields.clone())]));
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
            let tests = match others.tests.take() {
                Some(tests) => tests,
                None => self.tests(&others.range)?,
            };
            let errors = self.errors(&tests, &fields, None)?;
            others.tests = Some(tests);
            let served = |pooling: &Pooling| errors.most_equal(*pooling).is_some();
            if others.poolings.iter().any(served) {
                let lengths = (others.range.shortest, others.range.longest());
                self.add(lengths, &fields, &errors, of_range.probes);
                others.poolings.retain(|pooling| !served(pooling));
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

/// The trial that serves most texts, and of those the cheapest.
fn best(trials: &[Trial]) -> Option<&Trial> {
    let serving = trials.iter().filter(|trial| trial.errors.reach() > 0.0);
    serving.reduce(|best, trial| if trial.errors.reach() > best.errors.reach() { trial } else { best })
}

/// The cheapest trial that serves texts that repeat themselves little, for mean pooling; `None` where it is hardly cheaper than one with
/// `rows` rows.
fn cheaper(trials: &[Trial], window: usize, rows: usize) -> Option<&Trial> {
    let serving = trials.iter().filter(|trial| trial.errors.most_equal(Pooling::Mean).is_some());
    let cheapest = serving.min_by_key(|trial| trial.fields.rows())?;
    let is_cheaper = (window + cheapest.fields.rows()) as f64 <= CHEAPER * (window + rows) as f64;
    is_cheaper.then_some(cheapest)
}
