// A filter's spectrum, or a leaf's part of it: [POINTS][width], with the inverse transform's scale.

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let channel0 = group.x * LANES;
    for (var e = index; e < POINTS * LANES; e += THREADS) {
        let channel = channel0 + e % LANES;
        var sum = vec2<f32>();
        if (channel < params.width) {
            for (var part = 0u; part < params.leaves; part++) {
                sum += times(twiddles[params.roots + part], coefficient(part * POINTS + e / LANES, channel));
            }
        }
        z[e] = sum;
    }
    workgroupBarrier();
    let last = forward_levels(index);
    for (var e = index; e < POINTS / 4u * LANES; e += THREADS) {
        let node = e / LANES;
        let channel = channel0 + e % LANES;
        if (channel < params.width) {
            let at = 4u * node * LANES + e % LANES;
            let w = last + 3u * node;
            let y = four(
                z[at],
                times(z[at + LANES], twiddles[w]),
                times(z[at + 2u * LANES], twiddles[w + 1u]),
                times(z[at + 3u * LANES], twiddles[w + 2u]),
            );
            let point = 4u * node * params.width + channel;
            out[point] = y[0] * params.scale;
            out[point + params.width] = y[1] * params.scale;
            out[point + 2u * params.width] = y[2] * params.scale;
            out[point + 3u * params.width] = y[3] * params.scale;
        }
    }
}
