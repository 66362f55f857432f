// Texts of one length: a module a length, so that a driver compiles only those that are used.
//
// With 16,384 points in shared memory only one block of threads fits on a multiprocessor, whose loads and transforms wait for each other:
// leaves of 8,192 are faster, and fit on every GPU.
//
// variant long_conv_64: VARIANT_POINTS=64 VARIANT_LEAVES=1 VARIANT_TOGETHER=16
// variant long_conv_128: VARIANT_POINTS=128 VARIANT_LEAVES=1 VARIANT_TOGETHER=16
// variant long_conv_256: VARIANT_POINTS=256 VARIANT_LEAVES=1 VARIANT_TOGETHER=8
// variant long_conv_512: VARIANT_POINTS=512 VARIANT_LEAVES=1 VARIANT_TOGETHER=4
// variant long_conv_1024: VARIANT_POINTS=1024 VARIANT_LEAVES=1 VARIANT_TOGETHER=2
// variant long_conv_2048: VARIANT_POINTS=2048 VARIANT_LEAVES=1 VARIANT_TOGETHER=1
// variant long_conv_4096: VARIANT_POINTS=4096 VARIANT_LEAVES=1 VARIANT_TOGETHER=1
// variant long_conv_8192: VARIANT_POINTS=8192 VARIANT_LEAVES=1 VARIANT_TOGETHER=1
// variant long_conv_16384: VARIANT_POINTS=8192 VARIANT_LEAVES=2 VARIANT_TOGETHER=1
// variant long_conv_32768: VARIANT_POINTS=8192 VARIANT_LEAVES=4 VARIANT_TOGETHER=1
#include "long_conv.cuh"

// As many blocks on a multiprocessor as 128 registers a thread allow.
static const int BLOCKS = Tree<VARIANT_POINTS>::THREADS * VARIANT_TOGETHER >= 512 ? 1 : 512 / (Tree<VARIANT_POINTS>::THREADS * VARIANT_TOGETHER);
static const int POINTS = VARIANT_POINTS, LEAVES = VARIANT_LEAVES, TOGETHER = VARIANT_TOGETHER;

extern "C" __global__ void __launch_bounds__(Tree<POINTS>::THREADS * TOGETHER, BLOCKS) long_conv_f32(LongConv p) {
    transformed<float, POINTS, LEAVES, TOGETHER>(p);
}

extern "C" __global__ void __launch_bounds__(Tree<POINTS>::THREADS * TOGETHER, BLOCKS) long_conv_f16(LongConv p) {
    transformed<f16, POINTS, LEAVES, TOGETHER>(p);
}

#if VARIANT_LEAVES > 1
extern "C" __global__ void __launch_bounds__(Tree<POINTS>::THREADS, 1) long_conv_f16_held(LongConv p) { Held<POINTS, LEAVES>::run(p); }
#endif

extern "C" __global__ void __launch_bounds__(Tree<POINTS>::THREADS) spectra(Spectra p) { transform_taps<POINTS, LEAVES>(p); }

// Points, leaves, channels a block, threads a channel, radices from the top.
extern "C" __device__ const int shape[8] = {
    POINTS, LEAVES, TOGETHER, Tree<POINTS>::THREADS, Levels<POINTS>::radix(0), Levels<POINTS>::radix(1), Levels<POINTS>::radix(2), Levels<POINTS>::radix(3),
};
