// mixed += far_0 * gate + far_1, for one text: what padding behind it adds to its two long convolutions.
// The gate is a short convolution, as in conv_mixer.wgsl. An invocation takes two neighbouring channels.

struct Params {
    width: u32,
    first_row: u32,
    rows: u32,
    // Workgroups in x.
    across: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> far_0: array<u32>;
@group(0) @binding(2) var<storage, read> far_1: array<u32>;
@group(0) @binding(3) var<storage, read> x2: array<T>;
@group(0) @binding(4) var<storage, read> short: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> mixed: array<f32>;

fn add(row: u32, channel: u32, bits_0: u32, bits_1: u32) {
    let taps = short[params.width + channel];
    let at = (params.first_row + row) * params.width + channel;
    var gate = taps.w + taps.z * f32(x2[at]);
    if (row >= 1u) {
        gate = fma(taps.y, f32(x2[at - params.width]), gate);
    }
    if (row >= 2u) {
        gate = fma(taps.x, f32(x2[at - 2u * params.width]), gate);
    }
    // The bits of bfloat16 are the upper half of float32's.
    mixed[at] += bitcast<f32>(bits_0) * gate + bitcast<f32>(bits_1);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let pair = (group.y * params.across + group.x) * 64u + index;
    let pairs = params.width / 2u;
    let row = pair / pairs;
    if (row >= params.rows) {
        return;
    }
    let channel = 2u * (pair % pairs);
    let first = far_0[pair];
    let second = far_1[pair];
    add(row, channel, first << 16u, second << 16u);
    add(row, channel + 1u, first & 0xffff0000u, second & 0xffff0000u);
}
