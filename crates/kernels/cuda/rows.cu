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

// Two values of a row, as they are kept: what is in half precision takes half of the registers.
__device__ __forceinline__ float2 widen_pair(float2 pair) { return pair; }
__device__ __forceinline__ float2 widen_pair(u32 pair) { return {widen_low(pair), widen_high(pair)}; }

// A row that is being normalised by a warp: of WIDTH channels, or of up to 1,024 where that is 0.
template <typename Pair, int WIDTH> struct Row {
    // Of each lane.
    static const int PAIRS = WIDTH ? WIDTH / 64 : 16;
    Pair pairs[PAIRS];

    // The sum of what `term` makes of the values, over all lanes.
    template <typename Term> __device__ __forceinline__ float sum(int width, Term term) const {
        float total = 0.0f;
#pragma unroll
        for (int i = 0; i < PAIRS; i++) {
            float2 pair = widen_pair(pairs[i]);
            float both = term(pair.x) + term(pair.y);
            total += WIDTH || channel(i) < width ? both : 0.0f;
        }
#pragma unroll
        for (int step = 16; step > 0; step /= 2) total += __shfl_xor_sync(~0u, total, step);
        return total;
    }

    // The first of a lane's pair.
    __device__ __forceinline__ static int channel(int i) { return 2 * (threadIdx.x % 32 + 32 * i); }
};

// Normalises rows of an even width that `source` gives pair by pair, a warp some rows. Channel-major results go through
// shared memory, ROWS tokens at a time: even channels first, then odd ones, so that the lanes of a warp store to different banks.
template <typename T, typename Pair, int WIDTH, int ROWS, bool LAST, typename Source> __device__ __forceinline__ void normalise(const Norm &p, Source source) {
    typedef Row<Pair, WIDTH> Row;
    static const int PAIRS = Row::PAIRS;
    const int width = WIDTH ? WIDTH : p.width;
    extern __shared__ __align__(16) unsigned char memory[];
    // So many rows make a word of a channel-major result.
    const int WARPS = 8, TOGETHER = LAST ? 1 : 4 / int(sizeof(T)), STRIDE = ROWS / TOGETHER + 1;
    u32 *tile = (u32 *)memory;
    int warp = threadIdx.x / 32, first = blockIdx.x * ROWS;
    for (int local = warp * TOGETHER; local < ROWS; local += WARPS * TOGETHER) {
        Row rows[TOGETHER];
        // What is beyond rows and width is read from within, so that no load waits for a branch.
#pragma unroll
        for (int r = 0; r < TOGETHER; r++)
#pragma unroll
            for (int i = 0; i < PAIRS; i++) rows[r].pairs[i] = source(min(first + local + r, p.rows - 1), WIDTH ? Row::channel(i) : min(Row::channel(i), width - 2));
        float mean[TOGETHER], scale[TOGETHER];
#pragma unroll
        for (int r = 0; r < TOGETHER; r++) {
            float middle = rows[r].sum(width, [](float x) { return x; }) / width;
            float squares = rows[r].sum(width, [&](float x) { return (x - middle) * (x - middle); });
            mean[r] = middle;
            scale[r] = 1.0f / sqrtf(squares / width + p.epsilon);
        }
#pragma unroll
        for (int i = 0; i < PAIRS; i++) {
            int channel = Row::channel(i), within = WIDTH ? channel : min(channel, width - 2);
            float2 weight = *(const float2 *)&p.weight[within], bias = *(const float2 *)&p.bias[within], x[TOGETHER];
#pragma unroll
            for (int r = 0; r < TOGETHER; r++) {
                float2 value = widen_pair(rows[r].pairs[i]);
                x[r] = {(value.x - mean[r]) * scale[r] * weight.x + bias.x, (value.y - mean[r]) * scale[r] * weight.y + bias.y};
                if (first + local + r >= p.rows) x[r] = {0.0f, 0.0f};
            }
            if (!WIDTH && channel >= width) continue;
            if constexpr (LAST) {
                if (first + local < p.rows) *(float2 *)&((float *)p.out)[size_t(first + local) * width + channel] = x[0];
            } else {
                u32 *even = tile + channel / 2 * STRIDE + local / TOGETHER, *odd = even + width / 2 * STRIDE;
                if constexpr (TOGETHER == 2) {
                    *even = narrow_pair(x[0].x, x[1].x);
                    *odd = narrow_pair(x[0].y, x[1].y);
                } else {
                    *even = __float_as_uint(x[0].x);
                    *odd = __float_as_uint(x[0].y);
                }
            }
        }
    }
    if (LAST) return;
    __syncthreads();
    const int WORDS = ROWS / TOGETHER;
    int word = threadIdx.x % WORDS;
    for (int odd = 0; odd < 2; odd++)
#pragma unroll 4
        for (int pair = threadIdx.x / WORDS; pair < width / 2; pair += 32 * WARPS / WORDS) {
            u32 *out = (u32 *)((T *)p.out + size_t(2 * pair + odd) * p.pitch + first);
            out[word] = tile[(pair + odd * (width / 2)) * STRIDE + word];
        }
}

struct Embedding {
    Norm norm;
    const u32 *ids, *positions;
    // [V][width], [P][width] or 0, [width]
    const float *word, *position, *token_type;
};

template <typename T, int WIDTH, int ROWS> __device__ void embed(const Embedding &p) {
    normalise<T, float2, WIDTH, ROWS, false>(p.norm, [&](int row, int channel) {
        float2 word = *(const float2 *)&p.word[size_t(p.ids[row]) * p.norm.width + channel], type = *(const float2 *)&p.token_type[channel];
        float2 x = {word.x + type.x, word.y + type.y};
        if (!p.position) return x;
        float2 position = *(const float2 *)&p.position[size_t(p.positions[row]) * p.norm.width + channel];
        return float2{x.x + position.x, x.y + position.y};
    });
}

struct LayerNorm {
    Norm norm;
    // [rows][width]
    const void *in;
};

template <typename T, typename Pair, int WIDTH, int ROWS, bool LAST> __device__ void layer_norm(const LayerNorm &p) {
    normalise<T, Pair, WIDTH, ROWS, LAST>(p.norm, [&](int row, int channel) { return *(const Pair *)((const T *)p.in + size_t(row) * p.norm.width + channel); });
}

// For rows of WIDTH channels, or of any number of them where that is 0; of the usual width, as many blocks on a multiprocessor as leave their loads enough registers.
#define ROW_KERNELS(NAME, WIDTH) \
    extern "C" __global__ void __launch_bounds__(256, WIDTH ? 3 : 1) embed_f32##NAME(Embedding p) { embed<float, WIDTH, 16>(p); } \
    extern "C" __global__ void __launch_bounds__(256, WIDTH ? 3 : 1) embed_f16##NAME(Embedding p) { embed<f16, WIDTH, 32>(p); } \
    extern "C" __global__ void __launch_bounds__(256, WIDTH ? 3 : 1) layer_norm_f32##NAME(LayerNorm p) { layer_norm<float, float2, WIDTH, 16, false>(p); } \
    extern "C" __global__ void __launch_bounds__(256, WIDTH ? 3 : 1) layer_norm_f16##NAME(LayerNorm p) { layer_norm<f16, u32, WIDTH, 32, false>(p); } \
    extern "C" __global__ void __launch_bounds__(256, WIDTH ? 4 : 1) last_layer_norm_f32##NAME(LayerNorm p) { layer_norm<float, float2, WIDTH, 8, true>(p); } \
    extern "C" __global__ void __launch_bounds__(256, WIDTH ? 4 : 1) last_layer_norm_f16##NAME(LayerNorm p) { layer_norm<f16, u32, WIDTH, 8, true>(p); }
ROW_KERNELS(, 0)
ROW_KERNELS(_768, 768)

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
