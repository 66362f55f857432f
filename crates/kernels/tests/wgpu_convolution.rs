//! Both long convolutions of a layer on a GPU against the sums that define them, on whatever device there is: see `wgpu.rs`.
#![cfg(feature = "wgpu")]

mod common;
#[path = "common/gpu.rs"]
mod gpu;

use common::{bits, values, wide};
use danaus_kernels::reference;
use danaus_kernels::wgpu::{
    Convolution, FarField, FilterLeaf, Kernels, Slice, Storage, TRANSFORM_BYTES, TextRows, Work,
    gpu_filter_length,
};
use gpu::{floats, for_each_storage, places, run, stored, table, unwritten, upload};
use proptest::prelude::*;

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// What both long convolutions of a layer take in.
struct Inputs {
    width: usize,
    lengths: Vec<usize>,
    /// hidden, x1, x2 and v `[rows, width]`.
    activations: [Vec<f32>; 4],
    /// `[3 * width, 3]` and `[3 * width]`.
    short: (Vec<f32>, Vec<f32>),
    /// By branch, forward and reverse `[positions, width]`.
    taps: [[Vec<f32>; 2]; 2],
    skip: [Vec<f32>; 2],
    /// The bits of bfloat16 values `[rows, width]` of the first text, by branch.
    far: Option<[Vec<u16>; 2]>,
}

impl Inputs {
    /// Texts of one filter length.
    fn new(storage: Storage, seed: u64, width: usize, lengths: &[usize], positions: usize) -> Self {
        let rows: usize = lengths.iter().sum();
        let decaying = |seed: u64| {
            let taps = values(seed, positions * width).into_iter().enumerate();
            taps.map(|(index, tap)| tap * (-((index / width) as f32) / 40.0).exp()).collect()
        };
        Self {
            width,
            lengths: lengths.to_vec(),
            activations: [1, 2, 3, 4].map(|which| stored(storage, seed ^ which, rows * width)),
            short: (values(seed ^ 5, 9 * width), values(seed ^ 6, 3 * width)),
            taps: [[7, 8], [9, 10]].map(|branch| branch.map(|which| decaying(seed ^ which))),
            skip: [11, 12].map(|which| values(seed ^ which, width)),
            far: None,
        }
    }

    fn positions(&self) -> usize {
        self.taps[0][0].len() / self.width
    }

    /// By the sums that define them, for the text at `place`.
    fn expected(&self, place: TextRows) -> Vec<f64> {
        let (width, first, rows) = (self.width, place.first as usize, place.rows as usize);
        let text = |values: &[f32]| wide(&values[first * width..(first + rows) * width]);
        let [hidden, x1, x2, v] = self.activations.each_ref().map(|values| text(values));
        let short = |part: usize, x: &[f64]| {
            let (weight, bias) = (wide(&self.short.0), wide(&self.short.1));
            let channels = part * width..(part + 1) * width;
            reference::short_conv(x, &weight[3 * channels.start..3 * channels.end], &bias[channels])
        };
        let (x1, x2, v) = (short(0, &x1), short(1, &x2), short(2, &v));
        let product: Vec<f64> = x1.iter().zip(&v).map(|(a, b)| a * b).collect();
        let long = |branch: usize, x: &[f64]| {
            let taps = self.taps[branch].each_ref().map(|taps| {
                let mut taps = wide(taps);
                taps.resize(taps.len().max(rows * width), 0.0);
                taps
            });
            reference::long_conv(x, &taps[0], &taps[1], &wide(&self.skip[branch]))
        };
        let (mut y, mut residual) = (long(0, &product), long(1, &hidden));
        if let (Some([far, far_residual]), 0) = (&self.far, first) {
            y.iter_mut().zip(far).for_each(|(y, &far)| *y += widened(far));
            residual.iter_mut().zip(far_residual).for_each(|(y, &far)| *y += widened(far));
        }
        y.iter().zip(&x2).zip(&residual).map(|((y, gate), residual)| y * gate + residual).collect()
    }

    /// By the kernels.
    fn convolved(&self, kernels: &Kernels) -> Vec<f32> {
        let (gpu, width, storage) = (kernels.gpu(), self.width, kernels.gpu().storage());
        let length = gpu_filter_length(self.lengths[0]);
        let places = places(&self.lengths);
        let rows: usize = self.lengths.iter().sum();
        let texts = gpu.upload(&table(&places)).unwrap();
        let twiddles = gpu.upload(&kernels.twiddles(length)).unwrap();
        let short: Vec<f32> = (0..3 * width)
            .flat_map(|c| {
                [self.short.0[3 * c], self.short.0[3 * c + 1], self.short.0[3 * c + 2], self.short.1[c]]
            })
            .collect();
        let short = floats(kernels, &short);
        let [hidden, x1, x2, v] = self.activations.each_ref().map(|values| upload(kernels, values));
        let sums = unwritten(kernels, rows * width, Storage::F32);
        let out = unwritten(kernels, rows * width, storage);
        let filter = gpu.buffer(4 * kernels.filter_values(length, width) as u64).unwrap();
        let mut work = Work::default();
        for branch in 0..2 {
            let [forward, reverse] = self.taps[branch].each_ref().map(|taps| floats(kernels, taps));
            let taps = [Slice::from(&forward), Slice::from(&reverse)];
            let skip = floats(kernels, &self.skip[branch]);
            for leaf in 0..kernels.leaves(length) {
                let (positions, twiddles, skip) = (self.positions(), &twiddles, &skip);
                let made = FilterLeaf { width, length, positions, leaf, twiddles, skip };
                kernels.filter(&mut work, made, taps, (&filter).into()).unwrap();
                let convolution = Convolution {
                    width,
                    length,
                    texts: &texts,
                    range: (0, places.len()),
                    twiddles,
                    short: &short,
                    leaf,
                };
                let (filter, sums) = ((&filter).into(), Slice::from(&sums));
                if branch == 0 {
                    let parts = [&x1, &x2, &v].map(Slice::from);
                    kernels.convolve_mixer(&mut work, convolution, filter, parts, sums).unwrap();
                } else {
                    let outs = [sums, (&out).into()];
                    let hidden = (&hidden).into();
                    kernels.convolve_residual(&mut work, convolution, filter, hidden, outs).unwrap();
                }
            }
            if let (Some(far), 0) = (&self.far, branch) {
                let far = far.each_ref().map(|bits| {
                    let bytes: Vec<u8> = bits.iter().flat_map(|bits| bits.to_ne_bytes()).collect();
                    gpu.upload(&bytes).unwrap()
                });
                let branches = far.each_ref();
                let far = FarField { branches, short: &short, first: 0, rows: self.lengths[0], width };
                kernels.far_field(&mut work, far, (&x2).into(), (&sums).into()).unwrap();
            }
        }
        run(kernels, work, &out, rows * width, storage)
    }

    fn check(&self, kernels: &Kernels, tolerance: f64) {
        let got = self.convolved(kernels);
        for place in places(&self.lengths) {
            let range = place.first as usize * self.width..(place.first + place.rows) as usize * self.width;
            let expected = self.expected(place);
            // Sums of many terms: errors are relative to the largest result.
            let scale = expected.iter().fold(1.0f64, |most, x| most.max(x.abs()));
            for (index, (&got, expected)) in got[range].iter().zip(&expected).enumerate() {
                let error = (f64::from(got) - expected).abs();
                let what = format!("{} rows, [{index}]: {got}, expected {expected}", place.rows);
                assert!(error <= tolerance * scale, "{what}");
            }
        }
    }
}

fn widened(bits: u16) -> f64 {
    f64::from(f32::from_bits(u32::from(bits) << 16))
}

proptest! {
    #![proptest_config(config(8))]

    #[test]
    fn convolutions_by_the_sum_agree(
        lengths in prop::collection::vec(1usize..33, 1..4),
        width in 1usize..80,
        seed: u64,
    ) {
        for_each_storage(|kernels, storage, tolerance| {
            Inputs::new(storage, seed, width, &lengths, 32).check(kernels, tolerance);
        });
    }

    #[test]
    fn convolutions_by_transforms_agree(
        power in 5u32..10,
        parts in prop::collection::vec(0.0f64..1.0, 1..3),
        short_of in 0usize..20,
        width in 1usize..20,
        seed: u64,
    ) {
        let lengths: Vec<_> =
            parts.iter().map(|part| (1usize << power) + 1 + (part * f64::from((1 << power) - 1)) as usize).collect();
        for_each_storage(|kernels, storage, tolerance| {
            // A model may have fewer positions than a filter has taps.
            let positions = (2usize << power).min(lengths.iter().max().unwrap() + 20 - short_of);
            Inputs::new(storage, seed, width, &lengths, positions).check(kernels, tolerance);
        });
    }
}

#[test]
fn far_fields_are_added_to_both_branches() {
    for_each_storage(|kernels, storage, tolerance| {
        for rows in [20, 70] {
            let mut inputs = Inputs::new(storage, 5, 22, &[rows, rows - 3], rows);
            let far = |seed| -> Vec<u16> {
                values(seed, rows * 22).iter().map(|x| (x.to_bits() >> 16) as u16).collect()
            };
            inputs.far = Some([far(1), far(2)]);
            inputs.check(kernels, tolerance);
        }
    });
}

#[test]
fn long_texts_are_convolved_leaf_by_leaf() {
    for_each_storage(|kernels, storage, tolerance| {
        let lengths = if kernels.leaves(8192) > 1 { [5000, 4097] } else { [9000, 8193] };
        assert!(kernels.leaves(gpu_filter_length(lengths[0])) > 1);
        Inputs::new(storage, 3, 2, &lengths, lengths[0]).check(kernels, tolerance);
    });
}

#[test]
fn a_text_has_the_same_bits_alone_and_beside_others() {
    for_each_storage(|kernels, storage, _| {
        for (first, second) in [(31, 5), (40, 64), (300, 511)] {
            let width = 24;
            let both = Inputs::new(storage, 9, width, &[second, first], 512);
            let mut alone = Inputs::new(storage, 9, width, &[first], 512);
            for (alone, both) in alone.activations.iter_mut().zip(&both.activations) {
                *alone = both[second * width..].to_vec();
            }
            let got = both.convolved(kernels);
            assert_eq!(bits(&got[second * width..]), bits(&alone.convolved(kernels)), "{first} rows");
        }
    });
}

#[test]
fn transforms_of_any_size_give_the_same_bits() {
    for_each_storage(|kernels, storage, _| {
        let inputs = Inputs::new(storage, 4, 37, &[100, 77], 128);
        let usual = kernels.transform_bytes();
        let results = TRANSFORM_BYTES.map(|bytes| {
            kernels.set_transform_bytes(bytes);
            bits(&inputs.convolved(kernels))
        });
        kernels.set_transform_bytes(usual);
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
    });
}
