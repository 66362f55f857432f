//! The CUDA kernels against their float64 twins: every product in every tile, every length's convolution, rows and filters.
//!
//! Without an NVIDIA GPU nothing is tested, unless `DANAUS_REQUIRE_CUDA` is set: then that is a failure.
#![cfg(feature = "cuda")]

mod common;

use std::sync::OnceLock;
use std::time::Duration;

use common::{values, wide};
use danaus_kernels::cuda::{
    Block, Element, EmbeddingArgs, GatedProduct, Gpu, GpuBuffer, GpuText, LengthClass, LongConvArgs,
    NormArgs, ProductArgs, ProductKind, ShortConvArgs, SineWeights, SpectrumSource, Stretch,
};
use danaus_kernels::reference;

const TIMEOUT: Duration = Duration::from_secs(60);

fn gpu() -> Option<&'static Gpu> {
    static GPU: OnceLock<Option<Gpu>> = OnceLock::new();
    let open = || match Gpu::open(0) {
        Ok(gpu) => Some(gpu),
        Err(error) => {
            assert!(std::env::var_os("DANAUS_REQUIRE_CUDA").is_none(), "{error}");
            eprintln!("not tested: {error}");
            None
        }
    };
    GPU.get_or_init(open).as_ref()
}

/// Cut to bfloat16.
fn bf16(values: &[f32]) -> Vec<f32> {
    values.iter().map(|x| f32::from_bits(x.to_bits() & 0xffff_0000)).collect()
}

fn rounded(element: Element, values: &[f32]) -> Vec<f32> {
    match element {
        Element::F32 => values.to_vec(),
        Element::F16 => values.iter().map(|&x| half::f16::from_f32(x).to_f32()).collect(),
    }
}

fn upload(gpu: &Gpu, element: Element, values: &[f32]) -> GpuBuffer {
    let bytes: Vec<u8> = match element {
        Element::F32 => values.iter().flat_map(|x| x.to_ne_bytes()).collect(),
        Element::F16 => values.iter().flat_map(|&x| half::f16::from_f32(x).to_ne_bytes()).collect(),
    };
    gpu.upload(&bytes).unwrap()
}

fn download(gpu: &Gpu, element: Element, buffer: &GpuBuffer, count: usize) -> Vec<f32> {
    let mut bytes = vec![0; count * element.bytes()];
    gpu.read(buffer, &mut bytes, TIMEOUT).unwrap();
    match element {
        Element::F32 => bytes.chunks_exact(4).map(|x| f32::from_ne_bytes(x.try_into().unwrap())).collect(),
        Element::F16 => {
            bytes.chunks_exact(2).map(|x| half::f16::from_ne_bytes(x.try_into().unwrap()).to_f32()).collect()
        }
    }
}

/// Every value to be overwritten is one that would be seen.
fn poisoned(gpu: &Gpu, bytes: usize) -> GpuBuffer {
    gpu.upload(&vec![0x7f; bytes]).unwrap()
}

/// The norm of the difference in that of what is expected.
fn relative(got: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let (mut error, mut norm) = (0.0, 0.0);
    for (&got, &expected) in got.iter().zip(expected) {
        error += (f64::from(got) - expected).powi(2);
        norm += expected.powi(2);
    }
    if error.is_nan() { f64::INFINITY } else { (error / norm).sqrt() }
}

fn tolerance(element: Element) -> f64 {
    match element {
        Element::F32 => 2e-6,
        Element::F16 => 1e-3,
    }
}

fn transposed(values: &[f64], columns: usize) -> Vec<f64> {
    (0..columns).flat_map(|column| values.iter().skip(column).step_by(columns).copied()).collect()
}

fn transposed32(values: &[f32], columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| values.iter().skip(column).step_by(columns).copied()).collect()
}

/// Sizes of a product, and the operands as rows `[m, k]` and `[n, k]`.
struct Case {
    kind: ProductKind,
    element: Element,
    m: usize,
    n: usize,
    k: usize,
    blocks: usize,
}

impl Case {
    /// Checks the product in every tile; all of them give the same bits.
    fn check(&self, gpu: &Gpu) {
        let &Case { kind, element, m, n, k, blocks } = self;
        let share = if kind == ProductKind::Gated { 2 } else { 1 };
        let a_blocks = blocks.div_ceil(share);
        let round = |values: Vec<f32>| rounded(element, &values);
        let a: Vec<_> = (0..a_blocks).map(|block| round(values(1 + block as u64, m * k))).collect();
        let gate_a: Vec<_> = (0..a_blocks).map(|block| round(values(21 + block as u64, m * k))).collect();
        let b: Vec<_> = (0..blocks).map(|block| round(values(41 + block as u64, n * k))).collect();
        let gate_b: Vec<_> = (0..blocks).map(|block| round(values(61 + block as u64, n * k))).collect();
        let bias_len = if kind == ProductKind::InLinear { m } else { n * blocks };
        let bias = values(81, bias_len);
        let residual = round(values(82, m * n * blocks));
        // Activations of diagonal blocks lie beside each other.
        let side_by_side = |parts: &[Vec<f32>], rows: usize, width: usize| -> Vec<f32> {
            (0..rows)
                .flat_map(|row| {
                    parts.iter().flat_map(move |part| part[row * width..(row + 1) * width].to_vec())
                })
                .collect()
        };
        let (a_data, a_stride) = match kind {
            ProductKind::OutLinear => (transposed32(&a[0], k), m),
            _ => (side_by_side(&a, m, k), k * a_blocks),
        };
        let (b_data, b_stride) = match kind {
            ProductKind::InLinear => (transposed32(&b[0], k), n),
            _ => (b.concat(), k),
        };
        let [a_buffer, b_buffer] = [&a_data, &b_data].map(|data| upload(gpu, element, data));
        let gate_a_buffer = upload(gpu, element, &side_by_side(&gate_a, m, k));
        let gate_b_buffer = upload(gpu, element, &gate_b.concat());
        let bias_buffer = upload(gpu, Element::F32, &bias);
        let residual_buffer = upload(gpu, element, &residual);
        let out_element =
            if matches!(kind, ProductKind::Down | ProductKind::Taps) { Element::F32 } else { element };
        let out = poisoned(gpu, m * n * blocks * out_element.bytes());
        let block = |buffer, stride, step| Block { buffer, offset: 0, stride, step };
        let args = ProductArgs {
            kind,
            element,
            m,
            n,
            k,
            blocks,
            a: block(&a_buffer, a_stride, k),
            b: block(&b_buffer, b_stride, n * k),
            gate: (kind == ProductKind::Gated).then(|| GatedProduct {
                a: block(&gate_a_buffer, a_stride, k),
                b: block(&gate_b_buffer, b_stride, n * k),
                share,
            }),
            bias: (!matches!(kind, ProductKind::Gated | ProductKind::Taps)).then_some(&bias_buffer),
            residual: (kind == ProductKind::Down).then_some(&residual_buffer),
            c: block(&out, n * blocks, n),
        };
        let product = |a: &[f32], b: &[f32]| reference::linear(&wide(a), &wide(b), &vec![0.0; n], k);
        let parts: Vec<Vec<f64>> = (0..blocks)
            .map(|index| {
                let mut c = product(&a[index / share], &b[index]);
                if kind == ProductKind::Gated {
                    let gate = product(&gate_a[index / share], &gate_b[index]);
                    c.iter_mut().zip(gate).for_each(|(c, gate)| *c = reference::gelu(*c) * gate);
                }
                for (at, c) in c.iter_mut().enumerate() {
                    let (row, column) = (at / n, at % n);
                    *c += match kind {
                        ProductKind::InLinear => f64::from(bias[row]),
                        ProductKind::OutLinear => f64::from(bias[column]),
                        ProductKind::Down => {
                            f64::from(bias[index * n + column])
                                + f64::from(residual[row * n * blocks + index * n + column])
                        }
                        ProductKind::Gated | ProductKind::Taps => 0.0,
                    };
                }
                c
            })
            .collect();
        let expected: Vec<f64> = (0..m)
            .flat_map(|row| parts.iter().flat_map(move |part| part[row * n..(row + 1) * n].to_vec()))
            .collect();
        let mut first: Option<Vec<f32>> = None;
        for tile in 0..gpu.tiles(&args) {
            gpu.product_in_tile(&args, tile).unwrap();
            let got = download(gpu, out_element, &out, m * n * blocks);
            let error = relative(&got, &expected);
            println!("{kind:?} {element:?} [{m}, {n}, {k}] x {blocks}, tile {tile}: {error:.1e}");
            assert!(
                error < tolerance(element),
                "{kind:?} {element:?} [{m}, {n}, {k}], tile {tile}: {error:e} off"
            );
            let same = first
                .get_or_insert_with(|| got.clone())
                .iter()
                .zip(&got)
                .all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{kind:?} {element:?}: tile {tile} gives other bits");
        }
    }
}

#[test]
fn products_in_every_tile() {
    let Some(gpu) = gpu() else { return };
    use ProductKind::{Down, Gated, InLinear, OutLinear, Taps};
    for element in [Element::F32, Element::F16] {
        for (kind, [m, n, k], blocks) in [
            (InLinear, [2304, 96, 768], 1),
            (InLinear, [192, 32, 64], 1),
            (InLinear, [288, 416, 96], 1),
            (OutLinear, [96, 768, 768], 1),
            (OutLinear, [32, 64, 64], 1),
            (OutLinear, [416, 96, 96], 1),
            (Gated, [96, 768, 192], 4),
            (Gated, [32, 32, 16], 4),
            (Gated, [160, 48, 24], 4),
            (Gated, [160, 64, 32], 2),
            (Down, [96, 192, 768], 4),
            (Down, [32, 16, 32], 4),
            (Down, [416, 24, 48], 4),
        ] {
            Case { kind, element, m, n, k, blocks }.check(gpu);
        }
    }
    Case { kind: Taps, element: Element::F32, m: 96, n: 100, k: 16, blocks: 1 }.check(gpu);
    Case { kind: Taps, element: Element::F32, m: 768, n: 333, k: 128, blocks: 1 }.check(gpu);
}

const CHANNELS: usize = 24;

/// Texts of these lengths in one pass, with taps for `positions`; the convolution of each against its twin.
fn check_convolution(
    gpu: &Gpu,
    class: &LengthClass,
    element: Element,
    lengths: &[usize],
    positions: usize,
    far: bool,
) {
    let pitch = (lengths.iter().sum::<usize>() + 5).next_multiple_of(32);
    let [projected, hidden] =
        [3, 1].map(|parts| rounded(element, &values(7 + parts, parts as usize * CHANNELS * pitch)));
    // [branch][direction]: [channel][position]
    let taps: Vec<Vec<f32>> = (0..4)
        .map(|index| values(20 + index, CHANNELS * positions).iter().map(|x| 0.1 * x).collect())
        .collect();
    let skips = [values(30, CHANNELS), values(31, CHANNELS)];
    let time: Vec<f32> = (0..positions).map(|at| at as f32 / positions as f32).collect();
    let deltas = values(32, CHANNELS);
    let (short_taps, short_bias) = (values(33, 9 * CHANNELS), values(34, 3 * CHANNELS));
    let filters = gpu.zeros(2 * class.filter_bytes(CHANNELS)).unwrap();
    let f32_buffer = |values: &[f32]| upload(gpu, Element::F32, values);
    for branch in 0..2 {
        let [forward, reverse] = [0, 1].map(|direction| f32_buffer(&taps[2 * branch + direction]));
        let source = SpectrumSource {
            taps: [&forward, &reverse],
            time: &f32_buffer(&time),
            deltas: &f32_buffer(&deltas),
            skip: &f32_buffer(&skips[branch]),
            positions,
            channels: CHANNELS,
        };
        gpu.filters(class, &source, (&filters, branch * class.filter_bytes(CHANNELS))).unwrap();
        gpu.wait(TIMEOUT).unwrap();
    }
    let far_values: Vec<Vec<f32>> =
        lengths.iter().map(|&length| bf16(&values(50 + length as u64, 2 * 2 * CHANNELS * length))).collect();
    let far_buffers: Vec<_> = far_values
        .iter()
        .map(|values| {
            gpu.upload(
                &values.iter().flat_map(|x| ((x.to_bits() >> 16) as u16).to_ne_bytes()).collect::<Vec<_>>(),
            )
            .unwrap()
        })
        .collect();
    let mut start = 3;
    let mut texts = Vec::new();
    for (index, &length) in lengths.iter().enumerate() {
        let bytes = far_values[index].len() * 2;
        texts.push(GpuText::new(start, length, far.then_some((&far_buffers[index], bytes))));
        start += length;
    }
    // Positions: before the first text and behind the last one, they do not matter.
    let mut positions_of: Vec<u32> = vec![0; 3];
    lengths.iter().for_each(|&length| positions_of.extend(0..length as u32));
    positions_of.resize(pitch, 0);
    let mixed = poisoned(gpu, CHANNELS * pitch * element.bytes());
    let gate = poisoned(gpu, CHANNELS * pitch * element.bytes());
    let short = ShortConvArgs {
        projected: &upload(gpu, element, &projected),
        gated: &mixed,
        gate: &gate,
        element,
        positions: &gpu
            .upload(&positions_of.iter().flat_map(|x| x.to_ne_bytes()).collect::<Vec<_>>())
            .unwrap(),
        taps: &f32_buffer(&short_taps),
        bias: &f32_buffer(&short_bias),
        pitch,
        channels: CHANNELS,
    };
    gpu.short_conv(&short).unwrap();
    let args = LongConvArgs {
        gated: &mixed,
        gate: &gate,
        hidden: &upload(gpu, element, &hidden),
        mixed: &mixed,
        element,
        pitch,
        channels: CHANNELS,
        layer: 1,
        texts: &gpu.upload(GpuText::bytes(&texts)).unwrap(),
        range: 0..texts.len(),
        filters: &filters,
        filter_offset: 0,
        collected: &gpu.zeros(class.collected_bytes(CHANNELS, texts.len())).unwrap(),
    };
    gpu.long_conv(class, &args).unwrap();
    let got = download(gpu, element, &mixed, CHANNELS * pitch);
    let mut start = 3;
    for (index, &length) in lengths.iter().enumerate() {
        let (mut results, mut expected) = (Vec::new(), Vec::new());
        // The twins' cost grows with the square of the length: of long texts, some positions are looked at.
        let channels = if length > 2048 { 2 } else { CHANNELS };
        let looked_at = |at: usize| length <= 4096 || at < 40 || length - at < 40 || at.is_multiple_of(61);
        for channel in 0..channels {
            let row =
                |data: &[f32], row: usize| wide(&data[row * pitch + start..row * pitch + start + length]);
            let short = |part: usize| {
                let at = part * CHANNELS + channel;
                reference::short_conv(
                    &row(&projected, at),
                    &wide(&short_taps[3 * at..3 * at + 3]),
                    &[f64::from(short_bias[at])],
                )
            };
            let window = |taps: &[f32]| -> Vec<f64> {
                let taps = &taps[channel * positions..(channel + 1) * positions];
                let mut taps: Vec<f64> = taps
                    .iter()
                    .zip(&time)
                    .map(|(&tap, &t)| {
                        f64::from(tap) * (-f64::from(t) * f64::from(deltas[channel].abs())).exp()
                    })
                    .collect();
                taps.resize(length.max(positions), 0.0);
                taps.truncate(length);
                taps
            };
            let convolve = |branch: usize, x: &[f64]| -> Vec<f64> {
                let (forward, reverse) = (window(&taps[2 * branch]), window(&taps[2 * branch + 1]));
                let skip = f64::from(skips[branch][channel]);
                let mut y = if length <= 4096 {
                    reference::long_conv(x, &forward, &reverse, &[skip])
                } else {
                    let before = |at: usize| (0..=at).map(|j| forward[at - j] * x[j]).sum::<f64>();
                    let behind =
                        |at: usize| (at + 1..length).map(|j| reverse[j - at - 1] * x[j]).sum::<f64>();
                    let y =
                        |at: usize| if looked_at(at) { before(at) + behind(at) + skip * x[at] } else { 0.0 };
                    (0..length).map(y).collect()
                };
                if far {
                    let from = ((2 + branch) * CHANNELS + channel) * length;
                    y.iter_mut().zip(&far_values[index][from..]).for_each(|(y, &far)| *y += f64::from(far));
                }
                y
            };
            let (x1, x2, v) = (short(0), short(1), short(2));
            let gated: Vec<f64> = v.iter().zip(&x1).map(|(v, x)| v * x).collect();
            let (mixer, residual) = (convolve(0, &gated), convolve(1, &row(&hidden, channel)));
            for at in (0..length).filter(|&at| looked_at(at)) {
                expected.push(mixer[at] * x2[at] + residual[at]);
                results.push(got[channel * pitch + start + at]);
            }
        }
        let error = relative(&results, &expected);
        println!("{} of {}, {element:?}, taps {positions}, far {far}: {error:.1e}", length, class.length());
        assert!(error < tolerance(element), "{length} of {}, {element:?}: {error:e} off", class.length());
        start += length;
    }
}

#[test]
fn convolutions_of_every_length() {
    let Some(gpu) = gpu() else { return };
    for length in [32, 64, 128, 256, 512, 1024, 2048, 4096] {
        let class = gpu.length_class(length).unwrap().unwrap();
        assert_eq!(class.length(), length);
        let shortest = if length == 32 { 1 } else { length / 2 + 1 };
        for element in [Element::F32, Element::F16] {
            let lengths = [length, shortest, (length + shortest) / 2];
            check_convolution(gpu, &class, element, &lengths, length, false);
            check_convolution(gpu, &class, element, &lengths, shortest.div_ceil(2), length < 1000);
        }
    }
}

#[test]
fn convolutions_of_long_texts() {
    let Some(gpu) = gpu() else { return };
    for length in [8192, 16384, 32768] {
        let class = gpu.length_class(length).unwrap().unwrap();
        check_convolution(gpu, &class, Element::F32, &[length - 77], length, length == 32768);
    }
}

#[test]
fn rows_are_normalised_and_summed() {
    let Some(gpu) = gpu() else { return };
    let f32_buffer = |values: &[f32]| upload(gpu, Element::F32, values);
    for (width, rows) in [(768, 100usize), (64, 31), (96, 513), (1024, 3)] {
        let pitch = rows.next_multiple_of(32);
        let (weight, bias, input) = (values(1, width), values(2, width), values(3, rows * width));
        let expected = reference::layer_norm(&wide(&input), &wide(&weight), &wide(&bias), 1e-12);
        let (weight, bias) = (f32_buffer(&weight), f32_buffer(&bias));
        let input = f32_buffer(&input);
        for element in [Element::F32, Element::F16] {
            let out = poisoned(gpu, width * pitch * element.bytes());
            let norm = NormArgs {
                weight: &weight,
                bias: &bias,
                epsilon: 1e-12,
                width,
                rows,
                pitch,
                out: &out,
                element,
            };
            gpu.layer_norm(&norm, &input).unwrap();
            let got = download(gpu, element, &out, width * pitch);
            let got: Vec<f32> = got.chunks_exact(pitch).flat_map(|row| row[..rows].to_vec()).collect();
            let error = relative(&got, &transposed(&expected, width));
            println!("LayerNorm [{rows}, {width}] {element:?}: {error:.1e}");
            assert!(error < tolerance(element), "LayerNorm [{rows}, {width}] {element:?}: {error:e} off");
        }
        let out = poisoned(gpu, rows * width * 4);
        let norm = NormArgs {
            weight: &weight,
            bias: &bias,
            epsilon: 1e-12,
            width,
            rows,
            pitch,
            out: &out,
            element: Element::F32,
        };
        gpu.last_layer_norm(&norm, &input).unwrap();
        let got = download(gpu, Element::F32, &out, rows * width);
        assert!(relative(&got, &expected) < tolerance(Element::F32));
        let stretches =
            [Stretch { start: 0, rows: rows as i32 }, Stretch { start: 1, rows: 2.min(rows as i32 - 1) }];
        let sums = poisoned(gpu, 2 * width * 4);
        let described = gpu.upload(Stretch::bytes(&stretches)).unwrap();
        gpu.sum_rows((&out, rows, width), (&described, 2), &sums).unwrap();
        let got_sums = download(gpu, Element::F32, &sums, 2 * width);
        let expected: Vec<f64> = stretches
            .iter()
            .flat_map(|stretch| {
                let rows = wide(
                    &got[stretch.start as usize * width..(stretch.start + stretch.rows) as usize * width],
                );
                (0..width)
                    .map(move |channel| rows.iter().skip(channel).step_by(width).sum::<f64>())
                    .collect::<Vec<_>>()
            })
            .collect();
        assert!(relative(&got_sums, &expected) < tolerance(Element::F32));
    }
}

#[test]
fn embeddings_are_summed_and_normalised() {
    let Some(gpu) = gpu() else { return };
    let (width, rows, vocabulary, positions) = (768, 70, 50, 40);
    let pitch = 96;
    let ids: Vec<u32> = (0..rows).map(|row| (row * 7 % vocabulary) as u32).collect();
    let at: Vec<u32> = (0..rows).map(|row| (row % positions) as u32).collect();
    let (word, position, token_type) =
        (values(1, vocabulary * width), values(2, positions * width), values(3, width));
    let (weight, bias) = (values(4, width), values(5, width));
    let sums: Vec<f64> = (0..rows)
        .flat_map(|row| {
            let (word, position, token_type) = (&word, &position, &token_type);
            let (id, at) = (ids[row] as usize, at[row] as usize);
            (0..width).map(move |c| {
                f64::from(word[id * width + c])
                    + f64::from(position[at * width + c])
                    + f64::from(token_type[c])
            })
        })
        .collect();
    let expected = transposed(&reference::layer_norm(&sums, &wide(&weight), &wide(&bias), 1e-12), width);
    let f32_buffer = |values: &[f32]| upload(gpu, Element::F32, values);
    let words = |values: &[u32]| {
        gpu.upload(&values.iter().flat_map(|x| x.to_ne_bytes()).collect::<Vec<_>>()).unwrap()
    };
    for element in [Element::F32, Element::F16] {
        let out = poisoned(gpu, width * pitch * element.bytes());
        let norm = NormArgs {
            weight: &f32_buffer(&weight),
            bias: &f32_buffer(&bias),
            epsilon: 1e-12,
            width,
            rows,
            pitch,
            out: &out,
            element,
        };
        let args = EmbeddingArgs {
            ids: &words(&ids),
            positions: &words(&at),
            word: &f32_buffer(&word),
            position: Some(&f32_buffer(&position)),
            token_type: &f32_buffer(&token_type),
        };
        gpu.embed(&norm, &args).unwrap();
        let got = download(gpu, element, &out, width * pitch);
        let got: Vec<f32> = got.chunks_exact(pitch).flat_map(|row| row[..rows].to_vec()).collect();
        let error = relative(&got, &expected);
        assert!(error < tolerance(element), "embeddings {element:?}: {error:e} off");
    }
}

#[test]
fn sine_layers_are_those_of_the_twin() {
    let Some(gpu) = gpu() else { return };
    let (features, order, positions) = (5, 128, 1003);
    let weights = [values(1, features * order), values(2, order * order), values(3, order * order)];
    let biases = values(4, 3 * order);
    let frequencies: Vec<f64> = values(5, 3 * order).iter().map(|&x| 10.0 + f64::from(x)).collect();
    let input = values(6, positions * features);
    let mut states = wide(&input);
    for (layer, weight) in weights.iter().enumerate() {
        let inputs = weight.len() / order;
        let scaled: Vec<f64> = wide(weight).iter().map(|w| w * (3.0 / inputs as f64).sqrt()).collect();
        states =
            reference::linear(&states, &scaled, &wide(&biases[layer * order..(layer + 1) * order]), inputs);
        let frequencies = &frequencies[layer * order..(layer + 1) * order];
        states.iter_mut().enumerate().for_each(|(at, x)| *x = (frequencies[at % order] * *x).sin());
    }
    let scaled: Vec<f32> = weights
        .iter()
        .flat_map(|weight| {
            let inputs = weight.len() / order;
            let factor = (3.0 / inputs as f64).sqrt();
            transposed32(&weight.iter().map(|&w| (f64::from(w) * factor) as f32).collect::<Vec<_>>(), inputs)
        })
        .collect();
    let sine = SineWeights {
        features,
        order,
        weights: upload(gpu, Element::F32, &scaled),
        biases: upload(gpu, Element::F32, &biases),
        frequencies: gpu
            .upload(&frequencies.iter().flat_map(|x| x.to_ne_bytes()).collect::<Vec<_>>())
            .unwrap(),
    };
    let out = poisoned(gpu, positions * order * 4);
    gpu.sine_layers(&sine, &upload(gpu, Element::F32, &input), positions, &out).unwrap();
    let error = relative(&download(gpu, Element::F32, &out, positions * order), &states);
    println!("sine layers: {error:.1e}");
    // The twin's weights are not rounded to float32, which the frequencies magnify.
    assert!(error < 1e-3, "{error:e} off");
}
