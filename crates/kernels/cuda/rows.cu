// What works on rows (tokens): embeddings, LayerNorm with the change to channel-major, pooling.
#include "common.cuh"

struct Norm {
    const float *weight, *bias;
    float epsilon;
    int width, rows;
    // Columns of a channel-major result.
    int pitch;
    // [width][pitch], or row-major [rows][width] in float32 if `last`.
    void *out;
};

// A row's values, LANE by lane: at most MOST for each.
static const int MOST = 32;

// Normalises rows that `source` gives, a warp a row. Channel-major results go through shared memory, ROWS tokens at a time.
template <typename T, int ROWS, bool LAST, typename Source> __device__ __forceinline__ void normalise(const Norm &p, Source source) {
    extern __shared__ __align__(16) unsigned char memory[];
    const int WARPS = 8, STRIDE = ROWS + 4 / int(sizeof(T));
    T *tile = (T *)memory;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, first = blockIdx.x * ROWS;
    for (int local = warp; local < ROWS; local += WARPS) {
        int row = first + local;
        bool inside = row < p.rows;
        if (LAST && !inside) continue;
        float values[MOST], sum = 0.0f, squares = 0.0f;
#pragma unroll
        for (int i = 0; i < MOST; i++) {
            int channel = lane + 32 * i;
            values[i] = inside && channel < p.width ? source(row, channel) : 0.0f;
            sum += values[i];
        }
#pragma unroll
        for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
        float mean = sum / p.width;
#pragma unroll
        for (int i = 0; i < MOST; i++) {
            float deviation = lane + 32 * i < p.width ? values[i] - mean : 0.0f;
            squares = fmaf(deviation, deviation, squares);
        }
#pragma unroll
        for (int step = 16; step > 0; step /= 2) squares += __shfl_xor_sync(~0u, squares, step);
        float scale = 1.0f / sqrtf(squares / p.width + p.epsilon);
#pragma unroll
        for (int i = 0; i < MOST; i++) {
            int channel = lane + 32 * i;
            if (channel >= p.width) continue;
            float x = (values[i] - mean) * scale * p.weight[channel] + p.bias[channel];
            if (LAST)
                ((float *)p.out)[size_t(row) * p.width + channel] = x;
            else
                tile[channel * STRIDE + local] = narrow<T>(inside ? x : 0.0f);
        }
    }
    if (LAST) return;
    __syncthreads();
    // Words of four bytes.
    const int WORDS = ROWS * int(sizeof(T)) / 4;
    for (int index = threadIdx.x; index < p.width * WORDS; index += 32 * WARPS) {
        int channel = index / WORDS, word = index % WORDS;
        u32 *out = (u32 *)((T *)p.out + size_t(channel) * p.pitch + first);
        out[word] = ((const u32 *)(tile + channel * STRIDE))[word];
    }
}

struct Embedding {
    Norm norm;
    const u32 *ids, *positions;
    // [V][width], [P][width] or 0, [width]
    const float *word, *position, *token_type;
};

template <typename T, int ROWS> __device__ void embed(const Embedding &p) {
    normalise<T, ROWS, false>(p.norm, [&](int row, int channel) {
        float x = p.word[size_t(p.ids[row]) * p.norm.width + channel] + p.token_type[channel];
        return p.position ? x + p.position[size_t(p.positions[row]) * p.norm.width + channel] : x;
    });
}

struct LayerNorm {
    Norm norm;
    // [rows][width]
    const void *in;
};

template <typename T, int ROWS, bool LAST> __device__ void layer_norm(const LayerNorm &p) {
    normalise<T, ROWS, LAST>(p.norm, [&](int row, int channel) { return widen(((const T *)p.in)[size_t(row) * p.norm.width + channel]); });
}

extern "C" __global__ void __launch_bounds__(256) embed_f32(Embedding p) { embed<float, 16>(p); }
extern "C" __global__ void __launch_bounds__(256) embed_f16(Embedding p) { embed<f16, 32>(p); }
extern "C" __global__ void __launch_bounds__(256) layer_norm_f32(LayerNorm p) { layer_norm<float, 16, false>(p); }
extern "C" __global__ void __launch_bounds__(256) layer_norm_f16(LayerNorm p) { layer_norm<f16, 32, false>(p); }
extern "C" __global__ void __launch_bounds__(256) last_layer_norm_f32(LayerNorm p) { layer_norm<float, 8, true>(p); }
extern "C" __global__ void __launch_bounds__(256) last_layer_norm_f16(LayerNorm p) { layer_norm<f16, 8, true>(p); }

// A stretch of a text's hidden states: they are summed one after the other.
struct Stretch {
    int start, rows;
};

struct Sums {
    // [rows][width]
    const float *hidden;
    const Stretch *stretches;
    // [stretch][width]
    float *out;
    int width;
};

extern "C" __global__ void sum_rows(Sums p) {
    Stretch stretch = p.stretches[blockIdx.x];
    for (int channel = threadIdx.x; channel < p.width; channel += blockDim.x) {
        const float *in = p.hidden + size_t(stretch.start) * p.width + channel;
        float sum = 0.0f;
#pragma unroll 8
        for (int row = 0; row < stretch.rows; row++) sum += in[size_t(row) * p.width];
        p.out[size_t(blockIdx.x) * p.width + channel] = sum;
    }
}
