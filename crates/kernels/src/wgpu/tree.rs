//! The tree of `z^L - i` that long convolutions go through: its leaves, which are transformed in workgroup memory, and the
//! twiddle factors of both.

use std::f64::consts::TAU;

/// The shortest texts' filters: those are convolved by the sum.
const SHORTEST: usize = 32;

/// Invocations of a transform's workgroup.
const THREADS: u32 = 256;

/// Channels of a workgroup, at most: enough of them for whole lines of memory.
const MOST_LANES: u32 = 16;

/// Workgroup memory that transforms may take: more of it are more channels side by side, so whole lines of memory; less of it are more
/// workgroups at a time. Which one it is changes no result's operations.
pub const TRANSFORM_BYTES: [u32; 3] = [8 << 10, 16 << 10, 32 << 10];

/// Bytes of a complex point.
const POINT_BYTES: u32 = 8;

/// Taps in each direction of the filter that a text of `rows` rows uses on a GPU: a power of two, at least 32.
pub fn gpu_filter_length(rows: usize) -> usize {
    rows.next_power_of_two().max(SHORTEST)
}

/// How a leaf is transformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Transform {
    /// Points: a power of two, at least 64.
    pub points: u32,
    /// Channels of a workgroup.
    pub lanes: u32,
    /// Invocations of a workgroup.
    pub threads: u32,
}

impl Transform {
    /// That of the leaves of a tree of `length` points on a device with so much workgroup memory, of which it takes more than
    /// `wanted` only for a single channel.
    pub fn of(length: usize, workgroup_bytes: u32, wanted: u32) -> Self {
        let power_of_two = |bytes: u32| (bytes / POINT_BYTES + 1).next_power_of_two() / 2;
        let points = power_of_two(workgroup_bytes).min(length as u32);
        let lanes = power_of_two(wanted.min(workgroup_bytes)) / points;
        Self { points, lanes: lanes.clamp(1, MOST_LANES), threads: THREADS }
    }

    /// Leaves of a tree of `length` points.
    pub fn leaves(self, length: usize) -> u32 {
        (length / self.points as usize) as u32
    }

    /// Twiddle factors of a leaf.
    fn twiddles_per_leaf(self) -> u32 {
        let binary = self.points.trailing_zeros() % 2;
        // A node of radix 4 has three; levels have 1, 4, 16, ... nodes, or 2, 8, 32, ... below one of radix 2.
        let nodes: u32 = (0..self.points.trailing_zeros() / 2).map(|level| (1 + binary) << (2 * level)).sum();
        binary + 3 * nodes
    }

    /// Where a leaf's twiddles are among a tree's [`twiddles`], and the powers of its root.
    pub fn offsets(self, length: usize, leaf: u32) -> (u32, u32) {
        let (count, leaves) = (self.twiddles_per_leaf(), self.leaves(length));
        (leaf * count, leaves * count + leaf * leaves)
    }
}

/// All transforms that a device with so much workgroup memory may need.
pub(super) fn transforms(workgroup_bytes: u32) -> Vec<Transform> {
    let mut all = Vec::new();
    for wanted in TRANSFORM_BYTES {
        let lengths = (6..usize::BITS).map(|power| 1usize << power);
        let transforms = lengths.map(|length| (Transform::of(length, workgroup_bytes, wanted), length));
        // Longer ones have several leaves.
        let single = transforms.take_while(|(transform, length)| transform.points as usize == *length);
        all.extend(single.map(|(transform, _)| transform));
    }
    all
}

/// The twiddle factors of all leaves of a tree of `length` points, one leaf after the other, then the powers of each leaf's
/// root: as pairs of real and imaginary part.
pub(super) fn twiddles(transform: Transform, length: usize) -> Vec<[f32; 2]> {
    let leaves = transform.leaves(length);
    let root = |leaf: u32| (0.25 + f64::from(leaf)) / f64::from(leaves);
    let mut all = Vec::new();
    for leaf in 0..leaves {
        let (mut points, mut nodes) = (transform.points, vec![root(leaf)]);
        while points > 1 {
            let radix = if points.trailing_zeros().is_multiple_of(2) { 4 } else { 2 };
            let first = nodes.iter().map(|turns| turns / f64::from(radix));
            all.extend(
                first.clone().flat_map(|turns| (1..radix).map(move |power| unit(turns * f64::from(power)))),
            );
            nodes = first
                .flat_map(|turns| (0..radix).map(move |child| turns + f64::from(child) / f64::from(radix)))
                .collect();
            points /= radix;
        }
    }
    all.extend(
        (0..leaves).flat_map(|leaf| (0..leaves).map(move |power| unit(root(leaf) * f64::from(power)))),
    );
    all
}

fn unit(turns: f64) -> [f32; 2] {
    let (sin, cos) = (turns.fract() * TAU).sin_cos();
    [cos as f32, sin as f32]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_fit_their_memory_and_their_tables_are_where_offsets_say() {
        for bytes in [16 << 10, 32 << 10, 48 << 10] {
            for power in 6..16 {
                let length = 1 << power;
                for wanted in TRANSFORM_BYTES {
                    let transform = Transform::of(length, bytes, wanted);
                    let taken = transform.points * transform.lanes * POINT_BYTES;
                    assert!(taken <= bytes && (taken <= wanted || transform.lanes == 1));
                }
                let transform = Transform::of(length, bytes, bytes);
                let leaves = transform.leaves(length);
                let (_, roots) = transform.offsets(length, leaves - 1);
                assert_eq!(twiddles(transform, length).len(), (roots + leaves) as usize, "{length}");
            }
        }
    }

    #[test]
    fn filters_are_as_long_as_texts_or_longer() {
        assert_eq!([1, 32, 33, 2049, 32_768].map(gpu_filter_length), [32, 32, 64, 4096, 32_768]);
    }
}
