// Large matrix products of half precision with float32 sums on Hopper GPUs.
//
// architecture compute_90a
//
// A cluster computes one pair of tiles of 128 x BN after another, beside each other along m: what its blocks share is operand b.
#include "cluster.cuh"

struct LargeProduct {
    TensorMap a, b, c, residual;
    Product product;
};

template <int BN, int STAGES, Major A, Major B, Epilogue EPILOGUE> struct Large {
    static const bool ADDS = EPILOGUE == BIAS_N_RESIDUAL;
    static const int A_BYTES = BM * ROW_BYTES, B_BYTES = BN * ROW_BYTES, STAGE_BYTES = A_BYTES + B_BYTES, HALF = BN / CLUSTER;
    // Behind the stages: panels of results for each warpgroup, two of which take turns where nothing has to be added; and the barriers.
    static const int PANELS = BN / 64, RESULTS = ADDS ? PANELS : 2, RESULT_BYTES = CONSUMERS * RESULTS * PANEL_BYTES;

    // Addresses in shared memory.
    struct Memory {
        u32 stages, results, full, empty, added, room;
    };

    // A tile's place, the same for both blocks of the cluster but for m0.
    struct Place {
        int block, m0, n0;
    };

    __device__ __forceinline__ static Place place(const Product &p, int tile, int rank) {
        int m_pairs = (p.m + CLUSTER * BM - 1) / (CLUSTER * BM), n_tiles = (p.n + BN - 1) / BN, pair, n, block = 0;
        // Tiles that share activations follow each other.
        if (EPILOGUE == BIAS_M) {
            pair = tile % m_pairs;
            n = tile / m_pairs;
        } else {
            n = tile % n_tiles;
            block = tile / n_tiles % p.blocks;
            pair = tile / (n_tiles * p.blocks);
        }
        return {block, (pair * CLUSTER + rank) * BM, n * BN};
    }
    __device__ __forceinline__ static int tiles(const Product &p) {
        return (p.m + CLUSTER * BM - 1) / (CLUSTER * BM) * ((p.n + BN - 1) / BN) * p.blocks;
    }

    // Fetches a step's operands. Diagonal blocks lie beside each other in a, and below each other in b.
    __device__ __forceinline__ static void fetch_operands(const LargeProduct &large, Place at, int k, u32 a, u32 ready, int rank) {
        const Product &p = large.product;
        if (A == MAJOR_K)
            fetch(a, &large.a, at.block * p.a_step + k, at.m0, ready, false);
        else
            for (int panel = 0; panel < BM / 64; panel++) fetch(a + panel * PANEL_BYTES, &large.a, at.m0 + 64 * panel, k, ready, false);
        u32 b = a + A_BYTES;
        if (B == MAJOR_K)
            fetch(b + rank * HALF * ROW_BYTES, &large.b, k, at.block * p.n + at.n0 + rank * HALF, ready, true);
        else
            for (int panel = rank * HALF / 64; panel < (rank + 1) * HALF / 64; panel++)
                fetch(b + panel * PANEL_BYTES, &large.b, at.n0 + 64 * panel, k, ready, true);
    }

    __device__ __forceinline__ static void produce(const LargeProduct &large, const Memory &memory, int rank) {
        const Product &p = large.product;
        int steps = (p.k + BK - 1) / BK, turn = 0;
        Ring<STAGES> ring;
        for (int tile = blockIdx.x / CLUSTER; tile < tiles(p); tile += gridDim.x / CLUSTER, turn ^= 1) {
            Place at = place(p, tile, rank);
            for (int step = 0; step < steps; step++, ring.advance()) {
                u32 ready = memory.full + 8 * ring.slot;
                barrier_wait(memory.empty + 8 * ring.slot, ring.phase ^ 1);
                barrier_expect(ready, STAGE_BYTES);
                fetch_operands(large, at, step * BK, memory.stages + ring.slot * STAGE_BYTES, ready, rank);
                // By now the results before are on their way out of where residuals go.
                if (ADDS && step == min(STAGES, steps - 1)) fetch_residuals(large, memory, at, turn);
            }
        }
    }

    // To where results will be added to them.
    __device__ __forceinline__ static void fetch_residuals(const LargeProduct &large, const Memory &memory, Place at, int turn) {
        for (int group = 0; group < CONSUMERS; group++) {
            u32 ready = memory.added + 8 * group;
            barrier_wait(memory.room + 8 * group, turn ^ 1);
            barrier_expect(ready, RESULTS * PANEL_BYTES);
            for (int panel = 0; panel < PANELS; panel++)
                fetch(memory.results + (group * RESULTS + panel) * PANEL_BYTES, &large.residual, at.block * large.product.c_step + at.n0 + 64 * panel, at.m0 + 64 * group, ready,
                      false);
        }
    }

    __device__ __forceinline__ static void consume(const LargeProduct &large, const Memory &memory, int rank) {
        const Product &p = large.product;
        int group = threadIdx.x / 128 - 1, thread = threadIdx.x % 128, steps = (p.k + BK - 1) / BK, turn = 0;
        Ring<STAGES> ring;
        // Tells both blocks of the cluster that this warpgroup has read a buffer.
        auto release = [&](int slot) {
            if (thread < CLUSTER) barrier_arrive(memory.empty + 8 * slot, thread);
        };
        for (int tile = blockIdx.x / CLUSTER; tile < tiles(p); tile += gridDim.x / CLUSTER, turn ^= 1) {
            Place at = place(p, tile, rank);
            float sums[BN / 2];
            clear(sums);
            int before = -1;
            for (int step = 0; step < steps; step++, ring.advance()) {
                u32 a = memory.stages + ring.slot * STAGE_BYTES, b = a + A_BYTES;
                barrier_wait(memory.full + 8 * ring.slot, ring.phase);
                pin(sums);
                products_begin();
#pragma unroll
                for (int k = 0; k < BK; k += 16)
                    Wgmma<BN, A == MAJOR_MN, B == MAJOR_MN>::template run<true>(sums, descriptor<A>(a, 64 * group, k), descriptor<B>(b, 0, k));
                products_end();
                pin(sums);
                // While these run, the results before leave, if they have not yet.
                if (ADDS && step == 0 && thread == 0 && tile != blockIdx.x / CLUSTER) {
                    wait_for_stores<0>();
                    barrier_arrive(memory.room + 8 * group);
                }
                wait_for_products<1>();
                if (before >= 0) release(before);
                before = ring.slot;
            }
            wait_for_products<0>();
            pin(sums);
            release(before);
            if (ADDS) barrier_wait(memory.added + 8 * group, turn);
            finish(large, sums, memory.results + group * RESULTS * PANEL_BYTES, at, group, thread);
        }
        wait_for_stores<0>();
    }

    // A warpgroup's 64 rows, 64 columns after the other.
    __device__ __forceinline__ static void finish(const LargeProduct &large, const float (&sums)[BN / 2], u32 results, Place at, int group, int thread) {
        const Product &p = large.product;
        const float *bias = p.bias + size_t(at.block) * p.bias_step;
        int lane = thread % 32, m0 = at.m0 + 64 * group, row = m0 + thread / 32 * 16 + lane / 4;
        float row_bias[2] = {};
        if (EPILOGUE == BIAS_M)
            for (int half = 0; half < 2; half++) row_bias[half] = row + 8 * half < p.m ? bias[row + 8 * half] : 0.0f;
#pragma unroll
        for (int panel = 0; panel < PANELS; panel++) {
            u32 target = results + (ADDS ? panel : panel % 2) * PANEL_BYTES;
            if (!ADDS) {
                static_assert(ADDS || PANELS % 2 == 0, "panels take turns");
                if (thread == 0) wait_for_stores<1>();
                meet(group);
            }
            Panel place(target, thread);
#pragma unroll
            for (int column = 0; column < 64; column += 16) {
                float2 pair[2] = {};
                if (EPILOGUE != BIAS_M)
#pragma unroll
                    for (int next = 0; next < 2; next++) {
                        int n = at.n0 + 64 * panel + column + 8 * next + 2 * (lane % 4);
                        if (n < p.n) pair[next] = *(const float2 *)&bias[n];
                    }
                u32 matrices[4];
                if (ADDS) load_matrices(matrices, place.matrices(column));
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    int half = i % 2, next = i / 2, j = panel * 8 + column / 8 + next;
                    float x = sums[4 * j + 2 * half], y = sums[4 * j + 2 * half + 1];
                    x += EPILOGUE == BIAS_M ? row_bias[half] : pair[next].x;
                    y += EPILOGUE == BIAS_M ? row_bias[half] : pair[next].y;
                    if (ADDS) {
                        x += widen_low(matrices[i]);
                        y += widen_high(matrices[i]);
                    }
                    matrices[i] = narrow_pair(x, y);
                }
                store_matrices(place.matrices(column), matrices);
            }
            written_for_copies();
            meet(group);
            if (thread == 0) {
                store(&large.c, at.block * p.c_step + at.n0 + 64 * panel, m0, target);
                stores_end();
            }
        }
    }

    __device__ __forceinline__ static void run(const LargeProduct &large) {
        extern __shared__ __align__(1024) unsigned char shared[];
        Memory memory;
        memory.stages = shared_address(shared);
        memory.results = memory.stages + STAGES * STAGE_BYTES;
        memory.full = memory.results + RESULT_BYTES;
        memory.empty = memory.full + 8 * STAGES;
        memory.added = memory.empty + 8 * STAGES;
        memory.room = memory.added + 8 * CONSUMERS;
        int rank = cluster_rank();
        if (threadIdx.x == 0) {
            for (int slot = 0; slot < STAGES; slot++) {
                barrier_init(memory.full + 8 * slot, 1);
                barrier_init(memory.empty + 8 * slot, CLUSTER * CONSUMERS);
            }
            for (int group = 0; group < 2 * CONSUMERS; group++) barrier_init(memory.added + 8 * group, 1);
            barriers_ready();
        }
        cluster_meet();
        if (threadIdx.x < 128) {
            become_producer();
            if (threadIdx.x == 0) produce(large, memory, rank);
        } else {
            become_consumer();
            consume(large, memory, rank);
        }
        // Nobody leaves while the other block may still write to its memory.
        __syncwarp();
        cluster_meet();
    }
};

#define LARGE(NAME, BN, STAGES, A, B, EPILOGUE)                                                                                          \
    extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(THREADS, 1) NAME(const __grid_constant__ LargeProduct p) { \
        Large<BN, STAGES, A, B, EPILOGUE>::run(p);                                                                                        \
    }

LARGE(in_linear_large, 256, 4, MAJOR_K, MAJOR_MN, BIAS_M)
LARGE(out_linear_large, 256, 4, MAJOR_MN, MAJOR_K, BIAS_N)
LARGE(down_large, 192, 4, MAJOR_K, MAJOR_K, BIAS_N_RESIDUAL)
