// The short convolution of what in_linear gave, and the first gate, channel-major: gated = v * x1 and gate = x2, where each of x1, x2
// and v is convolved with three causal taps within its text.
#include "common.cuh"

struct ShortConv {
    // [3H][pitch]: x1, x2, v
    const void *projected;
    // [H][pitch]
    void *gated, *gate;
    // [pitch]: where in its text each token stands.
    const u32 *positions;
    // [3H][3], [3H]
    const float *taps, *bias;
    int pitch, channels;
};

// Tokens of a thread.
static const int EACH = 8;

template <typename T> struct alignas(16) Chunk {
    T values[EACH];
};

template <typename T> __device__ __forceinline__ void convolve(const ShortConv &p, int row, int start, const u32 (&positions)[EACH], float (&out)[EACH]) {
    const T *in = (const T *)p.projected + size_t(row) * p.pitch + start;
    Chunk<T> chunk = *(const Chunk<T> *)in;
    float before[2] = {start > 0 ? widen(in[-2]) : 0.0f, start > 0 ? widen(in[-1]) : 0.0f};
    float w0 = p.taps[3 * row], w1 = p.taps[3 * row + 1], w2 = p.taps[3 * row + 2], bias = p.bias[row];
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        float x = widen(chunk.values[i]);
        float sum = bias + w2 * x;
        if (positions[i] >= 1) sum += w1 * before[1];
        if (positions[i] >= 2) sum += w0 * before[0];
        before[0] = before[1];
        before[1] = x;
        out[i] = sum;
    }
}

template <typename T> __device__ void run(const ShortConv &p) {
    int start = (blockIdx.x * blockDim.x + threadIdx.x) * EACH, channel = blockIdx.y;
    if (start >= p.pitch) return;
    u32 positions[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i += 4) {
        uint4 four = *(const uint4 *)&p.positions[start + i];
        positions[i] = four.x;
        positions[i + 1] = four.y;
        positions[i + 2] = four.z;
        positions[i + 3] = four.w;
    }
    float x1[EACH], x2[EACH], v[EACH];
    convolve<T>(p, channel, start, positions, x1);
    convolve<T>(p, p.channels + channel, start, positions, x2);
    convolve<T>(p, 2 * p.channels + channel, start, positions, v);
    Chunk<T> gated, gate;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        gated.values[i] = narrow<T>(v[i] * x1[i]);
        gate.values[i] = narrow<T>(x2[i]);
    }
    size_t at = size_t(channel) * p.pitch + start;
    *(Chunk<T> *)((T *)p.gated + at) = gated;
    *(Chunk<T> *)((T *)p.gate + at) = gate;
}

extern "C" __global__ void __launch_bounds__(128) short_conv_f32(ShortConv p) { run<float>(p); }
extern "C" __global__ void __launch_bounds__(128) short_conv_bf16(ShortConv p) { run<bf16>(p); }
extern "C" __global__ void __launch_bounds__(128) short_conv_f16(ShortConv p) { run<f16>(p); }
