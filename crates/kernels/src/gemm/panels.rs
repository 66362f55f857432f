//! Weights in the order in which a product reads them.

use danaus_simd::{Isa, Simd, Vectorized};

use super::activations::{Precision, ToBf16, ToSignedInt8};
use super::tile::panel_width;
use crate::buffer::Buffer;

/// A weight matrix `[outputs, inputs]`, packed for one instruction set and precision.
#[derive(Debug, Clone)]
pub struct PackedWeight {
    /// Decides the width of the panels.
    pub(super) isa: Isa,
    pub(super) precision: Precision,
    /// Panels `[steps][panel]`, the last one filled up with zeros.
    pub(super) words: Buffer<u32>,
    pub(super) outputs: usize,
    pub(super) inputs: usize,
    /// Outputs of a panel.
    pub(super) panel: usize,
    /// For 8-bit integers, one of each for every output of every panel; else empty.
    pub(super) quantised: Quantised,
}

/// What turns sums of products of 8-bit integers into values.
#[derive(Debug, Clone, Default)]
pub(super) struct Quantised {
    /// The value of a step.
    pub scales: Buffer<f32>,
    /// What a sum starts from: what the zero point of the activations adds to it, negated.
    pub starts: Buffer<i32>,
}

impl PackedWeight {
    /// Packs `weight`, row-major `[outputs, inputs]`.
    ///
    /// # Panics
    /// Where `weight` has another number of values, or none.
    pub fn new(isa: Isa, precision: Precision, weight: &[f32], outputs: usize, inputs: usize) -> Self {
        assert!(outputs > 0 && inputs > 0, "a weight of {outputs} x {inputs}");
        assert_eq!(Some(weight.len()), outputs.checked_mul(inputs), "a weight of {outputs} x {inputs}");
        let panel = isa.run(Width);
        let (steps, padded) = (precision.words(inputs), outputs.next_multiple_of(panel));
        let mut packed = Self {
            isa,
            precision,
            words: Buffer::zeroed(padded * steps),
            outputs,
            inputs,
            panel,
            quantised: Quantised::default(),
        };
        if precision == Precision::Int8 {
            packed.quantised = Quantised { scales: Buffer::zeroed(padded), starts: Buffer::zeroed(padded) };
        }
        for (index, rows) in weight.chunks(panel * inputs).enumerate() {
            packed.pack_panel(index, rows);
        }
        packed
    }

    /// Packs the rows of one panel.
    fn pack_panel(&mut self, index: usize, rows: &[f32]) {
        let steps = self.steps();
        let words = &mut self.words[index * self.panel * steps..(index + 1) * self.panel * steps];
        let mut row_words = vec![0; steps];
        for (lane, row) in rows.chunks_exact(self.inputs).enumerate() {
            match self.precision {
                Precision::F32 => row_words.iter_mut().zip(row).for_each(|(word, x)| *word = x.to_bits()),
                Precision::Bf16 => self.isa.run(ToBf16 { x: row, words: &mut row_words }),
                Precision::Int8 => {
                    let at = index * self.panel + lane;
                    let (scale, sum) = self.isa.run(ToSignedInt8 { x: row, words: &mut row_words });
                    self.quantised.scales[at] = scale;
                    self.quantised.starts[at] = -128 * sum;
                }
            }
            words[lane..].iter_mut().step_by(self.panel).zip(&row_words).for_each(|(to, &word)| *to = word);
        }
    }

    /// Words of a row.
    pub(super) fn steps(&self) -> usize {
        self.precision.words(self.inputs)
    }

    /// Number of panels.
    pub(super) fn panels(&self) -> usize {
        self.outputs.div_ceil(self.panel)
    }

    /// Number of inputs.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Memory it takes.
    pub fn bytes(&self) -> usize {
        let Quantised { scales, starts } = &self.quantised;
        4 * (self.words.len() + scales.len() + starts.len())
    }
}

struct Width;

impl Vectorized for Width {
    type Output = usize;
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> usize {
        panel_width::<S>()
    }
}
