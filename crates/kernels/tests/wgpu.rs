//! GPU kernels against their float64 twins, on whatever Metal, Vulkan or DirectX 12 device there is.
//!
//! Without a device there is nothing to test: these tests then say so and pass, but where `DANAUS_REQUIRE_VULKAN` is set.
#![cfg(feature = "wgpu")]

mod common;
#[path = "common/gpu.rs"]
mod gpu;

use std::time::Duration;

use common::{assert_close, bits, values, wide};
use danaus_kernels::reference;
use danaus_kernels::wgpu::{
    Api, Gate, Gpu, GpuOptions, Kernels, Linear, Norm, Residual, Slice, Storage, TILES, Tile, Window, Work,
    adapters,
};
use gpu::{floats, for_each_storage, kernels, places, run, stored, table, unwritten, upload};
use proptest::prelude::*;

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
