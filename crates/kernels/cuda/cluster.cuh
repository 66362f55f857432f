// What products share whose blocks of threads stay on their multiprocessor: the copy engine and its barriers, clusters of two blocks,
// warpgroups with roles, and how a warpgroup's sums become results.
//
// One thread of a block has the copy engine fetch operands, some buffers ahead; two warpgroups multiply them, 64 rows each. Two blocks
// make a cluster: each fetches half of what both need, and the copy engine writes it to both.
#pragma once
#include "sm90.cuh"

// How the copy engine sees a matrix.
struct alignas(64) TensorMap {
    u64 words[16];
};

static const int CONSUMERS = 2, BM = 64 * CONSUMERS, CLUSTER = 2, THREADS = 128 * (1 + CONSUMERS);

__device__ __forceinline__ void barrier_init(u32 barrier, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count));
}
__device__ __forceinline__ void barriers_ready() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
// Bytes that the copy engine will write before the barrier's phase ends.
__device__ __forceinline__ void barrier_expect(u32 barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ __forceinline__ void barrier_wait(u32 barrier, int parity) {
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n"
                 "}\n" ::"r"(barrier), "r"(parity)
                 : "memory");
}
__device__ __forceinline__ void barrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// At the barrier in the same place of a block of the cluster. Not with the cluster's scope, for which the compiler would wait until all
// that this thread wrote to the GPU's memory is there: what is told is that the tensor cores have read a buffer.
__device__ __forceinline__ void barrier_arrive(u32 barrier, int block) {
    asm volatile("{\n"
                 ".reg .b32 remote;\n"
                 "mapa.shared::cluster.u32 remote, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [remote];\n"
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
// Has the copy engine write a box from shared memory: what lies beyond the matrix is left out.
__device__ __forceinline__ void store(const TensorMap *map, int x, int y, u32 source) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map), "r"(x), "r"(y), "r"(source) : "memory");
}
__device__ __forceinline__ void stores_end() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Until all but the last PENDING groups of this thread's stores have been read from shared memory.
template <int PENDING> __device__ __forceinline__ void wait_for_stores() { asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(PENDING) : "memory"); }

// What this thread wrote to shared memory is there for the copy engine.
__device__ __forceinline__ void written_for_copies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// The threads of a warpgroup.
__device__ __forceinline__ void meet(int group) { asm volatile("bar.sync %0, 128;" ::"r"(group + 1) : "memory"); }

// The two roles of a block's threads: registers go from the one that fetches to those that multiply.
__device__ __forceinline__ void become_producer() { asm volatile("setmaxnreg.dec.sync.aligned.u32 24;"); }
__device__ __forceinline__ void become_consumer() { asm volatile("setmaxnreg.inc.sync.aligned.u32 240;"); }

__device__ __forceinline__ void load_matrices(u32 (&out)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3]) : "r"(address) : "memory");
}
__device__ __forceinline__ void store_matrices(u32 address, const u32 (&in)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(in[0]), "r"(in[1]), "r"(in[2]), "r"(in[3]) : "memory");
}

// A panel of 64 x 64 results, as the copy engine writes it. A thread's four matrices of 8 x 8 at 16 columns from a multiple of 16 on are,
// as its sums are: rows 0 to 7 of its warp's 16, rows 8 to 15, and the same of the next eight columns.
struct Panel {
    // Where this thread's row is, and the permutation of its chunks.
    u32 row, first;

    __device__ __forceinline__ Panel(u32 panel, int thread) {
        int lane = thread % 32;
        row = panel + (thread / 32 * 16 + lane / 8 % 2 * 8 + lane % 8) * ROW_BYTES;
        first = (lane / 16 ^ (lane & 7)) * 16;
    }
    __device__ __forceinline__ u32 matrices(int column) const { return row + (first ^ column * 2); }
};

// A ring of buffers: which is next, and which phase of its barrier.
template <int SLOTS> struct Ring {
    int slot = 0, phase = 0;
    __device__ __forceinline__ void advance() {
        if (++slot == SLOTS) slot = 0, phase ^= 1;
    }
};
