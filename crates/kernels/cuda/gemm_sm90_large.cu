// Large matrix products of half precision with float32 sums on Hopper GPUs.
//
// architecture compute_90a
//
// A block of threads stays on its multiprocessor and computes one tile of 128 x BN after another. One thread of it has the copy engine
// fetch operands, STAGES buffers ahead; two warpgroups multiply them, 64 rows each. Two blocks make a cluster and compute tiles
// beside each other along m: each fetches half of what both need of operand b, and the copy engine writes it to both.
#include "sm90.cuh"

struct alignas(64) TensorMap {
    u64 words[16];
};

struct LargeProduct {
    TensorMap a, b;
    Product product;
};

static const int BM = 128, CONSUMERS = 2, CLUSTER = 2, THREADS = 128 * (1 + CONSUMERS);

__device__ __forceinline__ void barrier_init(u32 barrier, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count));
}
__device__ __forceinline__ void barrier_expect(u32 barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ __forceinline__ void barrier_wait(u32 barrier, int parity) {
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n"
                 "}\n" ::"r"(barrier), "r"(parity)
                 : "memory");
}
// At the barrier in the same place of a block of the cluster.
__device__ __forceinline__ void barrier_arrive(u32 barrier, int block) {
    asm volatile("{\n"
                 ".reg .b32 remote;\n"
                 "mapa.shared::cluster.u32 remote, %0, %1;\n"
                 "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [remote];\n"
                 "}\n" ::"r"(barrier), "r"(block)
                 : "memory");
}
__device__ __forceinline__ void cluster_meet() {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
__device__ __forceinline__ int cluster_rank() {
    u32 rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

// Has the copy engine fetch a box to shared memory; all blocks of the cluster get it where `everywhere` says so.
__device__ __forceinline__ void fetch(u32 target, const TensorMap *map, int x, int y, u32 barrier, bool everywhere) {
    if (everywhere)
        asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(target),
                     "l"(map), "r"(x), "r"(y), "r"(barrier), "h"(u16((1 << CLUSTER) - 1))
                     : "memory");
    else
        asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(target),
                     "l"(map), "r"(x), "r"(y), "r"(barrier)
                     : "memory");
}

template <int BN, int STAGES, Major A, Major B, Epilogue EPILOGUE> struct Large {
    static const int A_BYTES = BM * ROW_BYTES, B_BYTES = BN * ROW_BYTES, STAGE_BYTES = A_BYTES + B_BYTES;
    static const int STRIDE = BN + 8;
    // Behind the stages: the results, a part for each warpgroup, and the barriers.
    static const int RESULT_BYTES = BM * STRIDE * 2;

    // A tile's place, the same for both blocks of the cluster but for m0.
    struct Place {
        int block, m0, n0;
    };

    __device__ __forceinline__ static Place place(const Product &p, int tile, int blocks, int rank) {
        int m_pairs = (p.m + CLUSTER * BM - 1) / (CLUSTER * BM), n_tiles = (p.n + BN - 1) / BN, pair, n, block = 0;
        // Tiles that share activations follow each other.
        if (EPILOGUE == BIAS_M) {
            pair = tile % m_pairs;
            n = tile / m_pairs;
        } else {
            n = tile % n_tiles;
            block = tile / n_tiles % blocks;
            pair = tile / (n_tiles * blocks);
        }
        return {block, (pair * CLUSTER + rank) * BM, n * BN};
    }

    __device__ __forceinline__ static void produce(const LargeProduct &large, u32 shared, u32 full, u32 empty, int tiles, int blocks, int rank) {
        const Product &p = large.product;
        int steps = (p.k + BK - 1) / BK, slot = 0, phase = 0;
        for (int tile = blockIdx.x / CLUSTER; tile < tiles; tile += gridDim.x / CLUSTER) {
            Place at = place(p, tile, blocks, rank);
            // Diagonal blocks lie beside each other in a, and below each other in b.
            int a_k = at.block * p.a_step, b_n = at.block * p.n + at.n0;
            for (int step = 0; step < steps; step++) {
                u32 a = shared + slot * STAGE_BYTES, b = a + A_BYTES, ready = full + 8 * slot;
                barrier_wait(empty + 8 * slot, phase ^ 1);
                barrier_expect(ready, STAGE_BYTES);
                int k = step * BK;
                if (A == MAJOR_K)
                    fetch(a, &large.a, a_k + k, at.m0, ready, false);
                else
                    for (int panel = 0; panel < BM / 64; panel++) fetch(a + panel * PANEL_BYTES, &large.a, at.m0 + 64 * panel, k, ready, false);
                static const int HALF = BN / CLUSTER;
                if (B == MAJOR_K)
                    fetch(b + rank * HALF * ROW_BYTES, &large.b, k, b_n + rank * HALF, ready, true);
                else
                    for (int panel = rank * HALF / 64; panel < (rank + 1) * HALF / 64; panel++)
                        fetch(b + panel * PANEL_BYTES, &large.b, at.n0 + 64 * panel, k, ready, true);
                if (++slot == STAGES) slot = 0, phase ^= 1;
            }
        }
    }

    __device__ __forceinline__ static void consume(const Product &p, u32 shared, u32 full, u32 empty, f16 *results, int tiles, int blocks, int rank) {
        int group = threadIdx.x / 128 - 1, thread = threadIdx.x % 128, steps = (p.k + BK - 1) / BK, slot = 0, phase = 0;
        f16 *part = results + group * 64 * STRIDE;
        // Tells both blocks of the cluster that this warpgroup has read a buffer.
        auto release = [&](int slot) {
            if (thread < CLUSTER) barrier_arrive(empty + 8 * slot, thread);
        };
        for (int tile = blockIdx.x / CLUSTER; tile < tiles; tile += gridDim.x / CLUSTER) {
            Place at = place(p, tile, blocks, rank);
            fetch_residuals(p, part, at, group, thread);
            float sums[BN / 2];
            clear(sums);
            int before = -1;
            for (int step = 0; step < steps; step++) {
                u32 a = shared + slot * STAGE_BYTES, b = a + A_BYTES;
                barrier_wait(full + 8 * slot, phase);
                pin(sums);
                products_begin();
#pragma unroll
                for (int k = 0; k < BK; k += 16)
                    Wgmma<BN, A == MAJOR_MN, B == MAJOR_MN>::template run<true>(sums, descriptor<A>(a, 64 * group, k), descriptor<B>(b, 0, k));
                products_end();
                pin(sums);
                wait_for_products<1>();
                if (before >= 0) release(before);
                before = slot;
                if (++slot == STAGES) slot = 0, phase ^= 1;
            }
            wait_for_products<0>();
            pin(sums);
            release(before);
            finish(p, sums, part, at, group, thread);
        }
    }

    // The threads of a warpgroup.
    __device__ __forceinline__ static void meet(int group) { asm volatile("bar.sync %0, 128;" ::"r"(group + 1) : "memory"); }

    // Begins to copy a warpgroup's residuals to where its results will be added to them.
    __device__ __forceinline__ static void fetch_residuals(const Product &p, f16 *part, Place at, int group, int thread) {
        // The rows of the tile before have been read.
        meet(group);
        if (EPILOGUE != BIAS_N_RESIDUAL) return;
        const f16 *residual = (const f16 *)p.residual + size_t(at.block) * p.c_step;
        u32 target = shared_address(part);
        for (int index = thread; index < 64 * BN / 8; index += 128) {
            int row = index / (BN / 8), column = index % (BN / 8) * 8, m = at.m0 + 64 * group + row, n = at.n0 + column;
            bool valid = m < p.m && n < p.n;
            copy_chunk(target + (row * STRIDE + column) * 2, valid ? residual + size_t(m) * p.c_stride + n : residual, valid);
        }
        copies_end();
    }

    // A warpgroup's 64 rows, through its own part of shared memory.
    __device__ __forceinline__ static void finish(const Product &p, const float (&sums)[BN / 2], f16 *part, Place at, int group, int thread) {
        const float *bias = p.bias + size_t(at.block) * p.bias_step;
        int warp = thread / 32, lane = thread % 32, m0 = at.m0 + 64 * group;
        if (EPILOGUE == BIAS_N_RESIDUAL) {
            asm volatile("cp.async.wait_group 0;" ::: "memory");
            meet(group);
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int row = 16 * warp + 8 * half + lane / 4;
            float row_bias = EPILOGUE == BIAS_M && m0 + row < p.m ? bias[m0 + row] : 0.0f;
#pragma unroll
            for (int j = 0; j < BN / 8; j++) {
                int column = 8 * j + 2 * (lane % 4);
                float x[2] = {sums[4 * j + 2 * half] + row_bias, sums[4 * j + 2 * half + 1] + row_bias};
                if (EPILOGUE != BIAS_M && at.n0 + column < p.n) {
                    float2 pair = *(const float2 *)&bias[at.n0 + column];
                    x[0] += pair.x;
                    x[1] += pair.y;
                }
                u32 *place = (u32 *)&part[row * STRIDE + column];
                if (EPILOGUE == BIAS_N_RESIDUAL) {
                    x[0] += widen_low(*place);
                    x[1] += widen_high(*place);
                }
                *place = narrow_pair(x[0], x[1]);
            }
        }
        meet(group);
        static const int ROW_CHUNKS = BN / 8;
        f16 *c = (f16 *)p.c + size_t(at.block) * p.c_step;
#pragma unroll 4
        for (int index = thread; index < 64 * ROW_CHUNKS; index += 128) {
            int row = index / ROW_CHUNKS, column = index % ROW_CHUNKS * 8;
            if (m0 + row >= p.m || at.n0 + column >= p.n) continue;
            *(uint4 *)&c[size_t(m0 + row) * p.c_stride + at.n0 + column] = *(const uint4 *)&part[row * STRIDE + column];
        }
    }

    __device__ __forceinline__ static void run(const LargeProduct &large, int blocks) {
        extern __shared__ __align__(1024) unsigned char memory[];
        const Product &p = large.product;
        u32 shared = shared_address(memory);
        f16 *results = (f16 *)(memory + STAGES * STAGE_BYTES);
        u32 full = shared + STAGES * STAGE_BYTES + RESULT_BYTES, empty = full + 8 * STAGES;
        int rank = cluster_rank();
        int tiles = (p.m + CLUSTER * BM - 1) / (CLUSTER * BM) * ((p.n + BN - 1) / BN) * blocks;
        if (threadIdx.x == 0) {
            for (int slot = 0; slot < STAGES; slot++) {
                barrier_init(full + 8 * slot, 1);
                barrier_init(empty + 8 * slot, CLUSTER * CONSUMERS);
            }
            asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        }
        cluster_meet();
        if (threadIdx.x < 128) {
            asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
            if (threadIdx.x == 0) produce(large, shared, full, empty, tiles, blocks, rank);
        } else {
            asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
            consume(p, shared, full, empty, results, tiles, blocks, rank);
        }
        // Nobody leaves while the other block may still write to its memory.
        __syncwarp();
        cluster_meet();
    }
};

#define LARGE(NAME, BN, STAGES, A, B, EPILOGUE)                                                                              \
    extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(THREADS, 1) NAME(const __grid_constant__ LargeProduct p) { \
        Large<BN, STAGES, A, B, EPILOGUE>::run(p, p.product.blocks);                                                         \
    }

LARGE(in_linear_large, 256, 3, MAJOR_K, MAJOR_MN, BIAS_M)
LARGE(out_linear_large, 256, 3, MAJOR_MN, MAJOR_K, BIAS_N)
LARGE(down_large, 192, 4, MAJOR_K, MAJOR_K, BIAS_N_RESIDUAL)
