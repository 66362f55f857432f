// Transforms of a leaf z^POINTS - root of the tree of z^L - i: residues modulo each of its POINTS linear factors, and back.
//
// A node z^n - c splits into z^(n/r) - b for the r roots b of c: a butterfly multiplies its r points by the powers of one root
// and transforms them. Results come in the tree's order, which a product point by point does not mind. A workgroup takes
// LANES channels, point by point in workgroup memory.

struct Params {
    width: u32,
    // First text of the table.
    first: u32,
    // The leaf, of so many.
    leaf: u32,
    leaves: u32,
    // Where this leaf's twiddles are, and the powers of its root.
    twiddles: u32,
    roots: u32,
    // Of a filter: how many taps there are in a direction.
    positions: u32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
// First row, and number of rows.
@group(0) @binding(1) var<storage, read> texts: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> twiddles: array<vec2<f32>>;

var<workgroup> z: array<vec2<f32>, POINTS * LANES>;

fn times(a: vec2<f32>, b: vec2<f32>) -> vec2<f32> {
    return vec2<f32>(fma(a.x, b.x, -a.y * b.y), fma(a.x, b.y, a.y * b.x));
}

// a * conjugate(b)
fn times_conjugate(a: vec2<f32>, b: vec2<f32>) -> vec2<f32> {
    return vec2<f32>(fma(a.x, b.x, a.y * b.y), fma(a.y, b.x, -a.x * b.y));
}

// Four values, transformed with i as the root of unity.
fn four(t0: vec2<f32>, t1: vec2<f32>, t2: vec2<f32>, t3: vec2<f32>) -> array<vec2<f32>, 4> {
    let s0 = t0 + t2;
    let s1 = t0 - t2;
    let s2 = t1 + t3;
    let d = t1 - t3;
    let s3 = vec2<f32>(-d.y, d.x);
    return array<vec2<f32>, 4>(s0 + s2, s1 + s3, s0 - s2, s1 - s3);
}

// The same with -i.
fn four_back(y0: vec2<f32>, y1: vec2<f32>, y2: vec2<f32>, y3: vec2<f32>) -> array<vec2<f32>, 4> {
    let s0 = y0 + y2;
    let s1 = y0 - y2;
    let s2 = y1 + y3;
    let d = y1 - y3;
    let s3 = vec2<f32>(d.y, -d.x);
    return array<vec2<f32>, 4>(s0 + s2, s1 + s3, s0 - s2, s1 - s3);
}

fn halve(index: u32) {
    if (FIRST_RADIX == 2u) {
        let w = twiddles[params.twiddles];
        for (var e = index; e < POINTS / 2u * LANES; e += THREADS) {
            let x0 = z[e];
            let x1 = times(z[e + POINTS / 2u * LANES], w);
            z[e] = x0 + x1;
            z[e + POINTS / 2u * LANES] = x0 - x1;
        }
        workgroupBarrier();
    }
}

fn join(index: u32) {
    if (FIRST_RADIX == 2u) {
        let w = twiddles[params.twiddles];
        for (var e = index; e < POINTS / 2u * LANES; e += THREADS) {
            let y0 = z[e];
            let y1 = z[e + POINTS / 2u * LANES];
            z[e] = y0 + y1;
            z[e + POINTS / 2u * LANES] = times_conjugate(y0 - y1, w);
        }
        workgroupBarrier();
    }
}

// A level of butterflies of four points `quarter` apart.
fn split(index: u32, quarter: u32, level_twiddles: u32) {
    for (var e = index; e < POINTS / 4u * LANES; e += THREADS) {
        let butterfly = e / LANES;
        let node = butterfly / quarter;
        let at = (node * 3u * quarter + butterfly) * LANES + e % LANES;
        let step = quarter * LANES;
        let w = level_twiddles + 3u * node;
        let y = four(
            z[at],
            times(z[at + step], twiddles[w]),
            times(z[at + 2u * step], twiddles[w + 1u]),
            times(z[at + 3u * step], twiddles[w + 2u]),
        );
        z[at] = y[0];
        z[at + step] = y[1];
        z[at + 2u * step] = y[2];
        z[at + 3u * step] = y[3];
    }
    workgroupBarrier();
}

fn unite(index: u32, quarter: u32, level_twiddles: u32) {
    for (var e = index; e < POINTS / 4u * LANES; e += THREADS) {
        let butterfly = e / LANES;
        let node = butterfly / quarter;
        let at = (node * 3u * quarter + butterfly) * LANES + e % LANES;
        let step = quarter * LANES;
        let w = level_twiddles + 3u * node;
        let x = four_back(z[at], z[at + step], z[at + 2u * step], z[at + 3u * step]);
        z[at] = x[0];
        z[at + step] = times_conjugate(x[1], twiddles[w]);
        z[at + 2u * step] = times_conjugate(x[2], twiddles[w + 1u]);
        z[at + 3u * step] = times_conjugate(x[3], twiddles[w + 2u]);
    }
    workgroupBarrier();
}

// All levels but the last. Returns where the last one's twiddles are.
fn forward_levels(index: u32) -> u32 {
    halve(index);
    var level = params.twiddles + select(0u, 1u, FIRST_RADIX == 2u);
    var nodes = select(1u, 2u, FIRST_RADIX == 2u);
    for (var quarter = POINTS / nodes / 4u; quarter > 1u; quarter /= 4u) {
        split(index, quarter, level);
        level += 3u * nodes;
        nodes *= 4u;
    }
    return level;
}

fn backward_levels(index: u32, last: u32) {
    var level = last;
    var nodes = POINTS / 4u;
    for (var quarter = 4u; quarter < POINTS; quarter *= 4u) {
        if (nodes >= 4u) {
            nodes /= 4u;
            level -= 3u * nodes;
            unite(index, quarter, level);
        }
    }
    join(index);
}
