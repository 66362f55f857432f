//! Which tiles matrix products are cut into, and how many channels a workgroup transforms: what is fastest on this device,
//! measured once and remembered. It changes no result's operations.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use danaus_kernels::wgpu::{
    Convolution, GpuError, Slice, TILES, TRANSFORM_BYTES, TextRows, Tile, Work, gpu_filter_length,
};
use serde::{Deserialize, Serialize};

use super::WgpuAccelerator;
use super::groups::table;
use super::workspace::{Buffers, Sizes};

/// Rows up to which each choice holds; the last one holds for more, too. Each is measured with as many.
const ROWS: [usize; 4] = [8, 64, 256, 1024];

/// Rows of the text that transforms are measured with.
const TRANSFORMED_ROWS: usize = 512;

/// Times each tile is measured: the best time counts.
const REPEATS: usize = 3;

/// How long a measurement may take.
const LIMIT: Duration = Duration::from_secs(120);

/// The file in the cache's folder.
const FILE: &str = "wgpu-tiles.json";

/// The tiles of each product, by number of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tiles([[Tile; 4]; 3]);

/// The products of a layer, by what they are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Product {
    /// The mixer's.
    Dense,
    /// The MLP's first.
    Gate,
    /// The MLP's second.
    Down,
}

const PRODUCTS: [Product; 3] = [Product::Dense, Product::Gate, Product::Down];

/// What the file holds for each device.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Remembered(BTreeMap<String, Choice>);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Choice {
    /// Names of tiles, by product and rows.
    tiles: [[String; 4]; 3],
    /// Workgroup memory of transforms.
    transform_bytes: u32,
}

impl Default for Tiles {
    fn default() -> Self {
        Self([ROWS.map(Tile::usual); 3])
    }
}

impl Tiles {
    /// Of the mixer's products.
    pub fn dense(&self, rows: usize) -> Tile {
        self.of(Product::Dense, rows)
    }

    /// Of the MLP's first product.
    pub fn gate(&self, rows: usize) -> Tile {
        self.of(Product::Gate, rows)
    }

    /// Of the MLP's second product.
    pub fn down(&self, rows: usize) -> Tile {
        self.of(Product::Down, rows)
    }

    fn of(&self, product: Product, rows: usize) -> Tile {
        let class = ROWS.iter().position(|&most| rows <= most).unwrap_or(ROWS.len() - 1);
        self.0[product as usize][class]
    }

    fn named(names: &[[String; 4]; 3]) -> Option<Self> {
        let mut tiles = Self::default();
        for (tile, name) in tiles.0.iter_mut().flatten().zip(names.iter().flatten()) {
            *tile = Tile::named(name)?;
        }
        Some(tiles)
    }

    fn names(&self) -> [[String; 4]; 3] {
        self.0.map(|product| product.map(Tile::name))
    }
}

impl WgpuAccelerator {
    /// The tiles that the folder remembers for this device and model, or else those that are measured to be fastest; the same for
    /// transforms. A program on the CPU is measured only where there is a folder to remember it in.
    pub(super) fn choose_tiles(&self, cache: Option<&Path>) -> Result<Tiles, GpuError> {
        let file = cache.map(|folder| folder.join(FILE));
        let mut remembered = file.as_deref().map(read).unwrap_or_default();
        let key = self.key();
        if let Some(choice) = remembered.0.get(&key)
            && let Some(tiles) = Tiles::named(&choice.tiles)
            && TRANSFORM_BYTES.contains(&choice.transform_bytes)
        {
            self.kernels.set_transform_bytes(choice.transform_bytes);
            return Ok(tiles);
        }
        if file.is_none() && self.kernels.gpu().is_cpu() {
            return Ok(Tiles::default());
        }
        let tiles = self.measure_tiles()?;
        if let Some(file) = file {
            let transform_bytes = self.kernels.transform_bytes();
            remembered.0.insert(key, Choice { tiles: tiles.names(), transform_bytes });
            write(&file, &remembered);
        }
        Ok(tiles)
    }

    /// What a choice depends on.
    fn key(&self) -> String {
        let (description, config) = (&self.description, &self.config);
        let sizes =
            format!("{}x{}x{}", config.hidden_size, config.intermediate_size, config.monarch_mlp_nblocks);
        [&description.name, &description.driver, description.device, description.dtype, &sizes].join(" | ")
    }

    fn measure_tiles(&self) -> Result<Tiles, GpuError> {
        let (width, intermediate) = (self.config.hidden_size, self.config.intermediate_size);
        let mut workspace = self.take_workspace();
        let most = ROWS[ROWS.len() - 1].min(self.most_rows());
        let sizes = Sizes { rows: most, width, intermediate };
        let buffers = workspace.prepare(self.kernels.gpu(), sizes)?;
        let mut tiles = Tiles::default();
        for product in PRODUCTS {
            for (class, rows) in ROWS.into_iter().enumerate() {
                let rows = rows.min(buffers.block).min(most);
                let mut best = Duration::MAX;
                // Tiles that would be mostly empty cannot be the fastest.
                for tile in TILES.into_iter().filter(|tile| tile.rows() <= 4 * rows) {
                    let time = self.time(|work| {
                        // Several, so that few rows' times are not those of a submission.
                        let mut times = 0..(512 / rows).clamp(1, 8);
                        times.try_for_each(|_| self.product(work, product, tile, rows, buffers))
                    })?;
                    if time < best {
                        best = time;
                        tiles.0[product as usize][class] = tile;
                    }
                }
            }
        }
        self.measure_transforms(most.min(TRANSFORMED_ROWS), buffers)?;
        self.keep_workspace(workspace);
        Ok(tiles)
    }

    /// Chooses the fastest transforms, by those of one text of so many rows.
    fn measure_transforms(&self, rows: usize, buffers: &Buffers) -> Result<(), GpuError> {
        let (kernels, gpu) = (&self.kernels, self.kernels.gpu());
        let (length, width) = (gpu_filter_length(rows), self.config.hidden_size);
        let texts = gpu.upload(&table(&[TextRows { first: 0, rows: rows as u32 }]))?;
        let twiddles = self.filters.twiddles(kernels, length)?;
        let filter = gpu.buffer(4 * kernels.filter_values(length, width) as u64)?;
        let convolution = Convolution {
            width,
            length,
            texts: &texts,
            range: (0, 1),
            twiddles: &twiddles,
            short: &self.weights.layers[0].short,
            leaf: 0,
        };
        let (filter, sums) = (Slice::from(&filter), Slice::from(&buffers.sums));
        let mut best = (Duration::MAX, kernels.transform_bytes());
        for bytes in TRANSFORM_BYTES {
            kernels.set_transform_bytes(bytes);
            let time = self.time(|work| {
                let parts = buffers.projections();
                kernels.convolve_mixer(work, convolution, filter, parts, sums)?;
                let outs = [sums, (&buffers.mixed).into()];
                kernels.convolve_residual(work, convolution, filter, (&buffers.hidden).into(), outs)
            })?;
            best = best.min((time, bytes));
        }
        kernels.set_transform_bytes(best.1);
        Ok(())
    }

    /// The best time of some work.
    fn time(&self, fill: impl Fn(&mut Work) -> Result<(), GpuError>) -> Result<Duration, GpuError> {
        let mut best = Duration::MAX;
        // The first one compiles.
        for _ in 0..=REPEATS {
            let mut work = Work::default();
            fill(&mut work)?;
            let start = Instant::now();
            let pending = self.kernels.submit(work, None, LIMIT)?;
            self.kernels.gpu().wait(pending)?;
            best = best.min(start.elapsed());
        }
        Ok(best)
    }

    fn product(
        &self,
        work: &mut Work,
        product: Product,
        tile: Tile,
        rows: usize,
        buffers: &Buffers,
    ) -> Result<(), GpuError> {
        let (kernels, weights) = (&self.kernels, &self.weights);
        let (mixed, gated) = (Slice::from(&buffers.mixed), Slice::from(&buffers.gated));
        match product {
            Product::Dense => {
                let linear = (weights.in_linear(0), tile);
                kernels.linear_three(work, linear, rows, mixed, buffers.projections())
            }
            Product::Gate => kernels.gate(work, (weights.gate(0), tile), (0, rows), mixed, gated),
            Product::Down => {
                let outs = [mixed, (&buffers.sums).into()];
                kernels.residual(work, (weights.down(0), tile), (0, rows), gated, outs)
            }
        }
    }
}

/// What a file remembers: nothing where it cannot be read.
fn read(file: &Path) -> Remembered {
    std::fs::read(file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// Writes a file whole or not at all. Where it cannot be written, the next start measures again.
fn write(file: &Path, remembered: &Remembered) {
    let temporary = file.with_extension(format!("{}.tmp", std::process::id()));
    let written = serde_json::to_vec_pretty(remembered).map_err(std::io::Error::from).and_then(|json| {
        std::fs::create_dir_all(file.parent().unwrap_or(Path::new(".")))?;
        std::fs::write(&temporary, json)?;
        std::fs::rename(&temporary, file)
    });
    if written.is_err() {
        // Whether or not there is one.
        let _ = std::fs::remove_file(&temporary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_for_tiles_and_others_for_none() {
        let mut tiles = Tiles::default();
        tiles.0[1][2] = TILES[4];
        let mut names = tiles.names();
        assert_eq!(Tiles::named(&names), Some(tiles));
        names[0][0] = "7x7".to_owned();
        assert_eq!(Tiles::named(&names), None);
    }
}
