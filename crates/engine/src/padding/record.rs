//! What an exact pass of a text saw of some windows and of the padding behind them.

use std::sync::Arc;

use super::far_field::Knots;
use super::sketch::constants;
use super::{Cells, FarField, RunningSums, Sketch};

/// Some rows of each layer, in float32: `[layer, rows, H]`.
#[derive(Debug, Clone)]
pub struct Recording {
    rows: usize,
    width: usize,
    values: Vec<f32>,
}

/// What is recorded of a window.
#[derive(Debug, Clone)]
pub struct WindowRecord {
    /// Where its far field is recorded.
    pub(crate) knots: Knots,
    /// Its far field, the mixer's rows and the residual's.
    pub(crate) far: Recording,
    /// What a branch convolves, as means of the window's cells: the mixer's rows and the residual's.
    pub(crate) means: Recording,
    /// Ways to divide the padding behind it, and what is recorded of each one's samples, at the places that [`Place`] names.
    pub(crate) cells: Vec<(Cells, Recording)>,
}

/// What is recorded of samples: a place has a row for each of them.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    /// How far the short convolution departs from a steady one; x1's, x2's and v's are three places.
    Departures(usize),
    /// The result of a branch's long convolution.
    Results(usize),
    /// What a branch convolves.
    States(usize),
}

impl Recording {
    /// One to be written to by a pass.
    pub(crate) fn new(layers: usize, rows: usize, width: usize) -> Self {
        Self { rows, width, values: vec![0.0; layers * rows * width] }
    }

    /// The mean of recordings of one shape.
    pub(super) fn mean(recordings: &[&Self]) -> Self {
        let scale = 1.0 / recordings.len() as f32;
        let mut mean = recordings[0].clone();
        for other in &recordings[1..] {
            assert!(
                other.rows == mean.rows && other.values.len() == mean.values.len(),
                "recordings of one shape"
            );
            mean.values.iter_mut().zip(&other.values).for_each(|(sum, value)| *sum += value);
        }
        mean.values.iter_mut().for_each(|sum| *sum *= scale);
        mean
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    pub(super) fn layers(&self) -> usize {
        self.values.len() / (self.rows * self.width).max(1)
    }

    /// A layer's values `[rows, H]`.
    pub(crate) fn layer_mut(&mut self, layer: usize) -> &mut [f32] {
        let len = self.rows * self.width;
        &mut self.values[layer * len..][..len]
    }

    pub(super) fn layer(&self, layer: usize) -> &[f32] {
        let len = self.rows * self.width;
        &self.values[layer * len..][..len]
    }

    pub(super) fn row(&self, layer: usize, row: usize) -> &[f32] {
        &self.layer(layer)[row * self.width..][..self.width]
    }
}

impl Place {
    /// Places there are.
    const COUNT: usize = 7;

    /// Its rows, where there are `samples` samples.
    pub(crate) fn rows(self, samples: usize) -> std::ops::Range<usize> {
        let place = match self {
            Self::Departures(part) => part,
            Self::Results(branch) => 3 + branch,
            Self::States(branch) => 5 + branch,
        };
        place * samples..(place + 1) * samples
    }
}

impl WindowRecord {
    /// A record of a window of a model with so many layers and channels, of its far field at knots `step` positions apart, and of
    /// these ways to divide the padding behind it.
    pub fn new(window: usize, step: usize, cells: Vec<Cells>, (layers, width): (usize, usize)) -> Self {
        let knots = Knots { window, step };
        let inside = cells.first().map_or(0, Cells::inside);
        let recording = |rows| Recording::new(layers, rows, width);
        let cells = cells.into_iter().map(|cells| {
            let samples = recording(Place::COUNT * cells.rows());
            (cells, samples)
        });
        let cells = cells.collect();
        Self { knots, far: recording(2 * knots.count()), means: recording(2 * inside), cells }
    }

    /// Positions of the window.
    pub fn window(&self) -> usize {
        self.knots.window
    }

    /// The far field and the sketch that are right for what was recorded: with that number of the ways to divide the padding, or
    /// without a sketch.
    ///
    /// # Panics
    /// Where there are not so many ways, or the sums are another model's.
    pub fn fields(&self, sums: &Arc<RunningSums>, cells: Option<usize>) -> (FarField, Option<Sketch>) {
        constants(sums, self, cells)
    }

    /// The mean of records of one window.
    pub(super) fn mean(records: &[&Self]) -> Self {
        let mean = |part: fn(&Self) -> &Recording| {
            Recording::mean(&records.iter().map(|record| part(record)).collect::<Vec<_>>())
        };
        let cells = records[0].cells.iter().enumerate().map(|(index, (cells, _))| {
            let recordings: Vec<_> = records.iter().map(|record| &record.cells[index].1).collect();
            (cells.clone(), Recording::mean(&recordings))
        });
        let (far, means) = (mean(|record| &record.far), mean(|record| &record.means));
        Self { knots: records[0].knots, far, means, cells: cells.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_is_that_of_its_recordings() {
        let of = |value: f32| {
            let mut record = WindowRecord::new(3, 1, vec![Cells::new(3, 20, 4)], (2, 5));
            let parts = [&mut record.far, &mut record.means, &mut record.cells[0].1];
            for (part, recording) in parts.into_iter().enumerate() {
                let scaled = (1..).map(|place| value * (place + 1000 * part) as f32);
                recording.values.iter_mut().zip(scaled).for_each(|(to, value)| *to = value);
            }
            record
        };
        let mean = WindowRecord::mean(&[&of(1.0), &of(3.0), &of(8.0), &of(4.0)]);
        let expected = of(4.0);
        assert_eq!(mean.far.values, expected.far.values);
        assert_eq!(mean.means.values, expected.means.values);
        assert_eq!(mean.cells[0].1.values, expected.cells[0].1.values);
        assert!(mean.far.values.len() == 2 * 2 * 3 * 5 && mean.cells[0].1.values.len() == 2 * 7 * 4 * 5);
    }
}
