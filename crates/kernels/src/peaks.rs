//! What the machine reaches at most: multiply-adds a second in each precision, and bytes read a second from each level of
//! memory. Kernels are judged by their share of these (Williams, Waterman and Patterson, "Roofline", 2009).

use std::hint::black_box;
use std::marker::PhantomData;
use std::path::Path;
use std::time::{Duration, Instant};

use danaus_simd::{Simd, Vectorized};
#[cfg(target_arch = "x86_64")]
use danaus_simd::{TILE_OUTPUTS, TILE_ROWS, TileDot, Tiles};

use crate::buffer::Buffer;
use crate::compute::Compute;

/// Vectors of the second operand in a tile of accumulators.
const COLUMNS: usize = 3;

/// Steps of a tile's operands: 11 KB at most, a third of the smallest level-1 cache.
const STEPS: usize = 16;

/// Words of a row where matrix tiles multiply: so many that beginning and end of a product count little. The operands, 120 KB, are then in
/// the level-2 cache.
#[cfg(target_arch = "x86_64")]
const TILE_STEPS: usize = 384;

/// Tasks that each thread has of one measurement, so that a thread that starts late holds up little.
const TASKS_PER_THREAD: usize = 48;

/// How long a task takes at least where it repeats itself: far longer than handing it to a thread.
const TASK_TIME: Duration = Duration::from_micros(200);

/// Rounds that a rate is the best of, and how long they take at least.
const ROUNDS: usize = 5;
/// See [`ROUNDS`].
const ROUNDS_TIME: Duration = Duration::from_millis(40);

/// Bytes that a task reads of a buffer that all threads share.
const CHUNK_BYTES: usize = 256 << 10;

/// Most bytes that are read as "memory", whatever the size of the last-level cache.
const MOST_MEMORY_BYTES: usize = 512 << 20;

/// What a machine reaches with one instruction set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peaks {
    /// The threads that [`Peaks::all_threads`] is for.
    pub threads: usize,
    /// Sizes of the caches.
    pub caches: Caches,
    /// What all threads reach together.
    pub all_threads: Rates,
    /// What one thread reaches while the others are idle.
    pub one_thread: Rates,
}

/// Rates of arithmetic (10^9 operations a second, a multiply-add being two) and of reading (10^9 bytes a second).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// float32 multiply-adds.
    pub f32_gflops: f64,
    /// bfloat16 products with float32 sums.
    pub bf16_gflops: f64,
    /// 8-bit products with 32-bit sums.
    pub int8_gops: f64,
    /// Reading the level-1 cache.
    pub l1_gb_per_s: f64,
    /// Reading the level-2 cache.
    pub l2_gb_per_s: f64,
    /// Reading the last level of cache.
    pub last_level_gb_per_s: f64,
    /// Reading memory.
    pub memory_gb_per_s: f64,
}

/// Sizes of the caches in bytes: a core's level 1 and level 2, and the last level, which cores share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caches {
    /// Level 1, data.
    pub l1_bytes: usize,
    /// Level 2.
    pub l2_bytes: usize,
    /// The last level.
    pub last_level_bytes: usize,
}

/// Measures what `compute`'s threads and instruction set reach, in one to two seconds: each rate is the best of several
/// rounds, so what else runs on the machine lowers it little. Arithmetic is that of a matrix product's inner loop (a
/// tile of sums in registers, operands in the level-1 cache; of matrix tiles, in the level-2 cache) without all that surrounds one; an instruction set without an
/// instruction for a precision is measured with what replaces it.
pub fn measure(compute: &Compute) -> Peaks {
    let caches = Caches::of_this_machine();
    let memory = (4 * caches.last_level_bytes).clamp(64 << 20, MOST_MEMORY_BYTES);
    // Written to, since memory that never was may be one page of zeros, however long.
    let mut buffer = Buffer::<f32>::zeroed(memory / size_of::<f32>());
    buffer.iter_mut().enumerate().for_each(|(i, value)| *value = (i % 7) as f32);
    let rates = |compute: &Compute, parallel: bool| {
        let bench = Bench { compute, parallel, buffer: &buffer };
        Rates {
            f32_gflops: bench.arithmetic::<Float32>(),
            bf16_gflops: bench.arithmetic::<Bfloat16>(),
            int8_gops: bench.arithmetic::<Int8>(),
            l1_gb_per_s: bench.private_reading(caches.l1_bytes / 8),
            l2_gb_per_s: bench.private_reading(caches.l2_bytes / 2),
            last_level_gb_per_s: bench.shared_reading((caches.last_level_bytes / 2).min(memory)),
            memory_gb_per_s: bench.shared_reading(memory),
        }
    };
    let all_threads = rates(compute, true);
    // Measured all the same: it would be the second run of the same thing.
    let one_thread = if compute.threads() == 1 { all_threads } else { rates(compute, false) };
    Peaks { threads: compute.threads(), caches, all_threads, one_thread }
}

impl Caches {
    /// As Linux describes them; a level that it does not describe is taken to have a usual size.
    fn of_this_machine() -> Self {
        let folder = Path::new("/sys/devices/system/cpu/cpu0/cache");
        let level = |index: usize| {
            let read = |name: &str| std::fs::read_to_string(folder.join(format!("index{index}/{name}"))).ok();
            let data = read("type")?.trim() != "Instruction";
            data.then_some((read("level")?.trim().parse().ok()?, bytes(read("size")?.trim())?))
        };
        let levels: Vec<(u32, usize)> = (0..8).filter_map(level).collect();
        let size = |wanted: u32| levels.iter().find(|(level, _)| *level == wanted).map(|&(_, size)| size);
        let l1_bytes = size(1).unwrap_or(32 << 10);
        let l2_bytes = size(2).unwrap_or(512 << 10).max(4 * l1_bytes);
        Self { l1_bytes, l2_bytes, last_level_bytes: size(3).unwrap_or(8 << 20).max(4 * l2_bytes) }
    }
}

/// The bytes of a size as Linux writes it: `32K`, `8M`.
fn bytes(size: &str) -> Option<usize> {
    let digits = size.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &size[digits.len()..] {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        _ => return None,
    };
    digits.parse::<usize>().ok()?.checked_mul(unit)
}

/// How one column of the table is measured.
struct Bench<'a> {
    compute: &'a Compute,
    /// On all threads, or on the caller's.
    parallel: bool,
    buffer: &'a [f32],
}

impl Bench<'_> {
    fn threads(&self) -> usize {
        if self.parallel { self.compute.threads() } else { 1 }
    }

    /// 10^9 operations a second.
    fn arithmetic<P: Precision>(&self) -> f64 {
        let isa = self.compute.isa();
        #[cfg(target_arch = "x86_64")]
        if let Some((tiles, dot)) = isa.tiles().zip(P::TILES) {
            return self.tile_arithmetic::<P>(tiles, dot);
        }
        let mut operands = Buffer::zeroed(isa.run(TileWords));
        operands.fill(P::ONES);
        let tile = |passes| isa.run(Tile::<P> { operands: &operands, passes, precision: PhantomData });
        self.repeated(tile)
    }

    /// The same by matrix tiles.
    #[cfg(target_arch = "x86_64")]
    fn tile_arithmetic<P: Precision>(&self, tiles: Tiles, dot: TileDot) -> f64 {
        let (rows, panel) = (vec![P::ONES; TILE_ROWS * TILE_STEPS], vec![P::ONES; TILE_STEPS * TILE_OUTPUTS]);
        self.repeated(|passes| {
            let mut sums = [[0.0; TILE_OUTPUTS]; TILE_ROWS];
            for _ in 0..passes {
                let rows = (black_box(&rows).as_ptr(), TILE_STEPS, TILE_ROWS);
                // SAFETY: there are so many rows of so many words.
                unsafe { tiles.multiply(dot, rows, (&panel, &[0; TILE_OUTPUTS]), &mut sums) };
                black_box(&mut sums);
            }
            passes * TILE_ROWS * TILE_OUTPUTS * TILE_STEPS * P::OPERATIONS
        })
    }

    /// 10^9 bytes a second, from a cache that each core has for itself: all threads read the same values.
    fn private_reading(&self, bytes: usize) -> f64 {
        let (isa, data) = (self.compute.isa(), &self.buffer[..bytes / size_of::<f32>()]);
        self.repeated(|passes| isa.run(Read { data, passes }))
    }

    /// 10^9 bytes a second, from what cores share: each value is read by one of them.
    fn shared_reading(&self, bytes: usize) -> f64 {
        let (isa, data) = (self.compute.isa(), &self.buffer[..bytes / size_of::<f32>()]);
        let chunks: Vec<_> = data.chunks(CHUNK_BYTES / size_of::<f32>()).collect();
        let passes = (TASKS_PER_THREAD * self.threads()).div_ceil(chunks.len());
        let task = |index: usize| isa.run(Read { data: chunks[index % chunks.len()], passes: 1 });
        let time = self.best_time(passes * chunks.len(), |index| {
            task(index);
        });
        (passes * bytes) as f64 / time / 1e9
    }

    /// The rate of `work`, which returns how much it did in so many passes.
    fn repeated(&self, work: impl Fn(usize) -> usize + Sync) -> f64 {
        let mut passes = 1;
        let mut amount = work(passes);
        loop {
            let started = Instant::now();
            amount = amount.max(work(passes));
            if started.elapsed() >= TASK_TIME {
                break;
            }
            passes *= 2;
        }
        let tasks = TASKS_PER_THREAD * self.threads();
        let time = self.best_time(tasks, |_| {
            work(passes);
        });
        (tasks * amount) as f64 / time / 1e9
    }

    /// Seconds that the quickest of several rounds of `tasks` tasks takes.
    fn best_time(&self, tasks: usize, task: impl Fn(usize) + Sync + Send) -> f64 {
        let (mut best, started) = (f64::INFINITY, Instant::now());
        let mut rounds = 0;
        while rounds < ROUNDS || started.elapsed() < ROUNDS_TIME {
            let round = Instant::now();
            if self.parallel {
                self.compute.for_each(tasks, &task);
            } else {
                (0..tasks).for_each(&task);
            }
            best = best.min(round.elapsed().as_secs_f64());
            rounds += 1;
        }
        best
    }
}

/// What is multiplied and added.
trait Precision: Sync {
    /// A vector of sums.
    type Sum<S: Simd>: Copy;
    /// Operations in one 32-bit lane.
    const OPERATIONS: usize;
    /// A word of ones.
    const ONES: u32;
    /// How matrix tiles do the same, if they do.
    #[cfg(target_arch = "x86_64")]
    const TILES: Option<TileDot> = None;
    fn zero<S: Simd>(simd: S) -> Self::Sum<S>;
    fn multiply_add<S: Simd>(simd: S, sum: Self::Sum<S>, a: S::Words, b: S::Words) -> Self::Sum<S>;
}

struct Float32;
struct Bfloat16;
struct Int8;

impl Precision for Float32 {
    type Sum<S: Simd> = S::F32;
    const OPERATIONS: usize = 2;
    const ONES: u32 = 0x3f80_0000;
    #[inline(always)]
    fn zero<S: Simd>(simd: S) -> S::F32 {
        simd.splat(0.0)
    }
    #[inline(always)]
    fn multiply_add<S: Simd>(simd: S, sum: S::F32, a: S::Words, b: S::Words) -> S::F32 {
        simd.mul_add(simd.floats(a), simd.floats(b), sum)
    }
}

impl Precision for Bfloat16 {
    type Sum<S: Simd> = S::F32;
    const OPERATIONS: usize = 4;
    const ONES: u32 = 0x3f80_3f80;
    #[cfg(target_arch = "x86_64")]
    const TILES: Option<TileDot> = Some(TileDot::Bf16);
    #[inline(always)]
    fn zero<S: Simd>(simd: S) -> S::F32 {
        simd.splat(0.0)
    }
    #[inline(always)]
    fn multiply_add<S: Simd>(simd: S, sum: S::F32, a: S::Words, b: S::Words) -> S::F32 {
        simd.dot_bf16(sum, a, b)
    }
}

impl Precision for Int8 {
    type Sum<S: Simd> = S::Words;
    const OPERATIONS: usize = 8;
    const ONES: u32 = 0x0101_0101;
    #[cfg(target_arch = "x86_64")]
    const TILES: Option<TileDot> = Some(TileDot::Int8);
    #[inline(always)]
    fn zero<S: Simd>(simd: S) -> S::Words {
        simd.splat_word(0)
    }
    #[inline(always)]
    fn multiply_add<S: Simd>(simd: S, sum: S::Words, a: S::Words, b: S::Words) -> S::Words {
        simd.dot_u8_i8(sum, a, b)
    }
}

/// Rows of a tile: as many as the registers hold beside an operand of each side.
const fn rows<S: Simd>() -> usize {
    if S::REGISTERS == 32 { 8 } else { 4 }
}

/// How many words the operands of a tile take, over all steps.
struct TileWords;

impl Vectorized for TileWords {
    type Output = usize;
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> usize {
        STEPS * (rows::<S>() + COLUMNS) * S::LANES
    }
}

/// Multiply-adds of a tile of sums, `passes` times over the operands; returns the number of operations.
struct Tile<'a, P> {
    /// [`TileWords`] of them.
    operands: &'a [u32],
    passes: usize,
    precision: PhantomData<P>,
}

impl<P: Precision> Vectorized for Tile<'_, P> {
    type Output = usize;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> usize {
        let Self { operands, passes, precision: _ } = self;
        match rows::<S>() {
            8 => multiply_tile::<S, P, 8>(simd, operands, passes),
            _ => multiply_tile::<S, P, 4>(simd, operands, passes),
        }
        passes * STEPS * rows::<S>() * COLUMNS * S::LANES * P::OPERATIONS
    }
}

#[inline(always)]
fn multiply_tile<S: Simd, P: Precision, const ROWS: usize>(simd: S, operands: &[u32], passes: usize) {
    let mut sums = [[P::zero(simd); COLUMNS]; ROWS];
    for _ in 0..passes {
        // Hidden from the compiler, which would else compute the products of one pass for all.
        for step in black_box(operands).chunks_exact((ROWS + COLUMNS) * S::LANES) {
            // SAFETY: a step has as many vectors as the operands that are asked for below.
            let operand = |index: usize| unsafe { simd.load_words(step.as_ptr().add(index * S::LANES)) };
            let columns: [S::Words; COLUMNS] = std::array::from_fn(|c| operand(ROWS + c));
            for (row, sums) in sums.iter_mut().enumerate() {
                let value = operand(row);
                for (sum, &column) in sums.iter_mut().zip(&columns) {
                    *sum = P::multiply_add(simd, *sum, value, column);
                }
            }
        }
    }
    black_box(sums);
}

/// Reads `data`, `passes` times over; returns the number of bytes.
struct Read<'a> {
    data: &'a [f32],
    passes: usize,
}

impl Vectorized for Read<'_> {
    type Output = usize;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> usize {
        // Enough sums that none waits for itself.
        let mut sums = [simd.splat(0.0); 8];
        let step = sums.len() * S::LANES;
        for _ in 0..self.passes {
            for values in black_box(self.data).chunks_exact(step) {
                for (v, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: `values` has as many vectors as there are sums.
                    let value = unsafe { simd.load(values.as_ptr().add(v * S::LANES)) };
                    *sum = simd.add(*sum, value);
                }
            }
        }
        black_box(sums);
        self.passes * self.data.len() / step * step * size_of::<f32>()
    }
}

#[cfg(test)]
mod tests {
    use danaus_simd::Isa;

    use super::*;

    #[test]
    fn sizes_as_linux_writes_them() {
        assert_eq!(["32K", "8M", "512"].map(bytes), [Some(32 << 10), Some(8 << 20), Some(512)]);
        assert_eq!(["", "K", "3G", "-1K", "99999999999999999999M"].map(bytes), [None; 5]);
        let caches = Caches::of_this_machine();
        assert!(caches.l1_bytes < caches.l2_bytes && caches.l2_bytes < caches.last_level_bytes, "{caches:?}");
    }

    /// What is counted is what is done: every instruction set's tile covers its operands once a pass.
    #[test]
    fn work_is_counted() {
        for isa in Isa::available() {
            let words = isa.run(TileWords);
            let operations = |passes| {
                let operands = vec![Int8::ONES; words];
                isa.run(Tile::<Int8> { operands: &operands, passes, precision: PhantomData })
            };
            assert!(operations(1) >= words && operations(3) == 3 * operations(1), "{}", isa.name());
            assert_eq!(isa.run(Read { data: &[1.0; 4096], passes: 2 }), 2 * 4096 * size_of::<f32>());
        }
    }
}
