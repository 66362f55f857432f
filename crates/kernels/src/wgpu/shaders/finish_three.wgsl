// out[block] = bias + sum: three matrices, one for each block.

@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> out_0: array<T>;
@group(0) @binding(5) var<storage, read_write> out_1: array<T>;
@group(0) @binding(6) var<storage, read_write> out_2: array<T>;

fn start(block: u32, col: u32) -> f32 {
    return bias[block * params.outputs + col];
}

fn finish(row: u32, block: u32, col: u32, sum: f32, first: f32) {
    let value = T(sum);
    let at = (params.out_row + row) * params.out_stride + col;
    if (block == 0u) {
        out_0[at] = value;
    } else if (block == 1u) {
        out_1[at] = value;
    } else {
        out_2[at] = value;
    }
}
