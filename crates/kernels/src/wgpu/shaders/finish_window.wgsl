// out = sum * e^(-time * |delta|): a filter's taps under its window

@group(0) @binding(3) var<storage, read> time: array<f32>;
@group(0) @binding(4) var<storage, read> deltas: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

fn start(block: u32, col: u32) -> f32 {
    return 0.0;
}

fn finish(row: u32, block: u32, col: u32, sum: f32, first: f32) {
    out[row * params.out_stride + col] = sum * exp(-time[row] * abs(deltas[col]));
}
