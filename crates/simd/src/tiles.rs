//! Matrix tiles (AMX): products of 16 x 64 bytes at a time, on x86-64 processors that have them.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::sync::OnceLock;

/// Columns of sums: three tiles.
pub const TILE_OUTPUTS: usize = 48;
/// The most rows of a product.
pub const TILE_ROWS: usize = 32;
/// Words of a row that a tile holds.
pub const TILE_WORDS: usize = 16;

/// What words are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TileDot {
    /// Pairs of bfloat16, summed in float32.
    Bf16,
    /// Four unsigned by four signed 8-bit integers, summed in int32.
    Int8,
}

/// A proof that this process may use matrix tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiles(());

/// A palette, and rows and bytes of each tile.
#[repr(C, align(64))]
struct Configuration([u8; 64]);

impl Configuration {
    /// Tiles 0 to 6 have `rows` rows, the last one, of weights, 16; all of them 64 bytes a row.
    fn new(rows: usize) -> Self {
        let mut bytes = [0; 64];
        bytes[0] = 1;
        for tile in 0..8 {
            bytes[16 + 2 * tile] = 64;
            bytes[48 + tile] = if tile < 7 { rows as u8 } else { TILE_WORDS as u8 };
        }
        Self(bytes)
    }
}

impl Tiles {
    /// Where the CPU has tiles of bfloat16 and 8-bit integers, and Linux lets this process use them.
    pub(crate) fn available() -> Option<Self> {
        static AVAILABLE: OnceLock<bool> = OnceLock::new();
        AVAILABLE.get_or_init(|| has_tiles() && may_use_tiles()).then_some(Self(()))
    }

    /// `sums = a panelᵀ`, of `rows` rows (at most [`TILE_ROWS`]) that are `stride` words apart from `a` on; `panel` is `[steps][48]`, with a
    /// multiple of 16 steps, and a row has as many words. Sums of 8-bit integers begin with `starts`, and are int32, as bits.
    ///
    /// # Panics
    /// Where lengths disagree.
    ///
    /// # Safety
    /// All words of all rows are readable.
    #[inline]
    pub unsafe fn multiply(
        self,
        dot: TileDot,
        (a, stride, rows): (*const u32, usize, usize),
        (panel, starts): (&[u32], &[i32]),
        sums: &mut [[f32; TILE_OUTPUTS]; TILE_ROWS],
    ) {
        let steps = panel.len() / TILE_OUTPUTS;
        assert!(steps * TILE_OUTPUTS == panel.len() && steps.is_multiple_of(TILE_WORDS) && steps > 0);
        assert!((1..=TILE_ROWS).contains(&rows));
        assert!(dot == TileDot::Bf16 || starts.len() == TILE_OUTPUTS);
        // Two tiles of rows, which may have one in common; or one.
        let half = if rows > 16 { rows.div_ceil(2) } else { rows };
        let second = rows - half;
        let configuration = Configuration::new(half);
        let zeros = [0i32; TILE_OUTPUTS];
        let starts = if dot == TileDot::Bf16 { &zeros[..] } else { starts };
        let (a0, a1) = (a, a.wrapping_add(second * stride));
        let (c0, c1) = (sums.as_mut_ptr(), sums[second..].as_mut_ptr());
        macro_rules! run {
            ($dot:literal, two) => {
                run!(@ concat!(
                    "tileloadd tmm6, [{a0} + {stride}*1]\n", "tileloadd tmm7, [{b} + {row}*1]\n", $dot, " tmm0, tmm6, tmm7\n",
                    "tileloadd tmm7, [{b} + {row}*1 + 64]\n", $dot, " tmm1, tmm6, tmm7\n",
                    "tileloadd tmm7, [{b} + {row}*1 + 128]\n", $dot, " tmm2, tmm6, tmm7\n",
                    "tileloadd tmm6, [{a1} + {stride}*1]\n", $dot, " tmm5, tmm6, tmm7\n",
                    "tileloadd tmm7, [{b} + {row}*1 + 64]\n", $dot, " tmm4, tmm6, tmm7\n",
                    "tileloadd tmm7, [{b} + {row}*1]\n", $dot, " tmm3, tmm6, tmm7\n"))
            };
            ($dot:literal, one) => {
                run!(@ concat!(
                    "tileloadd tmm6, [{a0} + {stride}*1]\n", "tileloadd tmm7, [{b} + {row}*1]\n", $dot, " tmm0, tmm6, tmm7\n",
                    "tileloadd tmm7, [{b} + {row}*1 + 64]\n", $dot, " tmm1, tmm6, tmm7\n",
                    "tileloadd tmm7, [{b} + {row}*1 + 128]\n", $dot, " tmm2, tmm6, tmm7\n"))
            };
            (@ $step:expr) => {
                // SAFETY: the CPU has the instructions, and this process may use them, as this value proves. The configuration is valid: at most
                // 16 rows of 64 bytes. The rows of `a` are readable, by this function's contract; all steps of the panel, `starts` and all rows of the sums are
                // within theirs, by the assertions above. Tiles are nobody else's: they are released at the end.
                unsafe {
                    asm!(
                        "ldtilecfg [{configuration}]",
                        "tileloadd tmm0, [{starts} + {zero}*1]",
                        "tileloadd tmm1, [{starts} + {zero}*1 + 64]",
                        "tileloadd tmm2, [{starts} + {zero}*1 + 128]",
                        "tileloadd tmm3, [{starts} + {zero}*1]",
                        "tileloadd tmm4, [{starts} + {zero}*1 + 64]",
                        "tileloadd tmm5, [{starts} + {zero}*1 + 128]",
                        "2:",
                        $step,
                        "add {a0}, 64",
                        "add {a1}, 64",
                        "add {b}, 3072",
                        "dec {count}",
                        "jnz 2b",
                        "tilestored [{c1} + {row}*1], tmm3",
                        "tilestored [{c1} + {row}*1 + 64], tmm4",
                        "tilestored [{c1} + {row}*1 + 128], tmm5",
                        "tilestored [{c0} + {row}*1], tmm0",
                        "tilestored [{c0} + {row}*1 + 64], tmm1",
                        "tilestored [{c0} + {row}*1 + 128], tmm2",
                        "tilerelease",
                        configuration = in(reg) &configuration,
                        starts = in(reg) starts.as_ptr(),
                        zero = in(reg) 0usize,
                        a0 = inout(reg) a0 => _,
                        a1 = inout(reg) a1 => _,
                        b = inout(reg) panel.as_ptr() => _,
                        stride = in(reg) stride * 4,
                        row = in(reg) TILE_OUTPUTS * 4,
                        count = inout(reg) steps / TILE_WORDS => _,
                        c0 = in(reg) c0,
                        c1 = in(reg) c1,
                        options(nostack),
                    )
                }
            };
        }
        match (dot, second > 0) {
            (TileDot::Bf16, true) => run!("tdpbf16ps", two),
            (TileDot::Bf16, false) => run!("tdpbf16ps", one),
            (TileDot::Int8, true) => run!("tdpbusd", two),
            (TileDot::Int8, false) => run!("tdpbusd", one),
        }
    }
}

/// What the CPU says: tiles, and tiles of both types.
fn has_tiles() -> bool {
    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    const INT8: u32 = 1 << 25;
    __cpuid_count(0, 0).eax >= 7 && __cpuid_count(7, 0).edx & (BF16 | TILE | INT8) == BF16 | TILE | INT8
}

/// Asks Linux for leave, for all threads of this process: their state is large.
#[cfg(target_os = "linux")]
fn may_use_tiles() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XFEATURE_XTILEDATA: i64 = 18;
    let result: i64;
    // SAFETY: a system call that takes two numbers and changes none of this process's memory.
    unsafe {
        asm!("syscall", inlateout("rax") ARCH_PRCTL => result, in("rdi") ARCH_REQ_XCOMP_PERM, in("rsi") XFEATURE_XTILEDATA,
             lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn may_use_tiles() -> bool {
    false
}
