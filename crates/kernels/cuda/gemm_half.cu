// Matrix products of half precision with float32 sums, on tensor cores (mma.sync, compute capability 8.0 and later).
//
// A block of threads computes a tile BM x BN; operands stream through STAGES buffers in shared memory, 64 of k at a time, in chunks
// of 16 bytes that are permuted so that neither the copies nor ldmatrix meet bank conflicts.
#include "copies.cuh"
#include "gemm.cuh"

static const int BK = 64;

template <int PENDING> __device__ __forceinline__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING));
}

__device__ __forceinline__ void load_matrices(u32 (&out)[4], u32 address, bool transposed) {
    if (transposed)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                     : "r"(address));
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                     : "r"(address));
}

__device__ __forceinline__ void multiply_add(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// An operand's part of a stage: EXTENT of its index by BK of k.
template <int EXTENT, Major MAJOR, int THREADS> struct Tile {
    static const int BYTES = EXTENT * BK * 2;
    static const int ROW_CHUNKS = MAJOR == MAJOR_K ? BK / 8 : EXTENT / 8;
    static const int CHUNKS = EXTENT * BK / 8;

    __device__ static u32 offset(int row, int chunk) {
        int key = ROW_CHUNKS >= 8 ? row & 7 : ROW_CHUNKS == 4 ? (row >> 1) & 3 : (row >> 2) & 1;
        return u32(row * ROW_CHUNKS + (chunk ^ key)) * 16;
    }

    // Begins to copy the part at (start, k); what lies beyond `extent` or `depth` is zero.
    __device__ static void load(u32 target, const f16 *data, int stride, int start, int extent, int k, int depth) {
#pragma unroll
        for (int turn = 0; turn < (CHUNKS + THREADS - 1) / THREADS; turn++) {
            int index = threadIdx.x + turn * THREADS;
            if (CHUNKS % THREADS != 0 && index >= CHUNKS) break;
            int row = index / ROW_CHUNKS, chunk = index % ROW_CHUNKS;
            int at = start + (MAJOR == MAJOR_K ? row : chunk * 8), step = k + (MAJOR == MAJOR_K ? chunk * 8 : row);
            bool valid = at < extent && step < depth;
            const f16 *source = data + (MAJOR == MAJOR_K ? size_t(at) * stride + step : size_t(step) * stride + at);
            copy_chunk(target + offset(row, chunk), valid ? source : data, valid);
        }
    }

    // The four 8 x 8 matrices of 16 of the operand's index by 16 of k, at (start, step) of the tile: `first` says whether
    // the second matrix is the index's next eight (operand a) or k's (operand b).
    __device__ static void fragment(u32 (&out)[4], u32 tile, int start, int step, bool index_first) {
        int lane = threadIdx.x % 32, matrix = lane / 8, row = lane % 8;
        int low = matrix & 1, high = matrix >> 1;
        int at = start + 8 * (index_first ? low : high), from = step + 8 * (index_first ? high : low);
        if (MAJOR == MAJOR_K)
            load_matrices(out, tile + offset(at + row, from / 8), false);
        else
            load_matrices(out, tile + offset(from + row, at / 8), true);
    }
};

template <int BM, int BN, int WM, int WN, int STAGES, Major A, Major B, Epilogue EPILOGUE, bool GATED>
struct Gemm {
    static const int WARPS_M = BM / WM, WARPS_N = BN / WN, THREADS = 32 * WARPS_M * WARPS_N;
    static const int SETS = GATED ? 2 : 1;
    typedef Tile<BM, A, THREADS> TileA;
    typedef Tile<BN, B, THREADS> TileB;
    static const int STAGE_BYTES = SETS * (TileA::BYTES + TileB::BYTES);
    // Rows of the result in shared memory are a chunk apart more than they need.
    static const int OUT_STRIDE = BN + 8;
    static const int OUT_BYTES = BM * OUT_STRIDE * 2;
    static const int SHARED = STAGES * STAGE_BYTES > OUT_BYTES ? STAGES * STAGE_BYTES : OUT_BYTES;

    __device__ static void run(const Product &p) {
        extern __shared__ __align__(128) unsigned char memory[];
        u32 shared = shared_address(memory);
        int block = blockIdx.z, m0 = blockIdx.y * BM, n0 = blockIdx.x * BN;
        if (EPILOGUE == BIAS_M) m0 = blockIdx.x * BM, n0 = blockIdx.y * BN;
        const f16 *a[2], *b[2];
        int shared_block = block / p.a_share;
        a[0] = (const f16 *)p.a.data + size_t(shared_block) * p.a_step;
        b[0] = (const f16 *)p.b.data + size_t(block) * p.b_step;
        a[1] = (const f16 *)p.gate_a.data + size_t(shared_block) * p.a_step;
        b[1] = (const f16 *)p.gate_b.data + size_t(block) * p.b_step;
        auto load = [&](int step) {
            u32 stage = shared + (step % STAGES) * STAGE_BYTES;
#pragma unroll
            for (int set = 0; set < SETS; set++) {
                TileA::load(stage, a[set], p.a.stride, m0, p.m, step * BK, p.k);
                TileB::load(stage + TileA::BYTES, b[set], p.b.stride, n0, p.n, step * BK, p.k);
                stage += TileA::BYTES + TileB::BYTES;
            }
        };
        float sums[SETS][WM / 16][WN / 8][4] = {};
        int steps = (p.k + BK - 1) / BK;
#pragma unroll
        for (int step = 0; step < STAGES - 1; step++) {
            if (step < steps) load(step);
            copies_end();
        }
        int warp = threadIdx.x / 32, wm = warp % WARPS_M * WM, wn = warp / WARPS_M * WN;
        for (int step = 0; step < steps; step++) {
            wait_for_copies<STAGES - 2>();
            __syncthreads();
            if (step + STAGES - 1 < steps) load(step + STAGES - 1);
            copies_end();
            u32 stage = shared + (step % STAGES) * STAGE_BYTES;
#pragma unroll
            for (int set = 0; set < SETS; set++) {
#pragma unroll
                for (int k = 0; k < BK; k += 16) {
                    u32 fa[WM / 16][4];
#pragma unroll
                    for (int i = 0; i < WM / 16; i++) TileA::fragment(fa[i], stage, wm + 16 * i, k, true);
#pragma unroll
                    for (int j = 0; j < WN / 16; j++) {
                        u32 fb[4];
                        TileB::fragment(fb, stage + TileA::BYTES, wn + 16 * j, k, false);
#pragma unroll
                        for (int i = 0; i < WM / 16; i++) {
                            multiply_add(sums[set][i][2 * j], fa[i], fb[0], fb[1]);
                            multiply_add(sums[set][i][2 * j + 1], fa[i], fb[2], fb[3]);
                        }
                    }
                }
                stage += TileA::BYTES + TileB::BYTES;
            }
        }
        wait_for_copies<0>();
        __syncthreads();
        finish(p, sums, (f16 *)memory, block, m0, n0, wm, wn);
    }

    // Through shared memory, so that rows are written 16 bytes at a time.
    __device__ static void finish(const Product &p, const float (&sums)[SETS][WM / 16][WN / 8][4], f16 *tile, int block, int m0,
                                  int n0, int wm, int wn) {
        const float *bias = p.bias + size_t(block) * p.bias_step;
        int lane = threadIdx.x % 32;
#pragma unroll
        for (int i = 0; i < WM / 16; i++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int row = wm + 16 * i + 8 * half + lane / 4;
                float row_bias = EPILOGUE == BIAS_M && m0 + row < p.m ? bias[m0 + row] : 0.0f;
#pragma unroll
                for (int j = 0; j < WN / 8; j++) {
                    int column = wn + 8 * j + 2 * (lane % 4);
                    float x[2];
#pragma unroll
                    for (int e = 0; e < 2; e++) {
                        x[e] = sums[0][i][j][2 * half + e];
                        if (GATED) x[e] = gelu(x[e]) * sums[SETS - 1][i][j][2 * half + e];
                        if (EPILOGUE == BIAS_M) x[e] += row_bias;
                        if (EPILOGUE == BIAS_N || EPILOGUE == BIAS_N_RESIDUAL)
                            x[e] += n0 + column + e < p.n ? bias[n0 + column + e] : 0.0f;
                    }
                    if (EPILOGUE == BIAS_N_RESIDUAL && m0 + row < p.m && n0 + column < p.n) {
                        size_t at = size_t(m0 + row) * p.c_stride + n0 + column;
                        u32 pair = *(const u32 *)((const f16 *)p.residual + size_t(block) * p.c_step + at);
                        x[0] += widen_low(pair);
                        x[1] += widen_high(pair);
                    }
                    *(u32 *)&tile[row * OUT_STRIDE + column] = narrow_pair(x[0], x[1]);
                }
            }
        }
        __syncthreads();
        static const int PER_CHUNK = 8, ROW_CHUNKS = BN / PER_CHUNK;
        f16 *c = (f16 *)p.c + size_t(block) * p.c_step;
#pragma unroll 4
        for (int index = threadIdx.x; index < BM * ROW_CHUNKS; index += THREADS) {
            int row = index / ROW_CHUNKS, column = index % ROW_CHUNKS * PER_CHUNK;
            if (m0 + row >= p.m || n0 + column >= p.n) continue;
            uint4 chunk = *(const uint4 *)&tile[row * OUT_STRIDE + column];
            size_t at = size_t(m0 + row) * p.c_stride + n0 + column;
            *(uint4 *)&c[at] = chunk;
        }
    }
};

#define GEMM(NAME, BM, BN, WM, WN, STAGES, A, B, EPILOGUE, GATED)                                                                 \
    extern "C" __global__ void __launch_bounds__(32 * (BM / WM) * (BN / WN)) NAME(Product p) {                                    \
        Gemm<BM, BN, WM, WN, STAGES, A, B, EPILOGUE, GATED>::run(p);                                                              \
    }

// Weights by channel-major activations: [3H, H] x [H, tokens] -> [3H, tokens].
GEMM(in_linear_large, 256, 128, 64, 64, 3, MAJOR_K, MAJOR_MN, BIAS_M, false)
GEMM(in_linear_medium, 128, 64, 64, 32, 4, MAJOR_K, MAJOR_MN, BIAS_M, false)
GEMM(in_linear_small, 32, 32, 16, 16, 4, MAJOR_K, MAJOR_MN, BIAS_M, false)
// Channel-major activations by weights: [tokens, H].
GEMM(out_linear_large, 128, 256, 64, 64, 3, MAJOR_MN, MAJOR_K, BIAS_N, false)
GEMM(out_linear_medium, 64, 64, 32, 32, 4, MAJOR_MN, MAJOR_K, BIAS_N, false)
GEMM(out_linear_small, 32, 32, 16, 16, 4, MAJOR_MN, MAJOR_K, BIAS_N, false)
// Both halves of the MLP's first product, GELU and gate: [tokens, I].
GEMM(gated_large, 128, 128, 64, 32, 3, MAJOR_K, MAJOR_K, PLAIN, true)
GEMM(gated_medium, 64, 64, 32, 32, 2, MAJOR_K, MAJOR_K, PLAIN, true)
GEMM(gated_small, 32, 32, 16, 16, 3, MAJOR_K, MAJOR_K, PLAIN, true)
// The MLP's second product with bias and residual: [tokens, H].
GEMM(down_large, 128, 192, 64, 48, 3, MAJOR_K, MAJOR_K, BIAS_N_RESIDUAL, false)
GEMM(down_medium, 64, 64, 32, 32, 4, MAJOR_K, MAJOR_K, BIAS_N_RESIDUAL, false)
GEMM(down_small, 32, 32, 16, 16, 4, MAJOR_K, MAJOR_K, BIAS_N_RESIDUAL, false)
