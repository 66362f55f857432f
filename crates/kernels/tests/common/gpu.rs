//! What tests of GPU kernels need: a device, and memory on it.
#![allow(dead_code)] // each test binary uses its part

use std::sync::OnceLock;
use std::time::Duration;

use danaus_kernels::wgpu::{
    Api, Gpu, GpuBuffer, GpuOptions, Kernels, Slice, Storage, TextRows, Work, adapters,
};

use crate::common::values;

pub const STORAGES: [Storage; 2] = [Storage::F32, Storage::F16];

/// The kernels of a device, opened once; `None` where there is none of that kind.
pub fn kernels(storage: Storage) -> Option<&'static Kernels> {
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

pub fn for_each_storage(check: impl Fn(&Kernels, Storage, f64)) {
    for storage in STORAGES {
        // Float16 rounds inputs and results to 11 bits; inputs are rounded before either side sees them.
        let tolerance = if storage == Storage::F16 { 6e-4 } else { 1e-5 };
        if let Some(kernels) = kernels(storage) {
            check(kernels, storage, tolerance);
        }
    }
}

/// Values as they are stored, which is what the twins get, too.
pub fn stored(storage: Storage, seed: u64, count: usize) -> Vec<f32> {
    storage.decode(&storage.encode(&values(seed, count)))
}

pub fn floats(kernels: &Kernels, values: &[f32]) -> GpuBuffer {
    kernels.gpu().upload(&Storage::F32.encode(values)).unwrap()
}

pub fn upload(kernels: &Kernels, values: &[f32]) -> GpuBuffer {
    kernels.gpu().upload(&kernels.gpu().storage().encode(values)).unwrap()
}

/// A buffer whose every value is no number.
pub fn unwritten(kernels: &Kernels, count: usize, storage: Storage) -> GpuBuffer {
    kernels.gpu().upload(&storage.encode(&vec![f32::NAN; count])).unwrap()
}

/// Does the work, and returns the first values of a buffer.
pub fn run(kernels: &Kernels, work: Work, out: &GpuBuffer, count: usize, storage: Storage) -> Vec<f32> {
    let bytes = Some((count * storage.bytes()).next_multiple_of(4) as u64);
    let pending =
        kernels.submit(work, Some(Slice { buffer: out, offset: 0, bytes }), Duration::from_secs(60)).unwrap();
    let mut values = storage.decode(&kernels.gpu().wait(pending).unwrap());
    values.truncate(count);
    values
}

pub fn table(places: &[TextRows]) -> Vec<u8> {
    places.iter().flat_map(|place| [place.first, place.rows]).flat_map(u32::to_ne_bytes).collect()
}

/// Texts end to end.
pub fn places(lengths: &[usize]) -> Vec<TextRows> {
    let mut first = 0;
    let place = |&rows: &usize| {
        let place = TextRows { first, rows: rows as u32 };
        first += rows as u32;
        place
    };
    lengths.iter().map(place).collect()
}
