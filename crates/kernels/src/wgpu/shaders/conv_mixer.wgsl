// What the mixer's long convolution reads and writes: it convolves v * x1, and its result goes through the gate x2. All
// three are short convolutions (three causal taps) of what is stored.

@group(0) @binding(3) var<storage, read> filter_: array<FILTER>;
@group(0) @binding(4) var<storage, read> x1: array<T>;
@group(0) @binding(5) var<storage, read> x2: array<T>;
@group(0) @binding(6) var<storage, read> v: array<T>;
// Of x1, x2 and v, one channel after the other: three taps, the last one on the current row, and the bias.
@group(0) @binding(7) var<storage, read> short: array<vec4<f32>>;
@group(0) @binding(8) var<storage, read_write> mixed: array<f32>;

fn input(text: vec2<u32>, row: u32, channel: u32) -> f32 {
    let width = params.width;
    let at = (text.x + row) * width + channel;
    let taps_1 = short[channel];
    let taps_v = short[2u * width + channel];
    var value_1 = taps_1.w + taps_1.z * f32(x1[at]);
    var value_v = taps_v.w + taps_v.z * f32(v[at]);
    if (row >= 1u) {
        value_1 = fma(taps_1.y, f32(x1[at - width]), value_1);
        value_v = fma(taps_v.y, f32(v[at - width]), value_v);
    }
    if (row >= 2u) {
        value_1 = fma(taps_1.x, f32(x1[at - 2u * width]), value_1);
        value_v = fma(taps_v.x, f32(v[at - 2u * width]), value_v);
    }
    return value_1 * value_v;
}

fn output(text: vec2<u32>, row: u32, channel: u32, y: f32) {
    let width = params.width;
    let at = (text.x + row) * width + channel;
    let taps = short[width + channel];
    var gate = taps.w + taps.z * f32(x2[at]);
    if (row >= 1u) {
        gate = fma(taps.y, f32(x2[at - width]), gate);
    }
    if (row >= 2u) {
        gate = fma(taps.x, f32(x2[at - 2u * width]), gate);
    }
    if (params.leaf == 0u) {
        mixed[at] = y * gate;
    } else {
        mixed[at] = fma(y, gate, mixed[at]);
    }
}
