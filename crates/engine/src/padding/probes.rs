//! The texts that far fields and their errors are measured with: prose, code, and random tokens, of any length.

use danaus_model::{Tokenizer, synthetic::uniform};

/// Prose on many subjects, a sentence a line; after an empty line, code and tables, likewise.
const TEXTS: &str = include_str!("../../assets/probes.txt");

/// Makes probe texts: a pure function of number, kind and length.
#[derive(Debug)]
pub struct Probes {
    vocabulary: usize,
    /// The tokens before and after each text.
    ends: [u32; 2],
    /// Tokens of each line of prose and of code; empty where the tokenizer is not of the model's vocabulary.
    lines: [Vec<Vec<u32>>; 2],
}

/// What a probe text consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Prose,
    Code,
    Random,
}

/// Kinds in the order of the probes' numbers, and the share of tokens that are one and the same: few texts are
/// without words of their own that return.
const KINDS: [(Kind, f64); 6] = [
    (Kind::Prose, 0.0),
    (Kind::Random, 0.0),
    (Kind::Code, 0.0),
    (Kind::Prose, 0.2),
    (Kind::Prose, 0.0),
    (Kind::Random, 0.3),
];

/// The same of the tests.
const TESTS: [(Kind, f64); 3] = [(Kind::Prose, 0.45), (Kind::Code, 0.0), (Kind::Random, 0.0)];

impl Probes {
    /// Probes for a model of that vocabulary, whose texts `tokenizer` encodes.
    pub fn new(tokenizer: &Tokenizer, vocabulary: usize) -> Self {
        let encode = |line: &str| tokenizer.encode_ids(line, usize::MAX).unwrap_or_default();
        let ends = match encode("")[..] {
            [first, .., last] => [first, last],
            _ => [0, 0],
        };
        let inner = |line| {
            let ids = encode(line);
            ids.get(1..ids.len().saturating_sub(1)).unwrap_or_default().to_vec()
        };
        let known = (tokenizer.max_id() as usize) < vocabulary;
        let mut parts = TEXTS.split("\n\n").map(|part| part.lines().map(inner).collect());
        let lines = [(); 2].map(|()| parts.next().filter(|_| known).unwrap_or_default());
        Self { vocabulary, ends: if known { ends } else { [0, 0] }, lines }
    }

    /// The token ids of probe text `number`, `tokens` (at least two) of them.
    pub fn text(&self, number: usize, tokens: usize) -> Vec<u32> {
        let (kind, repeated) = KINDS[number % KINDS.len()];
        self.make(number, tokens, kind, repeated)
    }

    /// The token ids of a text for a recorded pass: one that repeats itself no more than its kind does, so that it is near to most.
    pub fn recorded(&self, number: usize, tokens: usize) -> Vec<u32> {
        self.make(number, tokens, KINDS[number % 3].0, 0.0)
    }

    /// The token ids of a text of other words, half of which are one and the same, or all different: a test of what was measured
    /// with probe texts.
    pub fn test(&self, number: usize, tokens: usize) -> Vec<u32> {
        let (kind, repeated) = TESTS[number % TESTS.len()];
        self.make(number + 1_000_000, tokens, kind, repeated)
    }

    /// `tokens` tokens of a kind, of which the share `repeated` are one and the same.
    fn make(&self, number: usize, tokens: usize, kind: Kind, repeated: f64) -> Vec<u32> {
        let lines = match kind {
            Kind::Prose => &self.lines[0],
            Kind::Code => &self.lines[1],
            Kind::Random => &Vec::new(),
        };
        let draws = |what| uniform(&format!("{what}.{number}.{tokens}"), 1, tokens);
        let share = |draw: f32| (f64::from(draw) + 1.0) / 2.0;
        let choose = |draw: f32, count: usize| (share(draw) * count as f64) as usize;
        let mut ids = vec![self.ends[0]];
        for draw in draws("probe") {
            if ids.len() + 1 >= tokens {
                break;
            }
            match lines.len() {
                0 => ids.push(choose(draw, self.vocabulary) as u32),
                count => ids.extend(&lines[choose(draw, count)]),
            }
        }
        if let Some(&again) = ids.get(1) {
            let places = ids.iter_mut().zip(draws("probe.repeated")).skip(1);
            places.filter(|(_, draw)| share(*draw) < repeated).for_each(|(id, _)| *id = again);
        }
        ids.resize(tokens.max(2) - 1, self.ends[1]);
        ids.push(self.ends[1]);
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_have_their_length_and_differ() {
        let probes = Probes::new(&Tokenizer::bert_base_uncased(), 30_528);
        for tokens in [2, 3, 17, 300] {
            let texts: Vec<_> = (0..8).map(|number| probes.text(number, tokens)).collect();
            for ids in &texts {
                assert_eq!((ids.len(), ids[0], ids[tokens - 1]), (tokens, 101, 102));
                assert!(ids.iter().all(|&id| id < 30_528));
            }
            assert!(tokens < 17 || texts.iter().enumerate().all(|(i, text)| !texts[..i].contains(text)));
            assert_eq!(probes.text(3, tokens), texts[3]);
        }
        let narrow = Probes::new(&Tokenizer::bert_base_uncased(), 50);
        assert!(narrow.text(0, 40).iter().all(|&id| id < 50));
    }
}
