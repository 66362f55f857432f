//! What the benchmarks share.
#![allow(dead_code)] // each of them uses its part

use std::time::Duration;

/// Rows of a matrix of activations: a token, short texts, and full passes.
pub const ROWS: [usize; 5] = [1, 8, 32, 128, 512];

/// Time that one case is measured for, so that `cargo bench` takes about a minute.
pub const CASE_TIME: Duration = Duration::from_millis(250);

/// Values in [-1, 1) from a multiplicative generator: reproducible and cheap.
pub fn values(count: usize) -> Vec<f32> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}
