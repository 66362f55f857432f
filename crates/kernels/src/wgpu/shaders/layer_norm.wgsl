// LayerNorm of each row: a workgroup a row. Invocations sum every 64th four of channels, and a tree adds their sums: an order
// that depends on the width alone.

struct Params {
    rows: u32,
    width4: u32,
    width: f32,
    epsilon: f32,
    // Workgroups in x.
    across: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> out: array<T4>;

const THREADS = 64u;
var<workgroup> sums: array<f32, THREADS>;

fn total(index: u32, own: f32) -> f32 {
    workgroupBarrier();
    sums[index] = own;
    workgroupBarrier();
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        if (index < half) {
            sums[index] += sums[index + half];
        }
        workgroupBarrier();
    }
    return sums[0];
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let row = group.y * params.across + group.x;
    if (row >= params.rows) {
        return;
    }
    let start = row * params.width4;
    var sum = 0.0;
    for (var i = index; i < params.width4; i += THREADS) {
        let four = x[start + i];
        sum += (four.x + four.y) + (four.z + four.w);
    }
    let mean = total(index, sum) / params.width;
    var squares = 0.0;
    for (var i = index; i < params.width4; i += THREADS) {
        let four = x[start + i] - mean;
        squares += (four.x * four.x + four.y * four.y) + (four.z * four.z + four.w * four.w);
    }
    let variance = total(index, squares) / params.width;
    let scale = 1.0 / sqrt(variance + params.epsilon);
    for (var i = index; i < params.width4; i += THREADS) {
        out[start + i] = T4((x[start + i] - mean) * scale * weight[i] + bias[i]);
    }
}
