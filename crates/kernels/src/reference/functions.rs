//! See the parent module.

/// The error function by its Taylor series, for `|x| <= 3`; 1 minus [`erfc_tail`] beyond.
fn erf(x: f64) -> f64 {
    if x.abs() > 3.0 {
        return x.signum() * (1.0 - erfc_tail(x.abs()));
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..120 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

/// The complementary error function for `x > 3`, by its continued fraction.
fn erfc_tail(x: f64) -> f64 {
    let fraction = (1..=60).rev().fold(x, |f, k| x + f64::from(k) / 2.0 / f);
    (-x * x).exp() / (fraction * std::f64::consts::PI.sqrt())
}

/// `x * Phi(x)`
pub fn gelu(x: f64) -> f64 {
    let z = x * std::f64::consts::FRAC_1_SQRT_2;
    if z < -3.0 { 0.5 * x * erfc_tail(-z) } else { 0.5 * x * (1.0 + erf(z)) }
}

/// `x * weightᵀ + bias`: x `[rows, inputs]`, weight `[outputs, inputs]`, bias `[outputs]` -> `[rows, outputs]`.
pub fn linear(x: &[f64], weight: &[f64], bias: &[f64], inputs: usize) -> Vec<f64> {
    let row = |x: &[f64]| -> Vec<f64> {
        let dot = |w: &[f64]| x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>();
        weight.chunks_exact(inputs).zip(bias).map(|(w, b)| dot(w) + b).collect()
    };
    x.chunks_exact(inputs).flat_map(row).collect()
}

/// `blocks` independent products: x `[rows, blocks * p]`, weight `[blocks, q, p]` -> `[rows, blocks * q]`.
pub fn block_diagonal(x: &[f64], weight: &[f64], blocks: usize, p: usize) -> Vec<f64> {
    let q = weight.len() / blocks / p;
    let mut out = Vec::new();
    for row in x.chunks_exact(blocks * p) {
        for (x, weight) in row.chunks_exact(p).zip(weight.chunks_exact(q * p)) {
            out.extend(linear(x, weight, &vec![0.0; q], p));
        }
    }
    out
}

/// Depthwise, causal, three taps: x `[tokens, C]`, weight `[C, 3]` (last tap on the current token), bias `[C]`.
pub fn short_conv(x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
    let channels = bias.len();
    let at = |i: usize, back: usize, c: usize| if i >= back { x[(i - back) * channels + c] } else { 0.0 };
    let value =
        |i: usize, c: usize| (0..3).map(|k| at(i, 2 - k, c) * weight[3 * c + k]).sum::<f64>() + bias[c];
    (0..x.len() / channels)
        .flat_map(|i| (0..channels).map(move |c| (i, c)))
        .map(|(i, c)| value(i, c))
        .collect()
}

/// `y[i] = sum_{j<=i} forward[i-j] x[j] + sum_{j>i} reverse[j-i-1] x[j] + skip x[i]`: x and taps `[tokens, C]`.
pub fn long_conv(x: &[f64], forward: &[f64], reverse: &[f64], skip: &[f64]) -> Vec<f64> {
    let channels = skip.len();
    let tokens = x.len() / channels;
    let mut y = vec![0.0; x.len()];
    for i in 0..tokens {
        for c in 0..channels {
            let tap = |j: usize| {
                if j <= i { forward[(i - j) * channels + c] } else { reverse[(j - i - 1) * channels + c] }
            };
            let sum: f64 = (0..tokens).map(|j| tap(j) * x[j * channels + c]).sum();
            y[i * channels + c] = sum + skip[c] * x[i * channels + c];
        }
    }
    y
}

/// `out[t] + value[t] * gate[t]` (or `+ value[t]` without a gate), where `value[t]` is on the line between the two of `values` `[K, C]`
/// whose positions, which ascend, are around t.
pub fn add_interpolated(
    out: &[f64],
    positions: &[f64],
    values: &[f64],
    gate: Option<&[f64]>,
    channels: usize,
) -> Vec<f64> {
    let value = |index: usize| {
        let (t, channel) = ((index / channels) as f64, index % channels);
        let at = |knot: usize| values[knot * channels + channel];
        let knot = positions.iter().rposition(|&position| position <= t).expect("a knot before it");
        if positions[knot] == t {
            return at(knot);
        }
        let share = (t - positions[knot]) / (positions[knot + 1] - positions[knot]);
        (1.0 - share) * at(knot) + share * at(knot + 1)
    };
    let gate = |index: usize| gate.map_or(1.0, |gate| gate[index]);
    out.iter().enumerate().map(|(index, out)| out + value(index) * gate(index)).collect()
}

/// Means of the rows of x `[tokens, C]` from each edge to the next: `[cells, C]`. Before x are zeros.
pub fn cell_means(x: &[f64], edges: &[isize], channels: usize) -> Vec<f64> {
    let row =
        |row: isize, channel: usize| usize::try_from(row).map_or(0.0, |row| x[row * channels + channel]);
    let mean = |cell: &[isize], channel: usize| {
        let sum: f64 = (cell[0]..cell[1]).map(|position| row(position, channel)).sum();
        sum / (cell[1] - cell[0]) as f64
    };
    edges.windows(2).flat_map(|cell| (0..channels).map(move |channel| mean(cell, channel))).collect()
}

/// What a sequence adds to a long convolution at position `target`, channel by channel, that has `states` `[cells, C]` from each of
/// `edges` to the next: the sum over all positions. `tap` gives a filter's tap of a channel at a distance.
pub fn convolve_cells(
    target: isize,
    edges: &[isize],
    states: &[f64],
    tap: impl Fn(isize, usize) -> f64,
    channels: usize,
) -> Vec<f64> {
    let tap = &tap;
    let cell = |cell: usize, channel: usize| {
        let taps = (edges[cell]..edges[cell + 1]).map(|position| tap(target - position, channel));
        taps.sum::<f64>() * states[cell * channels + channel]
    };
    let cells = 0..edges.len() - 1;
    (0..channels).map(|channel| cells.clone().map(|index| cell(index, channel)).sum()).collect()
}

/// Means of the columns of `x` `[tokens, channels]`.
pub fn mean_rows(x: &[f64], channels: usize) -> Vec<f64> {
    let tokens = (x.len() / channels) as f64;
    (0..channels).map(|c| x.iter().skip(c).step_by(channels).sum::<f64>() / tokens).collect()
}

/// LayerNorm of each row of x `[rows, C]`.
pub fn layer_norm(x: &[f64], weight: &[f64], bias: &[f64], epsilon: f64) -> Vec<f64> {
    let row = |x: &[f64]| -> Vec<f64> {
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / x.len() as f64;
        let terms = x.iter().zip(weight).zip(bias);
        terms.map(|((x, w), b)| (x - mean) / (variance + epsilon).sqrt() * w + b).collect()
    };
    x.chunks_exact(weight.len()).flat_map(row).collect()
}

/// Weight `[F, inputs]`, bias `[F]` and frequencies `[F]` of one sine layer.
#[derive(Debug, Clone)]
pub struct SineLayer {
    /// Weight.
    pub weight: Vec<f64>,
    /// Bias.
    pub bias: Vec<f64>,
    /// Frequencies.
    pub frequency: Vec<f64>,
}

/// The MLP behind a filter: sine layers, then a projection `[C, F]`.
#[derive(Debug, Clone)]
pub struct FilterMlp {
    /// Layers with a sine after them.
    pub sine_layers: Vec<SineLayer>,
    /// Projection.
    pub output: Vec<f64>,
}

/// Taps `[positions, C]` of a filter: features `[positions, E]`, time `[positions]`, deltas `[C]`.
pub fn filter_taps(mlp: &FilterMlp, features: &[f64], time: &[f64], deltas: &[f64]) -> Vec<f64> {
    let mut hidden = features.to_vec();
    for layer in &mlp.sine_layers {
        let inputs = layer.weight.len() / layer.bias.len();
        hidden = linear(&hidden, &layer.weight, &layer.bias, inputs);
        let frequencies = layer.frequency.iter().cycle();
        hidden.iter_mut().zip(frequencies).for_each(|(x, frequency)| *x = (frequency * *x).sin());
    }
    let mut taps = linear(&hidden, &mlp.output, &vec![0.0; deltas.len()], mlp.output.len() / deltas.len());
    for (row, time) in taps.chunks_exact_mut(deltas.len()).zip(time) {
        row.iter_mut().zip(deltas).for_each(|(x, delta)| *x *= (-time * delta.abs()).exp());
    }
    taps
}
