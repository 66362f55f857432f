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

// What a thread asks for at a time: a line of the cache.
static const int LINE = 128;

// Asks for what is at an address to come to the level-2 cache.
__device__ __forceinline__ void ahead(const void *address) { asm volatile("prefetch.global.L2 [%0];" ::"l"(address)); }

__device__ __forceinline__ int multiprocessors() {
    int count;
    asm("mov.u32 %0, %%nsmid;" : "=r"(count));
    return count;
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
    auto spectrum_of = [&](int turn) { return (const float2 *)p.filters + (size_t(turn) * p.channels + channel) * POINTS; };
    if (Tree::THREADS >= 256) {
        for (int at = thread * (LINE / sizeof(T)); at < text.rows; at += Tree::THREADS * (LINE / sizeof(T))) {
            ahead(&source.gates[at]);
            ahead(&source.inputs[1][at]);
        }
    }
    // Of the first branch, until the second one's are there.
    float results[LEAVES == 1 ? Tree::EACH : 1];
#pragma unroll 1
    for (int branch = 0; branch < 2; branch++) {
        const T *inputs = branch == 0 ? source.inputs[0] : source.inputs[1];
#pragma unroll 1
        for (int leaf = 0; leaf < LEAVES; leaf++) {
            const float2 *roots = p.roots + leaf * (Tree::ROOTS + 1);
            // The leaf's own root of i, whose powers tell its parts apart.
            float2 own = roots[Tree::ROOTS];
            const float2 *spectrum = spectrum_of(branch * LEAVES + leaf);
            if (Tree::THREADS >= 256 && branch * LEAVES + leaf + 1 < 2 * LEAVES) {
                const float2 *next = spectrum_of(branch * LEAVES + leaf + 1);
                for (int at = thread * (LINE / 8); at < POINTS; at += Tree::THREADS * (LINE / 8)) ahead(&next[at]);
            }
            Tree::meet();
            auto input = [&](int at) { return at < text.rows ? widen(inputs[at]) : 0.0f; };
            if constexpr (LEAVES == 1)
                Tree::template descend<true>(points, roots, thread, input);
            else
                Tree::template descend<false>(points, roots, thread, [&](int at) {
                    float2 sum = {0.0f, 0.0f}, power = {1.0f, 0.0f};
#pragma unroll
                    for (int part = 0; part < LEAVES; part++) {
                        float x = input(part * POINTS + at);
                        sum = sum + float2{power.x * x, power.y * x};
                        power = times(power, own);
                    }
                    return sum;
                });
            Tree::template bottom<true>(
                points, roots, thread, [&](int point) { return spectrum[point]; }, [&](int, float2 x, float2 factor) { return times(x, factor); });
            Tree::ascend(points, roots, thread, [&](int u, int base, const float2(&y)[Tree::TOP]) {
                if constexpr (LEAVES == 1) {
                    T gates[Tree::TOP];
                    if (branch == 0)
#pragma unroll
                        for (int k = 0; k < Tree::TOP; k++) gates[k] = base + k * Tree::SPAN < text.rows ? source.gates[base + k * Tree::SPAN] : T{};
#pragma unroll
                    for (int k = 0; k < Tree::TOP; k++) {
                        int at = base + k * Tree::SPAN;
                        float &result = results[(u * Tree::TOP + k) % (sizeof(results) / sizeof(float))];
                        if (at >= text.rows) continue;
                        float x = y[k].x + far(p, text, branch, channel, at);
                        result = branch == 0 ? x * widen(gates[k]) : result + x;
                        if (branch == 1 && !idle) mixed[at] = narrow<T>(result);
                    }
                } else {
                    // A few at a time: what they need is loaded before anything is stored, so that the loads do not wait for each other.
                    constexpr int GROUP = 4;
                    bool whole = leaf == LEAVES - 1;
#pragma unroll
                    for (int first = 0; first < Tree::TOP; first += GROUP) {
                        float factors[GROUP][LEAVES], before[GROUP][LEAVES];
#pragma unroll
                        for (int k = 0; k < GROUP; k++)
#pragma unroll
                            for (int part = 0; part < LEAVES; part++) {
                                int position = part * POINTS + base + (first + k) * Tree::SPAN;
                                bool inside = position < text.rows;
                                factors[k][part] = inside && whole && branch == 0 ? source.gate(position) : 1.0f;
                                before[k][part] = inside && branch + leaf > 0 ? collected[position] : 0.0f;
                            }
#pragma unroll
                        for (int k = 0; k < GROUP; k++) {
                            float2 power = {1.0f, 0.0f};
#pragma unroll
                            for (int part = 0; part < LEAVES; part++) {
                                int position = part * POINTS + base + (first + k) * Tree::SPAN;
                                float x = times_conjugate(y[first + k], power).x;
                                power = times(power, own);
                                if (position >= text.rows) continue;
                                if (leaf == 0) x += far(p, text, branch, channel, position);
                                x = (x + before[k][part]) * factors[k][part];
                                if (branch == 1 && whole)
                                    mixed[position] = narrow<T>(x);
                                else
                                    collected[position] = x;
                            }
                        }
                    }
                }
            });
        }
    }
}

// Texts of several leaves in half precision, on GPUs with room for all leaves in shared memory: a text is split into its leaves once, and
// joined from them once. Between that and their transforms leaves are in half precision, as activations are.
template <int POINTS, int LEAVES> struct Held {
    typedef Tree<POINTS> Tree;
    static_assert(Tree::THREADS == Tree::SPAN, "a thread's points of the first level are its own");
    static const int TOP = Tree::TOP, LENGTH = POINTS * LEAVES;
    // Roots of a leaf but those of the last level, which are as many as points.
    static const int UPPER = Tree::roots(Tree::COUNT - 1);

    // Values are loaded a batch at a time, before the first of them is used: they are far away.
    static const int BATCH = 32 / LEAVES;
    template <typename T> __device__ __forceinline__ static void load(T (&out)[BATCH][LEAVES], const T *values, int rows, int first, int thread) {
#pragma unroll
        for (int k = 0; k < BATCH; k++)
#pragma unroll
            for (int part = 0; part < LEAVES; part++) {
                int at = position(first + k, part, thread);
                out[k][part] = at < rows ? values[at] : T{};
            }
    }

    // The text's positions that are the thread's.
    __device__ __forceinline__ static int position(int k, int part, int thread) { return part * POINTS + k * Tree::SPAN + thread; }

    __device__ __forceinline__ static float2 root() { return sixteenths(4 / LEAVES); }

    __device__ __forceinline__ static void split(const f16 *inputs, int rows, u32 *held, int thread) {
#pragma unroll 1
        for (int first = 0; first < TOP; first += BATCH) {
            f16 x[BATCH][LEAVES];
            load(x, inputs, rows, first, thread);
#pragma unroll
            for (int k = 0; k < BATCH; k++) {
                float parts[LEAVES];
                float2 leaves[LEAVES];
#pragma unroll
                for (int part = 0; part < LEAVES; part++) parts[part] = widen(x[k][part]);
                Split<LEAVES>::run(parts, root(), leaves);
#pragma unroll
                for (int leaf = 0; leaf < LEAVES; leaf++) held[position(first + k, leaf, 0)] = narrow_pair(leaves[leaf].x, leaves[leaf].y);
            }
        }
    }

    // `use` gets each position, what was loaded for it of `values`, and its result.
    template <typename T, typename Use> __device__ __forceinline__ static void join(const u32 *held, const T *values, int rows, int thread, Use use) {
        float2 powers[LEAVES];
        powers[0] = {1.0f, 0.0f};
#pragma unroll
        for (int part = 1; part < LEAVES; part++) powers[part] = times(powers[part - 1], root());
#pragma unroll 1
        for (int first = 0; first < TOP; first += BATCH) {
            T loaded[BATCH][LEAVES];
            load(loaded, values, rows, first, thread);
#pragma unroll
            for (int k = 0; k < BATCH; k++) {
                float2 leaves[LEAVES];
#pragma unroll
                for (int leaf = 0; leaf < LEAVES; leaf++) {
                    u32 pair = held[position(first + k, leaf, 0)];
                    leaves[leaf] = {widen_low(pair), widen_high(pair)};
                }
                Join<LEAVES>::run(leaves);
#pragma unroll
                for (int part = 0; part < LEAVES; part++) {
                    int at = position(first + k, part, thread);
                    if (at < rows) use(at, loaded[k][part], times_conjugate(leaves[part], powers[part]).x);
                }
            }
        }
    }

    // Asks for a row of activations to come to the level-2 cache.
    __device__ __forceinline__ static void row_ahead(const f16 *row, int rows, int thread) {
        for (int at = thread * (LINE / 2); at < rows; at += Tree::THREADS * (LINE / 2)) ahead(&row[at]);
    }
    __device__ __forceinline__ static void spectrum_ahead(const float2 *spectrum, int thread) {
        for (int at = thread * (LINE / 8); at < POINTS; at += Tree::THREADS * (LINE / 8)) ahead(&spectrum[at]);
    }

    __device__ __forceinline__ static void run(const LongConv &p) {
        extern __shared__ __align__(16) float2 memory[];
        int thread = threadIdx.x, channel = blockIdx.x;
        float2 *upper = memory + Tree::STORED;
        u32 *held = (u32 *)(upper + LEAVES * UPPER) + thread;
        Text text = p.texts[blockIdx.y];
        Channel<f16> source(p, channel, text.start);
        f16 *mixed = (f16 *)p.mixed + size_t(channel) * p.pitch + text.start;
        float *collected = p.collected + (size_t(blockIdx.y) * gridDim.x + blockIdx.x) * LENGTH;
        for (int at = thread; at < LEAVES * UPPER; at += Tree::THREADS) upper[at] = p.roots[at / UPPER * (Tree::ROOTS + 1) + at % UPPER];
        row_ahead(source.gates, text.rows, thread);
        row_ahead(source.inputs[1], text.rows, thread);
#pragma unroll 1
        for (int branch = 0; branch < 2; branch++) {
            split(source.inputs[branch], text.rows, held, thread);
#pragma unroll 1
            for (int leaf = 0; leaf < LEAVES; leaf++) {
                const float2 *roots = p.roots + leaf * (Tree::ROOTS + 1), *near = upper + leaf * UPPER;
                const float2 *spectrum = (const float2 *)p.filters + (size_t(branch * LEAVES + leaf) * p.channels + channel) * POINTS;
                u32 *own = held + leaf * POINTS;
                if (branch == 0 || leaf + 1 < LEAVES)
                    spectrum_ahead(spectrum + size_t(p.channels) * POINTS, thread);
                else if (channel + multiprocessors() < p.channels) {
                    // Of the block that comes next, which begins with these.
                    spectrum_ahead((const float2 *)p.filters + size_t(channel + multiprocessors()) * POINTS, thread);
                    row_ahead(source.inputs[0] + size_t(multiprocessors()) * p.pitch, text.rows, thread);
                }
                Tree::meet();
                Tree::template descend<false>(memory, near, thread, [&](int at) {
                    u32 pair = own[at - thread];
                    return float2{widen_low(pair), widen_high(pair)};
                });
                Tree::template bottom<true>(
                    memory, roots, thread, [&](int point) { return spectrum[point]; }, [&](int, float2 x, float2 factor) { return times(x, factor); });
                Tree::ascend(memory, near, thread, [&](int, int, const float2(&y)[TOP]) {
#pragma unroll
                    for (int k = 0; k < TOP; k++) own[k * Tree::SPAN] = narrow_pair(y[k].x, y[k].y);
                });
            }
            if (branch == 0)
                join(held, source.gates, text.rows, thread, [&](int at, f16 gate, float x) { collected[at] = (x + far(p, text, 0, channel, at)) * widen(gate); });
            else
                join(held, collected, text.rows, thread, [&](int at, float before, float x) { mixed[at] = narrow<f16>(x + far(p, text, 1, channel, at) + before); });
        }
    }
};

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
        Tree::template descend<false>(memory, roots, thread, [&](int at) {
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
        Tree::template bottom<false>(
            memory, roots, thread, [](int) { return float2{}; },
            [&](int point, float2 x, float2) {
                out[point] = {x.x * scale, x.y * scale};
                return x;
            });
    }
}
