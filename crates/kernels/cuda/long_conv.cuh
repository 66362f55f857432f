// The long convolutions of a layer: mixed = long(gated) * gate + long'(hidden). Activations are channel-major: [channel][token].
#pragma once
#include "transform.cuh"

// A text of a pass.
struct Text {
    // Its first token's column, and its tokens, padding included.
    int start, rows;
    // What padding behind adds to the convolutions, bfloat16 [layer][branch][channel][rows]; 0 for nothing.
    const u16 *far_field;
};

struct LongConv {
    // [H][pitch] each: what the mixer convolves (v * x1), what its result is multiplied by (x2), and the layer's input.
    const void *gated, *gate, *hidden;
    // [H][pitch]; may be `gated`.
    void *mixed;
    int pitch, channels, layer;
    const Text *texts;
    // Of spectra: [branch][leaf][channel][point]. Of short texts: taps [branch][channel][2 x 32], from lag -31 on.
    const void *filters;
    // The tree's roots, [leaf][...].
    const float2 *roots;
    // Where a block collects its results if there are leaves: [block][L].
    float *collected;
};

// A channel of a text.
template <typename T> struct Channel {
    const T *inputs[2], *gates;

    __device__ __forceinline__ Channel(const LongConv &p, int channel, int start) {
        size_t at = size_t(channel) * p.pitch + start;
        inputs[0] = (const T *)p.gated + at;
        inputs[1] = (const T *)p.hidden + at;
        gates = (const T *)p.gate + at;
    }

    __device__ __forceinline__ float input(int branch, int at) const { return widen(inputs[branch][at]); }
    __device__ __forceinline__ float gate(int at) const { return widen(gates[at]); }
};

// What padding behind the window adds at a position.
__device__ __forceinline__ float far(const LongConv &p, const Text &text, int branch, int channel, int at) {
    if (!text.far_field) return 0.0f;
    size_t row = size_t(2 * p.layer + branch) * p.channels + channel;
    return widen(bf16{text.far_field[row * text.rows + at]});
}

// Texts of up to 32 tokens, by the sum that defines the convolution: a lane a token, a warp a channel.
template <typename T> __device__ void direct(const LongConv &p) {
    const int WARPS = 8;
    __shared__ float taps[WARPS][2][64];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, channel = blockIdx.x * WARPS + warp;
    if (channel >= p.channels) return;
    Text text = p.texts[blockIdx.y];
    const float *filters = (const float *)p.filters + size_t(channel) * 64;
#pragma unroll
    for (int branch = 0; branch < 2; branch++)
#pragma unroll
        for (int half = 0; half < 2; half++)
            taps[warp][branch][32 * half + lane] = filters[size_t(branch) * p.channels * 64 + 32 * half + lane];
    __syncwarp();
    Channel<T> source(p, channel, text.start);
    bool inside = lane < text.rows;
    float x[2] = {inside ? source.input(0, lane) : 0.0f, inside ? source.input(1, lane) : 0.0f}, y[2] = {0.0f, 0.0f};
    for (int j = 0; j < text.rows; j++) {
#pragma unroll
        for (int branch = 0; branch < 2; branch++)
            y[branch] = fmaf(taps[warp][branch][lane - j + 31], __shfl_sync(~0u, x[branch], j), y[branch]);
    }
    if (!inside) return;
#pragma unroll
    for (int branch = 0; branch < 2; branch++) y[branch] += far(p, text, branch, channel, lane);
    ((T *)p.mixed)[size_t(channel) * p.pitch + text.start + lane] = narrow<T>(y[0] * source.gate(lane) + y[1]);
}

// Texts that fit POINTS x LEAVES points: TOGETHER channels a block.
template <typename T, int POINTS, int LEAVES, int TOGETHER> __device__ void transformed(const LongConv &p) {
    typedef Tree<POINTS> Tree;
    extern __shared__ __align__(16) float2 memory[];
    int thread = threadIdx.x % Tree::THREADS, place = threadIdx.x / Tree::THREADS;
    float2 *points = memory + place * Tree::STORED;
    int channel = blockIdx.x * TOGETHER + place;
    bool idle = channel >= p.channels;
    if (idle) channel = p.channels - 1;
    Text text = p.texts[blockIdx.y];
    Channel<T> source(p, channel, text.start);
    T *mixed = (T *)p.mixed + size_t(channel) * p.pitch + text.start;
    float *collected = LEAVES == 1 ? nullptr : p.collected + (size_t(blockIdx.y) * gridDim.x + blockIdx.x) * (POINTS * LEAVES);
    // Of the first branch, until the second one's are there: in registers while there are enough of them.
    constexpr bool SHARED_RESULTS = LEAVES == 1 && Tree::EACH > 16;
    float results[LEAVES == 1 && !SHARED_RESULTS ? Tree::EACH : 1];
    float *shared_results = (float *)(points + Tree::STORED);
#pragma unroll 1
    for (int branch = 0; branch < 2; branch++) {
        const T *inputs = branch == 0 ? source.inputs[0] : source.inputs[1];
#pragma unroll 1
        for (int leaf = 0; leaf < LEAVES; leaf++) {
            const float2 *roots = p.roots + leaf * (Tree::ROOTS + 1);
            // The leaf's own root of i, whose powers tell its parts apart.
            float2 own = roots[Tree::ROOTS];
            const float2 *spectrum = (const float2 *)p.filters + (size_t(branch * LEAVES + leaf) * p.channels + channel) * POINTS;
            Tree::meet();
            Tree::descend(points, roots, thread, [&](int, int, int at) -> float2 {
                if (LEAVES == 1) return {at < text.rows ? widen(inputs[at]) : 0.0f, 0.0f};
                float2 sum = {0.0f, 0.0f}, power = {1.0f, 0.0f};
#pragma unroll
                for (int part = 0; part < LEAVES; part++) {
                    int position = part * POINTS + at;
                    float x = position < text.rows ? widen(inputs[position]) : 0.0f;
                    sum = sum + float2{power.x * x, power.y * x};
                    power = times(power, own);
                }
                return sum;
            });
            Tree::template bottom<true>(points, roots, thread, [&](int point, float2 x) { return times(x, spectrum[point]); });
            Tree::ascend(points, roots, thread, [&](int u, int k, int at, float2 y) {
                if (LEAVES == 1) {
                    constexpr int R = Tree::L::radix(0);
                    float &result = SHARED_RESULTS ? shared_results[at] : results[(u * R + k) % (sizeof(results) / sizeof(float))];
                    if (at < text.rows) {
                        float x = y.x + far(p, text, branch, channel, at);
                        result = branch == 0 ? x * source.gate(at) : result + x;
                        if (branch == 1 && !idle) mixed[at] = narrow<T>(result);
                    }
                    return;
                }
                float2 power = {1.0f, 0.0f};
#pragma unroll
                for (int part = 0; part < LEAVES; part++) {
                    int position = part * POINTS + at;
                    if (position < text.rows) {
                        float x = times_conjugate(y, power).x;
                        if (leaf == 0) x += far(p, text, branch, channel, position);
                        if (branch == 0) x *= source.gate(position);
                        if (branch + leaf > 0) x += collected[position];
                        if (branch == 1 && leaf == LEAVES - 1)
                            mixed[position] = narrow<T>(x);
                        else
                            collected[position] = x;
                    }
                    power = times(power, own);
                }
            });
        }
    }
}

// The filters' spectra from their taps: [leaf][channel][point] of one branch.
struct Spectra {
    // [H][positions] each, before the window.
    const float *forward, *reverse;
    // The window exp(-time |delta|): [positions], [H].
    const float *time, *deltas;
    const float *skip;
    int positions, channels;
    const float2 *roots;
    void *out;
};

__device__ __forceinline__ float tap(const Spectra &p, const float *taps, int channel, int at) {
    if (at < 0 || at >= p.positions) return 0.0f;
    return taps[size_t(channel) * p.positions + at] * expf(-p.time[at] * fabsf(p.deltas[channel]));
}

template <int POINTS, int LEAVES> __device__ void transform_taps(const Spectra &p) {
    typedef Tree<POINTS> Tree;
    extern __shared__ __align__(16) float2 memory[];
    int thread = threadIdx.x, channel = blockIdx.x;
    const int LENGTH = POINTS * LEAVES;
    const float scale = 1.0f / LENGTH;
    for (int leaf = 0; leaf < LEAVES; leaf++) {
        const float2 *roots = p.roots + leaf * (Tree::ROOTS + 1);
        float2 own = roots[Tree::ROOTS];
        float2 *out = (float2 *)p.out + (size_t(leaf) * p.channels + channel) * POINTS;
        Tree::meet();
        Tree::descend(memory, roots, thread, [&](int, int, int at) -> float2 {
            float2 sum = {0.0f, 0.0f}, power = {1.0f, 0.0f};
            for (int part = 0; part < LEAVES; part++) {
                int position = part * POINTS + at;
                // A tap on a token m further on belongs to z^-m = -z^(2 L - m).
                float2 x = {tap(p, p.forward, channel, position) + (position == 0 ? p.skip[channel] : 0.0f),
                            position == 0 ? 0.0f : -tap(p, p.reverse, channel, LENGTH - position - 1)};
                sum = sum + times(power, x);
                power = times(power, own);
            }
            return sum;
        });
        Tree::template bottom<false>(memory, roots, thread, [&](int point, float2 x) {
            out[point] = {x.x * scale, x.y * scale};
            return x;
        });
    }
}
