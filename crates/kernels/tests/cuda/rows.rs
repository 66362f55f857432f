//! What is done row by row: norms, sums, embeddings, and the filters' sine layers.

use danaus_kernels::cuda::{Element, EmbeddingArgs, NormArgs, SineWeights, Stretch};
use danaus_kernels::reference;

use crate::common::{values, wide};
use crate::{download, gpu, poisoned, relative, tolerance, transposed, transposed32, upload};

#[test]
fn rows_are_normalised_and_summed() {
    let Some(gpu) = gpu() else { return };
    let f32_buffer = |values: &[f32]| upload(gpu, Element::F32, values);
    for (width, rows) in [(768, 100usize), (64, 31), (96, 513), (1024, 3)] {
        let pitch = rows.next_multiple_of(32);
        let (weight, bias, input) = (values(1, width), values(2, width), values(3, rows * width));
        let expected = reference::layer_norm(&wide(&input), &wide(&weight), &wide(&bias), 1e-12);
        let (weight, bias) = (f32_buffer(&weight), f32_buffer(&bias));
        let outs = [Element::F16, Element::F32].map(|element| poisoned(gpu, width * pitch * element.bytes()));
        let norm = |out, element| NormArgs {
            weight: &weight,
            bias: &bias,
            epsilon: 1e-12,
            width,
            rows,
            pitch,
            out,
            element,
        };
        let last = poisoned(gpu, rows * width * 4);
        for (element, out) in [Element::F16, Element::F32].into_iter().zip(&outs) {
            let input = upload(gpu, element, &input);
            gpu.layer_norm(&norm(out, element), &input).unwrap();
            let got = download(gpu, element, out, width * pitch);
            let got: Vec<f32> = got.chunks_exact(pitch).flat_map(|row| row[..rows].to_vec()).collect();
            let error = relative(&got, &transposed(&expected, width));
            println!("LayerNorm [{rows}, {width}] {element:?}: {error:.1e}");
            assert!(error < tolerance(element), "LayerNorm [{rows}, {width}] {element:?}: {error:e} off");
            gpu.last_layer_norm(&norm(&last, element), &input).unwrap();
            let error = relative(&download(gpu, Element::F32, &last, rows * width), &expected);
            assert!(error < tolerance(element), "the last, [{rows}, {width}] {element:?}: {error:e} off");
        }
        let got = download(gpu, Element::F32, &last, rows * width);
        let stretches =
            [Stretch { start: 0, rows: rows as i32 }, Stretch { start: 1, rows: 2.min(rows as i32 - 1) }];
        let sums = poisoned(gpu, 2 * width * 4);
        let described = gpu.upload(Stretch::bytes(&stretches)).unwrap();
        gpu.sum_rows((&last, rows, width), (&described, 2), &sums).unwrap();
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
