//! The buffers of a forward pass, kept between passes.

/// Tokens for which buffers are kept: those of a longer text are given back after its pass.
const KEPT_TOKENS: usize = 8192;

/// Buffers `[tokens, width]`; their contents mean something only within a pass.
#[derive(Debug, Default)]
pub(super) struct Workspace {
    /// Hidden states: width H.
    pub hidden: Vec<f32>,
    /// x1, x2 and v side by side: width 3H.
    pub projected: Vec<f32>,
    /// Two results of width H.
    pub first: Vec<f32>,
    /// See `first`.
    pub second: Vec<f32>,
    /// The MLP's inner product for a block of tokens: width 2I.
    pub inner: Vec<f32>,
    /// The MLP's gated activations for a block of tokens: width I.
    pub gated: Vec<f32>,
}

impl Workspace {
    /// Sizes the buffers for `tokens` tokens, of which the MLP takes `block` at a time.
    pub fn prepare(&mut self, tokens: usize, block: usize, hidden: usize, intermediate: usize) {
        for (buffer, length) in [
            (&mut self.hidden, tokens * hidden),
            (&mut self.projected, tokens * 3 * hidden),
            (&mut self.first, tokens * hidden),
            (&mut self.second, tokens * hidden),
            (&mut self.inner, block * 2 * intermediate),
            (&mut self.gated, block * intermediate),
        ] {
            buffer.resize(length, 0.0);
        }
    }

    /// The hidden states that the last pass left: `[tokens, H]`.
    pub fn hidden(&self) -> &[f32] {
        &self.hidden
    }

    /// Gives back the memory of an unusually long pass. `hidden` is H.
    pub fn shrink(&mut self, hidden: usize) {
        if self.hidden.capacity() > KEPT_TOKENS * hidden {
            *self = Self::default();
        }
    }
}
