// Matrix products c[m][n] = sum over k of a(m, k) b(n, k), with what follows them.
//
// An operand is stored with k contiguous ([m][k], `MAJOR_K`) or with its own index contiguous ([k][m], `MAJOR_MN`). Every sum is
// over k in order, whatever the tile: results do not depend on the tile's shape nor on m and n.
#pragma once
#include "common.cuh"

enum Major { MAJOR_K, MAJOR_MN };

enum Epilogue {
    // c = sum + bias[m]
    BIAS_M,
    // c = sum + bias[n]
    BIAS_N,
    // c = sum + bias[n] + residual[m][n]
    BIAS_N_RESIDUAL,
    // c = sum
    PLAIN,
};

// One operand of one product: where it starts, and the distance of its rows.
struct Operand {
    const void *data;
    int stride;
};

// blockIdx.z is the diagonal block: every pointer is moved by its step, in elements.
struct Product {
    Operand a, b;
    // Of a gated product: the other half's operands, whose sums are the gate.
    Operand gate_a, gate_b;
    void *c;
    int c_stride;
    const float *bias;
    const void *residual;
    int m, n, k;
    int a_step, b_step, c_step, bias_step;
    // Blocks b and b + 1 of a gated product share operand a: its step counts once for each `a_share` blocks.
    int a_share;
    // Diagonal blocks.
    int blocks;
};
