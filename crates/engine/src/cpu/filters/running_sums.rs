//! Running sums of the filters, for sketches of the padding.

use danaus_kernels::{Buffer, Compute, Matrix, filter_length};

use super::{Branch, FilterBank, FreshStates, Source};
use crate::cpu::team::map;
use crate::cpu::weights::CHUNK;
use crate::padding::RunningSums;

const _: () = assert!(CHUNK == RunningSums::CHUNK, "a task needs a chunk's sums");

/// Those of a chunk of n channels: integers `[rows, n]`, and what they count `[n]`.
type Chunk = (Vec<i16>, Vec<f32>);

impl FilterBank {
    /// The running sums of all filters of a model of `length` tokens.
    pub(in crate::cpu) fn running_sums(&self, compute: &Compute, length: usize) -> RunningSums {
        let taps_length = filter_length(length);
        let plan = self.plan_from(compute, vec![Source::Made(taps_length)]);
        let mut fresh = FreshStates::default();
        let (mut sums, mut scales) = (Vec::new(), Vec::new());
        for layer in 0..self.generators.len() {
            let states = plan.layer_states(self, compute, layer, &mut fresh);
            for branch in [Branch::Mixer, Branch::Residual] {
                let generator = self.generator(layer, branch);
                let chunks: Vec<_> = (0..self.channels.div_ceil(CHUNK)).collect();
                let chunks: Vec<Chunk> = map(compute, &chunks, |&chunk| {
                    let mut taps = [Buffer::default(), Buffer::default()];
                    let form = self.form(taps_length);
                    let channels = generator.taps(form, states.of(branch, taps_length), chunk, &mut taps);
                    let taps = taps.each_ref().map(|taps| Matrix::new(taps, channels.len()));
                    quantize(&averages(taps, &generator.skip[channels.clone()], length), channels.len())
                });
                for (sums_of_chunk, scales_of_chunk) in chunks {
                    sums.extend(sums_of_chunk);
                    scales.extend(scales_of_chunk);
                }
            }
        }
        RunningSums::new(length, self.channels, sums, scales)
    }
}

/// For each of [`RunningSums::averaged`], the sum of the taps up to a distance, averaged: `[rows, n]`. `taps` are forward and reverse
/// `[positions, n]`, `skip` is `[n]`; the model has `length` positions.
fn averages(taps: [Matrix<'_>; 2], skip: &[f32], length: usize) -> Vec<f64> {
    let length = length as isize;
    let mut averages = Vec::new();
    let mut sum = vec![0.0f64; skip.len()];
    // The distance up to which all taps are in the sum.
    let mut reached = -length;
    for distances in RunningSums::averaged(length as usize) {
        let mut average = vec![0.0; skip.len()];
        for distance in distances.clone() {
            while reached < distance.min(length - 1) {
                reached += 1;
                let row = match reached {
                    ahead @ 0.. => taps[0].row(ahead as usize),
                    behind => taps[1].row(behind.unsigned_abs() - 1),
                };
                sum.iter_mut().zip(row).for_each(|(sum, &tap)| *sum += f64::from(tap));
                if reached == 0 {
                    sum.iter_mut().zip(skip).for_each(|(sum, &skip)| *sum += f64::from(skip));
                }
            }
            average.iter_mut().zip(&sum).for_each(|(average, sum)| *average += sum);
        }
        averages.extend(average.iter().map(|sum| sum / distances.len() as f64));
    }
    averages
}

/// Values `[rows, n]` as 16-bit integers with a scale for each channel.
fn quantize(values: &[f64], channels: usize) -> Chunk {
    let mut most = vec![0.0f64; channels];
    for row in values.chunks_exact(channels) {
        most.iter_mut().zip(row).for_each(|(most, value)| *most = most.max(value.abs()));
    }
    let scales: Vec<f32> = most.iter().map(|most| (most / f64::from(i16::MAX)) as f32).collect();
    let inverse = |scale: f32| if scale > 0.0 && scale.is_finite() { 1.0 / f64::from(scale) } else { 0.0 };
    let inverses: Vec<_> = scales.iter().map(|&scale| inverse(scale)).collect();
    let integers = values.iter().zip(inverses.iter().cycle());
    (integers.map(|(value, inverse)| (value * inverse).round() as i16).collect(), scales)
}
