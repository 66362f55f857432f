// Texts of up to 32 tokens.
#include "long_conv.cuh"

// The taps of short texts' filters: [channel][64], from lag -31 (the last token's) to lag 31.
extern "C" __global__ void short_filters(Spectra p) {
    int lag = int(threadIdx.x) - 31, channel = blockIdx.x;
    float x = lag > 31 ? 0.0f : lag >= 0 ? tap(p, p.forward, channel, lag) : tap(p, p.reverse, channel, -lag - 1);
    if (lag == 0) x += p.skip[channel];
    ((float *)p.out)[size_t(channel) * 64 + threadIdx.x] = x;
}

extern "C" __global__ void __launch_bounds__(256) long_conv_f32(LongConv p) { direct<float>(p); }
extern "C" __global__ void __launch_bounds__(256) long_conv_bf16(LongConv p) { direct<bf16>(p); }
extern "C" __global__ void __launch_bounds__(256) long_conv_f16(LongConv p) { direct<f16>(p); }
