// A filter of 32 taps a direction as conv_direct.wgsl takes it: [63][width], from the tap on the row 31 ahead to the one on the
// row 31 behind. The skip connection is part of the one on the row itself.

struct Params {
    width: u32,
    positions: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> forward: array<f32>;
@group(0) @binding(2) var<storage, read> reverse: array<f32>;
@group(0) @binding(3) var<storage, read> skip: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let channel = id.x;
    if (channel >= params.width) {
        return;
    }
    for (var tap = 0u; tap < 63u; tap++) {
        var value = 0.0;
        if (tap >= 31u) {
            if (tap - 31u < params.positions) {
                value = forward[(tap - 31u) * params.width + channel];
            }
        } else if (30u - tap < params.positions) {
            value = reverse[(30u - tap) * params.width + channel];
        }
        if (tap == 31u) {
            value += skip[channel];
        }
        out[tap * params.width + channel] = value;
    }
}
