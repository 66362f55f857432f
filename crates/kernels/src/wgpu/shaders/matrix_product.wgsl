// Products of rows of `a` with rows of `w`: out[row][col] = sum over k of a[row][k] * w[col][k].
//
// A workgroup makes a tile of BM rows by BN columns, an invocation TM by TN of them, TY rows and TX columns apart. BK4 fours
// of inputs at a time go through workgroup memory. Whatever the tile, each sum is one chain of fused multiply-adds over the
// inputs in order, so that tiles differ in speed alone. The chain begins with the bias: sums that are written as such might be
// reordered where a compiler is free to do so, as Metal's is.
//
// Matrices may be block-diagonal: `blocks` independent products, one for each workgroup_id.z. What a sum
// begins with and what becomes of it is in the functions `start` and `finish`, which come in another file.

struct Params {
    rows: u32,
    // Of each block.
    outputs: u32,
    // Of each block, in fours.
    inputs4: u32,
    // Fours between rows of `a`.
    a_stride4: u32,
    // Fours between what one block and what the next reads of a row.
    a_step4: u32,
    blocks: u32,
    // First row of `a`, and of what `finish` reads and writes.
    a_row: u32,
    out_row: u32,
    // Values between rows of what is written.
    out_stride: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<A4>;
@group(0) @binding(2) var<storage, read> w: array<A4>;

const BK4 = 4u;
// One four more than there is to hold, so that invocations that read the same column of neighbouring rows meet different
// banks of memory.
const STRIDE = BK4 + 1u;
const TX = BN / TN;
const TY = BM / TM;
const THREADS = TX * TY;

var<workgroup> a_tile: array<vec4<f32>, BM * STRIDE>;
var<workgroup> w_tile: array<vec4<f32>, BN * STRIDE>;

// A four of a tile, by its number.
fn a_four(e: u32, row0: u32, a_offset: u32, k0: u32) -> vec4<f32> {
    let row = row0 + e / BK4;
    let k = k0 + e % BK4;
    if (row < params.rows && k < params.inputs4) {
        return vec4<f32>(a[(params.a_row + row) * params.a_stride4 + a_offset + k]);
    }
    return vec4<f32>();
}

// `w_row` is the row of column `col0`.
fn w_four(e: u32, col0: u32, w_row: u32, k0: u32) -> vec4<f32> {
    let col = e / BK4;
    let k = k0 + e % BK4;
    if (col0 + col < params.outputs && k < params.inputs4) {
        return vec4<f32>(w[(w_row + col) * params.inputs4 + k]);
    }
    return vec4<f32>();
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let row0 = group.y * BM;
    let col0 = group.x * BN;
    let block = group.z;
    let tx = index % TX;
    let ty = index / TX;
    //DECLARE
    for (var pass_ = 0u; pass_ < PASSES; pass_++) {
        // Two passes: a gate, whose first half is one diagonal block's outputs, and whose second is another's, N / 2 blocks
        // on. Blocks of the product that feeds it are twice as wide.
        let wide = pass_ * params.blocks + block;
        let a_offset = select(block * params.a_step4, (wide / 2u) * params.inputs4, PASSES == 2u);
        let w_row = wide * params.outputs + col0;
        //START
        for (var k0 = 0u; k0 < params.inputs4; k0 += BK4) {
            //LOAD
            workgroupBarrier();
            for (var k = 0u; k < BK4; k++) {
                //MULTIPLY
            }
            workgroupBarrier();
        }
        //KEEP
    }
    //FINISH
}
