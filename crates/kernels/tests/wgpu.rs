//! GPU kernels against their float64 twins, on whatever Metal, Vulkan or DirectX 12 device there is.
//!
//! Without a device there is nothing to test: these tests then say so and pass, but where `DANAUS_REQUIRE_VULKAN` is set.
#![cfg(feature = "wgpu")]

mod common;

use std::sync::OnceLock;
use std::time::Duration;

use common::{assert_close, bits, values, wide};
use danaus_kernels::reference;
use danaus_kernels::wgpu::{
    Api, Convolution, FarField, Gate, Gpu, GpuBuffer, GpuOptions, Kernels, Linear, Norm, Residual, Slice,
    Storage, TILES, TextRows, Tile, Window, Work, adapters, gpu_filter_length,
};
use proptest::prelude::*;

const STORAGES: [Storage; 2] = [Storage::F32, Storage::F16];

/// The kernels of a device, opened once; `None` where there is none of that kind.
fn kernels(storage: Storage) -> Option<&'static Kernels> {
    static OPENED: [OnceLock<Option<Kernels>>; 2] = [const { OnceLock::new() }; 2];
    let open = || {
        let found = adapters(Api::Any);
        if found.is_empty() {
            assert!(std::env::var_os("DANAUS_REQUIRE_VULKAN").is_none(), "no device was found");
            println!("not tested: no Metal, Vulkan or DirectX 12 device was found");
            return None;
        }
        let f16 = storage == Storage::F16;
        if f16 && !found.iter().any(|adapter| adapter.f16) {
            println!("not tested: no device stores float16");
            return None;
        }
        let options = GpuOptions { api: Api::Any, allow_cpu: true, f16: Some(f16) };
        Some(Kernels::new(Gpu::open(options).unwrap()).unwrap())
    };
    OPENED[usize::from(storage == Storage::F16)].get_or_init(open).as_ref()
}

fn for_each_storage(check: impl Fn(&Kernels, Storage, f64)) {
    for storage in STORAGES {
        // Float16 rounds inputs and results to 11 bits; inputs are rounded before either side sees them.
        let tolerance = if storage == Storage::F16 { 6e-4 } else { 1e-5 };
        if let Some(kernels) = kernels(storage) {
            check(kernels, storage, tolerance);
        }
    }
}

/// Values as they are stored, which is what the twins get, too.
fn stored(storage: Storage, seed: u64, count: usize) -> Vec<f32> {
    storage.decode(&storage.encode(&values(seed, count)))
}

fn floats(kernels: &Kernels, values: &[f32]) -> GpuBuffer {
    kernels.gpu().upload(&Storage::F32.encode(values)).unwrap()
}

fn upload(kernels: &Kernels, values: &[f32]) -> GpuBuffer {
    kernels.gpu().upload(&kernels.gpu().storage().encode(values)).unwrap()
}

/// A buffer whose every value is no number.
fn unwritten(kernels: &Kernels, count: usize, storage: Storage) -> GpuBuffer {
    kernels.gpu().upload(&storage.encode(&vec![f32::NAN; count])).unwrap()
}

/// Does the work, and returns the first values of a buffer.
fn run(kernels: &Kernels, work: Work, out: &GpuBuffer, count: usize, storage: Storage) -> Vec<f32> {
    let bytes = Some((count * storage.bytes()).next_multiple_of(4) as u64);
    let pending =
        kernels.submit(work, Some(Slice { buffer: out, offset: 0, bytes }), Duration::from_secs(60)).unwrap();
    let mut values = storage.decode(&kernels.gpu().wait(pending).unwrap());
    values.truncate(count);
    values
}

fn table(places: &[TextRows]) -> Vec<u8> {
    places.iter().flat_map(|place| [place.first, place.rows]).flat_map(u32::to_ne_bytes).collect()
}

/// Texts end to end.
fn places(lengths: &[usize]) -> Vec<TextRows> {
    let mut first = 0;
    let place = |&rows: &usize| {
        let place = TextRows { first, rows: rows as u32 };
        first += rows as u32;
        place
    };
    lengths.iter().map(place).collect()
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(12))]

    #[test]
    fn linear_products_agree(
        rows in 1usize..150,
        outputs in 1usize..90,
        inputs4 in 1usize..30,
        tile in 0usize..TILES.len(),
        seed: u64,
    ) {
        let inputs = 4 * inputs4;
        for_each_storage(|kernels, storage, tolerance| {
            let x = stored(storage, seed, rows * inputs);
            let weight = stored(storage, seed ^ 1, outputs * inputs);
            let bias = values(seed ^ 2, outputs);
            let expected = reference::linear(&wide(&x), &wide(&weight), &wide(&bias), inputs);
            let (weight, bias) = (upload(kernels, &weight), floats(kernels, &bias));
            let linear = Linear { weight: &weight, bias: &bias, outputs, inputs };
            let out = unwritten(kernels, rows * outputs, storage);
            let mut work = Work::default();
            let x = upload(kernels, &x);
            kernels.linear(&mut work, (linear, TILES[tile]), rows, (&x).into(), (&out).into()).unwrap();
            let got = run(kernels, work, &out, rows * outputs, storage);
            assert_close(&got, &expected, tolerance, storage.name());
        });
    }

    #[test]
    fn gates_and_residuals_agree(
        rows in 1usize..70,
        narrow4 in 1usize..9,
        wide4 in 1usize..12,
        blocks in prop::sample::select(vec![1usize, 2, 4]),
        first in 0usize..3,
        tile in 0usize..TILES.len(),
        seed: u64,
    ) {
        let (narrow, broad) = (4 * narrow4, 4 * wide4);
        let (hidden, intermediate) = (narrow * blocks, broad * blocks);
        for_each_storage(|kernels, storage, tolerance| {
            let x = stored(storage, seed, (first + rows) * hidden);
            let weight = stored(storage, seed ^ 1, 2 * intermediate * narrow);
            let part = &x[first * hidden..];
            let both = reference::block_diagonal(&wide(part), &wide(&weight), blocks, narrow);
            let expected: Vec<f64> = both
                .chunks_exact(2 * intermediate)
                .flat_map(|row| {
                    let (activated, gate) = row.split_at(intermediate);
                    activated.iter().zip(gate).map(|(&a, g)| reference::gelu(a) * g)
                })
                .collect();
            let weight = upload(kernels, &weight);
            let gate = Gate { weight: &weight, inputs: hidden, outputs: intermediate, blocks };
            let out = unwritten(kernels, rows * intermediate, storage);
            let mut work = Work::default();
            let whole = upload(kernels, &x);
            let slices = ((&whole).into(), (&out).into());
            kernels.gate(&mut work, (gate, TILES[tile]), (first, rows), slices.0, slices.1).unwrap();
            let gated = run(kernels, work, &out, rows * intermediate, storage);
            assert_close(&gated, &expected, tolerance, storage.name());

            let weight = stored(storage, seed ^ 3, hidden * broad);
            let bias = values(seed ^ 4, hidden);
            let product = reference::block_diagonal(&wide(&gated), &wide(&weight), blocks, broad);
            let sum = |(index, product): (usize, &f64)| {
                product + f64::from(bias[index % hidden]) + f64::from(part[index])
            };
            let expected: Vec<f64> = product.iter().enumerate().map(sum).collect();
            let (weight, bias) = (upload(kernels, &weight), floats(kernels, &bias));
            let down = Residual { weight: &weight, bias: &bias, inputs: intermediate, outputs: hidden, blocks };
            let sums = unwritten(kernels, (first + rows) * hidden, Storage::F32);
            let mut work = Work::default();
            let outs = [(&whole).into(), (&sums).into()];
            kernels.residual(&mut work, (down, TILES[tile]), (first, rows), (&out).into(), outs).unwrap();
            let got = run(kernels, work, &sums, (first + rows) * hidden, Storage::F32);
            prop_assert_untouched(&got[..first * hidden]);
            assert_close(&got[first * hidden..], &expected, 1e-5, storage.name());
        });
    }

    #[test]
    fn norms_agree(rows in 1usize..20, width4 in 1usize..200, offset in -50f32..50.0, seed: u64) {
        let width = 4 * width4;
        let x: Vec<f32> = values(seed, rows * width).iter().map(|x| x + offset).collect();
        let (weight, bias) = (values(seed ^ 1, width), values(seed ^ 2, width));
        let expected = reference::layer_norm(&wide(&x), &wide(&weight), &wide(&bias), 1e-3);
        for_each_storage(|kernels, storage, tolerance| {
            let [x, weight, bias] = [&x, &weight, &bias].map(|values| floats(kernels, values));
            let norm = Norm { weight: &weight, bias: &bias, epsilon: 1e-3, width };
            let out = unwritten(kernels, rows * width, storage);
            let mut work = Work::default();
            kernels.layer_norm(&mut work, norm, rows, (&x).into(), (&out).into()).unwrap();
            let got = run(kernels, work, &out, rows * width, storage);
            // The mean's own rounding is of the offset's size, and the scale magnifies it up to 30 times.
            assert_close(&got, &expected, tolerance + 1e-5 * f64::from(offset.abs()), storage.name());
        });
    }

    #[test]
    fn means_agree(lengths in prop::collection::vec(1usize..60, 1..5), width4 in 1usize..40, seed: u64) {
        let width = 4 * width4;
        for_each_storage(|kernels, storage, _| {
            let places = places(&lengths);
            let rows: usize = lengths.iter().sum();
            let x = stored(storage, seed, rows * width);
            let out = unwritten(kernels, lengths.len() * width, Storage::F32);
            let texts = kernels.gpu().upload(&table(&places)).unwrap();
            let mut work = Work::default();
            let slices = (Slice::from(&out), upload(kernels, &x));
            kernels.pool(&mut work, (&texts, lengths.len()), width, (&slices.1).into(), slices.0).unwrap();
            let got = run(kernels, work, &out, lengths.len() * width, Storage::F32);
            for (place, got) in places.iter().zip(got.chunks_exact(width)) {
                let start = place.first as usize * width;
                let part = &x[start..start + place.rows as usize * width];
                assert_close(got, &reference::mean_rows(&wide(part), width), 1e-6, storage.name());
            }
        });
    }
}

fn prop_assert_untouched(values: &[f32]) {
    assert!(values.iter().all(|x| x.is_nan()), "rows of others were written to");
}

#[test]
fn every_tile_gives_the_same_bits_for_any_number_of_rows() {
    for_each_storage(|kernels, storage, _| {
        let (rows, outputs, inputs) = (130, 70, 100);
        let (weight, bias) = (values(1, outputs * inputs), floats(kernels, &values(2, outputs)));
        let weight = upload(kernels, &weight);
        let x = upload(kernels, &values(3, rows * inputs));
        let linear = Linear { weight: &weight, bias: &bias, outputs, inputs };
        let product = |tile: Tile, rows: usize| {
            let out = unwritten(kernels, rows * outputs, storage);
            let mut work = Work::default();
            kernels.linear(&mut work, (linear, tile), rows, (&x).into(), (&out).into()).unwrap();
            bits(&run(kernels, work, &out, rows * outputs, storage))
        };
        let expected = product(TILES[0], rows);
        for tile in TILES {
            for rows in [1, 7, 33, 130] {
                let got = product(tile, rows);
                assert_eq!(got, expected[..rows * outputs], "{}, {rows} rows", tile.name());
            }
        }
    });
}

#[test]
fn taps_agree() {
    for_each_storage(|kernels, storage, _| {
        let (positions, order, width) = (75, 16, 20);
        let (states, weight) = (values(1, positions * order), values(2, width * order));
        let time: Vec<f32> = (0..positions).map(|i| i as f32 / positions as f32).collect();
        let deltas: Vec<f32> = values(3, width).iter().map(|x| 8.0 * x).collect();
        let zeros = vec![0.0; width];
        let mut expected = reference::linear(&wide(&states), &wide(&weight), &zeros, order);
        for (index, tap) in expected.iter_mut().enumerate() {
            *tap *= (-f64::from(time[index / width]) * f64::from(deltas[index % width]).abs()).exp();
        }
        let [states, weight, time, deltas] =
            [&states, &weight, &time, &deltas].map(|values| floats(kernels, values));
        let window = Window { weight: &weight, time: &time, deltas: &deltas, inputs: order, outputs: width };
        let out = unwritten(kernels, positions * width, Storage::F32);
        let mut work = Work::default();
        kernels.window(&mut work, window, positions, (&states).into(), (&out).into()).unwrap();
        let got = run(kernels, work, &out, positions * width, Storage::F32);
        assert_close(&got, &expected, 2e-6, storage.name());
    });
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
                let sizes = (length, leaf, self.positions(), width);
                kernels.filter(&mut work, sizes, &twiddles, taps, (&skip, (&filter).into())).unwrap();
                let convolution = Convolution {
                    width,
                    length,
                    texts: &texts,
                    range: (0, places.len()),
                    twiddles: &twiddles,
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
fn a_device_that_is_too_slow_is_found_out_and_not_used_again() {
    let Some(_) = kernels(Storage::F32) else { return };
    let options = GpuOptions { api: Api::Any, allow_cpu: true, f16: Some(false) };
    let kernels = Kernels::new(Gpu::open(options).unwrap()).unwrap();
    let (weight, bias) = (floats(&kernels, &values(1, 1 << 20)), floats(&kernels, &values(2, 1024)));
    let (x, out) = (floats(&kernels, &values(3, 1 << 20)), kernels.gpu().buffer(4 << 20).unwrap());
    let linear = Linear { weight: &weight, bias: &bias, outputs: 1024, inputs: 1024 };
    let mut work = Work::default();
    kernels.linear(&mut work, (linear, TILES[3]), 1024, (&x).into(), (&out).into()).unwrap();
    let pending = kernels.submit(work, None, Duration::ZERO).unwrap();
    assert!(kernels.gpu().wait(pending).unwrap_err().to_string().contains("did not answer within"));
    assert!(kernels.submit(Work::default(), None, Duration::from_secs(1)).is_err());
    assert!(kernels.gpu().buffer(16).is_err());
}

#[test]
fn too_large_a_buffer_is_memory_that_is_not_there_and_no_failure() {
    for_each_storage(|kernels, _, _| {
        let error = kernels.gpu().buffer(1 << 50).unwrap_err();
        assert!(error.to_string().starts_with("out of GPU memory"), "{error}");
        assert!(kernels.gpu().check().is_ok());
    });
}

#[test]
fn a_program_on_the_cpu_is_refused_where_it_is_not_asked_for() {
    let found = adapters(Api::Any);
    if !found.is_empty() && found.iter().all(|adapter| adapter.device_type == "CPU") {
        let error = Gpu::open(GpuOptions::default()).unwrap_err();
        assert!(error.contains("only programs on the CPU"), "{error}");
    }
}
