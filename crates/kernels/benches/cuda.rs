//! The CUDA kernels' speed at the 80M model's sizes: every product in every tile beside cuBLASLt (where it is installed), every
//! length's convolution, and the rest; medians.
//!
//! ```sh
//! cargo bench -p danaus-kernels --features cuda --bench cuda
//! ```

use std::time::Duration;

use danaus_kernels::cuda::{
    Block, CudaError, Element, GatedProduct, Gpu, GpuBuffer, GpuText, LibraryGemm, LibraryProduct,
    LongConvArgs, NormArgs, ProductArgs, ProductKind, ShortConvArgs,
};

const WIDTH: usize = 768;
const INNER: usize = 3072;
const BLOCKS: usize = 4;
const RUNS: usize = 15;

fn main() -> Result<(), CudaError> {
    let gpu = match Gpu::open(0) {
        Ok(gpu) => gpu,
        Err(error) => {
            println!("nothing measured: {error}");
            return Ok(());
        }
    };
    println!("{}, {}", gpu.name(), gpu.driver());
    let library = LibraryGemm::new(&gpu).inspect_err(|error| println!("{error}")).ok();
    for rows in [16384, 32768] {
        products(&gpu, library.as_ref(), rows)?;
    }
    for (length, texts) in [
        (32, 512),
        (64, 256),
        (128, 128),
        (256, 64),
        (512, 32),
        (1024, 16),
        (2048, 8),
        (4096, 4),
        (8192, 2),
        (16384, 1),
        (32768, 1),
    ] {
        convolution(&gpu, length, texts)?;
    }
    short_convolution(&gpu, 16384)?;
    norm(&gpu, 16384)
}

/// The median of some runs, in milliseconds.
fn median(gpu: &Gpu, mut work: impl FnMut() -> Result<(), CudaError>) -> Result<f64, CudaError> {
    work()?;
    gpu.wait(Duration::from_secs(60))?;
    let mut times = (0..RUNS).map(|_| gpu.time(&mut work)).collect::<Result<Vec<_>, _>>()?;
    times.sort_by(f64::total_cmp);
    Ok(times[RUNS / 2])
}

/// Halves between -1 and 1: zeros would be faster than any data.
fn random(gpu: &Gpu, count: usize) -> Result<GpuBuffer, CudaError> {
    let mut state = count as u64 | 1;
    let values: Vec<u8> = (0..count)
        .flat_map(|_| {
            state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
            let x = (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
            half::f16::from_f32(x).to_ne_bytes()
        })
        .collect();
    gpu.upload(&values)
}

fn block(buffer: &GpuBuffer, offset: usize, stride: usize, step: usize) -> Block<'_> {
    Block { buffer, offset, stride, step }
}

/// A product of a layer for so many rows.
struct Product {
    kind: ProductKind,
    sizes: [usize; 4],
    /// Rows of a, b and c.
    strides: [usize; 3],
    /// Steps of a, b and c from block to block.
    steps: [usize; 3],
}

impl Product {
    fn new(kind: ProductKind, rows: usize) -> Self {
        use ProductKind::{Gated, InLinear, OutLinear};
        let (narrow, wide) = (WIDTH / BLOCKS, INNER / BLOCKS);
        let (sizes, strides, steps) = match kind {
            InLinear => ([3 * WIDTH, rows, WIDTH, 1], [WIDTH, rows, rows], [0; 3]),
            OutLinear => ([rows, WIDTH, WIDTH, 1], [rows, WIDTH, WIDTH], [0; 3]),
            Gated => ([rows, wide, narrow, BLOCKS], [WIDTH, narrow, INNER], [narrow, wide * narrow, wide]),
            _ => ([rows, narrow, wide, BLOCKS], [INNER, wide, WIDTH], [wide, narrow * wide, narrow]),
        };
        Self { kind, sizes, strides, steps }
    }

    fn is_gated(&self) -> bool {
        self.kind == ProductKind::Gated
    }

    /// TFLOP/s, where it takes so many milliseconds.
    fn rate(&self, ms: f64) -> f64 {
        let operations = 2 * self.sizes.iter().product::<usize>() * if self.is_gated() { 2 } else { 1 };
        operations as f64 / ms / 1e9
    }

    /// As the kernels take it, with all that is fused into it.
    fn args<'a>(
        &self,
        [a, b, c]: [&'a GpuBuffer; 3],
        bias: &'a GpuBuffer,
        residual: &'a GpuBuffer,
    ) -> ProductArgs<'a> {
        let &Self { kind, sizes: [m, n, k, blocks], strides, steps } = self;
        ProductArgs {
            kind,
            element: Element::F16,
            m,
            n,
            k,
            blocks,
            a: block(a, 0, strides[0], steps[0]),
            b: block(b, 0, strides[1], steps[1]),
            gate: self.is_gated().then(|| GatedProduct {
                a: block(a, WIDTH / 2, strides[0], steps[0]),
                b: block(b, INNER * k, strides[1], steps[1]),
                share: 2,
            }),
            bias: (!self.is_gated()).then_some(bias),
            residual: (kind == ProductKind::Down).then_some(residual),
            c: block(c, 0, strides[2], steps[2]),
        }
    }

    /// As cuBLASLt takes it: without bias, residual, GELU and gate; a gated product is all blocks of the first product.
    fn library(&self) -> LibraryProduct {
        let &Self { kind, sizes: [m, n, k, blocks], strides, steps } = self;
        let (n, strides, steps) = match kind {
            ProductKind::Gated => (2 * n, [WIDTH, k, 2 * INNER], [k, 2 * n * k, 2 * n]),
            _ => (n, strides, steps),
        };
        LibraryProduct {
            m,
            n,
            k,
            a_transposed: kind == ProductKind::OutLinear,
            b_transposed: kind != ProductKind::InLinear,
            strides,
            batch: blocks,
            steps,
        }
    }
}

fn products(gpu: &Gpu, library: Option<&LibraryGemm>, rows: usize) -> Result<(), CudaError> {
    use ProductKind::{Down, Gated, InLinear, OutLinear};
    let activations = random(gpu, rows * INNER)?;
    let weights = random(gpu, 2 * INNER * WIDTH)?;
    let mut out = random(gpu, 2 * rows * INNER)?;
    let bias = gpu.zeros(4 * INNER)?;
    for kind in [InLinear, OutLinear, Gated, Down] {
        let product = Product::new(kind, rows);
        let [a, b] = if kind == InLinear { [&weights, &activations] } else { [&activations, &weights] };
        let mut best = f64::MAX;
        let mut line = format!("{kind:?} {rows} rows:");
        let args = product.args([a, b, &out], &bias, &activations);
        for (tile, module) in gpu.tiles(&args).into_iter().enumerate() {
            let ms = median(gpu, || gpu.product_in_tile(&args, tile))?;
            line += &format!(" {module} {ms:.3} ms ({:.0} TFLOP/s)", product.rate(ms));
            best = best.min(ms);
        }
        if let Some(library) = library {
            let ms = median(gpu, || library.multiply(&product.library(), [a, b], &mut out))?;
            let (rate, share) = (product.rate(ms), 100.0 * ms / best);
            line += &format!("; cuBLASLt {ms:.3} ms ({rate:.0} TFLOP/s): {share:.0} % of its rate");
        }
        println!("{line}");
    }
    Ok(())
}

fn convolution(gpu: &Gpu, length: usize, texts: usize) -> Result<(), CudaError> {
    let class = gpu.length_class(length)?.expect("a kernel for it");
    let pitch = length * texts;
    let described: Vec<_> = (0..texts).map(|text| GpuText::new(text * length, length, None)).collect();
    let args = LongConvArgs {
        gated: &random(gpu, WIDTH * pitch)?,
        gate: &random(gpu, WIDTH * pitch)?,
        hidden: &random(gpu, WIDTH * pitch)?,
        mixed: &gpu.zeros(WIDTH * pitch * 2)?,
        element: Element::F16,
        pitch,
        channels: WIDTH,
        layer: 0,
        texts: &gpu.upload(GpuText::bytes(&described))?,
        range: 0..texts,
        filters: &random(gpu, class.filter_bytes(WIDTH))?,
        collected: &gpu.zeros(class.collected_bytes(WIDTH, texts))?,
    };
    let ms = median(gpu, || gpu.long_conv(&class, &args))?;
    let levels = (length as f64).log2();
    let operations = if length == 32 {
        4.0 * (length * length) as f64
    } else {
        20.0 * length as f64 * levels + 12.0 * length as f64
    };
    let operations = operations * (WIDTH * texts) as f64;
    println!("long convolutions, {texts} x {length}: {ms:.3} ms ({:.1} TFLOP/s)", operations / ms / 1e9);
    Ok(())
}

fn short_convolution(gpu: &Gpu, pitch: usize) -> Result<(), CudaError> {
    let args = ShortConvArgs {
        projected: &random(gpu, 3 * WIDTH * pitch)?,
        gated: &gpu.zeros(WIDTH * pitch * 2)?,
        gate: &gpu.zeros(WIDTH * pitch * 2)?,
        element: Element::F16,
        positions: &gpu.zeros(pitch * 4)?,
        taps: &gpu.zeros(9 * WIDTH * 4)?,
        bias: &gpu.zeros(3 * WIDTH * 4)?,
        pitch,
        channels: WIDTH,
    };
    let ms = median(gpu, || gpu.short_conv(&args))?;
    println!(
        "short convolution, {pitch} rows: {ms:.3} ms ({:.2} TB/s)",
        (10 * pitch * WIDTH) as f64 / ms / 1e9
    );
    Ok(())
}

fn norm(gpu: &Gpu, rows: usize) -> Result<(), CudaError> {
    let input = random(gpu, 2 * rows * WIDTH)?;
    let (weight, bias) = (gpu.zeros(WIDTH * 4)?, gpu.zeros(WIDTH * 4)?);
    let out = gpu.zeros(rows * WIDTH * 4)?;
    let args = NormArgs {
        weight: &weight,
        bias: &bias,
        epsilon: 1e-12,
        width: WIDTH,
        rows,
        pitch: rows,
        out: &out,
        element: Element::F16,
    };
    let ms = median(gpu, || gpu.layer_norm(&args, &input))?;
    println!("LayerNorm, {rows} rows: {ms:.3} ms ({:.2} TB/s)", (rows * WIDTH * 4) as f64 / ms / 1e9);
    let ms = median(gpu, || gpu.last_layer_norm(&args, &input))?;
    println!("last LayerNorm, {rows} rows: {ms:.3} ms ({:.2} TB/s)", (rows * WIDTH * 6) as f64 / ms / 1e9);
    Ok(())
}
