// One vector of each text: the mean over some rows. A workgroup takes 16 fours of channels of a text; 16 invocations
// share its rows, each every 16th, and a tree adds their sums: an order that depends on the text alone.

struct Params {
    width4: u32,
    // First text of the table.
    first: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
// First row, and number of rows.
@group(0) @binding(1) var<storage, read> texts: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> x: array<T4>;
@group(0) @binding(3) var<storage, read_write> out: array<vec4<f32>>;

const FOURS = 16u;
const SHARES = 16u;
var<workgroup> sums: array<vec4<f32>, FOURS * SHARES>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let share = index / FOURS;
    let four = group.x * FOURS + index % FOURS;
    let text = texts[params.first + group.y];
    var sum = vec4<f32>();
    if (four < params.width4) {
        for (var row = share; row < text.y; row += SHARES) {
            sum += vec4<f32>(x[(text.x + row) * params.width4 + four]);
        }
    }
    sums[index] = sum;
    workgroupBarrier();
    for (var half = SHARES / 2u; half > 0u; half /= 2u) {
        if (share < half) {
            sums[index] += sums[index + half * FOURS];
        }
        workgroupBarrier();
    }
    if (share == 0u && four < params.width4) {
        out[(params.first + group.y) * params.width4 + four] = sums[index] / f32(text.y);
    }
}
