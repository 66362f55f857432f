//! Running sums of the long filters, with which cells of any size are convolved.

use std::ops::Range;
use std::sync::Arc;

use danaus_kernels::Matrix;
use danaus_simd::MappedFile;

use super::cells::step;
use super::values::Values;

/// Steps from distance 0 to where only every second distance has a row of its own; with twice as many, only every fourth one, and so on.
const FINE: isize = 256;

/// The sums of a model's long filters up to some distances, for all layers and both branches.
///
/// The row of a distance of x steps has the sum of all taps up to there, averaged over the positions around it that have no other row,
/// so that what a filter does from one position to the next counts as little as it does on average. Near distance 0 each number of
/// steps has a row; the larger distances are, the further they are apart. The row of distance 0 has the sum of all taps before it.
///
/// Sums are 16-bit integers with a scale for each channel, and lie together by 48 channels, since a pass reads all of a chunk's at once.
#[derive(Debug, Clone)]
pub struct RunningSums {
    max_tokens: usize,
    layers: usize,
    width: usize,
    /// `[layer, branch, chunk, rows, n]`
    sums: Values<i16>,
    /// What the integers count: `[layer, branch, H]`.
    scales: Values<f32>,
    /// The row of each distance, from the least one.
    rows: Arc<[u32]>,
}

/// The running sums of a chunk of a layer's branch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BranchSums<'a> {
    /// `[rows, n]`
    pub sums: Matrix<'a, i16>,
    /// The row of each distance, from the least one; the middle one is of distance 0.
    pub rows: &'a [u32],
    /// `[n]`
    pub scales: &'a [f32],
}

impl RunningSums {
    /// Channels whose sums lie together; the last chunk may have fewer.
    pub(crate) const CHUNK: usize = 48;

    /// Those of a model of `max_tokens` positions and H channels.
    ///
    /// # Panics
    /// Where the sums are not as many as whole layers need.
    pub(crate) fn new(max_tokens: usize, width: usize, sums: Vec<i16>, scales: Vec<f32>) -> Self {
        let layer = 2 * distances(max_tokens).len() * width;
        assert!(sums.len().is_multiple_of(layer) && scales.len() / (2 * width) == sums.len() / layer);
        let layers = sums.len() / layer;
        Self {
            max_tokens,
            layers,
            width,
            sums: Values::Computed(sums.into()),
            scales: Values::Computed(scales.into()),
            rows: rows_of_distances(max_tokens),
        }
    }

    pub(super) fn mapped(
        (max_tokens, layers, width): (usize, usize, usize),
        file: &Arc<MappedFile>,
        [sums, scales]: [Range<usize>; 2],
    ) -> Option<Self> {
        let sums = Values::mapped(2 * layers * distances(max_tokens).len() * width, file, sums)?;
        let scales = Values::mapped(2 * layers * width, file, scales)?;
        let rows = rows_of_distances(max_tokens);
        Some(Self { max_tokens, layers, width, sums, scales, rows })
    }

    /// The distances of a branch's rows, in positions: for each row, those that it is the average over.
    pub(crate) fn averaged(max_tokens: usize) -> impl Iterator<Item = Range<isize>> {
        let (step, distances) = (step(max_tokens) as isize, distances(max_tokens));
        let between = move |a: isize, b: isize| ((a + b) * step + 1).div_euclid(2);
        (0..distances.len()).map(move |row| {
            let distance = distances[row];
            let before = row.checked_sub(1).map_or(distance - 1, |row| distances[row]);
            let after = distances.get(row + 1).copied().unwrap_or(distance + 1);
            if distance == 0 { -1..0 } else { between(before, distance)..between(distance, after) }
        })
    }

    /// Layers and channels.
    pub(crate) fn shape(&self) -> (usize, usize) {
        (self.layers, self.width)
    }

    /// The tensors: integers, and scales.
    pub(super) fn values(&self) -> (&[i16], &[f32]) {
        (self.sums.get(), self.scales.get())
    }

    /// The shape of the integers' tensor.
    pub(super) fn tensor_shape(&self) -> [usize; 3] {
        [self.layers, 2, distances(self.max_tokens).len() * self.width]
    }

    /// The channels of each chunk.
    pub(super) fn chunks(&self) -> impl Iterator<Item = Range<usize>> {
        let width = self.width;
        (0..width).step_by(Self::CHUNK).map(move |start| start..(start + Self::CHUNK).min(width))
    }

    /// Memory, in bytes.
    pub fn bytes(&self) -> usize {
        size_of_val(self.sums.get()) + size_of_val(self.scales.get())
    }

    /// The chunk of a branch that has these channels.
    pub(crate) fn branch(&self, layer: usize, branch: usize, channels: Range<usize>) -> BranchSums<'_> {
        let (index, rows) = (2 * layer + branch, self.sums.get().len() / (2 * self.layers * self.width));
        let sums = &self.sums.get()[rows * (index * self.width + channels.start)..][..rows * channels.len()];
        let scales = &self.scales.get()[index * self.width..][..self.width];
        BranchSums { sums: Matrix::new(sums, channels.len()), rows: &self.rows, scales: &scales[channels] }
    }
}

/// Steps from a distance to the next one that has a row.
fn apart(distance: isize) -> isize {
    1 << (distance.abs() / FINE).checked_ilog2().map_or(0, |doubled| doubled + 1)
}

/// The largest distance, in steps.
fn furthest(max_tokens: usize) -> isize {
    max_tokens.div_ceil(step(max_tokens)) as isize
}

/// The distances that have rows, in steps and in order.
fn distances(max_tokens: usize) -> Vec<isize> {
    let furthest = furthest(max_tokens);
    let has_row = |distance: &isize| distance % apart(*distance) == 0;
    (-furthest..=furthest).filter(has_row).collect()
}

/// The row of each distance, from the least one: that of the nearest distance that has one.
fn rows_of_distances(max_tokens: usize) -> Arc<[u32]> {
    let (furthest, distances) = (furthest(max_tokens), distances(max_tokens));
    let nearest = |distance: isize| {
        let after = distances.partition_point(|&other| other < distance).min(distances.len() - 1);
        let before = after.saturating_sub(1);
        let [from, to] = [before, after].map(|row| (distances[row] - distance).abs());
        if from < to { before as u32 } else { after as u32 }
    };
    (-furthest..=furthest).map(nearest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_have_near_rows() {
        for max_tokens in [1, 2, 100, 1024, 2048, 2100, 8192, 32768] {
            let (furthest, distances) = (furthest(max_tokens), distances(max_tokens));
            let rows = rows_of_distances(max_tokens);
            assert_eq!(rows.len(), 2 * furthest as usize + 1);
            for (distance, &row) in (-furthest..=furthest).zip(rows.iter()) {
                let off = (distances[row as usize] - distance).abs();
                let most = if distance.abs() < FINE { 0 } else { distance.abs() / FINE };
                assert!(off <= most, "{distance} of {max_tokens} has the row of {}", distances[row as usize]);
            }
            let averaged: Vec<_> = RunningSums::averaged(max_tokens).collect();
            assert_eq!(averaged.len(), distances.len());
            for (positions, &distance) in
                averaged.iter().zip(&distances).filter(|(_, distance)| **distance != 0)
            {
                assert!(
                    positions.contains(&(distance * step(max_tokens) as isize)),
                    "{distance}: {positions:?}"
                );
            }
            let joined = |pair: &[Range<isize>]| pair[0].end == pair[1].start || pair.contains(&(-1..0));
            assert!(averaged.windows(2).all(joined), "{averaged:?}");
        }
        assert_eq!(distances(2048).len(), 1025);
    }
}
