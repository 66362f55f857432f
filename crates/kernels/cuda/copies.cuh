// Copies to shared memory that threads begin and do not wait for, 16 bytes each.
#pragma once
#include "common.cuh"

// What is not valid is zero.
__device__ __forceinline__ void copy_chunk(u32 target, const void *source, bool valid) {
    int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(source), "r"(bytes));
}

__device__ __forceinline__ void copies_end() { asm volatile("cp.async.commit_group;"); }
