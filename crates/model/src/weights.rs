//! A model's weights, by the part of the architecture they belong to.
//!
//! Shapes: H hidden size, I intermediate size, N diagonal blocks, F filter order, E positional features,
//! V vocabulary, P positions, L `long_conv_l_max`.

use crate::tensor::Tensor;

/// All weights of one M2-BERT encoder, validated: shapes agree with the configuration and every value is finite.
#[derive(Debug, Clone)]
pub struct Weights {
    /// Token, position and token-type tables, and the LayerNorm after their sum.
    pub embeddings: Embeddings,
    /// Encoder layers, first to last.
    pub layers: Vec<Layer>,
    /// `pooler.dense`: weight `[H, H]`, bias `[H]`.
    pub pooler: Linear,
}

/// The tables that turn token ids into the first hidden state.
#[derive(Debug, Clone)]
pub struct Embeddings {
    /// `[V, H]`
    pub word: Tensor,
    /// `[P, H]`; `None` where the configuration has no positional encodings.
    pub position: Option<Tensor>,
    /// `[2, H]`; only row 0 is used.
    pub token_type: Tensor,
    /// Over H.
    pub layer_norm: LayerNorm,
}

/// Scale and shift of a LayerNorm, each `[H]`.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    /// Scale.
    pub weight: Tensor,
    /// Shift.
    pub bias: Tensor,
}

/// An affine map: the weight's layout is given where it is used.
#[derive(Debug, Clone)]
pub struct Linear {
    /// Weight, output-major.
    pub weight: Tensor,
    /// Bias, one value per output.
    pub bias: Tensor,
}

/// One encoder layer: sequence mixer (long convolutions), then state mixer (block-diagonal MLP).
#[derive(Debug, Clone)]
pub struct Layer {
    /// `in_linear`: weight `[3H, H]`, bias `[3H]`; its outputs are x1, x2 and v.
    pub in_linear: Linear,
    /// `short_filter`: weight `[3H, 1, 3]` (last tap on the current token), bias `[3H]`.
    pub short_filter: Linear,
    /// `filter_fn`: the long convolution of `v * x1`.
    pub filter: LongFilter,
    /// `filter_fn2`: the residual long convolution of the layer's input.
    pub residual_filter: LongFilter,
    /// `out_linear`: weight `[H, H]`, bias `[H]`.
    pub out_linear: Linear,
    /// `gated_layers.weight`: `[N, 2I/N, H/N]`.
    pub gated_layers: Tensor,
    /// `wo`: weight `[N, H/N, I/N]`, bias `[H]`.
    pub wo: Linear,
    /// After the MLP's residual.
    pub layer_norm: LayerNorm,
}

/// An implicit long filter: two small MLPs over positional features, under an exponential window.
#[derive(Debug, Clone)]
pub struct LongFilter {
    /// `bias` `[H]`: weight of the skip connection around the convolution.
    pub skip: Tensor,
    /// `pos_emb.z` [1, L, E]: positional features (trained).
    pub features: Tensor,
    /// `pos_emb.t` [1, L, 1]: time in `[0, 1]` of the exponential window.
    pub time: Tensor,
    /// `modulation.deltas` [1, 1, H]: decay rates of the exponential window; their absolute value counts.
    pub deltas: Tensor,
    /// `implicit_filter`: taps on the current token and those before it.
    pub forward: FilterMlp,
    /// `implicit_filter_rev`: taps on the tokens after it.
    pub reverse: FilterMlp,
}

/// The MLP that generates a filter's taps: three sine layers and a projection without bias.
#[derive(Debug, Clone)]
pub struct FilterMlp {
    /// Layers 0, 2 and 4, each followed by `sin(w_mod * frequency * x)`.
    pub sine_layers: [SineLayer; 3],
    /// `6.weight` `[H, F]`.
    pub output: Tensor,
}

/// One linear layer of a filter's MLP and the frequencies of the sine after it.
#[derive(Debug, Clone)]
pub struct SineLayer {
    /// Weight `[F, E]` in the first layer, `[F, F]` in the others; bias `[F]`.
    pub linear: Linear,
    /// `freq` [1, F]: one parameter shared by all six sines of a filter, unless a checkpoint's copies differ.
    pub frequency: Tensor,
}
