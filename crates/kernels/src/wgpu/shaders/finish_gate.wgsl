// out = gelu(first) * sum

@group(0) @binding(3) var<storage, read_write> out: array<T>;

// x * Phi(x) with the exact normal distribution function, within 3e-7 of |x|: max(x, 0) - |x| * Phi(-|x|), where the
// fourth root of Phi(-z) is a polynomial up to where it is zero. WGSL has no erf, and this needs neither exponential nor division.
fn gelu(x: f32) -> f32 {
    // Both comparisons are false for NaN.
    let positive = select(x, 0.0, x < 0.0);
    let z = select(abs(x), 5.615557, abs(x) > 5.615557);
    var root = -3.4436966e-6;
    root = fma(root, z, 5.901292e-5);
    root = fma(root, z, -3.1067376e-4);
    root = fma(root, z, -2.6230704e-5);
    root = fma(root, z, 3.7821445e-3);
    root = fma(root, z, 4.6606627e-3);
    root = fma(root, z, -0.05020227);
    root = fma(root, z, -0.1677332);
    root = fma(root, z, 0.8408964);
    let square = root * root;
    return fma(-(z * square), square, positive);
}

fn start(block: u32, col: u32) -> f32 {
    return 0.0;
}

fn finish(row: u32, block: u32, col: u32, sum: f32, first: f32) {
    let at = (params.out_row + row) * params.out_stride + block * params.outputs + col;
    out[at] = T(gelu(first) * sum);
}
