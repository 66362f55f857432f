// out = bias + sum + residual, in float32

@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> residual: array<T>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

fn start(block: u32, col: u32) -> f32 {
    return bias[block * params.outputs + col];
}

fn finish(row: u32, block: u32, col: u32, sum: f32, first: f32) {
    let column = block * params.outputs + col;
    let at = (params.out_row + row) * params.out_stride + column;
    out[at] = sum + f32(residual[at]);
}
