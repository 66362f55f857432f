//! An accelerator that is waited for only so long, and whose panics are failures like others.

use std::any::Any;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::gpu::{Accelerator, Description, DeviceError, PaddedText, Pooled};
use crate::padding::FarField;
use crate::{Backend, CpuBackend, EngineError, Text};

/// How long an accelerator may take for each row, on top of what it may take for anything: the slowest GPUs take a tenth.
const PER_ROW: Duration = Duration::from_millis(5);

/// Whose turn it is between two steps of a pass, where anybody's: see [`Backend::embed_stepwise`].
pub(in crate::gpu) struct Turns<'a>(pub Option<&'a mut dyn FnMut() -> ControlFlow<()>>);

impl Turns<'_> {
    /// Embeds on the CPU, with the same turns in between.
    pub fn embed(&mut self, cpu: &CpuBackend, texts: &[Text<'_>]) -> Result<Vec<Vec<f32>>, EngineError> {
        match &mut self.0 {
            Some(between) => cpu.embed_stepwise(texts, &mut **between),
            None => cpu.embed(texts),
        }
    }

    fn take(&mut self) -> ControlFlow<()> {
        self.0.as_mut().map_or(ControlFlow::Continue(()), |between| between())
    }
}

/// An accelerator on threads of its own, one for each pass that is under way. (A pass that waits between two steps is.)
#[derive(Debug)]
pub(in crate::gpu) struct Supervised {
    accelerator: Arc<dyn Accelerator>,
    /// How long a step may take, on top of its rows.
    patience: Duration,
    /// Threads that wait for a pass.
    idle: Mutex<Vec<Sender<Job>>>,
}

/// A pass.
struct Job {
    texts: Vec<OwnedText>,
    stepwise: bool,
    events: Sender<Event>,
}

/// What becomes of it.
enum Event {
    /// A step is next; whether to go on with it.
    Step(Sender<ControlFlow<()>>),
    Done(Result<Vec<Vec<f32>>, DeviceError>),
}

struct OwnedText {
    ids: Vec<u32>,
    rows: usize,
    far_field: Option<Arc<FarField>>,
    pooled: Pooled,
}

impl OwnedText {
    fn new(text: &PaddedText<'_>) -> Self {
        let PaddedText { ids, rows, far_field, pooled } = text;
        Self { ids: ids.to_vec(), rows: *rows, far_field: far_field.clone(), pooled: *pooled }
    }

    fn text(&self) -> PaddedText<'_> {
        let Self { ids, rows, far_field, pooled } = self;
        PaddedText { ids, rows: *rows, far_field: far_field.clone(), pooled: *pooled }
    }
}

impl Supervised {
    pub fn new(accelerator: Box<dyn Accelerator>, patience: Duration) -> Self {
        Self { accelerator: accelerator.into(), patience, idle: Mutex::default() }
    }

    pub fn description(&self) -> &Description {
        self.accelerator.description()
    }

    /// See [`Accelerator::is_faster_than_sketches`].
    pub fn is_faster_than_sketches(&self) -> bool {
        self.accelerator.is_faster_than_sketches()
    }

    /// See [`Accelerator::batch_tokens`].
    pub fn batch_tokens(&self) -> usize {
        self.accelerator.batch_tokens()
    }

    /// Embeds a batch, see [`Accelerator::embed`]. An accelerator that panics or does not answer in time has failed; in the
    /// latter case its thread is left to itself.
    pub fn embed(
        &self,
        texts: &[PaddedText<'_>],
        turns: &mut Turns<'_>,
    ) -> Result<Vec<Vec<f32>>, DeviceError> {
        let (events, seen) = mpsc::channel();
        let (texts, stepwise) = (texts.iter().map(OwnedText::new).collect::<Vec<_>>(), turns.0.is_some());
        let (count, rows) = (texts.len(), texts.iter().map(|text| text.rows).sum::<usize>());
        let patience = self.patience + PER_ROW.saturating_mul(u32::try_from(rows).unwrap_or(u32::MAX));
        let thread = self.thread()?;
        // Where the thread has ended, so has this channel's other end.
        let _ = thread.send(Job { texts, stepwise, events });
        loop {
            match seen.recv_timeout(patience) {
                Ok(Event::Step(go_on)) => drop(go_on.send(turns.take())),
                Ok(Event::Done(result)) => {
                    self.idle().push(thread);
                    return checked(result, count, stepwise);
                }
                Err(RecvTimeoutError::Timeout) => {
                    let seconds = patience.as_secs_f64();
                    return Err(DeviceError::Failed(format!("no answer within {seconds:.1} s")));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(DeviceError::Failed("its thread has ended".to_owned()));
                }
            }
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Sender<Job>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread that waits for a pass.
    fn thread(&self) -> Result<Sender<Job>, DeviceError> {
        if let Some(thread) = self.idle().pop() {
            return Ok(thread);
        }
        let (sender, jobs) = mpsc::channel();
        let accelerator = Arc::clone(&self.accelerator);
        let thread = std::thread::Builder::new().name("danaus-gpu".into());
        match thread.spawn(move || work(&*accelerator, &jobs)) {
            Ok(_) => Ok(sender),
            Err(error) => Err(DeviceError::Failed(format!("a thread for it cannot be started: {error}"))),
        }
    }
}

/// Computes passes until nobody can bring any more.
fn work(accelerator: &dyn Accelerator, jobs: &Receiver<Job>) {
    for Job { texts, stepwise, events } in jobs {
        let texts: Vec<_> = texts.iter().map(OwnedText::text).collect();
        let mut between = || {
            let (go_on, told) = mpsc::channel();
            match events.send(Event::Step(go_on)) {
                Ok(()) => told.recv().unwrap_or(ControlFlow::Break(())),
                // Nobody waits any more.
                Err(_) => ControlFlow::Break(()),
            }
        };
        let between: Option<&mut dyn FnMut() -> ControlFlow<()>> =
            if stepwise { Some(&mut between) } else { None };
        let result = catch_unwind(AssertUnwindSafe(|| accelerator.embed(&texts, between)));
        let result = result.unwrap_or_else(|panic| {
            Err(DeviceError::Failed(format!("panic: {}", panic_message(panic.as_ref()))))
        });
        let _ = events.send(Event::Done(result));
    }
}

/// What is no possible answer is a failure, too.
fn checked(
    result: Result<Vec<Vec<f32>>, DeviceError>,
    count: usize,
    stepwise: bool,
) -> Result<Vec<Vec<f32>>, DeviceError> {
    match result {
        Ok(vectors) if vectors.len() != count => {
            Err(DeviceError::Failed(format!("{} vectors for {count} texts", vectors.len())))
        }
        Err(DeviceError::Stopped) if !stepwise => {
            Err(DeviceError::Failed("it stopped, and was not asked to".to_owned()))
        }
        result => result,
    }
}

/// What a panic said.
pub(in crate::gpu) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let owned = || panic.downcast_ref::<String>().map(String::as_str);
    panic.downcast_ref::<&str>().copied().or_else(owned).unwrap_or("a panic without a message")
}
