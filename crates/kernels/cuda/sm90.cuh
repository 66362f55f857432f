// What products on Hopper GPUs share: the instruction, its fences, and how results are written.
#pragma once
#include "copies.cuh"
#include "gemm.cuh"
#include "wgmma.cuh"

static const int BK = 64;
static const int ROW_BYTES = 128, PANEL_BYTES = BK * ROW_BYTES;

// Until all but the last PENDING groups of copies are there, and the tensor cores see them.
template <int PENDING> __device__ __forceinline__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING));
    asm volatile("fence.proxy.async.shared::cta;");
}

__device__ __forceinline__ void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void products_end() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int PENDING> __device__ __forceinline__ void wait_for_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

static const float GELU_0 = 3.988192677e-01f, GELU_1 = -6.619033217e-02f, GELU_2 = 9.718802758e-03f, GELU_3 = -1.079084119e-03f,
                   GELU_4 = 8.849003643e-05f, GELU_5 = -5.147591310e-06f, GELU_6 = 1.986198583e-07f, GELU_7 = -4.515414709e-09f,
                   GELU_8 = 4.547203239e-11f;

// GELU for what is rounded to 16 bits: x times a polynomial for the normal distribution function, at most 8e-6 of x off.
__device__ __forceinline__ float gelu_rounded(float x) {
    float z = fminf(fmaxf(x, -4.25f), 4.25f), t = z * z;
    float p = GELU_8;
    p = fmaf(p, t, GELU_7);
    p = fmaf(p, t, GELU_6);
    p = fmaf(p, t, GELU_5);
    p = fmaf(p, t, GELU_4);
    p = fmaf(p, t, GELU_3);
    p = fmaf(p, t, GELU_2);
    p = fmaf(p, t, GELU_1);
    p = fmaf(p, t, GELU_0);
    return x * fmaf(z, p, 0.5f);
}

// The descriptor of 16 of k from `step` on, and of the operand's index from `start` on (a multiple of 64, or of 8 with k contiguous).
template <Major MAJOR> __device__ __forceinline__ u64 descriptor(u32 tile, int start, int step) {
    u32 address = MAJOR == MAJOR_K ? tile + start * ROW_BYTES + step * 2 : tile + start / 64 * PANEL_BYTES + step * ROW_BYTES;
    // Eight rows are 1,024 bytes; the next panel is PANEL_BYTES further on.
    return u64((address >> 4) & 0x3fff) | u64(PANEL_BYTES >> 4) << 16 | u64(1024 >> 4) << 32 | u64(1) << 62;
}
