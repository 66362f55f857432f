// The long convolution of texts of up to 32 rows, by the sum that defines it. A workgroup takes 64 channels of a text; four
// invocations share a channel's rows.

struct Params {
    width: u32,
    // First text of the table.
    first: u32,
    leaf: u32,
    leaves: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
// First row, and number of rows.
@group(0) @binding(1) var<storage, read> texts: array<vec2<u32>>;
// Of no use here: transforms have it.
@group(0) @binding(2) var<storage, read> twiddles: array<vec2<f32>>;

const ROWS = 32u;
const CHANNELS = 64u;
const SHARES = 4u;
var<workgroup> x: array<f32, ROWS * CHANNELS>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let text = texts[params.first + group.y];
    let lane = index % CHANNELS;
    let share = index / CHANNELS;
    let channel = group.x * CHANNELS + lane;
    let rows = min(text.y, ROWS);
    if (channel < params.width) {
        for (var row = share; row < rows; row += SHARES) {
            x[row * CHANNELS + lane] = input(text, row, channel);
        }
    }
    workgroupBarrier();
    if (channel < params.width) {
        for (var row = share; row < rows; row += SHARES) {
            var sum = 0.0;
            for (var from_row = 0u; from_row < rows; from_row++) {
                // Tap 31 is the one on the row itself.
                let tap = filter_[(row + ROWS - 1u - from_row) * params.width + channel];
                sum = fma(tap, x[from_row * CHANNELS + lane], sum);
            }
            output(text, row, channel, sum);
        }
    }
}
