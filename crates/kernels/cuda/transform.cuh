// Products of polynomials modulo z^L - i, for the long convolution.
//
// Modulo z^(2 L) + 1 nothing of a convolution over L tokens falls on results that a token has. Both factors being real, the residue
// modulo z^L - i says everything: the coefficients from z^L on are the imaginary parts of those below (right-angle convolution,
// Nussbaumer 1981). A residue modulo z^n - c is known by those modulo z^(n/r) - s over the r-th roots s of c, and so on down to
// single points: a tree, whose every level multiplies by powers of a root that depends on the block alone, and whose results come
// in an order that a product point by point does not mind. The way back runs through the same levels backwards.
//
// Where a block of threads cannot hold L points, the root is split first into LEAVES polynomials modulo z^POINTS - s, which are
// computed one after the other.
#pragma once
#include "common.cuh"

__device__ __forceinline__ float2 times(float2 a, float2 b) { return {a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x}; }
__device__ __forceinline__ float2 times_conjugate(float2 a, float2 b) { return {a.x * b.x + a.y * b.y, a.y * b.x - a.x * b.y}; }
__device__ __forceinline__ float2 operator+(float2 a, float2 b) { return {a.x + b.x, a.y + b.y}; }
__device__ __forceinline__ float2 operator-(float2 a, float2 b) { return {a.x - b.x, a.y - b.y}; }

// out[j] = sum over k of in[k] e^(+-2 pi i j k / R), in place; INVERSE takes the minus sign.
template <int R, bool INVERSE> struct Dft;

template <bool INVERSE> struct Dft<2, INVERSE> {
    __device__ __forceinline__ static void run(float2 *a) {
        float2 sum = a[0] + a[1];
        a[1] = a[0] - a[1];
        a[0] = sum;
    }
};

template <bool INVERSE> struct Dft<4, INVERSE> {
    __device__ __forceinline__ static void run(float2 *a) {
        float2 s = a[0] + a[2], d = a[0] - a[2], t = a[1] + a[3], e = a[1] - a[3];
        e = INVERSE ? float2{e.y, -e.x} : float2{-e.y, e.x};
        a[0] = s + t;
        a[1] = d + e;
        a[2] = s - t;
        a[3] = d - e;
    }
};

// R = 4 Q: columns of four, factors, rows of Q.
template <int R, bool INVERSE> struct Dft {
    static const int Q = R / 4;
    __device__ __forceinline__ static void run(float2 *a) {
        const float COS[5] = {1.0f, 0.92387953251128675613f, 0.70710678118654752440f, 0.38268343236508977173f, 0.0f};
        float2 b[4][Q];
#pragma unroll
        for (int k2 = 0; k2 < Q; k2++) {
            float2 column[4] = {a[k2], a[Q + k2], a[2 * Q + k2], a[3 * Q + k2]};
            Dft<4, INVERSE>::run(column);
#pragma unroll
            for (int j1 = 0; j1 < 4; j1++) {
                // e^(2 pi i j1 k2 / R), in sixteenths of a turn; j1 k2 is at most 9.
                int turn = j1 * k2 * (16 / R);
                float c = turn <= 4 ? COS[turn] : turn <= 8 ? -COS[8 - turn] : -COS[turn - 8];
                float s = turn <= 4 ? COS[4 - turn] : turn <= 8 ? COS[turn - 4] : -COS[12 - turn];
                float2 w = {c, INVERSE ? -s : s};
                b[j1][k2] = turn == 0 ? column[j1] : times(column[j1], w);
            }
        }
#pragma unroll
        for (int j1 = 0; j1 < 4; j1++) {
            Dft<Q, INVERSE>::run(b[j1]);
#pragma unroll
            for (int j2 = 0; j2 < Q; j2++) a[j1 + 4 * j2] = b[j1][j2];
        }
    }
};

// a[k] *= root^k, or its conjugate.
template <int R, bool CONJUGATE> __device__ __forceinline__ void times_powers(float2 *a, float2 root) {
    if (CONJUGATE) root.y = -root.y;
    float2 low[4] = {{1.0f, 0.0f}, root, times(root, root), {0.0f, 0.0f}};
    low[3] = times(low[2], root);
    float2 high = times(low[2], low[2]), power = high;
#pragma unroll
    for (int k = 1; k < R; k++) {
        if (k < 4)
            a[k] = times(a[k], low[k]);
        else {
            if (k % 4 == 0 && k > 4) power = times(power, high);
            a[k] = times(a[k], k % 4 == 0 ? power : times(power, low[k % 4]));
        }
    }
}

// The levels of a tree of POINTS points: radices from the top, EACH points a thread.
template <int POINTS> struct Levels;
#define LEVELS(POINTS, EACH_, R0, R1, R2, R3)                                                                                   \
    template <> struct Levels<POINTS> {                                                                                         \
        static const int EACH = EACH_, COUNT = R2 == 1 ? 2 : R3 == 1 ? 3 : 4;                                                   \
        __host__ __device__ static constexpr int radix(int level) { return level == 0 ? R0 : level == 1 ? R1 : level == 2 ? R2 : R3; } \
    };
LEVELS(64, 8, 8, 8, 1, 1)
LEVELS(128, 16, 16, 8, 1, 1)
LEVELS(256, 16, 16, 16, 1, 1)
LEVELS(512, 16, 8, 8, 8, 1)
LEVELS(1024, 16, 16, 8, 8, 1)
LEVELS(2048, 16, 16, 16, 8, 1)
LEVELS(4096, 16, 16, 16, 16, 1)
LEVELS(8192, 16, 16, 8, 8, 8)
LEVELS(16384, 32, 16, 16, 8, 8)

template <int POINTS> struct Tree {
    typedef Levels<POINTS> L;
    static const int EACH = L::EACH, COUNT = L::COUNT, THREADS = POINTS / EACH;
    // Points and padding, which keeps strided accesses of a warp in different banks.
    static const int STORED = POINTS + POINTS / 16;

    __host__ __device__ static constexpr int blocks(int level) {
        int count = 1;
        for (int l = 0; l < level; l++) count *= L::radix(l);
        return count;
    }
    // Where a level's roots are in the table.
    __host__ __device__ static constexpr int roots(int level) {
        int start = 0, count = 1;
        for (int l = 0; l < level; l++) {
            start += count;
            count *= L::radix(l);
        }
        return start;
    }
    static const int ROOTS = roots(COUNT);

    __device__ __forceinline__ static int at(int index) { return index + index / 16; }

    // Threads of a tree that is within a warp need no more than the warp.
    __device__ __forceinline__ static void meet() {
        if (THREADS <= 32)
            __syncwarp();
        else
            __syncthreads();
    }

    // A level of the way down but the last: `source` gives a point of the first level, later ones are in `points`.
    template <int LEVEL, typename Source>
    __device__ __forceinline__ static void down(float2 *points, const float2 *table, int thread, Source source) {
        constexpr int R = L::radix(LEVEL), SPAN = POINTS / blocks(LEVEL) / R;
        if (LEVEL > 0) meet();
#pragma unroll
        for (int u = 0; u < EACH / R; u++) {
            int butterfly = thread + u * THREADS, block = butterfly / SPAN, base = block * SPAN * R + butterfly % SPAN;
            float2 a[R];
#pragma unroll
            for (int k = 0; k < R; k++) a[k] = LEVEL == 0 ? source(u, k, base + k * SPAN) : points[at(base + k * SPAN)];
            times_powers<R, false>(a, table[roots(LEVEL) + block]);
            Dft<R, false>::run(a);
#pragma unroll
            for (int j = 0; j < R; j++) points[at(base + j * SPAN)] = a[j];
        }
    }

    // The last level down; `middle` changes its R points (the first of them is number `butterfly`, the others THREADS * EACH / R
    // further on, in the order of spectra); where it wants, the same level back.
    template <bool BACK, typename Middle>
    __device__ __forceinline__ static void bottom(float2 *points, const float2 *table, int thread, Middle middle) {
        constexpr int LEVEL = COUNT - 1, R = L::radix(LEVEL);
        meet();
#pragma unroll
        for (int u = 0; u < EACH / R; u++) {
            int butterfly = thread + u * THREADS;
            float2 root = table[roots(LEVEL) + butterfly], a[R];
#pragma unroll
            for (int k = 0; k < R; k++) a[k] = points[at(butterfly * R + k)];
            times_powers<R, false>(a, root);
            Dft<R, false>::run(a);
#pragma unroll
            for (int j = 0; j < R; j++) a[j] = middle(butterfly + j * (POINTS / R), a[j]);
            if (!BACK) continue;
            Dft<R, true>::run(a);
            times_powers<R, true>(a, root);
#pragma unroll
            for (int k = 0; k < R; k++) points[at(butterfly * R + k)] = a[k];
        }
    }

    // A level of the way back; `sink` takes the points of the last one.
    template <int LEVEL, typename Sink>
    __device__ __forceinline__ static void up(float2 *points, const float2 *table, int thread, Sink sink) {
        constexpr int R = L::radix(LEVEL), SPAN = POINTS / blocks(LEVEL) / R;
        meet();
#pragma unroll
        for (int u = 0; u < EACH / R; u++) {
            int butterfly = thread + u * THREADS, block = butterfly / SPAN, base = block * SPAN * R + butterfly % SPAN;
            float2 a[R];
#pragma unroll
            for (int j = 0; j < R; j++) a[j] = points[at(base + j * SPAN)];
            Dft<R, true>::run(a);
            times_powers<R, true>(a, table[roots(LEVEL) + block]);
#pragma unroll
            for (int k = 0; k < R; k++) {
                if (LEVEL == 0)
                    sink(u, k, base + k * SPAN, a[k]);
                else
                    points[at(base + k * SPAN)] = a[k];
            }
        }
    }

    template <typename Source> __device__ __forceinline__ static void descend(float2 *points, const float2 *table, int thread, Source source) {
        down<0>(points, table, thread, source);
        if constexpr (COUNT > 2) down<1>(points, table, thread, source);
        if constexpr (COUNT > 3) down<2>(points, table, thread, source);
    }

    template <typename Sink> __device__ __forceinline__ static void ascend(float2 *points, const float2 *table, int thread, Sink sink) {
        if constexpr (COUNT > 3) up<2>(points, table, thread, sink);
        if constexpr (COUNT > 2) up<1>(points, table, thread, sink);
        up<0>(points, table, thread, sink);
    }
};
