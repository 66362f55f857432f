//! Matrix products with weights packed once: `out = a * weightᵀ`, plus what the epilogue adds, in three precisions.
//!
//! A packed weight is a list of panels of [`Simd::LANES`](danaus_simd::Simd::LANES) x `VECTORS` outputs, each
//! `[inputs / values in a word][panel]` words of 32 bits (see [`Precision`]), so that the inner loop reads it in order and is the
//! same for all precisions: one word of a row's activations, broadcast, meets a panel's words. A tile of `ROWS` x `VECTORS`
//! vectors of sums stays in registers while the loop runs over the inputs: the layout and loop order of Goto and van de Geijn,
//! "Anatomy of High-Performance Matrix Multiplication" (2008), without blocking over the inputs (there are at most a few
//! thousand). Each output is one chain of multiply-adds over the inputs in order, so its bits depend on its own row and
//! column alone.

mod activations;
mod panels;
mod product;
mod tile;
mod tiles;

pub(crate) use activations::pack_bf16;
pub use activations::{Activations, Precision, encode};
pub use panels::PackedWeight;
pub use product::{Epilogue, GatedOutput, multiply, multiply_gated};
