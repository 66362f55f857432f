//! Which butterflies a transform of one length is made of, and their twiddle factors.

use std::f64::consts::TAU;
use std::sync::OnceLock;

/// Points of a leaf: the radix of the last level, whose forward and inverse butterflies are one with the product.
pub(super) const LEAF: usize = 8;

/// A level of the tree: all its nodes have the same number of points and split into the same number of children.
#[derive(Debug)]
pub(super) struct Level {
    /// Children of a node.
    pub(super) radix: usize,
    /// Points of a node.
    pub(super) points: usize,
    /// For each node, the powers 1 to `radix - 1` of a root of its own, as pairs of real and imaginary part.
    twiddles: Vec<f32>,
}

impl Level {
    /// The twiddle factors of node `index` and all after it.
    #[inline(always)]
    pub(super) fn twiddles(&self, index: usize) -> *const f32 {
        self.twiddles[index * 2 * (self.radix - 1)..].as_ptr()
    }
}

/// The tree of `z^length - i`: a node `z^n - a` splits into `z^(n/r) - b` for the `r` roots `b` of `b^r = a`.
#[derive(Debug)]
pub(super) struct Plan {
    /// The root.
    pub(super) top: Level,
    /// The levels between root and leaves, from the root on.
    pub(super) middle: Vec<Level>,
    /// The leaves, of [`LEAF`] points.
    pub(super) leaves: Level,
}

impl Plan {
    /// The plan of `length` points: a power of two or three times one, at least 32.
    ///
    /// Plans are made once per length and stay. Looking one up takes no lock.
    pub(super) fn of(length: usize) -> &'static Plan {
        static PLANS: [[OnceLock<Plan>; usize::BITS as usize]; 2] =
            [const { [const { OnceLock::new() }; usize::BITS as usize] }; 2];
        let thirds = usize::from(!length.is_power_of_two());
        PLANS[thirds][length.trailing_zeros() as usize].get_or_init(|| Plan::new(length))
    }

    fn new(length: usize) -> Plan {
        let radices = radices(length);
        // Roots as parts of a turn: exact enough in float64 for every length that fits in memory.
        let (mut points, mut roots) = (length, vec![0.25]);
        let mut levels = radices.into_iter().map(|radix| {
            let level = Level { radix, points, twiddles: twiddles(&roots, radix) };
            points /= radix;
            let step = 1.0 / radix as f64;
            let children = |root: &f64| {
                let first = root * step;
                (0..radix).map(move |m| first + m as f64 * step)
            };
            roots = roots.iter().flat_map(children).collect();
            level
        });
        let top = levels.next().expect("a plan has two levels or more");
        let mut middle: Vec<Level> = levels.collect();
        let leaves = middle.pop().expect("a plan has two levels or more");
        Plan { top, middle, leaves }
    }

    /// Number of points.
    pub(super) fn length(&self) -> usize {
        self.top.points
    }
}

/// The radix of every level, whose product is `length`: eights, but for a six at the root of a length that is no power of
/// two, and fours above the leaves, where a level is cheapest: its points are in the nearest cache.
fn radices(length: usize) -> Vec<usize> {
    let mut radices = Vec::new();
    let mut rest = length;
    if !length.is_power_of_two() {
        radices.push(6);
        rest /= 6;
    }
    let fours = [0, 2, 1][rest.trailing_zeros() as usize % 3];
    rest >>= 2 * fours;
    while rest > LEAF {
        radices.push(8);
        rest /= 8;
    }
    radices.resize(radices.len() + fours, 4);
    radices.push(LEAF);
    rest /= LEAF;
    assert!(rest == 1 && radices.len() > 1 && radices.iter().product::<usize>() == length, "{length} points");
    radices
}

fn twiddles(roots: &[f64], radix: usize) -> Vec<f32> {
    let powers = roots.iter().flat_map(|root| (1..radix).map(move |k| root / radix as f64 * k as f64));
    powers
        .flat_map(|turns| {
            let (sin, cos) = (turns.fract() * TAU).sin_cos();
            [cos as f32, sin as f32]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn radices_multiply_to_the_length_and_end_in_a_leaf() {
        for length in (5..20).flat_map(|log2| [1usize << log2, 3 << (log2 + 1)]) {
            let radices = radices(length);
            assert_eq!(radices.iter().product::<usize>(), length);
            assert_eq!(radices.last(), Some(&LEAF), "{length}: {radices:?}");
        }
    }

    #[test]
    fn the_roots_of_all_leaves_are_the_roots_of_i() {
        let plan = Plan::of(64);
        assert_eq!((plan.top.radix, plan.middle.len(), plan.leaves.points), (8, 0, 8));
        for node in 0..8 {
            // The first power of a leaf is a 64th root of i.
            let [re, im] = [0, 1].map(|part| f64::from(plan.leaves.twiddles[node * 14 + part]));
            let turns = im.atan2(re) / TAU * 64.0;
            assert!((turns.rem_euclid(1.0) - 0.25).abs() < 1e-4, "{turns}");
        }
    }
}
