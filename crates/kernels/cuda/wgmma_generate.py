#!/usr/bin/env python3
"""Writes wgmma.cuh: the instruction takes its sums as single registers, so that each width needs its own text."""
import pathlib

WIDTHS = [16, 32, 64, 128, 192, 256]
# With operand a in registers.
REGISTER_WIDTHS = [64]

HEAD = """// wgmma for half precision with float32 sums, by width: written by wgmma_generate.py.
#pragma once
#include "common.cuh"

// c [64, N] += a [64, 16] b [N, 16], or c = a b where KEEP is false, a warpgroup together: both operands in shared memory, as their descriptors say; TRANSPOSED
// where the operand's own index is contiguous instead of k.
template <int N, bool A_TRANSPOSED, bool B_TRANSPOSED> struct Wgmma;

// The same with a in registers: 16 rows a warp, as ldmatrix gives them. Both operands have k contiguous.
template <int N> struct WgmmaRegisters;

// Zeros that the compiler does not put off until they are in the products' way.
template <int COUNT> __device__ __forceinline__ void clear(float (&c)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) asm volatile("mov.f32 %0, 0f00000000;" : "=f"(c[i]));
}

// Keeps the compiler from moving what uses the sums across this point.
template <int COUNT> __device__ __forceinline__ void pin(float (&c)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) asm volatile("" : "+f"(c[i])::"memory");
}
"""


def instruction(width):
    count = width // 2
    registers = ", ".join(f"%{i}" for i in range(count))
    sums = ", ".join(f'"+f"(c[{i}])' for i in range(count))
    return f"""
template <bool A_TRANSPOSED, bool B_TRANSPOSED> struct Wgmma<{width}, A_TRANSPOSED, B_TRANSPOSED> {{
    template <bool KEEP> __device__ __forceinline__ static void run(float (&c)[{count}], u64 a, u64 b) {{
        asm volatile("{{.reg .pred p; setp.ne.b32 p, %{count + 4}, 0; wgmma.mma_async.sync.aligned.m64n{width}k16.f32.f16.f16 {{{registers}}}, %{count}, %{count + 1}, p, 1, 1, %{count + 2}, %{count + 3};}}"
                     : {sums}
                     : "l"(a), "l"(b), "n"(int(A_TRANSPOSED)), "n"(int(B_TRANSPOSED)), "n"(int(KEEP)));
    }}
}};
"""


def register_instruction(width):
    count = width // 2
    registers = ", ".join(f"%{i}" for i in range(count))
    sums = ", ".join(f'"+f"(c[{i}])' for i in range(count))
    a = ", ".join(f"%{count + i}" for i in range(4))
    return f"""
template <> struct WgmmaRegisters<{width}> {{
    template <bool KEEP> __device__ __forceinline__ static void run(float (&c)[{count}], const u32 (&a)[4], u64 b) {{
        asm volatile("{{.reg .pred p; setp.ne.b32 p, %{count + 5}, 0; wgmma.mma_async.sync.aligned.m64n{width}k16.f32.f16.f16 {{{registers}}}, {{{a}}}, %{count + 4}, p, 1, 1, 0;}}"
                     : {sums}
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(int(KEEP)));
    }}
}};
"""


target = pathlib.Path(__file__).parent / "wgmma.cuh"
target.write_text(HEAD + "".join(instruction(width) for width in WIDTHS) + "".join(register_instruction(width) for width in REGISTER_WIDTHS))
