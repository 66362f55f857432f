//! Shaders' text: files put together, with the sizes that they are compiled for as constants.

use std::fmt::Write;

use super::matrix_product::{Finish, TILES, Tile};
use super::tree::{self, Transform};

/// How weights and activations are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// As float32.
    F32,
    /// As float16.
    F16,
}

impl Storage {
    /// Bytes of a value.
    pub fn bytes(self) -> usize {
        match self {
            Storage::F32 => 4,
            Storage::F16 => 2,
        }
    }

    /// `f32` or `f16`.
    pub fn name(self) -> &'static str {
        match self {
            Storage::F32 => "f32",
            Storage::F16 => "f16",
        }
    }

    /// Values as they are stored.
    pub fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Storage::F32 => bytemuck::cast_slice(values).to_vec(),
            Storage::F16 => values.iter().flat_map(|&x| half::f16::from_f32(x).to_ne_bytes()).collect(),
        }
    }

    /// Values that were stored.
    pub fn decode(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Storage::F32 => bytes.as_chunks().0.iter().map(|&bytes| f32::from_ne_bytes(bytes)).collect(),
            Storage::F16 => {
                bytes.as_chunks().0.iter().map(|&bytes| half::f16::from_ne_bytes(bytes).to_f32()).collect()
            }
        }
    }

    /// What shaders begin with.
    fn header(self) -> String {
        let name = self.name();
        let enable = if self == Storage::F16 { "enable f16;\n" } else { "" };
        format!("{enable}alias T = {name};\nalias T4 = vec4<{name}>;\n")
    }
}

/// Which of the two long convolutions of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Branch {
    Mixer,
    Residual,
}

impl Branch {
    fn text(self) -> &'static str {
        match self {
            Branch::Mixer => include_str!("shaders/conv_mixer.wgsl"),
            Branch::Residual => include_str!("shaders/conv_residual.wgsl"),
        }
    }

    /// Which of the buffers are written to.
    pub(super) fn writable(self) -> &'static [bool] {
        match self {
            Branch::Mixer => &[false, false, false, false, false, false, false, true],
            Branch::Residual => &[false, false, false, false, true, true],
        }
    }
}

pub(super) fn layer_norm(storage: Storage) -> String {
    storage.header() + include_str!("shaders/layer_norm.wgsl")
}

pub(super) fn pool(storage: Storage) -> String {
    storage.header() + include_str!("shaders/pool.wgsl")
}

pub(super) fn far_field(storage: Storage) -> String {
    storage.header() + include_str!("shaders/far_field.wgsl")
}

pub(super) fn direct_taps() -> String {
    include_str!("shaders/direct_taps.wgsl").to_owned()
}

pub(super) fn direct(storage: Storage, branch: Branch) -> String {
    let header = storage.header() + "alias FILTER = f32;\n";
    header + include_str!("shaders/conv_direct.wgsl") + branch.text()
}

pub(super) fn convolve(storage: Storage, transform: Transform, branch: Branch) -> String {
    let text = include_str!("shaders/transform.wgsl").to_owned() + branch.text();
    let text = text + include_str!("shaders/transform_convolve.wgsl");
    storage.header() + "alias FILTER = vec2<f32>;\n" + &constants(transform) + &text
}

pub(super) fn spectrum(transform: Transform) -> String {
    let text = include_str!("shaders/transform.wgsl").to_owned() + include_str!("shaders/conv_taps.wgsl");
    constants(transform) + &text + include_str!("shaders/transform_taps.wgsl")
}

fn constants(transform: Transform) -> String {
    let Transform { points, lanes, threads } = transform;
    let radix = if points.trailing_zeros().is_multiple_of(2) { 4 } else { 2 };
    format!(
        "const POINTS = {points}u;\nconst LANES = {lanes}u;\nconst THREADS = {threads}u;\nconst FIRST_RADIX = {radix}u;\n"
    )
}

/// A matrix product, whose inner loops are written out: compilers that guard loops against never ending would not unroll them.
pub(super) fn matrix_product(storage: Storage, finish: Finish, tile: Tile) -> String {
    let Tile { rows, columns, own_rows, own_columns } = tile;
    let passes = if finish == Finish::Gate { 2 } else { 1 };
    let mut text = storage.header();
    let element = if finish == Finish::Window { "f32" } else { storage.name() };
    writeln!(text, "alias A4 = vec4<{element}>;").ok();
    for (name, value) in
        [("BM", rows), ("BN", columns), ("TM", own_rows), ("TN", own_columns), ("PASSES", passes)]
    {
        writeln!(text, "const {name} = {value}u;").ok();
    }
    let sums = || (0..own_rows).flat_map(move |i| (0..own_columns).map(move |j| (i, j)));
    let each = |line: &dyn Fn(u32, u32) -> String| -> String { sums().map(|(i, j)| line(i, j)).collect() };
    let gate = passes == 2;
    let declare = |i, j| {
        let first = if gate { format!("var d_{i}_{j} = 0.0; ") } else { String::new() };
        format!("{first}var c_{i}_{j} = 0.0;\n")
    };
    let keep =
        |i, j| if gate { format!("if (pass_ == 0u) {{ d_{i}_{j} = c_{i}_{j}; }}\n") } else { String::new() };
    let template = include_str!("shaders/matrix_product.wgsl")
        .replace("//DECLARE", &each(&declare))
        .replace("//START", &(starts(tile) + &each(&|i, j| format!("c_{i}_{j} = start_{j};\n"))))
        .replace("//LOAD", &load(tile))
        .replace("//MULTIPLY", &multiply(tile))
        .replace("//KEEP", &each(&keep))
        .replace("//FINISH", &finish_lines(tile, gate));
    text + &template + finish.text()
}

/// What the sums of each column begin with.
fn starts(tile: Tile) -> String {
    let start = |j: u32| {
        let column = format!("col0 + tx + {j}u * TX");
        format!(
            "var start_{j} = 0.0;\nif ({column} < params.outputs) {{ start_{j} = start(block, {column}); }}\n"
        )
    };
    (0..tile.own_columns).map(start).collect()
}

/// What an invocation moves to workgroup memory: all is read before any is written, so that reads need not wait for each other.
fn load(tile: Tile) -> String {
    /// BK4 in the shader.
    const FOURS: u32 = 4;
    let threads = tile.threads();
    let (mut reads, mut writes) = (String::new(), String::new());
    let parts = [("a", tile.rows, "row0, a_offset, k0"), ("w", tile.columns, "col0, w_row, k0")];
    for (name, count, place) in parts {
        let fours = count * FOURS;
        for step in 0..fours.div_ceil(threads) {
            let e = format!("(index + {}u)", step * threads);
            writeln!(reads, "let {name}_read_{step} = {name}_four({e}, {place});").ok();
            let write = format!("{name}_tile[{e} / BK4 * STRIDE + {e} % BK4] = {name}_read_{step};");
            if (step + 1) * threads > fours {
                writeln!(writes, "if ({e} < {fours}u) {{ {write} }}").ok();
            } else {
                writeln!(writes, "{write}").ok();
            }
        }
    }
    reads + &writes
}

/// One four of inputs.
fn multiply(tile: Tile) -> String {
    let Tile { own_rows, own_columns, .. } = tile;
    let mut text = String::new();
    for i in 0..own_rows {
        writeln!(text, "let a_{i} = a_tile[(ty + {i}u * TY) * STRIDE + k];").ok();
    }
    for j in 0..own_columns {
        writeln!(text, "let w_{j} = w_tile[(tx + {j}u * TX) * STRIDE + k];").ok();
    }
    for part in ["x", "y", "z", "w"] {
        for i in 0..own_rows {
            for j in 0..own_columns {
                writeln!(text, "c_{i}_{j} = fma(a_{i}.{part}, w_{j}.{part}, c_{i}_{j});").ok();
            }
        }
    }
    text
}

fn finish_lines(tile: Tile, gate: bool) -> String {
    let Tile { own_rows, own_columns, .. } = tile;
    let mut text = String::new();
    for i in 0..own_rows {
        writeln!(text, "if (row0 + ty + {i}u * TY < params.rows) {{\nlet row = row0 + ty + {i}u * TY;").ok();
        for j in 0..own_columns {
            let first = if gate { format!("d_{i}_{j}") } else { "0.0".to_owned() };
            writeln!(text, "if (col0 + tx + {j}u * TX < params.outputs) {{").ok();
            writeln!(text, "finish(row, block, col0 + tx + {j}u * TX, c_{i}_{j}, {first});\n}}").ok();
        }
        text.push_str("}\n");
    }
    text
}

/// Every shader of a kind of storage that there is for a device with so much workgroup memory, with its name: what tests
/// validate.
pub fn all_shaders(storage: Storage, workgroup_bytes: u32) -> Vec<(String, String)> {
    let mut all = vec![
        ("layer_norm".to_owned(), layer_norm(storage)),
        ("pool".to_owned(), pool(storage)),
        ("far_field".to_owned(), far_field(storage)),
        ("direct_taps".to_owned(), direct_taps()),
    ];
    for branch in [Branch::Mixer, Branch::Residual] {
        all.push((format!("direct {branch:?}"), direct(storage, branch)));
    }
    for transform in tree::transforms(workgroup_bytes) {
        let Transform { points, lanes, .. } = transform;
        all.push((format!("spectrum {points} of {lanes}"), spectrum(transform)));
        for branch in [Branch::Mixer, Branch::Residual] {
            all.push((
                format!("convolve {points} of {lanes} {branch:?}"),
                convolve(storage, transform, branch),
            ));
        }
    }
    for tile in TILES {
        for finish in Finish::ALL {
            all.push((format!("{finish:?} {}", tile.name()), matrix_product(storage, finish, tile)));
        }
    }
    all
}
