// The states of long filters: three sine layers over positional features, in float64, since each multiplies its input's error by its
// frequencies (docs/notes/filters-in-float64.md). The projection to channels is a product of gemm_f32.cu.
#include "common.cuh"

struct SineLayers {
    // [positions][features]
    const float *features;
    int feature_count, order, positions;
    // Weights transposed: [features][order], then twice [order][order]; biases and frequencies [3][order].
    const float *weights;
    const float *biases;
    const double *frequencies;
    // [positions][order]
    float *out;
};

static const int TOGETHER = 8;

// A thread an output, TOGETHER positions a block.
extern "C" __global__ void sine_layers(SineLayers p) {
    extern __shared__ double states[];
    int first = blockIdx.x * TOGETHER, inputs = p.feature_count;
    double *in = states, *out = states + TOGETHER * max(p.order, p.feature_count);
    for (int index = threadIdx.x; index < TOGETHER * inputs; index += blockDim.x) {
        int position = first + index / inputs;
        in[index] = position < p.positions ? double(p.features[size_t(position) * inputs + index % inputs]) : 0.0;
    }
    const float *weights = p.weights;
    for (int layer = 0; layer < 3; layer++) {
        __syncthreads();
        for (int output = threadIdx.x; output < p.order; output += blockDim.x) {
            double sums[TOGETHER] = {};
            for (int k = 0; k < inputs; k++) {
                double weight = weights[size_t(k) * p.order + output];
#pragma unroll
                for (int position = 0; position < TOGETHER; position++)
                    sums[position] = fma(in[position * inputs + k], weight, sums[position]);
            }
            double bias = p.biases[layer * p.order + output], frequency = p.frequencies[layer * p.order + output];
#pragma unroll
            for (int position = 0; position < TOGETHER; position++)
                out[position * p.order + output] = sin(frequency * (sums[position] + bias));
        }
        weights += size_t(inputs) * p.order;
        inputs = p.order;
        double *swap = in;
        in = out;
        out = swap;
    }
    __syncthreads();
    for (int index = threadIdx.x; index < TOGETHER * p.order; index += blockDim.x) {
        int position = first + index / p.order;
        if (position < p.positions) p.out[size_t(position) * p.order + index % p.order] = float(in[index]);
    }
}
