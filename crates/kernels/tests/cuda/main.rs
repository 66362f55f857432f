//! The CUDA kernels against their float64 twins: every product in every tile, every length's convolution, rows and filters.
//!
//! Without an NVIDIA GPU nothing is tested, unless `DANAUS_REQUIRE_CUDA` is set: then that is a failure.
#![cfg(feature = "cuda")]

#[path = "../common/mod.rs"]
mod common;
mod convolutions;
mod products;
mod rows;

use std::sync::OnceLock;
use std::time::Duration;

use danaus_kernels::cuda::{Element, Gpu, GpuBuffer};

const TIMEOUT: Duration = Duration::from_secs(60);

fn gpu() -> Option<&'static Gpu> {
    static GPU: OnceLock<Option<Gpu>> = OnceLock::new();
    let open = || match Gpu::open(0) {
        Ok(gpu) => Some(gpu),
        Err(error) => {
            assert!(std::env::var_os("DANAUS_REQUIRE_CUDA").is_none(), "{error}");
            eprintln!("not tested: {error}");
            None
        }
    };
    GPU.get_or_init(open).as_ref()
}

/// Cut to bfloat16.
fn bf16(values: &[f32]) -> Vec<f32> {
    values.iter().map(|x| f32::from_bits(x.to_bits() & 0xffff_0000)).collect()
}

fn rounded(element: Element, values: &[f32]) -> Vec<f32> {
    match element {
        Element::F32 => values.to_vec(),
        Element::F16 => values.iter().map(|&x| half::f16::from_f32(x).to_f32()).collect(),
    }
}

fn upload(gpu: &Gpu, element: Element, values: &[f32]) -> GpuBuffer {
    let bytes: Vec<u8> = match element {
        Element::F32 => values.iter().flat_map(|x| x.to_ne_bytes()).collect(),
        Element::F16 => values.iter().flat_map(|&x| half::f16::from_f32(x).to_ne_bytes()).collect(),
    };
    gpu.upload(&bytes).unwrap()
}

fn download(gpu: &Gpu, element: Element, buffer: &GpuBuffer, count: usize) -> Vec<f32> {
    let mut bytes = vec![0; count * element.bytes()];
    gpu.read(buffer, &mut bytes, TIMEOUT).unwrap();
    match element {
        Element::F32 => bytes.chunks_exact(4).map(|x| f32::from_ne_bytes(x.try_into().unwrap())).collect(),
        Element::F16 => {
            bytes.chunks_exact(2).map(|x| half::f16::from_ne_bytes(x.try_into().unwrap()).to_f32()).collect()
        }
    }
}

/// Every value to be overwritten is one that would be seen.
fn poisoned(gpu: &Gpu, bytes: usize) -> GpuBuffer {
    gpu.upload(&vec![0x7f; bytes]).unwrap()
}

/// The norm of the difference in that of what is expected.
fn relative(got: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let (mut error, mut norm) = (0.0, 0.0);
    for (&got, &expected) in got.iter().zip(expected) {
        error += (f64::from(got) - expected).powi(2);
        norm += expected.powi(2);
    }
    if error.is_nan() { f64::INFINITY } else { (error / norm).sqrt() }
}

fn tolerance(element: Element) -> f64 {
    match element {
        Element::F32 => 2e-6,
        Element::F16 => 1e-3,
    }
}

fn transposed(values: &[f64], columns: usize) -> Vec<f64> {
    (0..columns).flat_map(|column| values.iter().skip(column).step_by(columns).copied()).collect()
}

fn transposed32(values: &[f32], columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| values.iter().skip(column).step_by(columns).copied()).collect()
}
