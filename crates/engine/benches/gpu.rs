//! Whole passes on an NVIDIA GPU, synthetic 80M model: medians of wall-clock times, results on the host.
//!
//! ```sh
//! cargo bench -p danaus-engine --features cuda --bench gpu
//! ```

use std::time::Instant;

use danaus_engine::gpu::cuda::{CudaAccelerator, CudaOptions, Element};
use danaus_engine::gpu::{Accelerator, PaddedText, Pooled};
use danaus_model::{ModelConfig, synthetic};

/// Texts a pass, and tokens a text.
const SIZES: [(usize, usize); 10] = [
    (1, 16),
    (1, 128),
    (1, 512),
    (32, 16),
    (32, 128),
    (32, 512),
    (1, 2048),
    (1, 8192),
    (1, 16384),
    (1, 32768),
];

fn main() {
    let model = synthetic(&ModelConfig::m2_bert_80m(32768), 1);
    for element in [Element::F16, Element::F32] {
        let start = Instant::now();
        let accelerator = match CudaAccelerator::new(&model, &CudaOptions { index: 0, element }) {
            Ok(accelerator) => accelerator,
            Err(error) => return println!("nothing measured: {error:?}"),
        };
        let seconds = start.elapsed().as_secs_f64();
        let description = accelerator.description();
        let (name, driver, dtype) = (&description.name, &description.driver, description.dtype);
        println!("{name}, {driver}, {dtype}: loaded in {seconds:.2} s");
        for (batch, length) in SIZES {
            measure(&accelerator, batch, length);
        }
        println!("memory held: {} MiB", accelerator.gpu().held() >> 20);
    }
}

fn measure(accelerator: &CudaAccelerator, batch: usize, length: usize) {
    let ids: Vec<u32> = (0..length).map(|at| 1000 + (at * 7919 % 28000) as u32).collect();
    let text = PaddedText { ids: &ids, rows: length, far_field: None, pooled: Pooled::Mean };
    let texts = vec![text; batch];
    let pass = || {
        let start = Instant::now();
        accelerator.embed(&texts, None).unwrap();
        start.elapsed().as_secs_f64() * 1e3
    };
    let first = pass();
    let mut times: Vec<_> = (0..if length > 8000 { 7 } else { 25 }).map(|_| pass()).collect();
    times.sort_by(f64::total_cmp);
    let (median, least) = (times[times.len() / 2], times[0]);
    let rate = (batch * length) as f64 / median * 1e3;
    println!(
        "{batch} x {length}: {median:.3} ms, least {least:.3} ms, {rate:.0} tokens/s (first {first:.0} ms)"
    );
}
