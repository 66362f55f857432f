// What a filter's spectrum is made from: its taps as a polynomial modulo z^L - i. Forward taps are the real parts. The reverse
// tap on the row m ahead belongs to z^-m = -z^(2L - m), so that its negative is the imaginary part at L - m.

@group(0) @binding(3) var<storage, read> forward: array<f32>;
@group(0) @binding(4) var<storage, read> reverse: array<f32>;
@group(0) @binding(5) var<storage, read> skip: array<f32>;
@group(0) @binding(6) var<storage, read_write> out: array<vec2<f32>>;

fn coefficient(position: u32, channel: u32) -> vec2<f32> {
    let length = params.leaves * POINTS;
    var value = vec2<f32>();
    if (position < params.positions) {
        value.x = forward[position * params.width + channel];
    }
    if (position == 0u) {
        value.x += skip[channel];
    } else if (length - position - 1u < params.positions) {
        value.y = -reverse[(length - position - 1u) * params.width + channel];
    }
    return value;
}
