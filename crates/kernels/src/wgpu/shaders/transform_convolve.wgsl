// The long convolution of a text with a filter's spectrum, or a leaf's part of it.

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let text = texts[params.first + group.y];
    let channel0 = group.x * LANES;
    for (var e = index; e < POINTS * LANES; e += THREADS) {
        let channel = channel0 + e % LANES;
        var sum = vec2<f32>();
        if (channel < params.width) {
            for (var part = 0u; part < params.leaves; part++) {
                let row = part * POINTS + e / LANES;
                if (row < text.y) {
                    sum += twiddles[params.roots + part] * input(text, row, channel);
                }
            }
        }
        z[e] = sum;
    }
    workgroupBarrier();
    let last = forward_levels(index);
    // The last level, the product and the first level back are one.
    for (var e = index; e < POINTS / 4u * LANES; e += THREADS) {
        let node = e / LANES;
        let channel = channel0 + e % LANES;
        if (channel < params.width) {
            let at = 4u * node * LANES + e % LANES;
            let w1 = twiddles[last + 3u * node];
            let w2 = twiddles[last + 3u * node + 1u];
            let w3 = twiddles[last + 3u * node + 2u];
            let y = four(z[at], times(z[at + LANES], w1), times(z[at + 2u * LANES], w2), times(z[at + 3u * LANES], w3));
            let point = 4u * node * params.width + channel;
            let x = four_back(
                times(y[0], filter_[point]),
                times(y[1], filter_[point + params.width]),
                times(y[2], filter_[point + 2u * params.width]),
                times(y[3], filter_[point + 3u * params.width]),
            );
            z[at] = x[0];
            z[at + LANES] = times_conjugate(x[1], w1);
            z[at + 2u * LANES] = times_conjugate(x[2], w2);
            z[at + 3u * LANES] = times_conjugate(x[3], w3);
        }
    }
    workgroupBarrier();
    backward_levels(index, last);
    for (var e = index; e < POINTS * LANES; e += THREADS) {
        let channel = channel0 + e % LANES;
        if (channel < params.width) {
            for (var part = 0u; part < params.leaves; part++) {
                let row = part * POINTS + e / LANES;
                if (row < text.y) {
                    output(text, row, channel, times_conjugate(z[e], twiddles[params.roots + part]).x);
                }
            }
        }
    }
}
