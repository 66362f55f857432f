//! The long convolution against its float64 twin, on every instruction set of this machine.

mod common;

use common::{bits, values, wide};
use danaus_kernels::{
    ConvEpilogue, ConvScratch, FilterForm, LongFilter, Matrix, MatrixMut, filter_length, reference,
};
use danaus_simd::Isa;
use proptest::prelude::*;

/// The form of a filter for texts of so many tokens.
fn form(isa: Isa, tokens: usize, compact: bool) -> FilterForm {
    FilterForm { isa, length: filter_length(tokens), compact }
}

/// A text with its filter: `C` channels, all matrices in the columns from `gap` on of wider ones.
struct Case {
    tokens: usize,
    channels: usize,
    positions: usize,
    gap: usize,
    seed: u64,
}

/// What a text is convolved with, and the text.
struct Data {
    x: Vec<f32>,
    gate: Vec<f32>,
    before: Vec<f32>,
    taps: [Vec<f32>; 2],
    skip: Vec<f32>,
}

impl Case {
    fn stride(&self) -> usize {
        self.channels + 2 * self.gap
    }

    fn data(&self) -> Data {
        let Self { tokens, positions, channels, seed, .. } = *self;
        let matrix = |salt: u64, rows: usize| values(seed + salt, rows * self.stride());
        Data {
            x: matrix(1, tokens),
            gate: matrix(2, tokens),
            before: matrix(3, tokens),
            taps: [matrix(4, positions), matrix(5, positions)],
            skip: values(seed + 6, channels),
        }
    }

    fn view<'a>(&self, data: &'a [f32]) -> Matrix<'a> {
        Matrix::new(data, self.stride()).columns(self.gap, self.channels)
    }

    fn filter(&self, isa: Isa, scratch: &mut ConvScratch, data: &Data) -> LongFilter {
        self.filter_of(form(isa, self.tokens, false), scratch, data)
    }

    fn filter_of(&self, form: FilterForm, scratch: &mut ConvScratch, data: &Data) -> LongFilter {
        let mut filter = LongFilter::default();
        filter.set(form, scratch, [0, 1].map(|i| self.view(&data.taps[i])), &data.skip);
        filter
    }

    /// The results, with all that lies beside them.
    fn convolve(&self, filter: &LongFilter, scratch: &mut ConvScratch, data: &Data, kind: usize) -> Vec<f32> {
        let mut out = if kind == 2 { data.before.clone() } else { vec![f32::NAN; data.x.len()] };
        let view = MatrixMut::new(&mut out, self.stride()).columns(self.gap, self.channels);
        let epilogue = match kind {
            0 => ConvEpilogue::Store,
            1 => ConvEpilogue::Gate(self.view(&data.gate)),
            _ => ConvEpilogue::Add,
        };
        filter.convolve(scratch, self.view(&data.x), view, epilogue);
        out
    }

    /// Column `channel` of a matrix that [`Case::view`] takes.
    fn column(&self, data: &[f32], channel: usize) -> Vec<f64> {
        let rows = data.chunks_exact(self.stride());
        rows.map(|row| f64::from(row[self.gap + channel])).collect()
    }

    /// `y` of one channel at some tokens, without the epilogue.
    fn expected(&self, data: &Data, channel: usize, tokens: &[usize]) -> Vec<f64> {
        let column = |data: &[f32]| self.column(data, channel);
        let (x, [forward, reverse]) = (column(&data.x), [column(&data.taps[0]), column(&data.taps[1])]);
        let tap = |i: usize, j: usize| {
            let (taps, at) = if j <= i { (&forward, i - j) } else { (&reverse, j - i - 1) };
            taps.get(at).copied().unwrap_or(0.0)
        };
        let sum = |&i: &usize| (0..x.len()).map(|j| tap(i, j) * x[j]).sum::<f64>();
        tokens.iter().map(|i| sum(i) + f64::from(data.skip[channel]) * x[*i]).collect()
    }

    /// Checks results at every `step`th token: the error's root mean square, relative to that of `y`.
    fn check(&self, name: &str, data: &Data, out: &[f32], kind: usize, step: usize) {
        let tokens: Vec<_> = (0..self.tokens).step_by(step).collect();
        let (mut error, mut power) = (0.0, 0.0);
        for channel in 0..self.channels {
            let [got, gate, before] = [out, &data.gate, &data.before].map(|data| self.column(data, channel));
            for (&i, y) in tokens.iter().zip(self.expected(data, channel, &tokens)) {
                let finished = [y, y * gate[i], y + before[i]][kind];
                error += (got[i] - finished).powi(2);
                power += y * y;
            }
        }
        let relative = (error / power).sqrt();
        let Self { tokens, channels, positions, .. } = self;
        let what = format!("{name}: {tokens} tokens, {channels} channels, {positions} taps, epilogue {kind}");
        assert!(relative <= 4e-7, "{what}: relative error {relative:e}");
        println!("{what}: relative error {relative:.1e}");
    }

    /// What lies between the rows must be as it was.
    fn check_gaps(&self, data: &Data, out: &[f32], kind: usize) {
        for (at, &value) in out.iter().enumerate() {
            let column = at % self.stride();
            if column < self.gap || column >= self.gap + self.channels {
                let kept = if kind == 2 { value == data.before[at] } else { value.is_nan() };
                assert!(kept, "value {at} beside the results was written");
            }
        }
    }

    fn run(&self, step: usize) {
        let data = self.data();
        for isa in Isa::available() {
            let mut scratch = ConvScratch::default();
            let filter = self.filter(isa, &mut scratch, &data);
            for kind in 0..3 {
                let out = self.convolve(&filter, &mut scratch, &data, kind);
                self.check(isa.name(), &data, &out, kind, step);
                self.check_gaps(&data, &out, kind);
            }
        }
    }
}

#[test]
fn the_cases_own_sums_are_the_reference() {
    let case = Case { tokens: 23, channels: 3, positions: 23, gap: 0, seed: 1 };
    let data = case.data();
    for channel in 0..3 {
        let column = |data: &[f32]| case.column(data, channel);
        let taps = [column(&data.taps[0]), column(&data.taps[1])];
        let skip = wide(&data.skip[channel..=channel]);
        let reference = reference::long_conv(&column(&data.x), &taps[0], &taps[1], &skip);
        let tokens: Vec<_> = (0..23).collect();
        for (a, b) in case.expected(&data, channel, &tokens).into_iter().zip(reference) {
            assert!((a - b).abs() < 1e-12, "{a} and {b}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn agrees_with_float64(
        tokens in prop_oneof![1..=40usize, 41..=300usize],
        channels in 1..=50usize,
        missing in 0..=2usize,
        gap in 0..=5usize,
        seed in 0..u64::MAX / 2,
    ) {
        // As many taps as the text needs, as the filter has room for, or fewer.
        let positions = [tokens, filter_length(tokens), tokens / 3 + 1][missing];
        Case { tokens, channels, positions, gap, seed }.run(7);
    }
}

#[test]
fn every_length_agrees_with_float64() {
    let texts = (1..=64).chain([65, 95, 96, 97, 127, 128, 129, 191, 192, 193, 255, 256, 257]);
    for tokens in texts {
        Case { tokens, channels: 17, positions: filter_length(tokens), gap: 1, seed: 9 }.run(5);
    }
}

#[test]
fn long_texts_agree_with_float64() {
    let powers = [500, 513, 768, 1024, 1500, 2048, 4096, 7000, 8192, 16_384, 32_768];
    let between = [2049, 3000, 3072, 3073, 6144, 12_288, 24_576];
    for tokens in powers.into_iter().chain(between) {
        Case { tokens, channels: 16, positions: filter_length(tokens), gap: 16, seed: 5 }
            .run(tokens / 16 + 1);
    }
}

#[test]
fn neither_scratch_nor_a_filters_past_changes_bits() {
    let cases = [700usize, 5, 33, 1, 64, 300].map(|tokens| {
        let (positions, channels) = (tokens.div_ceil(2), 20);
        Case { tokens, channels, positions, gap: 2, seed: 3 }
    });
    for isa in Isa::available() {
        let (mut scratch, mut reused) = (ConvScratch::default(), LongFilter::default());
        for case in &cases {
            let data = case.data();
            let filter = case.filter(isa, &mut ConvScratch::default(), &data);
            let fresh = case.convolve(&filter, &mut ConvScratch::default(), &data, 0);
            // What a text full of NaN leaves behind must not show.
            let poison = Data { x: vec![f32::NAN; data.x.len()], ..case.data() };
            case.convolve(&filter, &mut scratch, &poison, 0);
            let taps = [0, 1].map(|i| case.view(&data.taps[i]));
            reused.set(form(isa, case.tokens, false), &mut scratch, taps, &data.skip);
            let again = case.convolve(&reused, &mut scratch, &data, 0);
            assert!(bits(&fresh) == bits(&again), "{}: {} tokens", isa.name(), case.tokens);
            let compact = case.filter_of(form(isa, case.tokens, true), &mut ConvScratch::default(), &data);
            let fresh = case.convolve(&compact, &mut ConvScratch::default(), &data, 0);
            reused.set(form(isa, case.tokens, true), &mut scratch, taps, &data.skip);
            let again = case.convolve(&reused, &mut scratch, &data, 0);
            assert!(bits(&fresh) == bits(&again), "{}: compact, {} tokens", isa.name(), case.tokens);
        }
    }
}

#[test]
fn a_channels_bits_do_not_depend_on_the_others() {
    for (isa, tokens) in Isa::available().into_iter().flat_map(|isa| [(isa, 19), (isa, 200)]) {
        let case = Case { tokens, channels: 37, positions: tokens, gap: 0, seed: 11 };
        let mut data = case.data();
        let mut scratch = ConvScratch::default();
        let all = case.convolve(&case.filter(isa, &mut scratch, &data), &mut scratch, &data, 0);
        // NaN and infinity stay in their channel.
        data.x[4 * 37 + 5] = f32::NAN;
        data.x[7 * 37 + 36] = f32::INFINITY;
        let spoilt = case.convolve(&case.filter(isa, &mut scratch, &data), &mut scratch, &data, 0);
        for (at, (&a, &b)) in all.iter().zip(&spoilt).enumerate() {
            match at % 37 {
                5 => assert!(b.is_nan(), "{}", isa.name()),
                36 => assert!(!b.is_finite(), "{}", isa.name()),
                _ => assert_eq!(a.to_bits(), b.to_bits(), "{}: {at}", isa.name()),
            }
        }
        // Ten channels from a place where no vector starts.
        let part = Case { channels: 10, gap: 0, ..case };
        let cut = |matrix: &[f32]| matrix.chunks(37).flat_map(|row| &row[3..13]).copied().collect::<Vec<_>>();
        let clean = Case { channels: 37, ..part }.data();
        let clean = Data {
            x: cut(&clean.x),
            gate: Vec::new(),
            before: Vec::new(),
            taps: [cut(&clean.taps[0]), cut(&clean.taps[1])],
            skip: clean.skip[3..13].to_vec(),
        };
        let alone = part.convolve(&part.filter(isa, &mut scratch, &clean), &mut scratch, &clean, 0);
        assert!(bits(&cut(&all)) == bits(&alone), "{}: {tokens} tokens", isa.name());
    }
}

/// A tap that is not finite, in a filter as it is or a compact one, spoils its channel and no other; so does a text's value
/// with a compact one.
#[test]
fn taps_that_are_not_finite_stay_in_their_channel() {
    let channels = 37;
    let forms =
        |isa| [19, 200, 2500].into_iter().flat_map(move |n| [false, true].map(|c| (n, form(isa, n, c))));
    for (tokens, form) in Isa::available().into_iter().flat_map(forms) {
        let case = Case { tokens, channels, positions: tokens, gap: 0, seed: 11 };
        let mut scratch = ConvScratch::default();
        let clean = case.data();
        let filter = case.filter_of(form, &mut scratch, &clean);
        let expected = case.convolve(&filter, &mut scratch, &clean, 0);
        for (value, channel) in [(f32::NAN, 5), (f32::INFINITY, 15), (f32::NEG_INFINITY, 36)] {
            for place in 0..4 {
                let mut data = case.data();
                match place {
                    0 | 1 => data.taps[place][channel] = value,
                    2 => data.skip[channel] = value,
                    _ => data.x[channel] = value,
                }
                let filter = case.filter_of(form, &mut scratch, &data);
                let out = case.convolve(&filter, &mut scratch, &data, 0);
                for (at, (&got, &expected)) in out.iter().zip(&expected).enumerate() {
                    // The sum has nothing to do with reverse taps at the last token.
                    let unseen = place == 1 && tokens <= 32 && at / channels == tokens - 1;
                    let spoilt = at % channels == channel && !unseen;
                    let right = if spoilt { !got.is_finite() } else { got.to_bits() == expected.to_bits() };
                    assert!(right, "{form:?}, {value} at {place}: [{at}] is {got}");
                }
            }
        }
    }
}

#[test]
fn lengths_are_powers_of_two_and_beyond_2048_three_quarters_of_one() {
    let lengths = [0, 1, 32, 33, 64, 65, 1025, 2048, 2049, 3072, 3073, 4096, 4097, 6144, 6145, 24_577];
    let expected = [32, 32, 32, 64, 64, 128, 2048, 2048, 3072, 3072, 4096, 4096, 6144, 6144, 8192, 32_768];
    assert_eq!(lengths.map(filter_length), expected);
    for tokens in 0..10_000 {
        let length = filter_length(tokens);
        assert!(length >= tokens && filter_length(length) == length);
    }
}

#[test]
fn memory_is_what_it_says() {
    for (tokens, channels) in [(5, 48), (64, 20), (300, 1)] {
        let case = Case { tokens, channels, positions: tokens, gap: 0, seed: 2 };
        let filter = case.filter(Isa::best(), &mut ConvScratch::default(), &case.data());
        let form = form(Isa::best(), tokens, false);
        assert_eq!((filter.length(), filter.bytes()), (filter_length(tokens), form.bytes(channels)));
    }
    assert_eq!((LongFilter::default().length(), LongFilter::default().bytes()), (0, 0));
}

#[test]
#[should_panic = "filter of a text"]
fn a_filter_of_another_length_is_refused() {
    let case = Case { tokens: 33, channels: 4, positions: 33, gap: 0, seed: 2 };
    let mut scratch = ConvScratch::default();
    let filter = case.filter(Isa::best(), &mut scratch, &case.data());
    let longer = Case { tokens: 65, ..case };
    longer.convolve(&filter, &mut scratch, &longer.data(), 0);
}

#[test]
#[should_panic = "shapes"]
fn other_channels_are_refused() {
    let case = Case { tokens: 33, channels: 4, positions: 33, gap: 0, seed: 2 };
    let mut scratch = ConvScratch::default();
    let filter = case.filter(Isa::best(), &mut scratch, &case.data());
    let wider = Case { channels: 5, ..case };
    wider.convolve(&filter, &mut scratch, &wider.data(), 0);
}

#[test]
fn no_tokens_no_work() {
    let isa = Isa::best();
    let mut scratch = ConvScratch::default();
    let case = Case { tokens: 0, channels: 3, positions: 0, gap: 0, seed: 2 };
    let filter = case.filter(isa, &mut scratch, &case.data());
    assert!(case.convolve(&filter, &mut scratch, &case.data(), 0).is_empty());
}

/// A compact spectrum differs by what rounding to 16 bits costs, and takes half the memory.
#[test]
fn a_compact_filter_is_as_accurate_as_16_bits() {
    for (isa, tokens) in
        Isa::available().into_iter().flat_map(|isa| [(isa, 20), (isa, 64), (isa, 700), (isa, 2500)])
    {
        let case = Case { tokens, channels: 37, positions: tokens, gap: 1, seed: 12 };
        let data = case.data();
        let mut scratch = ConvScratch::default();
        let exact = case.filter(isa, &mut scratch, &data);
        let compact = case.filter_of(form(isa, tokens, true), &mut scratch, &data);
        assert_eq!(compact.bytes(), form(isa, tokens, true).bytes(37));
        let [exact, got] = [&exact, &compact].map(|filter| {
            let out = case.convolve(filter, &mut scratch, &data, 0);
            case.view(&out).to_vec()
        });
        let square = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>();
        let error = square(&mut got.iter().zip(&exact).map(|(a, b)| f64::from(a - b)));
        let relative = (error / square(&mut exact.iter().map(|&x| f64::from(x)))).sqrt();
        if tokens <= 32 {
            assert_eq!(bits(&got), bits(&exact), "{}: a sum has no spectrum", isa.name());
        } else {
            assert!(relative > 1e-6 && relative < 2e-4, "{}, {tokens} tokens: {relative:e}", isa.name());
            let spare = 4 * 37usize.next_multiple_of(16);
            assert_eq!(2 * (compact.bytes() - spare), form(isa, tokens, false).bytes(37));
        }
    }
}
