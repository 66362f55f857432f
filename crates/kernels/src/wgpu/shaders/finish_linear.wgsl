// out = bias + sum

@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<T>;

fn start(block: u32, col: u32) -> f32 {
    return bias[block * params.outputs + col];
}

fn finish(row: u32, block: u32, col: u32, sum: f32, first: f32) {
    let column = block * params.outputs + col;
    out[(params.out_row + row) * params.out_stride + column] = T(sum);
}
