//! Every product in every tile.

use std::collections::HashMap;

use danaus_kernels::cuda::{Block, Element, GatedProduct, Gpu, ProductArgs, ProductKind};
use danaus_kernels::reference;

use crate::common::{bits, values, wide};
use crate::{download, gpu, poisoned, relative, rounded, tolerance, transposed32, upload};

/// Sizes of a product, and the operands as rows `[m, k]` and `[n, k]`.
struct Case {
    kind: ProductKind,
    element: Element,
    m: usize,
    n: usize,
    k: usize,
    blocks: usize,
}

/// What is multiplied, block by block.
struct Operands {
    a: Vec<Vec<f32>>,
    gate_a: Vec<Vec<f32>>,
    b: Vec<Vec<f32>>,
    gate_b: Vec<Vec<f32>>,
    bias: Vec<f32>,
    residual: Vec<f32>,
}

impl Case {
    /// Diagonal blocks that share what they multiply.
    fn share(&self) -> usize {
        if self.kind == ProductKind::Gated { 2 } else { 1 }
    }

    fn operands(&self) -> Operands {
        let &Case { kind, element, m, n, k, blocks } = self;
        let a_blocks = blocks.div_ceil(self.share());
        let drawn = |seed: u64, blocks: usize, count: usize| -> Vec<_> {
            (0..blocks).map(|block| rounded(element, &values(seed + block as u64, count))).collect()
        };
        Operands {
            a: drawn(1, a_blocks, m * k),
            gate_a: drawn(21, a_blocks, m * k),
            b: drawn(41, blocks, n * k),
            gate_b: drawn(61, blocks, n * k),
            bias: values(81, if kind == ProductKind::InLinear { m } else { n * blocks }),
            residual: rounded(element, &values(82, m * n * blocks)),
        }
    }

    /// By the twin.
    fn expected(&self, Operands { a, gate_a, b, gate_b, bias, residual }: &Operands) -> Vec<f64> {
        let &Case { kind, m, n, k, blocks, .. } = self;
        let share = self.share();
        let product = |a: &[f32], b: &[f32]| reference::linear(&wide(a), &wide(b), &vec![0.0; n], k);
        let part = |index: usize| {
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
        };
        side_by_side(&(0..blocks).map(part).collect::<Vec<_>>(), m, n)
    }

    /// Checks the product in every tile; all of them give the same bits.
    fn check(&self, gpu: &Gpu) {
        let &Case { kind, element, m, n, k, blocks } = self;
        let operands = self.operands();
        let Operands { a, gate_a, b, gate_b, bias, residual } = &operands;
        let (a_data, a_stride) = match kind {
            ProductKind::OutLinear => (transposed32(&a[0], k), m),
            _ => (side_by_side(a, m, k), k * a.len()),
        };
        let (b_data, b_stride) = match kind {
            ProductKind::InLinear => (transposed32(&b[0], k), n),
            _ => (b.concat(), k),
        };
        let [a_buffer, b_buffer] = [&a_data, &b_data].map(|data| upload(gpu, element, data));
        let gate_a_buffer = upload(gpu, element, &side_by_side(gate_a, m, k));
        let gate_b_buffer = upload(gpu, element, &gate_b.concat());
        let bias_buffer = upload(gpu, Element::F32, bias);
        let residual_buffer = upload(gpu, element, residual);
        let out = poisoned(gpu, m * n * blocks * element.bytes());
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
                share: self.share(),
            }),
            bias: (!matches!(kind, ProductKind::Gated | ProductKind::Taps)).then_some(&bias_buffer),
            residual: (kind == ProductKind::Down).then_some(&residual_buffer),
            c: block(&out, n * blocks, n),
        };
        self.check_tiles(gpu, &args, &self.expected(&operands));
    }

    fn check_tiles(&self, gpu: &Gpu, args: &ProductArgs<'_>, expected: &[f64]) {
        let &Case { kind, element, m, n, k, blocks } = self;
        let mut first: HashMap<&str, Vec<u32>> = HashMap::new();
        for (tile, module) in gpu.tiles(args).into_iter().enumerate() {
            gpu.product_in_tile(args, tile).unwrap();
            let got = download(gpu, args.element, args.c.buffer, m * n * blocks);
            let error = relative(&got, expected);
            println!("{kind:?} {element:?} [{m}, {n}, {k}] x {blocks}, tile {tile} of {module}: {error:.1e}");
            assert!(
                error < tolerance(element),
                "{kind:?} {element:?} [{m}, {n}, {k}], tile {tile} of {module}: {error:e} off"
            );
            let bits = bits(&got);
            // Tensor cores round otherwise by instruction.
            let instruction = if module.starts_with("gemm_sm90") { "wgmma" } else { module };
            assert!(
                *first.entry(instruction).or_insert_with(|| bits.clone()) == bits,
                "{kind:?} {element:?}: tile {tile} gives other bits than others of {module}"
            );
        }
    }
}

/// Blocks of `rows` rows of that width, each row's beside each other, as activations of diagonal blocks lie.
fn side_by_side<T: Clone>(blocks: &[Vec<T>], rows: usize, width: usize) -> Vec<T> {
    let row =
        |row: usize| blocks.iter().flat_map(move |block| block[row * width..(row + 1) * width].to_vec());
    (0..rows).flat_map(row).collect()
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
            (Gated, [160, 256, 256], 4),
            (Gated, [300, 64, 64], 4),
            (Gated, [300, 40, 72], 2),
            (Down, [96, 192, 768], 4),
            (Down, [32, 16, 32], 4),
            (Down, [416, 24, 48], 4),
            // More tiles than multiprocessors.
            (InLinear, [2304, 2056, 128], 1),
            (OutLinear, [16520, 264, 72], 1),
            (Gated, [4168, 96, 64], 4),
            (Down, [9992, 192, 64], 2),
        ] {
            Case { kind, element, m, n, k, blocks }.check(gpu);
        }
    }
    Case { kind: Taps, element: Element::F32, m: 96, n: 100, k: 16, blocks: 1 }.check(gpu);
    Case { kind: Taps, element: Element::F32, m: 768, n: 333, k: 128, blocks: 1 }.check(gpu);
}
