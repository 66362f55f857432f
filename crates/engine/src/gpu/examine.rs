//! What a machine's GPUs are and do, for a bug report.

use std::time::Duration;

use danaus_model::LoadedModel;
use serde::Serialize;

use super::candidates::{CANDIDATES, Candidate, beside};
use super::guard::{Crossover, GuardOptions, Measured, SelfTest, Supervised};
use super::guard::{measure, measure_length, self_test};
use crate::{Backend, BackendOptions, CpuBackend, EngineError};

/// Time that the CPU may take for a self-test that somebody waits for.
const SELF_TEST: Duration = Duration::from_secs(20);

/// A way to compute on GPUs, and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Examined {
    /// Its name, for people.
    pub interface: &'static str,
    /// Why there is no GPU to be used by it.
    pub unavailable: Option<String>,
    /// The GPU that there is.
    pub found: Option<Found>,
}

/// A GPU that a model was put on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Found {
    /// `cuda`, `metal` or `vulkan`.
    pub device: &'static str,
    /// Its own name.
    pub name: String,
    /// Driver and version.
    pub driver: String,
    /// The type of weights and activations in its matrix products.
    pub dtype: &'static str,
    /// The same on the CPU that it was compared with.
    pub cpu_dtype: &'static str,
    /// Its memory in bytes, where the interface tells.
    pub memory_bytes: Option<u64>,
    /// Whether it computes what the CPU does.
    pub self_test: SelfTest,
    /// From which length on it answers sooner; `None` where the self-test failed.
    pub crossover: Option<Crossover>,
    /// Single texts of some lengths.
    pub speed: Vec<Measured>,
    /// What went wrong after the self-test.
    pub failure: Option<String>,
}

/// Puts a model on each GPU that `options` permit, tests and measures it; single texts of the given lengths, too.
///
/// # Errors
/// A model or options that the CPU backend cannot be made for.
pub fn examine(
    model: &LoadedModel,
    options: &BackendOptions,
    lengths: &[usize],
) -> Result<Vec<Examined>, EngineError> {
    CANDIDATES.iter().map(|candidate| examine_one(candidate, model, options, lengths)).collect()
}

fn examine_one(
    candidate: &Candidate,
    model: &LoadedModel,
    options: &BackendOptions,
    lengths: &[usize],
) -> Result<Examined, EngineError> {
    let interface = candidate.name;
    let unavailable = |reason| Ok(Examined { interface, unavailable: Some(reason), found: None });
    if !candidate.fits(options) {
        let BackendOptions { device, dtype, .. } = options;
        return unavailable(format!("not asked for by device {device} and dtype {dtype}"));
    }
    let accelerator = match candidate.open(model, options) {
        Ok(accelerator) => accelerator,
        Err(reason) => return unavailable(reason.to_string()),
    };
    let cpu = CpuBackend::new(model, &beside(options))?;
    let gpu = Supervised::new(accelerator, GuardOptions::default().patience);
    let found = found(&cpu, &gpu, lengths)?;
    Ok(Examined { interface, unavailable: None, found: Some(found) })
}

fn found(cpu: &CpuBackend, gpu: &Supervised, lengths: &[usize]) -> Result<Found, EngineError> {
    let description = gpu.description().clone();
    let self_test = self_test(cpu, gpu, SELF_TEST)?;
    let (mut crossover, mut speed, mut failure) = (None, Vec::new(), None);
    if self_test.failure.is_none() {
        let mut measure_all = || {
            crossover = Some(measure(cpu, gpu)?);
            for &tokens in lengths.iter().filter(|&&tokens| tokens <= cpu.max_tokens()) {
                speed.push(measure_length(cpu, gpu, tokens)?);
            }
            Ok::<_, super::Distrust>(())
        };
        failure = measure_all().err().map(|error| error.to_string());
    }
    Ok(Found {
        device: description.device,
        name: description.name,
        driver: description.driver,
        dtype: description.dtype,
        cpu_dtype: cpu.info().dtype,
        memory_bytes: description.memory_bytes,
        self_test,
        crossover,
        speed,
        failure,
    })
}

#[cfg(test)]
mod tests {
    use danaus_model::{ModelConfig, synthetic};

    use super::*;
    use crate::gpu::Unavailable;
    use crate::gpu::candidates::Opened;
    use crate::gpu::faulty::{Control, Fault, Faulty};
    use crate::{Device, Dtype};

    fn works(model: &LoadedModel, _: &BackendOptions) -> Opened {
        Ok(Faulty::open(model, Dtype::F32).0)
    }

    fn computes_nonsense(model: &LoadedModel, _: &BackendOptions) -> Opened {
        let control = Control::default();
        control.fault(Fault::Wrong);
        Ok(Faulty::with_control(model, Dtype::F32, &control).0)
    }

    fn examined(open: fn(&LoadedModel, &BackendOptions) -> Opened, device: Device) -> Examined {
        let config = ModelConfig {
            hidden_size: 32,
            intermediate_size: 32,
            num_hidden_layers: 1,
            hyena_filter_order: 8,
            ..ModelConfig::m2_bert_80m(64)
        };
        let candidate = Candidate {
            name: "Metal or Vulkan",
            serves: |device| device == Device::Auto,
            dtypes: &[Dtype::Auto],
            find: |_| Ok(()),
            open,
        };
        let options = BackendOptions { device, threads: Some(1), ..BackendOptions::default() };
        examine_one(&candidate, &synthetic(&config, 1), &options, &[16, 64, 128]).unwrap()
    }

    #[test]
    fn what_works_is_tested_and_measured() {
        let Examined { interface, unavailable: None, found: Some(found) } = examined(works, Device::Auto)
        else {
            panic!("it was there")
        };
        assert_eq!((interface, found.device, &*found.name), ("Metal or Vulkan", "metal", "Faulty 1"));
        assert_eq!((found.dtype, found.cpu_dtype, found.memory_bytes), ("f32", "f32", Some(1 << 30)));
        let rows: Vec<_> = found.self_test.probes.iter().map(|probe| (probe.tokens, probe.rows)).collect();
        assert_eq!(rows, [(1, 1), (7, 7), (32, 32), (33, 33), (64, 64), (33, 64)]);
        assert!(found.self_test.probes.iter().all(|probe| probe.distance <= 1e-6 && probe.gpu_ms > 0.0));
        let lengths: Vec<_> = found.speed.iter().map(|speed| speed.tokens).collect();
        assert_eq!((lengths, found.crossover.is_some(), found.failure), (vec![16, 64], true, None));
    }

    #[test]
    fn what_does_not_is_described() {
        let found = examined(computes_nonsense, Device::Auto).found.unwrap();
        assert!(found.self_test.failure.is_some_and(|why| why.contains("its vector is ")));
        assert!(found.crossover.is_none() && found.speed.is_empty(), "nothing is measured of it");
        let none = examined(|_, _| Err(Unavailable::Absent("no driver".to_owned())), Device::Auto);
        assert_eq!((none.unavailable.as_deref(), none.found), (Some("no driver"), None));
        let not_asked_for = examined(works, Device::Cpu);
        assert_eq!(not_asked_for.unavailable.unwrap(), "not asked for by device cpu and dtype auto");
    }
}
