//! GPU kernels, on the best Metal, Vulkan or DirectX 12 device; on a program on the CPU where there is no other. Each sample is
//! eight dispatches in one submission, waited for. Items are floating-point operations of products, and values (rows times
//! channels) of convolutions. `DANAUS_BENCH_F16=1`: stored as float16.

mod common;

use std::sync::LazyLock;
use std::time::Duration;

use common::{CASE_TIME, values};
use danaus_kernels::wgpu::{
    Api, Convolution, Gate, Gpu, GpuBuffer, GpuOptions, Kernels, Linear, Slice, TILES, Tile, Work,
    gpu_filter_length,
};
use divan::Bencher;
use divan::counter::ItemsCount;

/// The 80M model's sizes.
const HIDDEN: usize = 768;
const INTERMEDIATE: usize = 3072;
const BLOCKS: usize = 4;

/// Dispatches of a submission: some, so that few rows' times are not those of a submission.
const DISPATCHES: usize = 8;

static KERNELS: LazyLock<Kernels> = LazyLock::new(|| {
    let f16 = Some(std::env::var_os("DANAUS_BENCH_F16").is_some());
    let options = GpuOptions { api: Api::Any, allow_cpu: true, f16 };
    Kernels::new(Gpu::open(options).expect("a device")).expect("its kernels")
});

fn main() {
    println!("{:?}", KERNELS.gpu().description());
    divan::main();
}

fn floats(count: usize) -> GpuBuffer {
    KERNELS.gpu().upload(bytemuck::cast_slice(&values(count))).expect("memory")
}

fn stored(count: usize) -> GpuBuffer {
    KERNELS.gpu().upload(&KERNELS.gpu().storage().encode(&values(count))).expect("memory")
}

fn measure(bencher: Bencher<'_, '_>, items: usize, dispatch: impl Fn(&mut Work)) {
    bencher.counter(ItemsCount::new(DISPATCHES * items)).bench_local(|| {
        let mut work = Work::default();
        (0..DISPATCHES).for_each(|_| dispatch(&mut work));
        let pending = KERNELS.submit(work, None, Duration::from_secs(120)).expect("a submission");
        KERNELS.gpu().wait(pending).expect("results");
    });
}

fn cases() -> impl Iterator<Item = String> {
    [8, 64, 512, 4096].into_iter().flat_map(|rows| TILES.map(|tile| format!("{rows} in {}", tile.name())))
}

fn parsed(case: &str) -> (usize, Tile) {
    let (rows, tile) = case.split_once(" in ").expect("rows and a tile");
    (rows.parse().expect("rows"), Tile::named(tile).expect("a tile"))
}

/// The mixer's last product.
#[divan::bench(args = cases(), max_time = CASE_TIME)]
fn linear(bencher: Bencher<'_, '_>, case: &str) {
    let (rows, tile) = parsed(case);
    let (weight, bias) = (stored(HIDDEN * HIDDEN), floats(HIDDEN));
    let (x, out) = (stored(rows * HIDDEN), stored(rows * HIDDEN));
    let linear = Linear { weight: &weight, bias: &bias, outputs: HIDDEN, inputs: HIDDEN };
    measure(bencher, 2 * rows * HIDDEN * HIDDEN, |work| {
        KERNELS.linear(work, (linear, tile), rows, (&x).into(), (&out).into()).expect("a kernel");
    });
}

/// The MLP's first product, with its gate.
#[divan::bench(args = cases(), max_time = CASE_TIME)]
fn gate(bencher: Bencher<'_, '_>, case: &str) {
    let (rows, tile) = parsed(case);
    let weight = stored(2 * INTERMEDIATE * HIDDEN / BLOCKS);
    let (x, out) = (stored(rows * HIDDEN), stored(rows * INTERMEDIATE));
    let gate = Gate { weight: &weight, inputs: HIDDEN, outputs: INTERMEDIATE, blocks: BLOCKS };
    measure(bencher, 4 * rows * INTERMEDIATE * HIDDEN / BLOCKS, |work| {
        KERNELS.gate(work, (gate, tile), (0, rows), (&x).into(), (&out).into()).expect("a kernel");
    });
}

/// Both long convolutions of a layer, of one text; of a longer one's leaves, the first.
#[divan::bench(args = [8, 32, 64, 128, 512, 2048, 4096, 8192], max_time = CASE_TIME)]
fn convolutions(bencher: Bencher<'_, '_>, rows: usize) {
    let length = gpu_filter_length(rows);
    let place = [0u32, rows as u32];
    let texts = KERNELS.gpu().upload(bytemuck::cast_slice(&place)).expect("memory");
    let twiddles = KERNELS.gpu().upload(&KERNELS.twiddles(length)).expect("memory");
    let short = floats(12 * HIDDEN);
    let [hidden, x1, x2, v, out] = [(); 5].map(|()| stored(rows * HIDDEN));
    let (sums, filter) = (floats(rows * HIDDEN), floats(KERNELS.filter_values(length, HIDDEN)));
    let convolution = Convolution {
        width: HIDDEN,
        length,
        texts: &texts,
        range: (0, 1),
        twiddles: &twiddles,
        short: &short,
        leaf: 0,
    };
    measure(bencher, rows * HIDDEN, |work| {
        let (filter, sums) = (Slice::from(&filter), Slice::from(&sums));
        let parts = [&x1, &x2, &v].map(Slice::from);
        KERNELS.convolve_mixer(work, convolution, filter, parts, sums).expect("a kernel");
        let outs = [sums, (&out).into()];
        KERNELS.convolve_residual(work, convolution, filter, (&hidden).into(), outs).expect("a kernel");
    });
}
