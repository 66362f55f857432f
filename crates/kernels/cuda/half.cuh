// The 16-bit type of a module's products: VARIANT_HALF is bf16 or f16.
#pragma once
#include "common.cuh"

#define QUOTED_(NAME) #NAME
#define QUOTED(NAME) QUOTED_(NAME)
#define HALF_NAME QUOTED(VARIANT_HALF)

typedef VARIANT_HALF half16;

// Two values in one word, the first in the low half.
__device__ __forceinline__ u32 narrow_pair(float low, float high) {
    u32 out;
    asm("cvt.rn." HALF_NAME "x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
}

__device__ __forceinline__ float widen_low(u32 pair) { return widen(half16{u16(pair & 0xffff)}); }
__device__ __forceinline__ float widen_high(u32 pair) { return widen(half16{u16(pair >> 16)}); }
