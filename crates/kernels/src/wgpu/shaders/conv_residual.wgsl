// What the residual long convolution reads and writes: it convolves the layer's input, and its result is added to the mixer's.

@group(0) @binding(3) var<storage, read> filter_: array<FILTER>;
@group(0) @binding(4) var<storage, read> hidden: array<T>;
// Sums so far.
@group(0) @binding(5) var<storage, read_write> mixed: array<f32>;
@group(0) @binding(6) var<storage, read_write> out: array<T>;

fn input(text: vec2<u32>, row: u32, channel: u32) -> f32 {
    return f32(hidden[(text.x + row) * params.width + channel]);
}

fn output(text: vec2<u32>, row: u32, channel: u32, y: f32) {
    let at = (text.x + row) * params.width + channel;
    let sum = mixed[at] + y;
    if (params.leaf + 1u == params.leaves) {
        out[at] = T(sum);
    } else {
        mixed[at] = sum;
    }
}
