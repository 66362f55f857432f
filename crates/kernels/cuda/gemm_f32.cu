// Matrix products in float32, by multiply-adds: every sum is one chain over k in order.
#include "gemm.cuh"

static const int BM = 64, BN = 64, BK = 16, THREADS = 256, PER = 4;

// Copies the part of an operand at (start, k) to `tile` [BK][64 + padding]; what lies beyond `extent` or `depth` is zero.
template <Major MAJOR>
__device__ __forceinline__ void load(float (*tile)[BM + 4], const float *data, int stride, int start, int extent, int k, int depth) {
#pragma unroll
    for (int index = threadIdx.x; index < BM * BK; index += THREADS) {
        int row = MAJOR == MAJOR_K ? index / BK : index % BM, step = MAJOR == MAJOR_K ? index % BK : index / BM;
        int at = start + row, from = k + step;
        bool valid = at < extent && from < depth;
        tile[step][row] = valid ? data[MAJOR == MAJOR_K ? size_t(at) * stride + from : size_t(from) * stride + at] : 0.0f;
    }
}

template <Major A, Major B, Epilogue EPILOGUE, bool GATED> __device__ void run(const Product &p) {
    __shared__ __align__(16) float tile_a[BK][BM + 4], tile_b[BK][BN + 4];
    int block = blockIdx.z, m0 = blockIdx.y * BM, n0 = blockIdx.x * BN, shared_block = block / p.a_share;
    if (EPILOGUE == BIAS_M) m0 = blockIdx.x * BM, n0 = blockIdx.y * BN;
    int row = threadIdx.x / 16 * PER, column = threadIdx.x % 16 * PER;
    float sums[GATED ? 2 : 1][PER][PER] = {};
#pragma unroll
    for (int set = 0; set < (GATED ? 2 : 1); set++) {
        const float *a = (const float *)(set ? p.gate_a.data : p.a.data) + size_t(shared_block) * p.a_step;
        const float *b = (const float *)(set ? p.gate_b.data : p.b.data) + size_t(block) * p.b_step;
        for (int k = 0; k < p.k; k += BK) {
            __syncthreads();
            load<A>(tile_a, a, p.a.stride, m0, p.m, k, p.k);
            load<B>(tile_b, b, p.b.stride, n0, p.n, k, p.k);
            __syncthreads();
#pragma unroll
            for (int step = 0; step < BK; step++) {
                float4 x = *(const float4 *)&tile_a[step][row], y = *(const float4 *)&tile_b[step][column];
                float xs[PER] = {x.x, x.y, x.z, x.w}, ys[PER] = {y.x, y.y, y.z, y.w};
#pragma unroll
                for (int i = 0; i < PER; i++)
#pragma unroll
                    for (int j = 0; j < PER; j++) sums[set][i][j] = fmaf(xs[i], ys[j], sums[set][i][j]);
            }
        }
    }
    const float *bias = p.bias + size_t(block) * p.bias_step;
#pragma unroll
    for (int i = 0; i < PER; i++)
#pragma unroll
        for (int j = 0; j < PER; j++) {
            int m = m0 + row + i, n = n0 + column + j;
            if (m >= p.m || n >= p.n) continue;
            size_t at = size_t(block) * p.c_step + size_t(m) * p.c_stride + n;
            float x = sums[0][i][j];
            if (GATED) x = gelu(x) * sums[GATED ? 1 : 0][i][j];
            if (EPILOGUE == BIAS_M) x += bias[m];
            if (EPILOGUE == BIAS_N || EPILOGUE == BIAS_N_RESIDUAL) x += bias[n];
            if (EPILOGUE == BIAS_N_RESIDUAL) x += ((const float *)p.residual)[at];
            ((float *)p.c)[at] = x;
        }
}

#define GEMM(NAME, A, B, EPILOGUE, GATED)                                                                                       \
    extern "C" __global__ void __launch_bounds__(THREADS) NAME(Product p) { run<A, B, EPILOGUE, GATED>(p); }

GEMM(in_linear_f32, MAJOR_K, MAJOR_MN, BIAS_M, false)
GEMM(out_linear_f32, MAJOR_MN, MAJOR_K, BIAS_N, false)
GEMM(gated_f32, MAJOR_K, MAJOR_K, PLAIN, true)
GEMM(down_f32, MAJOR_K, MAJOR_K, BIAS_N_RESIDUAL, false)
// A long filter's taps from its states, before the window: [H, F] x [positions, F] -> [H, positions].
GEMM(taps_f32, MAJOR_K, MAJOR_K, PLAIN, false)
