//! Short and long convolutions of every length.

use danaus_kernels::cuda::{
    Element, Gpu, GpuBuffer, GpuText, LengthClass, LongConvArgs, ShortConvArgs, SpectrumSource,
};
use danaus_kernels::reference;

use crate::common::{values, wide};
use crate::{TIMEOUT, bf16, download, gpu, poisoned, relative, rounded, tolerance, upload};

const CHANNELS: usize = 24;

/// What texts of these lengths, `START` columns from the beginning, are convolved with: taps for `positions`.
struct Convolution<'a> {
    element: Element,
    lengths: &'a [usize],
    positions: usize,
    far: bool,
    pitch: usize,
    projected: Vec<f32>,
    hidden: Vec<f32>,
    /// `[branch][direction]`: `[channel][position]`
    taps: Vec<Vec<f32>>,
    skips: [Vec<f32>; 2],
    time: Vec<f32>,
    deltas: Vec<f32>,
    short_taps: Vec<f32>,
    short_bias: Vec<f32>,
    far_values: Vec<Vec<f32>>,
}

const START: usize = 3;

impl<'a> Convolution<'a> {
    fn new(element: Element, lengths: &'a [usize], positions: usize, far: bool) -> Self {
        let pitch = (lengths.iter().sum::<usize>() + 5).next_multiple_of(32);
        let [projected, hidden] =
            [3, 1].map(|parts| rounded(element, &values(7 + parts, parts as usize * CHANNELS * pitch)));
        let taps = |index: u64| values(20 + index, CHANNELS * positions).iter().map(|x| 0.1 * x).collect();
        let far_values = |&length: &usize| bf16(&values(50 + length as u64, 2 * 2 * CHANNELS * length));
        Self {
            element,
            lengths,
            positions,
            far,
            pitch,
            projected,
            hidden,
            taps: (0..4).map(taps).collect(),
            skips: [values(30, CHANNELS), values(31, CHANNELS)],
            time: (0..positions).map(|at| at as f32 / positions as f32).collect(),
            deltas: values(32, CHANNELS),
            short_taps: values(33, 9 * CHANNELS),
            short_bias: values(34, 3 * CHANNELS),
            far_values: lengths.iter().map(far_values).collect(),
        }
    }

    fn filters(&self, gpu: &Gpu, class: &LengthClass) -> GpuBuffer {
        let filters = gpu.zeros(2 * class.filter_bytes(CHANNELS)).unwrap();
        let f32_buffer = |values: &[f32]| upload(gpu, Element::F32, values);
        for branch in 0..2 {
            let [forward, reverse] = [0, 1].map(|direction| f32_buffer(&self.taps[2 * branch + direction]));
            let source = SpectrumSource {
                taps: [&forward, &reverse],
                time: &f32_buffer(&self.time),
                deltas: &f32_buffer(&self.deltas),
                skip: &f32_buffer(&self.skips[branch]),
                positions: self.positions,
                channels: CHANNELS,
            };
            gpu.filters(class, &source, (&filters, branch * class.filter_bytes(CHANNELS))).unwrap();
            gpu.wait(TIMEOUT).unwrap();
        }
        filters
    }

    /// The short convolution, whose results are in both buffers.
    fn short(&self, gpu: &Gpu, mixed: &GpuBuffer, gate: &GpuBuffer) {
        // Positions: before the first text and behind the last one, they do not matter.
        let mut positions: Vec<u32> = vec![0; START];
        self.lengths.iter().for_each(|&length| positions.extend(0..length as u32));
        positions.resize(self.pitch, 0);
        let positions: Vec<_> = positions.iter().flat_map(|x| x.to_ne_bytes()).collect();
        let short = ShortConvArgs {
            projected: &upload(gpu, self.element, &self.projected),
            gated: mixed,
            gate,
            element: self.element,
            positions: &gpu.upload(&positions).unwrap(),
            taps: &upload(gpu, Element::F32, &self.short_taps),
            bias: &upload(gpu, Element::F32, &self.short_bias),
            pitch: self.pitch,
            channels: CHANNELS,
        };
        gpu.short_conv(&short).unwrap();
        gpu.wait(TIMEOUT).unwrap();
    }

    /// By the GPU, `[channel][column]`.
    fn computed(&self, gpu: &Gpu, class: &LengthClass) -> Vec<f32> {
        let &Self { element, pitch, .. } = self;
        let filters = self.filters(gpu, class);
        let far_bytes = |values: &Vec<f32>| -> Vec<u8> {
            values.iter().flat_map(|x| ((x.to_bits() >> 16) as u16).to_ne_bytes()).collect()
        };
        let far_buffers: Vec<_> =
            self.far_values.iter().map(|values| gpu.upload(&far_bytes(values)).unwrap()).collect();
        let mut start = START;
        let mut texts = Vec::new();
        for (index, &length) in self.lengths.iter().enumerate() {
            texts.push(GpuText::new(start, length, self.far.then_some((&far_buffers[index], [2, CHANNELS]))));
            start += length;
        }
        let [mixed, gate] = [(); 2].map(|()| poisoned(gpu, CHANNELS * pitch * element.bytes()));
        self.short(gpu, &mixed, &gate);
        let args = LongConvArgs {
            gated: &mixed,
            gate: &gate,
            hidden: &upload(gpu, element, &self.hidden),
            mixed: &mixed,
            element,
            pitch,
            channels: CHANNELS,
            layer: 1,
            texts: &gpu.upload(GpuText::bytes(&texts)).unwrap(),
            range: 0..texts.len(),
            filters: &filters,
            collected: &gpu.zeros(class.collected_bytes(CHANNELS, texts.len())).unwrap(),
        };
        gpu.long_conv(class, &args).unwrap();
        download(gpu, element, &mixed, CHANNELS * pitch)
    }

    /// A channel's filter in one direction, as long as the text.
    fn window(&self, taps: &[f32], channel: usize, length: usize) -> Vec<f64> {
        let decay = f64::from(self.deltas[channel].abs());
        let taps = &taps[channel * self.positions..(channel + 1) * self.positions];
        let modulated = |(&tap, &t): (&f32, &f32)| f64::from(tap) * (-f64::from(t) * decay).exp();
        let mut taps: Vec<f64> = taps.iter().zip(&self.time).map(modulated).collect();
        taps.resize(length.max(self.positions), 0.0);
        taps.truncate(length);
        taps
    }

    /// A branch's long convolution of a text's channel, where it is looked at.
    fn long(&self, (text, channel, branch): (usize, usize, usize), x: &[f64]) -> Vec<f64> {
        let length = x.len();
        let [forward, reverse] =
            [0, 1].map(|direction| self.window(&self.taps[2 * branch + direction], channel, length));
        let skip = f64::from(self.skips[branch][channel]);
        let mut y = if length <= 4096 {
            reference::long_conv(x, &forward, &reverse, &[skip])
        } else {
            let before = |at: usize| (0..=at).map(|j| forward[at - j] * x[j]).sum::<f64>();
            let behind = |at: usize| (at + 1..length).map(|j| reverse[j - at - 1] * x[j]).sum::<f64>();
            let y =
                |at: usize| if looked_at(length, at) { before(at) + behind(at) + skip * x[at] } else { 0.0 };
            (0..length).map(y).collect()
        };
        if self.far {
            let from = ((2 + branch) * CHANNELS + channel) * length;
            y.iter_mut().zip(&self.far_values[text][from..]).for_each(|(y, &far)| *y += f64::from(far));
        }
        y
    }

    /// By the twins, a channel of a text that begins at `start`.
    fn expected(&self, text: usize, channel: usize, start: usize) -> Vec<f64> {
        let length = self.lengths[text];
        let row = |data: &[f32], row: usize| {
            wide(&data[row * self.pitch + start..row * self.pitch + start + length])
        };
        let short = |part: usize| {
            let at = part * CHANNELS + channel;
            let (taps, bias) = (&self.short_taps[3 * at..3 * at + 3], f64::from(self.short_bias[at]));
            reference::short_conv(&row(&self.projected, at), &wide(taps), &[bias])
        };
        let (x1, x2, v) = (short(0), short(1), short(2));
        let gated: Vec<f64> = v.iter().zip(&x1).map(|(v, x)| v * x).collect();
        let mixer = self.long((text, channel, 0), &gated);
        let residual = self.long((text, channel, 1), &row(&self.hidden, channel));
        (0..length).map(|at| mixer[at] * x2[at] + residual[at]).collect()
    }
}

/// The twins' cost grows with the square of the length: of long texts, some positions are looked at.
fn looked_at(length: usize, at: usize) -> bool {
    length <= 4096 || at < 40 || length - at < 40 || at.is_multiple_of(61)
}

/// Texts of these lengths in one pass, with taps for `positions`; the convolution of each against its twin.
fn check_convolution(
    gpu: &Gpu,
    class: &LengthClass,
    element: Element,
    lengths: &[usize],
    positions: usize,
    far: bool,
) {
    let convolution = Convolution::new(element, lengths, positions, far);
    let got = convolution.computed(gpu, class);
    let mut start = START;
    for (text, &length) in lengths.iter().enumerate() {
        let (mut results, mut expected) = (Vec::new(), Vec::new());
        // And some channels.
        for channel in 0..if length > 2048 { 2 } else { CHANNELS } {
            let twin = convolution.expected(text, channel, start);
            for at in (0..length).filter(|&at| looked_at(length, at)) {
                expected.push(twin[at]);
                results.push(got[channel * convolution.pitch + start + at]);
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
        for element in [Element::F32, Element::F16] {
            check_convolution(gpu, &class, element, &[length - 77], length, length == 32768);
        }
        let class = class.without_room();
        check_convolution(gpu, &class, Element::F16, &[length - 77], length, length == 32768);
    }
}
