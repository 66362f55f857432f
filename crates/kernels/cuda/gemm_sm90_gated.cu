// Large gated products of half precision with float32 sums on Hopper GPUs.
//
// architecture compute_90a
//
// A warpgroup keeps 64 rows of both halves' activations in registers, and weights stream by, BN outputs of each half at a time. The two
// warpgroups take turns: while the products of one run, the other applies GELU and gate to its own and writes them. The blocks of a
// cluster have other rows and the same weights.
#include "cluster.cuh"

struct GatedLarge {
    // Of activations and weights, those that are gated and those of the gate; and of the results.
    TensorMap a[2], b[2], c;
    Product product;
    // Parts that the outputs of each row are divided into.
    int parts;
};

// KS: so many times BK is the most of k.
template <int BN, int STAGES, int KS> struct Gated {
    static const int SETS = 2, SLICE = BM * ROW_BYTES, ROWS_BYTES = SETS * KS * SLICE, HALF = BN / CLUSTER;
    static const int SET_BYTES = BN * ROW_BYTES, STAGE_BYTES = SETS * SET_BYTES;
    // Of each warpgroup, in turns.
    static const int RESULTS = 2;
    // Named barriers of the warpgroups' turns.
    static const int TURNS = 1 + CONSUMERS;

    struct Memory {
        u32 rows, stages, results, full, empty, there, room;
    };

    // What a cluster computes at a time: tiles from `first` to before `last` of the outputs of diagonal blocks that share activations.
    struct Unit {
        int group, m0, first, last;
    };

    __device__ __forceinline__ static int outputs(const Product &p) { return p.n * p.a_share; }
    __device__ __forceinline__ static int groups(const Product &p) { return p.blocks / p.a_share; }
    __device__ __forceinline__ static int units(const GatedLarge &gated) {
        const Product &p = gated.product;
        return (p.m + CLUSTER * BM - 1) / (CLUSTER * BM) * groups(p) * gated.parts;
    }
    __device__ __forceinline__ static Unit unit(const GatedLarge &gated, int index, int rank) {
        const Product &p = gated.product;
        int tiles = (outputs(p) + BN - 1) / BN, part = index % gated.parts, rest = index / gated.parts;
        return {rest % groups(p), (rest / groups(p) * CLUSTER + rank) * BM, tiles * part / gated.parts, tiles * (part + 1) / gated.parts};
    }

    __device__ __forceinline__ static void produce(const GatedLarge &gated, const Memory &memory, int rank) {
        const Product &p = gated.product;
        Ring<STAGES> ring;
        int turn = 0;
        for (int index = blockIdx.x / CLUSTER; index < units(gated); index += gridDim.x / CLUSTER, turn ^= 1) {
            Unit at = unit(gated, index, rank);
            barrier_wait(memory.room, turn ^ 1);
            barrier_expect(memory.there, ROWS_BYTES);
            for (int part = 0; part < SETS * KS; part++) {
                int k = part % KS * BK;
                // What is beyond k are another diagonal block's: nothing of them, but what is beyond the matrix, which is zero.
                int x = k < p.k ? at.group * p.a_step + k : 1 << 24;
                fetch(memory.rows + part * SLICE, &gated.a[part / KS], x, at.m0, memory.there, false);
            }
            for (int tile = at.first; tile < at.last; tile++)
                for (int slice = 0; slice < KS; slice++, ring.advance()) {
                    u32 stage = memory.stages + ring.slot * STAGE_BYTES, ready = memory.full + 8 * ring.slot;
                    barrier_wait(memory.empty + 8 * ring.slot, ring.phase ^ 1);
                    barrier_expect(ready, STAGE_BYTES);
                    for (int set = 0; set < SETS; set++)
                        fetch(stage + set * SET_BYTES + rank * HALF * ROW_BYTES, &gated.b[set], slice * BK, at.group * outputs(p) + tile * BN + rank * HALF, ready, true);
                }
        }
    }

    // A warpgroup's rows, from shared memory to registers: 16 rows a warp, by set and 16 of k.
    __device__ __forceinline__ static void load_rows(u32 (&a)[SETS][KS * 4][4], u32 rows, int group, int thread) {
        int lane = thread % 32, row = 64 * group + thread / 32 * 16 + lane % 16;
#pragma unroll
        for (int set = 0; set < SETS; set++)
#pragma unroll
            for (int step = 0; step < KS * 4; step++) {
                u32 slice = rows + (set * KS + step / 4) * SLICE;
                load_matrices(a[set][step], slice + row * ROW_BYTES + (((step % 4 * 2 + lane / 16) ^ (row & 7)) * 16));
            }
    }

    // Starts the products of a tile, slice by slice of k.
    template <int SLICE>
    __device__ __forceinline__ static void start(float (&sums)[SETS][BN / 2], const u32 (&a)[SETS][KS * 4][4], const Memory &memory, Ring<STAGES> &ring, int (&slots)[KS]) {
        barrier_wait(memory.full + 8 * ring.slot, ring.phase);
        u32 stage = memory.stages + ring.slot * STAGE_BYTES;
        slots[SLICE] = ring.slot;
        ring.advance();
        pin(sums[0]);
        pin(sums[1]);
        products_begin();
        multiply<SLICE * 4>(sums, a, stage);
        products_end();
        pin(sums[0]);
        pin(sums[1]);
        if constexpr (SLICE + 1 < KS) start<SLICE + 1>(sums, a, memory, ring, slots);
    }

    template <int STEP> __device__ __forceinline__ static void multiply(float (&sums)[SETS][BN / 2], const u32 (&a)[SETS][KS * 4][4], u32 stage) {
#pragma unroll
        for (int set = 0; set < SETS; set++)
            WgmmaRegisters<BN>::template run<(STEP > 0)>(sums[set], a[set][STEP], descriptor<MAJOR_K>(stage + set * SET_BYTES, 0, STEP % 4 * 16));
        if constexpr (STEP % 4 < 3) multiply<STEP + 1>(sums, a, stage);
    }

    // Waits for them, and tells both blocks of the cluster which buffers this warpgroup has read.
    template <int SLICE> __device__ __forceinline__ static void end(const Memory &memory, const int (&slots)[KS], int thread) {
        wait_for_products<KS - 1 - SLICE>();
        if (thread < CLUSTER) barrier_arrive(memory.empty + 8 * slots[SLICE], thread);
        if constexpr (SLICE + 1 < KS) end<SLICE + 1>(memory, slots, thread);
    }

    __device__ __forceinline__ static void consume(const GatedLarge &gated, const Memory &memory, int rank) {
        int group = threadIdx.x / 128 - 1, thread = threadIdx.x % 128, turn = 0, stored = 0;
        u32 results = memory.results + group * RESULTS * PANEL_BYTES;
        Ring<STAGES> ring;
        u32 a[SETS][KS * 4][4];
        float sums[SETS][BN / 2];
        // The first turn is the first warpgroup's.
        if (group == 1) pass_turn(group);
        for (int index = blockIdx.x / CLUSTER; index < units(gated); index += gridDim.x / CLUSTER, turn ^= 1) {
            Unit at = unit(gated, index, rank);
            barrier_wait(memory.there, turn);
            load_rows(a, memory.rows, group, thread);
            __syncwarp();
            if (thread % 32 == 0) barrier_arrive(memory.room);
            for (int tile = at.first; tile < at.last; tile++) {
                int slots[KS];
                await_turn(group);
                start<0>(sums, a, memory, ring, slots);
                pass_turn(group);
                end<0>(memory, slots, thread);
                pin(sums[0]);
                pin(sums[1]);
                finish(gated, sums, results + (stored & 1) * PANEL_BYTES, at, tile, group, thread);
                stored++;
            }
        }
        wait_for_stores<0>();
    }

    __device__ __forceinline__ static void await_turn(int group) { asm volatile("bar.sync %0, 256;" ::"r"(TURNS + group) : "memory"); }
    __device__ __forceinline__ static void pass_turn(int group) { asm volatile("bar.arrive %0, 256;" ::"r"(TURNS + 1 - group) : "memory"); }

    __device__ __forceinline__ static void finish(const GatedLarge &gated, const float (&sums)[SETS][BN / 2], u32 target, Unit at, int tile, int group, int thread) {
        static_assert(BN == 64, "a tile is a panel");
        if (thread == 0) wait_for_stores<1>();
        meet(group);
        Panel place(target, thread);
#pragma unroll
        for (int column = 0; column < 64; column += 16) {
            u32 matrices[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int at = 4 * (column / 8 + i / 2) + 2 * (i % 2);
                matrices[i] = narrow_pair(gelu_rounded(sums[0][at]) * sums[1][at], gelu_rounded(sums[0][at + 1]) * sums[1][at + 1]);
            }
            store_matrices(place.matrices(column), matrices);
        }
        written_for_copies();
        meet(group);
        if (thread == 0) {
            store(&gated.c, at.group * outputs(gated.product) + tile * BN, at.m0 + 64 * group, target);
            stores_end();
        }
    }

    __device__ __forceinline__ static void run(const GatedLarge &gated) {
        extern __shared__ __align__(1024) unsigned char shared[];
        Memory memory;
        memory.rows = shared_address(shared);
        memory.stages = memory.rows + ROWS_BYTES;
        memory.results = memory.stages + STAGES * STAGE_BYTES;
        memory.full = memory.results + CONSUMERS * RESULTS * PANEL_BYTES;
        memory.empty = memory.full + 8 * STAGES;
        memory.there = memory.empty + 8 * STAGES;
        memory.room = memory.there + 8;
        int rank = cluster_rank();
        if (threadIdx.x == 0) {
            for (int slot = 0; slot < STAGES; slot++) {
                barrier_init(memory.full + 8 * slot, 1);
                barrier_init(memory.empty + 8 * slot, CLUSTER * CONSUMERS);
            }
            barrier_init(memory.there, 1);
            barrier_init(memory.room, CONSUMERS * 4);
            barriers_ready();
        }
        cluster_meet();
        if (threadIdx.x < 128) {
            become_producer();
            if (threadIdx.x == 0) produce(gated, memory, rank);
        } else {
            become_consumer();
            consume(gated, memory, rank);
        }
        // Nobody leaves while the other block may still write to its memory.
        __syncwarp();
        cluster_meet();
    }
};

extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(THREADS, 1) gated_large(const __grid_constant__ GatedLarge p) { Gated<64, 6, 3>::run(p); }
