//! An accelerator that computes as the CPU does, until a test wants it to go wrong.
#![allow(dead_code)] // each test binary uses its part

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use danaus_engine::gpu::{Accelerator, Description, DeviceError, PaddedText, Pooled};
use danaus_engine::padding::Window;
use danaus_engine::{Backend, BackendOptions, CpuBackend, Dtype, Pooling};
use danaus_model::LoadedModel;

/// Tokens that it wants in a batch.
pub const BATCH_TOKENS: usize = 5000;

/// How it goes wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// Numbers that are not those of the text.
    Wrong,
    /// A number that is none, or infinite.
    NotFinite(f32),
    /// A vector too few.
    VectorMissing,
    /// A vector with a component too few.
    ComponentMissing,
    /// The device fails.
    Failed,
    /// Batches of more rows do not fit its memory.
    OutOfMemory { rows: usize },
    /// The driver panics.
    Panic,
    /// No answer for so long.
    Block(Duration),
    /// It says that it was stopped.
    Stopped,
}

/// What a test sees of it, and does to it.
#[derive(Debug, Clone, Default)]
pub struct Control(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    fault: Option<Fault>,
    slow: Duration,
    faster_than_sketches: bool,
    batches: Vec<Vec<(usize, usize)>>,
}

impl Control {
    /// From now on it goes wrong so, in every batch.
    pub fn fault(&self, fault: impl Into<Option<Fault>>) {
        self.0.lock().unwrap().fault = fault.into();
    }

    /// From now on every batch takes that much longer.
    pub fn slow(&self, by: Duration) {
        self.0.lock().unwrap().slow = by;
    }

    /// From now on it wants all of the texts that the CPU would sketch.
    pub fn faster_than_sketches(&self) {
        self.0.lock().unwrap().faster_than_sketches = true;
    }

    /// Tokens and rows of the texts of all batches since the last call.
    pub fn batches(&self) -> Vec<Vec<(usize, usize)>> {
        std::mem::take(&mut self.0.lock().unwrap().batches)
    }
}

#[derive(Debug)]
pub struct Faulty {
    cpu: CpuBackend,
    description: Description,
    control: Control,
}

impl Faulty {
    /// One that computes in `dtype`, and what controls it.
    pub fn open(model: &LoadedModel, dtype: Dtype) -> (Box<dyn Accelerator>, Control) {
        Self::with_control(model, dtype, &Control::default())
    }

    pub fn with_control(
        model: &LoadedModel,
        dtype: Dtype,
        control: &Control,
    ) -> (Box<dyn Accelerator>, Control) {
        let options = BackendOptions { dtype, threads: Some(1), ..BackendOptions::default() };
        let cpu = CpuBackend::new(model, &options).unwrap();
        let description = Description {
            device: "metal",
            name: "Faulty 1".to_owned(),
            driver: "of tests 0.1".to_owned(),
            dtype: cpu.info().dtype,
            memory_bytes: Some(1 << 30),
        };
        (Box::new(Self { cpu, description, control: control.clone() }), control.clone())
    }

    fn vector(&self, text: &PaddedText<'_>) -> Vec<f32> {
        let window = Window { far_field: text.far_field.clone(), ..Window::alone(text.rows) };
        let mut vectors = self.cpu.windows().encode(text.ids, window, &mut []).unwrap();
        match text.pooled {
            Pooled::Mean => vectors.swap_remove(Pooling::Mean as usize),
            Pooled::First => vectors.swap_remove(Pooling::Cls as usize),
        }
    }
}

impl Accelerator for Faulty {
    fn description(&self) -> &Description {
        &self.description
    }

    fn is_faster_than_sketches(&self) -> bool {
        self.control.0.lock().unwrap().faster_than_sketches
    }

    fn batch_tokens(&self) -> usize {
        BATCH_TOKENS
    }

    fn embed(
        &self,
        texts: &[PaddedText<'_>],
        mut between: Option<&mut dyn FnMut() -> ControlFlow<()>>,
    ) -> Result<Vec<Vec<f32>>, DeviceError> {
        let (fault, slow) = {
            let mut state = self.control.0.lock().unwrap();
            state.batches.push(texts.iter().map(|text| (text.ids.len(), text.rows)).collect());
            (state.fault, state.slow)
        };
        std::thread::sleep(slow);
        for _ in 0..self.cpu.info().steps {
            if between.as_mut().is_some_and(|between| between().is_break()) {
                return Err(DeviceError::Stopped);
            }
        }
        let rows: usize = texts.iter().map(|text| text.rows).sum();
        match fault {
            Some(Fault::Failed) => return Err(DeviceError::Failed("the device is lost".to_owned())),
            Some(Fault::OutOfMemory { rows: most }) if rows > most => {
                return Err(DeviceError::OutOfMemory(format!("{rows} rows")));
            }
            Some(Fault::Panic) => panic!("a test made the driver panic"),
            Some(Fault::Block(time)) => std::thread::sleep(time),
            Some(Fault::Stopped) => return Err(DeviceError::Stopped),
            _ => {}
        }
        let mut vectors: Vec<_> = texts.iter().map(|text| self.vector(text)).collect();
        match fault {
            Some(Fault::Wrong) => vectors[0].iter_mut().step_by(2).for_each(|value| *value = -*value),
            Some(Fault::NotFinite(value)) => vectors[0][1] = value,
            Some(Fault::VectorMissing) => drop(vectors.pop()),
            Some(Fault::ComponentMissing) => drop(vectors[0].pop()),
            _ => {}
        }
        Ok(vectors)
    }
}
