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

/// Kinds of the recorded texts, in the order of their numbers.
const RECORDED: [Kind; 3] = [Kind::Prose, Kind::Random, Kind::Code];

/// The share of a mild test's tokens that are one and the same. An eighth of its pairs are equal then, as in hardly any prose.
const MILD: f64 = 0.35;

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

    /// The token ids of recorded text `number`, `tokens` (at least two) of them: it repeats itself no more than its kind does, so that
    /// it is near to most.
    pub fn recorded(&self, number: usize, tokens: usize) -> Vec<u32> {
        self.make(number, tokens, RECORDED[number % RECORDED.len()], 0.0)
    }

    /// The token ids of a text of other words than the recorded ones, that repeats itself as much as prose does at the most.
    pub fn mild_test(&self, tokens: usize) -> Vec<u32> {
        self.make(1_000_000, tokens, Kind::Random, MILD)
    }

    /// The token ids of the text that repeats itself most: of one word.
    pub fn hard_test(&self, tokens: usize) -> Vec<u32> {
        self.make(1_000_001, tokens, Kind::Prose, 1.0)
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
        ids.resize(tokens.max(2) - 1, self.ends[1]);
        let inside = &mut ids[1..];
        if let Some(&again) = inside.first() {
            let count = (inside.len() as f64 * repeated).round() as usize;
            let mut places: Vec<_> = (0..inside.len()).zip(draws("probe.repeated")).collect();
            places.sort_by(|(_, a), (_, b)| a.total_cmp(b));
            places[..count].iter().for_each(|&(place, _)| inside[place] = again);
        }
        ids.push(self.ends[1]);
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::super::equal_pairs;
    use super::*;

    #[test]
    fn probes_have_their_length_and_differ() {
        let probes = Probes::new(&Tokenizer::bert_base_uncased(), 30_528);
        for tokens in [2, 3, 17, 300] {
            let mut texts: Vec<_> = (0..8).map(|number| probes.recorded(number, tokens)).collect();
            texts.extend([probes.mild_test(tokens), probes.hard_test(tokens)]);
            for ids in &texts {
                assert_eq!((ids.len(), ids[0], ids[tokens - 1]), (tokens, 101, 102));
                assert!(ids.iter().all(|&id| id < 30_528));
            }
            assert!(tokens < 17 || texts.iter().enumerate().all(|(i, text)| !texts[..i].contains(text)));
            assert_eq!(probes.recorded(3, tokens), texts[3]);
        }
        let narrow = Probes::new(&Tokenizer::bert_base_uncased(), 50);
        assert!(narrow.recorded(0, 40).iter().all(|&id| id < 50));
    }

    #[test]
    fn tests_repeat_themselves_as_they_should() {
        let probes = Probes::new(&Tokenizer::bert_base_uncased(), 30_528);
        let hard = probes.hard_test(300);
        assert!(hard[1..299].iter().all(|&id| id == hard[1]) && hard[1] > 999, "{hard:?}");
        for tokens in [16, 300, 5000] {
            let equal = equal_pairs(&probes.mild_test(tokens));
            assert!((0.08..0.15).contains(&equal), "{tokens}: {equal}");
        }
        assert!(equal_pairs(&probes.recorded(0, 300)) < 0.05);
    }
}
