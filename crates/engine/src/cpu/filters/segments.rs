//! Filters averaged over segments of the sequence, for sketches of the padding.

use danaus_kernels::{Buffer, Compute, Matrix, filter_length};

use super::{Branch, FilterBank, FreshStates, Source};
use crate::cpu::team::map;
use crate::cpu::weights::CHUNK;
use crate::padding::{SegmentTaps, Span};

impl FilterBank {
    /// The values of [`SegmentTaps`], `[layer, branch, rows, H]`, of a model of `length` tokens.
    pub(in crate::cpu) fn segment_taps(&self, compute: &Compute, length: usize) -> Vec<f32> {
        let width = self.channels;
        let taps_length = filter_length(length);
        let plan = self.plan_from(compute, vec![Source::Made(taps_length)]);
        let mut fresh = FreshStates::default();
        let mut values = Vec::new();
        for layer in 0..self.generators.len() {
            let states = plan.layer_states(self, compute, layer, &mut fresh);
            for branch in [Branch::Mixer, Branch::Residual] {
                let generator = self.generator(layer, branch);
                let chunks: Vec<_> = (0..width.div_ceil(CHUNK)).collect();
                let chunks = map(compute, &chunks, |&chunk| {
                    let mut taps = [Buffer::default(), Buffer::default()];
                    let form = self.form(taps_length);
                    let channels = generator.taps(form, states.of(branch, taps_length), chunk, &mut taps);
                    let taps = taps.each_ref().map(|taps| Matrix::new(taps, channels.len()));
                    segment_sums(taps, &generator.skip[channels], length)
                });
                for row in 0..SegmentTaps::spans(length).count() {
                    for (index, chunk) in chunks.iter().enumerate() {
                        let channels = CHUNK.min(width - index * CHUNK);
                        values.extend(&chunk[row * channels..][..channels]);
                    }
                }
            }
        }
        values
    }
}

/// For each of [`SegmentTaps::spans`], and n channels: the sum of the taps from all its positions to one of those it leads to, on
/// average `[rows, n]`. `taps` are forward and reverse `[positions, n]`, `skip` `[n]`; the model has `length` positions.
fn segment_sums(taps: [Matrix<'_>; 2], skip: &[f32], length: usize) -> Vec<f32> {
    let mut sums = Vec::new();
    for Span { distance, to, from } in SegmentTaps::spans(length) {
        let (to, from) = (to as isize, from as isize);
        let mut sum = vec![0.0f64; skip.len()];
        for offset in 1 - from..to {
            // So many pairs of positions are that far apart.
            let pairs = (to.min(from) as f64).min((to - offset) as f64).min((from + offset) as f64);
            let row = match distance + offset {
                ahead @ 0.. if (ahead as usize) < length => taps[0].row(ahead as usize),
                behind @ ..0 if behind.unsigned_abs() < length => taps[1].row(behind.unsigned_abs() - 1),
                _ => continue,
            };
            sum.iter_mut().zip(row).for_each(|(sum, &tap)| *sum += pairs * f64::from(tap));
            if distance + offset == 0 {
                sum.iter_mut().zip(skip).for_each(|(sum, &skip)| *sum += pairs * f64::from(skip));
            }
        }
        sums.extend(sum.iter().map(|sum| (sum / to as f64) as f32));
    }
    sums
}
