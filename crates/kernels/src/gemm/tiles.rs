//! Products by matrix tiles (AMX), where the CPU has them: a panel's words lie as they want them, 16 steps by 16 outputs a tile.
//! Sums of bfloat16 are over even and odd inputs of 32 apart, and then over those of 32 in order: other bits than without tiles, and
//! the same for a row whatever the other rows are.

use std::ops::Range;

use danaus_simd::Simd;
#[cfg(target_arch = "x86_64")]
use danaus_simd::{TILE_OUTPUTS, TILE_ROWS, TILE_WORDS, TileDot, Tiles};

use super::activations::Activations;
use super::panels::PackedWeight;
use super::tile::{Dot, Sums};
#[cfg(target_arch = "x86_64")]
use super::tile::{MAX_PANEL, MOST_ROWS};

#[cfg(target_arch = "x86_64")]
const _: () = assert!(TILE_ROWS == MOST_ROWS && TILE_OUTPUTS == MAX_PANEL);

/// The most rows of a tile of a product with `weight`.
#[inline(always)]
pub(super) fn most_rows<S: Simd, D: Dot<S>>(weight: &PackedWeight) -> usize {
    #[cfg(target_arch = "x86_64")]
    if takes_tiles::<S, D>(weight).is_some() {
        return TILE_ROWS;
    }
    let _ = weight;
    D::ROWS
}

/// Matrix tiles, where they compute products with `weight`: whether they do depends on its shape alone, so that a row's bits depend on
/// nothing else.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn takes_tiles<S: Simd, D: Dot<S>>(weight: &PackedWeight) -> Option<(Tiles, TileDot)> {
    let whole = weight.steps().is_multiple_of(TILE_WORDS) && weight.panel == TILE_OUTPUTS;
    weight.isa.tiles().zip(D::TILES).filter(|_| whole)
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn multiply<S: Simd, D: Dot<S>>(
    _: &PackedWeight,
    _: &Activations<'_>,
    _: &Range<usize>,
    _: (&[u32], &[i32]),
    _: &mut Sums,
) -> bool {
    false
}

/// The products of rows with a panel and its starts, if tiles compute them; whether they do.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn multiply<S: Simd, D: Dot<S>>(
    weight: &PackedWeight,
    a: &Activations<'_>,
    rows: &Range<usize>,
    panel: (&[u32], &[i32]),
    sums: &mut Sums,
) -> bool {
    let Some((tiles, dot)) = takes_tiles::<S, D>(weight) else { return false };
    let (data, stride) = a.words.slice(rows.clone()).parts();
    // SAFETY: `rows` are rows of the activations, which have as many words as the panel has steps.
    unsafe { tiles.multiply(dot, (data, stride, rows.len()), panel, sums) };
    if dot == TileDot::Int8 {
        for row in &mut sums[..rows.len()] {
            row.iter_mut().for_each(|sum| *sum = sum.to_bits().cast_signed() as f32);
        }
    }
    true
}
