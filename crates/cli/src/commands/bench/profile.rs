//! `danaus bench --profile`: where the time of a pass goes, and how near the machine's peak its products come.

use std::sync::Arc;

use danaus_engine::{BackendInfo, Peaks, Profile, Stage, Text};
use danaus_model::ModelConfig;
use serde::Serialize;

use crate::stdout;

/// What is needed to make a profile of passes.
pub struct Profiler {
    pub profile: Arc<Profile>,
    pub peaks: Peaks,
    pub config: ModelConfig,
}

/// A line of the profile.
#[derive(Debug, PartialEq, Serialize)]
pub struct StageTime {
    stage: &'static str,
    /// Of one pass: the mean over passes and threads.
    ms: f64,
    /// Share of the pass.
    share: f64,
    /// 10^9 operations a second on all threads, while they are at this stage; `null` where it is no matrix product.
    gops: Option<f64>,
    /// Share of the arithmetic peak that was measured in the same run.
    share_of_peak: Option<f64>,
}

impl Profiler {
    /// Where the time of passes over `texts` went, which took `seconds` each: stage by stage, and last the time in which
    /// threads had nothing to do.
    pub fn stages(&self, seconds: &[f64], texts: &[Text<'_>], backend: &BackendInfo) -> Vec<StageTime> {
        let rates = &self.peaks.all_threads;
        let peak = |stage| match (backend.dtype, stage) {
            // The one product that stays bfloat16 among 8-bit ones.
            ("bf16", _) | ("int8", Some(Stage::Down)) => rates.bf16_gflops,
            ("int8", _) => rates.int8_gops,
            _ => rates.f32_gflops,
        };
        let rows: usize = texts.iter().map(|text| text.window.cost()).sum();
        let pass = seconds.iter().sum::<f64>() / seconds.len() as f64;
        let line = |stage: Option<Stage>, seconds: f64, operations: Option<f64>| {
            let gops = operations.filter(|_| seconds > 0.0).map(|operations| operations / seconds / 1e9);
            let share_of_peak = gops.map(|gops| gops / peak(stage));
            let stage = stage.map_or("waiting", Stage::name);
            StageTime { stage, ms: seconds * 1e3, share: seconds / pass, gops, share_of_peak }
        };
        let mut busy = 0.0;
        let mut stages = Vec::new();
        for stage in Stage::ALL {
            let of_threads = self.profile.time(stage).as_secs_f64();
            let mean = of_threads / (backend.threads * seconds.len()) as f64;
            busy += mean;
            let operations = operations_per_token(stage, &self.config);
            stages.push(line(Some(stage), mean, operations.map(|count| count * rows as f64)));
        }
        stages.push(line(None, (pass - busy).max(0.0), None));
        stages
    }
}

/// Operations of a stage's matrix products in all layers, for one token.
fn operations_per_token(stage: Stage, config: &ModelConfig) -> Option<f64> {
    let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
    let block = hidden / config.monarch_mlp_nblocks;
    let weights = match stage {
        Stage::InLinear => 3 * hidden * hidden,
        Stage::OutLinear => hidden * hidden,
        Stage::Gated => 2 * intermediate * block,
        Stage::Down => intermediate * block,
        _ => return None,
    };
    Some(2.0 * (config.num_hidden_layers * weights) as f64)
}

/// Prints a profile under its measurement.
pub fn print(stages: &[StageTime]) -> anyhow::Result<()> {
    let number = |value: Option<f64>, factor: f64, unit: &str| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{:.0}{unit}", value * factor))
    };
    stdout::print(format_args!(
        "  {:<12} {:>10} {:>14} {:>9} {:>14}",
        "stage", "mean ms", "share of pass", "GOP/s", "share of peak"
    ))?;
    for line in stages.iter().filter(|line| line.ms > 0.0) {
        stdout::print(format_args!(
            "  {:<12} {:>10.3} {:>14} {:>9} {:>14}",
            line.stage,
            line.ms,
            number(Some(line.share), 100.0, " %"),
            number(line.gops, 1.0, ""),
            number(line.share_of_peak, 100.0, " %")
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_of_the_80m_shape() {
        let config = ModelConfig::m2_bert_80m(2048);
        let total: f64 = Stage::ALL.iter().filter_map(|&stage| operations_per_token(stage, &config)).sum();
        let weights = 12 * (768 * 2304 + 768 * 768 + 4 * 192 * 1536 + 4 * 768 * 192);
        assert_eq!(total, 2.0 * f64::from(weights));
    }
}
