// Matrix products of half precision with float32 sums on Hopper GPUs, whose warpgroups multiply straight from shared memory (wgmma).
//
// architecture compute_90a
//
// A warpgroup computes 64 x BN. Operands stream through STAGES buffers in shared memory, 64 of k at a time, in the layouts with
// 128-byte swizzle that the instruction reads: of an operand with k contiguous, rows of 128 bytes; of one with its own index
// contiguous, panels of 64 of it, each with rows of 128 bytes by k. Chunks of 16 bytes are permuted by the row's last three bits.
#include "sm90.cuh"

static const int BM = 64, THREADS = 128;

// An operand's part of a stage: EXTENT of its index by BK of k.
template <int EXTENT, Major MAJOR> struct Tile {
    static const int PANELS = (EXTENT + 63) / 64;
    static const int BYTES = MAJOR == MAJOR_K ? EXTENT * ROW_BYTES : PANELS * PANEL_BYTES;
    static const int CHUNKS = EXTENT * BK / 8;

    // Begins to copy the part at (start, k); what lies beyond `extent` or `depth` is zero.
    __device__ __forceinline__ static void load(u32 target, const f16 *data, int stride, int start, int extent, int k, int depth) {
#pragma unroll
        for (int turn = 0; turn < (CHUNKS + THREADS - 1) / THREADS; turn++) {
            int index = threadIdx.x + turn * THREADS;
            if (CHUNKS % THREADS != 0 && index >= CHUNKS) break;
            int row, at, step;
            u32 place;
            if (MAJOR == MAJOR_K) {
                int chunk = index % 8;
                row = index / 8;
                at = start + row;
                step = k + chunk * 8;
                place = row * ROW_BYTES + ((chunk ^ (row & 7)) * 16);
            } else {
                int chunk = index % (EXTENT / 8);
                row = index / (EXTENT / 8);
                at = start + chunk * 8;
                step = k + row;
                place = chunk / 8 * PANEL_BYTES + row * ROW_BYTES + (((chunk % 8) ^ (row & 7)) * 16);
            }
            bool valid = at < extent && step < depth;
            const f16 *source = data + (MAJOR == MAJOR_K ? size_t(at) * stride + step : size_t(step) * stride + at);
            copy_chunk(target + place, valid ? source : data, valid);
        }
    }
};

// Adds what a row of sums needs, and writes the tile's rows 16 bytes at a time, through shared memory.
template <int BN, Epilogue EPILOGUE> struct Writer {
    static const int STRIDE = BN + 8;

    __device__ __forceinline__ static void stage(const Product &p, const float (&sums)[BN / 2], f16 *tile, int block, int m0, int n0) {
        const float *bias = p.bias + size_t(block) * p.bias_step;
        int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int row = 16 * warp + 8 * half + lane / 4;
            float row_bias = EPILOGUE == BIAS_M && m0 + row < p.m ? bias[m0 + row] : 0.0f;
#pragma unroll
            for (int j = 0; j < BN / 8; j++) {
                int column = 8 * j + 2 * (lane % 4);
                float x[2];
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    x[e] = sums[4 * j + 2 * half + e] + row_bias;
                    if (EPILOGUE == BIAS_N || EPILOGUE == BIAS_N_RESIDUAL) x[e] += n0 + column + e < p.n ? bias[n0 + column + e] : 0.0f;
                }
                u32 *place = (u32 *)&tile[row * STRIDE + column];
                if (EPILOGUE == BIAS_N_RESIDUAL) {
                    x[0] += widen_low(*place);
                    x[1] += widen_high(*place);
                }
                *place = narrow_pair(x[0], x[1]);
            }
        }
    }

    // Begins to copy residuals to where results will be added to them.
    __device__ __forceinline__ static void fetch(const Product &p, u32 target, int block, int m0, int n0) {
        if (EPILOGUE != BIAS_N_RESIDUAL) return;
        const f16 *residual = (const f16 *)p.residual + size_t(block) * p.c_step;
#pragma unroll 4
        for (int index = threadIdx.x; index < BM * BN / 8; index += THREADS) {
            int row = index / (BN / 8), column = index % (BN / 8) * 8;
            bool valid = m0 + row < p.m && n0 + column < p.n;
            const f16 *source = residual + size_t(m0 + row) * p.c_stride + n0 + column;
            copy_chunk(target + (row * STRIDE + column) * 2, valid ? source : residual, valid);
        }
    }

    __device__ __forceinline__ static void write(const Product &p, const f16 *tile, int block, int m0, int n0) {
        static const int ROW_CHUNKS = BN / 8;
        f16 *c = (f16 *)p.c + size_t(block) * p.c_step;
#pragma unroll 4
        for (int index = threadIdx.x; index < BM * ROW_CHUNKS; index += THREADS) {
            int row = index / ROW_CHUNKS, column = index % ROW_CHUNKS * 8;
            if (m0 + row >= p.m || n0 + column >= p.n) continue;
            *(uint4 *)&c[size_t(m0 + row) * p.c_stride + n0 + column] = *(const uint4 *)&tile[row * STRIDE + column];
        }
    }
};

template <int BN, int STAGES, Major A, Major B, Epilogue EPILOGUE> struct Gemm {
    typedef Tile<BM, A> TileA;
    typedef Tile<BN, B> TileB;
    typedef Writer<BN, EPILOGUE> Result;
    static const int STAGE_BYTES = TileA::BYTES + TileB::BYTES;

    __device__ __forceinline__ static void run(const Product &p) {
        extern __shared__ __align__(1024) unsigned char memory[];
        u32 shared = shared_address(memory);
        int block = blockIdx.z, m0 = blockIdx.y * BM, n0 = blockIdx.x * BN;
        if (EPILOGUE == BIAS_M) m0 = blockIdx.x * BM, n0 = blockIdx.y * BN;
        const f16 *a = (const f16 *)p.a.data + size_t(block / p.a_share) * p.a_step;
        const f16 *b = (const f16 *)p.b.data + size_t(block) * p.b_step;
        int steps = (p.k + BK - 1) / BK;
        auto load = [&](int step) {
            if (step < steps) {
                u32 stage = shared + (step % STAGES) * STAGE_BYTES;
                TileA::load(stage, a, p.a.stride, m0, p.m, step * BK, p.k);
                TileB::load(stage + TileA::BYTES, b, p.b.stride, n0, p.n, step * BK, p.k);
            }
            copies_end();
        };
        float sums[BN / 2];
        clear(sums);
        // They come with the first stage, to behind the last.
        Result::fetch(p, shared + STAGES * STAGE_BYTES, block, m0, n0);
#pragma unroll
        for (int step = 0; step < STAGES - 2; step++) load(step);
#pragma unroll 1
        for (int step = 0; step < steps; step++) {
            wait_for_copies<STAGES - 3>();
            // The products of the step before may still run; those before them have read the buffer that is filled next.
            wait_for_products<1>();
            __syncthreads();
            u32 stage = shared + (step % STAGES) * STAGE_BYTES;
            pin(sums);
            products_begin();
#pragma unroll
            for (int k = 0; k < BK; k += 16)
                Wgmma<BN, A == MAJOR_MN, B == MAJOR_MN>::template run<true>(sums, descriptor<A>(stage, 0, k),
                                                            descriptor<B>(stage + TileA::BYTES, 0, k));
            products_end();
            pin(sums);
            load(step + STAGES - 2);
        }
        wait_for_products<0>();
        pin(sums);
        wait_for_copies<0>();
        __syncthreads();
        // Where the operands were, or where the residuals are.
        f16 *tile = (f16 *)(memory + (EPILOGUE == BIAS_N_RESIDUAL ? STAGES * STAGE_BYTES : 0));
        Result::stage(p, sums, tile, block, m0, n0);
        __syncthreads();
        Result::write(p, tile, block, m0, n0);
    }
};

// A gated product: 64 rows of both halves' activations stay in shared memory, KS times BK of k, and weights stream by, BN outputs of
// each half at a time, over all outputs of the diagonal blocks that share the activations. While a tile's products run, GELU and gate
// are applied to those of the tile before.
template <int BN, int KS> struct Gated {
    typedef Tile<BM, MAJOR_K> TileA;
    typedef Tile<BN, MAJOR_K> TileB;
    typedef Writer<BN, PLAIN> Result;
    static const int ROWS_BYTES = 2 * KS * TileA::BYTES, STAGE_BYTES = 2 * KS * TileB::BYTES;

    template <int SET, int K> __device__ __forceinline__ static void step(float (&sums)[BN / 2], u32 rows, u32 stage) {
        Wgmma<BN, false, false>::template run<(K > 0)>(sums, descriptor<MAJOR_K>(rows + (SET * KS + K / BK) * TileA::BYTES, 0, K % BK),
                                                       descriptor<MAJOR_K>(stage + (SET * KS + K / BK) * TileB::BYTES, 0, K % BK));
        if constexpr (K + 16 < KS * BK) step<SET, K + 16>(sums, rows, stage);
    }

    __device__ __forceinline__ static void multiply(float (&sums)[2][BN / 2], u32 rows, u32 stage) {
        pin(sums[0]);
        pin(sums[1]);
        products_begin();
        step<0, 0>(sums[0], rows, stage);
        step<1, 0>(sums[1], rows, stage);
        products_end();
        pin(sums[0]);
        pin(sums[1]);
    }

    __device__ __forceinline__ static void run(const Product &p) {
        extern __shared__ __align__(1024) unsigned char memory[];
        u32 rows = shared_address(memory), weights = rows + ROWS_BYTES;
        f16 *out = (f16 *)(memory + ROWS_BYTES + 2 * STAGE_BYTES);
        // Outputs of all diagonal blocks with these activations follow each other.
        int outputs = p.n * p.a_share, m0 = blockIdx.y * BM, tiles = (outputs + BN - 1) / BN;
        int first = tiles * int(blockIdx.x) / int(gridDim.x), last = tiles * int(blockIdx.x + 1) / int(gridDim.x);
        Product whole = p;
        whole.n = outputs;
        whole.c_step = p.c_step * p.a_share;
        int shared_block = blockIdx.z;
        const f16 *a[2] = {(const f16 *)p.a.data + size_t(shared_block) * p.a_step, (const f16 *)p.gate_a.data + size_t(shared_block) * p.a_step};
        size_t step = size_t(p.b_step) * p.a_share * shared_block;
        const f16 *b[2] = {(const f16 *)p.b.data + step, (const f16 *)p.gate_b.data + step};
        auto load = [&](int tile) {
            if (tile < last) {
#pragma unroll
                for (int part = 0; part < 2 * KS; part++)
                    TileB::load(weights + (tile - first) % 2 * STAGE_BYTES + part * TileB::BYTES, b[part / KS], p.b.stride, tile * BN, outputs, part % KS * BK, p.k);
            }
            copies_end();
        };
#pragma unroll
        for (int part = 0; part < 2 * KS; part++)
            TileA::load(rows + part * TileA::BYTES, a[part / KS], p.a.stride, m0, p.m, part % KS * BK, p.k);
        load(first);
        load(first + 1);
        if (first >= last) return;
        float even[2][BN / 2], odd[2][BN / 2];
        wait_for_copies<1>();
        __syncthreads();
        multiply(even, rows, weights);
        // One tile of the loop: its products are in `ready`; the next one's go to `next`.
        auto turn = [&](int tile, float(&ready)[2][BN / 2], float(&next)[2][BN / 2]) {
            wait_for_copies<0>();
            wait_for_products<0>();
            pin(ready[0]);
            pin(ready[1]);
            __syncthreads();
            // Behind the last tile, of what is there: nobody looks at it.
            multiply(next, rows, weights + (tile + 1 - first) % 2 * STAGE_BYTES);
            load(tile + 2);
#pragma unroll
            for (int i = 0; i < BN / 2; i++) ready[0][i] = gelu_rounded(ready[0][i]) * ready[1][i];
            Result::stage(whole, ready[0], out, shared_block, m0, tile * BN);
            __syncthreads();
            Result::write(whole, out, shared_block, m0, tile * BN);
        };
        for (int tile = first;;) {
            turn(tile, even, odd);
            if (++tile >= last) break;
            turn(tile, odd, even);
            if (++tile >= last) break;
        }
        wait_for_products<0>();
    }
};

#define GEMM(NAME, BN, STAGES, A, B, EPILOGUE) \
    extern "C" __global__ void __launch_bounds__(THREADS) NAME(Product p) { Gemm<BN, STAGES, A, B, EPILOGUE>::run(p); }

// As in gemm_half.cu.
GEMM(in_linear_medium, 64, 6, MAJOR_K, MAJOR_MN, BIAS_M)
GEMM(in_linear_small, 32, 8, MAJOR_K, MAJOR_MN, BIAS_M)
GEMM(out_linear_medium, 64, 6, MAJOR_MN, MAJOR_K, BIAS_N)
GEMM(out_linear_small, 16, 8, MAJOR_MN, MAJOR_K, BIAS_N)
GEMM(down_medium, 64, 6, MAJOR_K, MAJOR_K, BIAS_N_RESIDUAL)
GEMM(down_small, 16, 8, MAJOR_K, MAJOR_K, BIAS_N_RESIDUAL)
extern "C" __global__ void __launch_bounds__(THREADS) gated_small(Product p) { Gated<32, 3>::run(p); }
