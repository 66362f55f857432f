//! The long convolution: which kernel a text of each length takes, the roots of its tree, and the launch.

use std::f64::consts::TAU;

use cudarc::driver::DeviceRepr;

use super::launch::{Grid, MOST_BLOCKS, bytes_of, part};
use super::{CudaError, Element, Gpu, GpuBuffer};

/// The longest texts that are convolved by the sum.
const DIRECT_TOKENS: usize = 32;

/// Taps that are kept of a filter for those, by channel.
const DIRECT_TAPS: usize = 64;

/// Channels of a block there.
const DIRECT_CHANNELS: usize = 8;

/// Memory for collecting results in, in bytes: how many texts of several leaves are computed at once.
const MOST_COLLECTED: usize = 256 << 20;

/// How texts of up to a number of tokens are convolved: a function of a text's own length.
#[derive(Debug)]
pub struct LengthClass {
    length: usize,
    variant: Option<Variant>,
    /// The tree's roots.
    roots: Option<GpuBuffer>,
    /// Shared memory of a block that keeps all leaves of a channel in half precision, if there is room.
    held: Option<usize>,
}

/// A transform: as the variants of `long_conv.cu`, which say the same of themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Variant {
    module: &'static str,
    points: usize,
    leaves: usize,
    /// Channels of a block.
    together: usize,
    /// Threads of a channel.
    threads: usize,
    /// From the top of the tree; 1 for no level.
    radices: [usize; 4],
}

const fn variant(
    module: &'static str,
    [points, leaves, together]: [usize; 3],
    each: usize,
    radices: [usize; 4],
) -> Variant {
    Variant { module, points, leaves, together, threads: points / each, radices }
}

/// By length.
const VARIANTS: [Variant; 10] = [
    variant("long_conv_64", [64, 1, 16], 8, [8, 8, 1, 1]),
    variant("long_conv_128", [128, 1, 16], 16, [16, 8, 1, 1]),
    variant("long_conv_256", [256, 1, 8], 16, [16, 16, 1, 1]),
    variant("long_conv_512", [512, 1, 4], 16, [8, 16, 4, 1]),
    variant("long_conv_1024", [1024, 1, 2], 16, [16, 16, 4, 1]),
    variant("long_conv_2048", [2048, 1, 1], 16, [16, 16, 8, 1]),
    variant("long_conv_4096", [4096, 1, 1], 16, [16, 16, 16, 1]),
    variant("long_conv_8192", [8192, 1, 1], 16, [16, 8, 16, 4]),
    variant("long_conv_16384", [8192, 2, 1], 16, [16, 8, 16, 4]),
    variant("long_conv_32768", [8192, 4, 1], 16, [16, 8, 16, 4]),
];

impl Variant {
    fn length(&self) -> usize {
        self.points * self.leaves
    }

    /// Shared memory of one channel: points with their padding.
    fn stored_bytes(&self) -> usize {
        (self.points + self.points / 16 + if self.points == 64 { 4 } else { 0 }) * 8
    }

    /// Shared memory of one channel that keeps all leaves in half precision, beside the points, and the roots of all levels but the last;
    /// nothing where there is one leaf.
    fn held_bytes(&self) -> Option<usize> {
        let levels = self.radices.iter().take_while(|&&radix| radix > 1).count();
        let roots: usize = (0..levels - 1).map(|level| self.radices[..level].iter().product::<usize>()).sum();
        (self.leaves > 1).then(|| self.stored_bytes() + self.leaves * roots * 8 + self.length() * 4)
    }

    /// Roots of one leaf, its own included, which is the last.
    fn roots(&self, leaf: usize) -> Vec<[f32; 2]> {
        let root = |turns: f64| [(TAU * turns).cos() as f32, (TAU * turns).sin() as f32];
        // i is a quarter of a turn; a leaf's is one of its roots.
        let own = (0.25 + leaf as f64) / self.leaves as f64;
        let mut blocks = vec![own];
        let mut roots = Vec::new();
        for radix in self.radices.into_iter().filter(|&radix| radix > 1) {
            roots.extend(blocks.iter().map(|turns| root(turns / radix as f64)));
            let parts = |turns: f64| (0..radix).map(move |part| (turns + part as f64) / radix as f64);
            blocks = blocks.into_iter().flat_map(parts).collect();
        }
        roots.push(root(own));
        roots
    }
}

impl LengthClass {
    /// Tokens of the longest text of the class: a power of two, at least 32.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Bytes of one branch's filters over `channels` channels.
    pub fn filter_bytes(&self, channels: usize) -> usize {
        channels * if self.variant.is_some() { self.length * 8 } else { DIRECT_TAPS * 4 }
    }

    /// Bytes that a convolution needs beside its operands.
    pub fn collected_bytes(&self, channels: usize, texts: usize) -> usize {
        match self.variant {
            Some(Variant { leaves: 2.., .. }) => {
                self.at_once(channels).min(texts) * self.text_bytes(channels)
            }
            _ => 0,
        }
    }

    /// As GPUs with less shared memory compute it: for tests.
    pub fn without_room(self) -> Self {
        Self { held: None, ..self }
    }

    fn text_bytes(&self, channels: usize) -> usize {
        channels * self.length * 4
    }

    /// Texts of one launch.
    fn at_once(&self, channels: usize) -> usize {
        match self.variant {
            Some(Variant { leaves: 2.., .. }) => (MOST_COLLECTED / self.text_bytes(channels)).max(1),
            _ => MOST_BLOCKS,
        }
    }

    pub(super) fn module(&self) -> &'static str {
        self.variant.map_or("long_conv_direct", |variant| variant.module)
    }

    pub(super) fn roots_address(&self) -> u64 {
        self.roots.as_ref().map_or(0, GpuBuffer::address)
    }

    /// The kernel that makes filters.
    pub(super) fn filter_kernel(&self, channels: usize) -> (&'static str, Grid) {
        let blocks = [channels, 1, 1];
        match self.variant {
            Some(variant) => {
                ("spectra", Grid { blocks, threads: variant.threads, shared: variant.stored_bytes() })
            }
            None => ("short_filters", Grid { blocks, threads: DIRECT_TAPS, shared: 0 }),
        }
    }

    fn grid(&self, channels: usize, texts: usize) -> Grid {
        match self.variant {
            Some(variant) => Grid {
                blocks: [channels.div_ceil(variant.together), texts, 1],
                threads: variant.together * variant.threads,
                shared: variant.together * variant.stored_bytes(),
            },
            None => Grid {
                blocks: [channels.div_ceil(DIRECT_CHANNELS), texts, 1],
                threads: 32 * DIRECT_CHANNELS,
                shared: 0,
            },
        }
    }
}

/// A text of a pass: `Text` of `long_conv.cuh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct GpuText {
    start: i32,
    rows: i32,
    far_field: u64,
}

impl GpuText {
    /// A text of `rows` tokens, padding included, the first of which is column `start`. What padding behind adds is
    /// `[layers, 2, channels, rows]` in bfloat16; `shape` is the first of these and the third.
    ///
    /// # Panics
    /// Where the far field has another size.
    pub fn new(start: usize, rows: usize, far_field: Option<(&GpuBuffer, [usize; 2])>) -> Self {
        let far_field = far_field.map_or(0, |(values, [layers, channels])| {
            let bytes = layers * 2 * channels * rows * 2;
            assert_eq!(values.bytes(), bytes.max(16), "a far field of the text's rows");
            part(values, 0, bytes)
        });
        Self { start: start as i32, rows: rows as i32, far_field }
    }

    /// As kernels take them.
    pub fn bytes(texts: &[Self]) -> &[u8] {
        bytes_of(texts)
    }
}

/// The convolutions of one layer, of texts of one class.
#[derive(Debug)]
pub struct LongConvArgs<'a> {
    /// `[H, pitch]`: what the mixer's branch convolves.
    pub gated: &'a GpuBuffer,
    /// `[H, pitch]`: what its result is multiplied by.
    pub gate: &'a GpuBuffer,
    /// `[H, pitch]`: the layer's input.
    pub hidden: &'a GpuBuffer,
    /// `[H, pitch]`: where the result goes, which may be `gated`.
    pub mixed: &'a GpuBuffer,
    /// The type of these four.
    pub element: Element,
    /// Columns of these four.
    pub pitch: usize,
    /// H.
    pub channels: usize,
    /// The layer, for far fields.
    pub layer: usize,
    /// [`GpuText`]s that are within the pitch and of the class.
    pub texts: &'a GpuBuffer,
    /// The first of them, and how many.
    pub range: std::ops::Range<usize>,
    /// The filters of both branches, one after the other.
    pub filters: &'a GpuBuffer,
    /// [`LengthClass::collected_bytes`]
    pub collected: &'a GpuBuffer,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct RawLongConv {
    gated: u64,
    gate: u64,
    hidden: u64,
    mixed: u64,
    pitch: i32,
    channels: i32,
    layer: i32,
    texts: u64,
    filters: u64,
    roots: u64,
    collected: u64,
}

// SAFETY: `Text` of `long_conv.cuh`, in C's order.
unsafe impl DeviceRepr for GpuText {}
// SAFETY: `LongConv` of `long_conv.cuh`, likewise.
unsafe impl DeviceRepr for RawLongConv {}

impl Gpu {
    /// The class of a text of `rows` tokens; `None` where there is no kernel for texts of that length.
    ///
    /// # Errors
    /// The driver's.
    pub fn length_class(&self, rows: usize) -> Result<Option<LengthClass>, CudaError> {
        if rows <= DIRECT_TOKENS {
            return Ok(Some(LengthClass { length: DIRECT_TOKENS, variant: None, roots: None, held: None }));
        }
        let length = rows.next_power_of_two();
        let fits =
            |variant: &&Variant| variant.length() == length && variant.stored_bytes() <= self.shared_memory();
        let Some(&variant) = VARIANTS.iter().find(fits) else { return Ok(None) };
        let roots: Vec<u8> = (0..variant.leaves)
            .flat_map(|leaf| variant.roots(leaf))
            .flatten()
            .flat_map(f32::to_ne_bytes)
            .collect();
        let held = variant.held_bytes().filter(|&bytes| bytes <= self.shared_memory());
        Ok(Some(LengthClass { length, variant: Some(variant), roots: Some(self.upload(&roots)?), held }))
    }

    /// `mixed = long(gated) * gate + long'(hidden)`
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Panics
    /// Where sizes do not fit the buffers. (That texts are within the pitch is the caller's promise.)
    pub fn long_conv(&self, class: &LengthClass, args: &LongConvArgs<'_>) -> Result<(), CudaError> {
        let &LongConvArgs { channels, pitch, .. } = args;
        let bytes = channels * pitch * args.element.bytes();
        let held = class.held.filter(|_| args.element == Element::F16);
        let name = match args.element {
            Element::F32 => "long_conv_f32",
            Element::F16 if held.is_some() => "long_conv_f16_held",
            Element::F16 => "long_conv_f16",
        };
        let collected = class.collected_bytes(channels, args.range.len());
        let mut start = args.range.start;
        while start < args.range.end {
            let count = (args.range.end - start).min(class.at_once(channels));
            let mut grid = class.grid(channels, count);
            grid.shared = held.unwrap_or(grid.shared);
            let parameters = RawLongConv {
                gated: part(args.gated, 0, bytes),
                gate: part(args.gate, 0, bytes),
                hidden: part(args.hidden, 0, bytes),
                mixed: part(args.mixed, 0, bytes),
                pitch: pitch as i32,
                channels: channels as i32,
                layer: args.layer as i32,
                texts: part(args.texts, start * size_of::<GpuText>(), count * size_of::<GpuText>()),
                filters: part(args.filters, 0, 2 * class.filter_bytes(channels)),
                roots: class.roots_address(),
                collected: part(args.collected, 0, collected),
            };
            let function = self.modules.function(class.module(), name, grid.shared)?;
            // SAFETY: sizes were checked; that texts are within the pitch and of this class is the caller's promise.
            unsafe { self.launch(&function, grid, &parameters)? };
            start += count;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_has_a_tree_of_its_points() {
        for variant in VARIANTS {
            assert_eq!(variant.radices.iter().product::<usize>(), variant.points, "{}", variant.module);
            assert!(variant.radices.iter().all(|radix| variant.points / variant.threads % radix == 0));
            assert!(variant.together * variant.threads <= 1024 && variant.length().is_power_of_two());
        }
    }

    #[test]
    fn the_compiled_kernels_say_the_same_of_themselves() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/cuda/ptx");
        for variant in VARIANTS {
            let ptx = std::fs::read_to_string(format!("{folder}/{}.ptx", variant.module)).unwrap();
            let (_, shape) = ptx.split_once("shape[32] = {").unwrap();
            let bytes = shape.split('}').next().unwrap().split(", ").map(|byte| byte.parse::<u8>().unwrap());
            let mut bytes: Vec<_> = bytes.collect();
            // Zeros at the end are left out.
            bytes.resize(32, 0);
            let values =
                bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap()) as usize);
            let Variant { points, leaves, together, threads, radices, .. } = variant;
            let expected = [[points, leaves, together, threads], radices].concat();
            assert_eq!(values.collect::<Vec<_>>(), expected, "{}", variant.module);
        }
    }

    #[test]
    fn roots_of_the_last_level_lead_to_all_roots_of_i() {
        let small = variant("", [16, 2, 1], 4, [4, 4, 1, 1]);
        for leaf in 0..2 {
            let roots = small.roots(leaf);
            assert_eq!(roots.len(), 1 + 4 + 1);
            let turns = roots[5][1].atan2(roots[5][0]) as f64 / TAU;
            assert!((turns.rem_euclid(1.0) - (0.25 + leaf as f64) / 2.0).abs() < 1e-6);
        }
    }
}
