//! From which length on a GPU answers sooner than the CPU. Measured once and kept, because texts on either side of it have other
//! bits.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use danaus_model::write_file;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Distrust;
use super::self_test::ids;
use super::supervised::{Supervised, Turns};
use crate::gpu::{PaddedText, Pooled};
use crate::{Backend, CpuBackend, Padding, Pooling};

/// Lengths that are measured, until the GPU is faster at two of them in a row.
const LENGTHS: [usize; 7] = [16, 32, 64, 128, 256, 512, 1024];

/// Runs of each, of which the median counts, after one that does not.
const RUNS: usize = 5;

/// A text of one length on both devices.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Its tokens.
    pub tokens: usize,
    /// The CPU's time.
    pub cpu_ms: f64,
    /// The GPU's time.
    pub gpu_ms: f64,
}

/// Where the GPU begins to answer sooner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Crossover {
    /// Texts of fewer rows are for the CPU: 0 where none is, more than the model takes where all are.
    pub rows: usize,
    /// What was measured, the shortest first; nothing where it was given.
    pub measured: Vec<Measured>,
}

/// What a crossover depends on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Key {
    version: String,
    device: String,
    name: String,
    driver: String,
    dtype: String,
    instruction_set: String,
    cpu_dtype: String,
    threads: usize,
    /// Width, layers, inner width, blocks and length of the model.
    sizes: [usize; 5],
}

/// The file.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    key: Key,
    crossover: Crossover,
}

/// A crossover in a folder, under what it depends on.
struct Store {
    key: Key,
    path: PathBuf,
}

/// The crossover that was measured before, or else is measured now and kept in `folder`.
pub(super) fn remembered(
    cpu: &CpuBackend,
    gpu: &Supervised,
    folder: Option<&Path>,
) -> Result<Crossover, Distrust> {
    let store = folder.map(|folder| Store::new(folder, cpu, gpu));
    if let Some(crossover) = store.as_ref().and_then(Store::read) {
        return Ok(crossover);
    }
    let crossover = measure(cpu, gpu)?;
    tracing::info!(
        rows = crossover.rows,
        "measured from which length on the GPU answers sooner than the CPU"
    );
    if let Some(store) = store {
        store.write(&crossover);
    }
    Ok(crossover)
}

/// Measures the crossover.
pub(in crate::gpu) fn measure(cpu: &CpuBackend, gpu: &Supervised) -> Result<Crossover, Distrust> {
    let most = cpu.max_tokens();
    find(most, |tokens| measure_length(cpu, gpu, tokens))
}

/// Medians of single texts of one length.
pub(in crate::gpu) fn measure_length(
    cpu: &CpuBackend,
    gpu: &Supervised,
    tokens: usize,
) -> Result<Measured, Distrust> {
    let ids = ids(tokens, cpu.config().vocab_size);
    let text = [cpu.text(&ids, Pooling::Mean, Padding::None)];
    let padded = PaddedText { ids: &ids, rows: tokens, far_field: None, pooled: Pooled::Mean };
    let cpu_ms = median(|| cpu.embed(&text).map(drop).map_err(Distrust::Cpu))?;
    let on_gpu = || gpu.embed(std::slice::from_ref(&padded), &mut Turns(None));
    let gpu_ms = median(|| on_gpu().map(drop).map_err(|error| Distrust::Device(error.to_string())))?;
    Ok(Measured { tokens, cpu_ms, gpu_ms })
}

/// Milliseconds that `run` takes.
fn median(mut run: impl FnMut() -> Result<(), Distrust>) -> Result<f64, Distrust> {
    run()?;
    let mut times = [Duration::ZERO; RUNS];
    for time in &mut times {
        let started = Instant::now();
        run()?;
        *time = started.elapsed();
    }
    times.sort_unstable();
    Ok(times[RUNS / 2].as_secs_f64() * 1e3)
}

/// Measures from the shortest length on, until it is clear where the GPU becomes faster.
fn find(
    most: usize,
    mut measure: impl FnMut(usize) -> Result<Measured, Distrust>,
) -> Result<Crossover, Distrust> {
    let mut measured: Vec<Measured> = Vec::new();
    let faster = |one: &Measured| one.gpu_ms < one.cpu_ms;
    for tokens in LENGTHS.into_iter().filter(|&tokens| tokens <= most) {
        measured.push(measure(tokens)?);
        if measured.len() > 1 && measured.iter().rev().take(2).all(faster) {
            break;
        }
    }
    if measured.is_empty() {
        measured.push(measure(most)?);
    }
    let slower = measured.len() - measured.iter().rev().take_while(|one| faster(one)).count();
    let rows = match measured.get(slower) {
        _ if slower == 0 => 0,
        Some(first) => first.tokens,
        None => most + 1,
    };
    Ok(Crossover { rows, measured })
}

impl Key {
    fn new(cpu: &CpuBackend, gpu: &Supervised) -> Self {
        let (on_cpu, on_gpu, config) = (cpu.info(), gpu.description(), cpu.config());
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            device: on_gpu.device.to_owned(),
            name: on_gpu.name.clone(),
            driver: on_gpu.driver.clone(),
            dtype: on_gpu.dtype.to_owned(),
            instruction_set: on_cpu.instruction_set.to_owned(),
            cpu_dtype: on_cpu.dtype.to_owned(),
            threads: on_cpu.threads,
            sizes: [
                config.hidden_size,
                config.num_hidden_layers,
                config.intermediate_size,
                config.monarch_mlp_nblocks,
                config.max_tokens(),
            ],
        }
    }
}

impl Store {
    fn new(folder: &Path, cpu: &CpuBackend, gpu: &Supervised) -> Self {
        let key = Key::new(cpu, gpu);
        let digest = Sha256::digest(format!("{key:?}"));
        let digest: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Self { key, path: folder.join(format!("crossover-{digest}.json")) }
    }

    /// What is kept; a file that cannot be read or understood counts as none, with a warning.
    fn read(&self) -> Option<Crossover> {
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => {
                self.warn("cannot be read", &error);
                return None;
            }
        };
        match serde_json::from_slice::<Kept>(&bytes) {
            Ok(kept) if kept.key == self.key => Some(kept.crossover),
            Ok(_) => {
                self.warn("is of another machine", &"its key differs");
                None
            }
            Err(error) => {
                self.warn("is damaged", &error);
                None
            }
        }
    }

    fn write(&self, crossover: &Crossover) {
        let kept = Kept { key: self.key.clone(), crossover: crossover.clone() };
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let written = std::fs::create_dir_all(folder).map_err(|error| error.to_string()).and_then(|()| {
            let write = write_file(&self.path, true, |file| {
                serde_json::to_writer_pretty(&mut *file, &kept)?;
                file.write_all(b"\n")
            });
            write.map_err(|error| error.to_string())
        });
        if let Err(error) = written {
            self.warn("cannot be written, and may come out otherwise at the next start", &error);
        }
    }

    fn warn(&self, what: &str, error: &dyn std::fmt::Display) {
        tracing::warn!(file = %self.path.display(), %error, "what was measured of the GPU {what}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The crossover of a model of so many tokens, and the lengths that are measured, where the GPU is faster at `faster`.
    fn found(most: usize, faster: &[usize]) -> (usize, Vec<usize>) {
        let measure = |tokens| {
            let gpu_ms = if faster.contains(&tokens) { 1.0 } else { 3.0 };
            Ok(Measured { tokens, cpu_ms: 2.0, gpu_ms })
        };
        let Crossover { rows, measured } = find(most, measure).unwrap();
        (rows, measured.iter().map(|one| one.tokens).collect())
    }

    #[test]
    fn the_gpu_serves_from_where_it_is_faster_on() {
        assert_eq!(found(2048, &LENGTHS), (0, vec![16, 32]));
        assert_eq!(found(2048, &[128, 256]), (128, vec![16, 32, 64, 128, 256]));
        assert_eq!(found(2048, &[16, 64, 128]), (64, vec![16, 32, 64, 128]), "one length may be luck");
        assert_eq!(found(2048, &[1024]), (1024, LENGTHS.to_vec()));
        assert_eq!(found(2048, &[]), (2049, LENGTHS.to_vec()));
        assert_eq!(found(80, &[64]), (64, vec![16, 32, 64]));
        assert_eq!(found(80, &[]), (81, vec![16, 32, 64]));
        assert_eq!(found(16, &[16]), (0, vec![16]));
        assert_eq!((found(9, &[]), found(9, &[9])), ((10, vec![9]), (0, vec![9])));
    }
}
