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

// e^(2 pi i turn / 16) for up to half a turn; of constants, a constant.
__device__ __forceinline__ float2 sixteenths(int turn) {
    const float COS[5] = {1.0f, 0.92387953251128675613f, 0.70710678118654752440f, 0.38268343236508977173f, 0.0f};
    return turn <= 4 ? float2{COS[turn], COS[4 - turn]} : float2{-COS[8 - turn], COS[turn - 4]};
}

// The residues of a polynomial of R coefficients modulo z - s, for the R-th roots s of root^R: s = root e^(2 pi i j / R) for the j-th.
//
// Halved log2(R) times: modulo z^n - w^2 are the residues modulo z^(n/2) - w and z^(n/2) + w, low + w high and low - w high. The second is
// 2 low minus the first, so that a pair of them is six fused multiply-adds (Goedecker 1997).
template <int R> struct Split {
    static const int HALVINGS = R == 2 ? 1 : R == 4 ? 2 : R == 8 ? 3 : 4;

    __host__ __device__ static constexpr int reversed(int index, int bits) { return bits == 0 ? 0 : (index & 1) << (bits - 1) | reversed(index >> 1, bits - 1); }

    __device__ __forceinline__ static void roots(float2 (&w)[HALVINGS], float2 root) {
        w[HALVINGS - 1] = root;
#pragma unroll
        for (int level = HALVINGS - 2; level >= 0; level--) w[level] = times(w[level + 1], w[level + 1]);
    }

    // Halves a block, of which there are 2^LEVEL, and what follows it.
    template <int LEVEL, int BLOCK> __device__ __forceinline__ static void halve(float2 (&a)[R], const float2 (&w)[HALVINGS]) {
        if constexpr (LEVEL < HALVINGS) {
            constexpr int COUNT = 1 << LEVEL, HALF = R / COUNT / 2, START = 2 * BLOCK * HALF;
            // Its w is w[LEVEL] times e^(i pi TURN / COUNT); from a quarter of a turn on, that and i.
            constexpr int TURN = reversed(BLOCK, LEVEL);
            constexpr bool QUARTER = COUNT > 1 && TURN >= COUNT / 2;
            constexpr int REST = QUARTER ? TURN - COUNT / 2 : TURN;
            float2 v = REST == 0 ? w[LEVEL] : times(w[LEVEL], sixteenths(REST * 8 / COUNT));
            if (QUARTER) v = {-v.y, v.x};
#pragma unroll
            for (int k = START; k < START + HALF; k++) {
                float2 low = a[k], high = a[k + HALF];
                a[k] = {fmaf(v.x, high.x, fmaf(-v.y, high.y, low.x)), fmaf(v.x, high.y, fmaf(v.y, high.x, low.y))};
                a[k + HALF] = {fmaf(2.0f, low.x, -a[k].x), fmaf(2.0f, low.y, -a[k].y)};
            }
            if constexpr (BLOCK + 1 < COUNT)
                halve<LEVEL, BLOCK + 1>(a, w);
            else
                halve<LEVEL + 1, 0>(a, w);
        }
    }

    __device__ __forceinline__ static void order(float2 (&a)[R]) {
        float2 b[R];
#pragma unroll
        for (int j = 0; j < R; j++) b[j] = a[j];
        place<0>(a, b);
    }
    template <int J> __device__ __forceinline__ static void place(float2 (&a)[R], const float2 (&b)[R]) {
        constexpr int FROM = reversed(J, HALVINGS);
        a[J] = b[FROM];
        if constexpr (J + 1 < R) place<J + 1>(a, b);
    }

    __device__ __forceinline__ static void run(float2 (&a)[R], float2 root) {
        float2 w[HALVINGS];
        roots(w, root);
        halve<0, 0>(a, w);
        order(a);
    }

    // Of real coefficients.
    __device__ __forceinline__ static void run(const float (&x)[R], float2 root, float2 (&a)[R]) {
        float2 w[HALVINGS];
        roots(w, root);
#pragma unroll
        for (int k = 0; k < R / 2; k++) {
            float2 sum = {fmaf(w[0].x, x[R / 2 + k], x[k]), w[0].y * x[R / 2 + k]};
            a[k] = sum;
            a[R / 2 + k] = {fmaf(2.0f, x[k], -sum.x), -sum.y};
        }
        halve<1, 0>(a, w);
        order(a);
    }
};

// out[k] = sum over j of in[j] e^(-2 pi i j k / R), in place: the way back, but for the powers of the root.
template <int R> struct Join;

template <> struct Join<2> {
    __device__ __forceinline__ static void run(float2 *a) {
        float2 sum = a[0] + a[1];
        a[1] = a[0] - a[1];
        a[0] = sum;
    }
};

template <> struct Join<4> {
    __device__ __forceinline__ static void run(float2 *a) {
        float2 s = a[0] + a[2], d = a[0] - a[2], t = a[1] + a[3], e = a[1] - a[3];
        e = {e.y, -e.x};
        a[0] = s + t;
        a[1] = d + e;
        a[2] = s - t;
        a[3] = d - e;
    }
};

// R = 4 Q: columns of four, factors, rows of Q.
template <int R> struct Join {
    static const int Q = R / 4;
    __device__ __forceinline__ static void run(float2 *a) {
        float2 b[4][Q];
#pragma unroll
        for (int j2 = 0; j2 < Q; j2++) {
            float2 column[4] = {a[j2], a[Q + j2], a[2 * Q + j2], a[3 * Q + j2]};
            Join<4>::run(column);
#pragma unroll
            for (int k1 = 0; k1 < 4; k1++) {
                // At most 9 sixteenths.
                int turn = k1 * j2 * (16 / R);
                float2 w = turn <= 8 ? sixteenths(turn) : float2{-sixteenths(turn - 8).x, -sixteenths(turn - 8).y};
                b[k1][j2] = turn == 0 ? column[k1] : times_conjugate(column[k1], w);
            }
        }
#pragma unroll
        for (int k1 = 0; k1 < 4; k1++) {
            Join<Q>::run(b[k1]);
#pragma unroll
            for (int k2 = 0; k2 < Q; k2++) a[k1 + 4 * k2] = b[k1][k2];
        }
    }
};

// a[k] *= the conjugate of root^k.
template <int R> __device__ __forceinline__ void times_conjugate_powers(float2 *a, float2 root) {
    root.y = -root.y;
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
LEVELS(512, 16, 8, 16, 4, 1)
LEVELS(1024, 16, 16, 16, 4, 1)
LEVELS(2048, 16, 16, 16, 8, 1)
LEVELS(4096, 16, 16, 16, 16, 1)
LEVELS(8192, 16, 16, 8, 16, 4)

template <int POINTS> struct Tree {
    typedef Levels<POINTS> L;
    static const int EACH = L::EACH, COUNT = L::COUNT, THREADS = POINTS / EACH;
    // Points and padding, which keeps strided accesses of a warp in different banks.
    static const int STORED = POINTS + POINTS / 16 + (POINTS == 64 ? 4 : 0);

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
    // Of the first level: points of a butterfly, and their distance.
    static const int TOP = L::radix(0), SPAN = POINTS / TOP;

    // Where a point is, and how much further on one is that is SPAN times `k` behind the first of its butterfly.
    __device__ __forceinline__ static u32 at(u32 index) { return index + index / 16; }
    template <int SPAN> __device__ __forceinline__ static constexpr u32 further(u32 k) { return k * SPAN + k * SPAN / 16; }

    // Threads of a tree that is within a warp need no more than the warp.
    __device__ __forceinline__ static void meet() {
        if (THREADS <= 32)
            __syncwarp();
        else
            __syncthreads();
    }

    // Of a level's butterflies, before the barrier behind which their points are.
    template <int LEVEL> __device__ __forceinline__ static void load_roots(float2 *out, const float2 *table, int thread) {
        constexpr int R = L::radix(LEVEL), SPAN = POINTS / blocks(LEVEL) / R;
#pragma unroll
        for (int u = 0; u < EACH / R; u++) out[u] = table[roots(LEVEL) + u32(thread + u * THREADS) / SPAN];
    }

    // A level of the way down but the last: `source` gives a point of the first level (a real one where REAL), later ones are in `points`.
    template <int LEVEL, bool REAL, typename Source>
    __device__ __forceinline__ static void down(float2 *points, const float2 *table, int thread, Source source) {
        constexpr int R = L::radix(LEVEL), SPAN = POINTS / blocks(LEVEL) / R;
        float2 roots[EACH / R];
        load_roots<LEVEL>(roots, table, thread);
        if (LEVEL > 0) meet();
#pragma unroll
        for (int u = 0; u < EACH / R; u++) {
            u32 butterfly = thread + u * THREADS, base = butterfly / SPAN * SPAN * R + butterfly % SPAN;
            float2 a[R], *first = points + at(base);
            if constexpr (LEVEL > 0) {
#pragma unroll
                for (int k = 0; k < R; k++) a[k] = first[further<SPAN>(k)];
                Split<R>::run(a, roots[u]);
            } else if constexpr (REAL) {
                float x[R];
#pragma unroll
                for (int k = 0; k < R; k++) x[k] = source(base + k * SPAN);
                Split<R>::run(x, roots[u], a);
            } else {
#pragma unroll
                for (int k = 0; k < R; k++) a[k] = source(base + k * SPAN);
                Split<R>::run(a, roots[u]);
            }
#pragma unroll
            for (int j = 0; j < R; j++) first[further<SPAN>(j)] = a[j];
        }
    }

    // The last level down; `middle` changes its R points (the first of them is number `butterfly`, the others THREADS * EACH / R
    // further on, in the order of spectra) by what `load` gives for them; where it wants, the same level back.
    template <bool BACK, typename Load, typename Middle>
    __device__ __forceinline__ static void bottom(float2 *points, const float2 *table, int thread, Load load, Middle middle) {
        constexpr int LEVEL = COUNT - 1, R = L::radix(LEVEL);
        float2 roots[EACH / R], factors[EACH];
        load_roots<LEVEL>(roots, table, thread);
#pragma unroll
        for (int u = 0; u < EACH / R; u++)
#pragma unroll
            for (int j = 0; j < R; j++) factors[u * R + j] = load(thread + u * THREADS + j * (POINTS / R));
        meet();
#pragma unroll
        for (int u = 0; u < EACH / R; u++) {
            u32 butterfly = thread + u * THREADS;
            float2 a[R], *first = points + at(butterfly * R);
#pragma unroll
            for (int k = 0; k < R; k++) a[k] = first[further<1>(k)];
            Split<R>::run(a, roots[u]);
#pragma unroll
            for (int j = 0; j < R; j++) a[j] = middle(butterfly + j * (POINTS / R), a[j], factors[u * R + j]);
            if (!BACK) continue;
            Join<R>::run(a);
            times_conjugate_powers<R>(a, roots[u]);
#pragma unroll
            for (int k = 0; k < R; k++) first[further<1>(k)] = a[k];
        }
    }

    // A level of the way back; `sink` takes the points of the last one, a butterfly's at a time, SPAN apart.
    template <int LEVEL, typename Sink>
    __device__ __forceinline__ static void up(float2 *points, const float2 *table, int thread, Sink sink) {
        constexpr int R = L::radix(LEVEL), SPAN = POINTS / blocks(LEVEL) / R;
        float2 roots[EACH / R];
        load_roots<LEVEL>(roots, table, thread);
        meet();
#pragma unroll
        for (int u = 0; u < EACH / R; u++) {
            u32 butterfly = thread + u * THREADS, base = butterfly / SPAN * SPAN * R + butterfly % SPAN;
            float2 a[R], *first = points + at(base);
#pragma unroll
            for (int j = 0; j < R; j++) a[j] = first[further<SPAN>(j)];
            Join<R>::run(a);
            times_conjugate_powers<R>(a, roots[u]);
            if constexpr (LEVEL == 0)
                sink(u, base, a);
            else {
#pragma unroll
                for (int k = 0; k < R; k++) first[further<SPAN>(k)] = a[k];
            }
        }
    }

    template <bool REAL, int LEVEL = 0, typename Source> __device__ __forceinline__ static void descend(float2 *points, const float2 *table, int thread, Source source) {
        down<LEVEL, REAL>(points, table, thread, source);
        if constexpr (LEVEL + 2 < COUNT) descend<REAL, LEVEL + 1>(points, table, thread, source);
    }

    template <int LEVEL = COUNT - 2, typename Sink> __device__ __forceinline__ static void ascend(float2 *points, const float2 *table, int thread, Sink sink) {
        up<LEVEL>(points, table, thread, sink);
        if constexpr (LEVEL > 0) ascend<LEVEL - 1>(points, table, thread, sink);
    }
};
