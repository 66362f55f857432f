//! Encoding a long text piece by piece, with the result of encoding it whole.
//!
//! The library holds some hundred bytes for each byte of a text, so that one of 30 MB would take gigabytes, and it cannot
//! stop early. Both are cured by cutting the text, which is exact where each character is normalized alone and words
//! never depend on their neighbours, as in BERT: the last word of a piece, which may go on in the next one, is carried
//! over to it. Words themselves have no bound (a text may be one word of 30 MB), but one of more than
//! `max_input_chars_per_word` characters is unknown whatever follows, so of a long word only a part is carried.

use std::ops::{ControlFlow, Range};

use tokenizers::tokenizer::{NormalizedString, Normalizer};
use tokenizers::{Encoding, ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, Tokenizer};

/// Bytes of a text that are encoded at a time.
const PIECE: usize = 8192;

/// Bytes from which a carried word is shortened.
const LONG_WORD: usize = 1024;

/// The longest added token that pieces are possible with.
const LONGEST_ADDED_TOKEN: usize = 256;

/// What a text is cut by; [`PieceRules::of`] says whether a tokenizer allows it.
pub(super) struct PieceRules {
    /// Texts that are tokens of their own, such as `[SEP]`, which no piece may cut.
    added: Vec<String>,
    max_characters: usize,
    piece: usize,
    long_word: usize,
}

/// A token, and where it is in the text, in bytes.
pub(super) struct Token<'a> {
    pub(super) id: u32,
    pub(super) text: &'a str,
    pub(super) start: usize,
    pub(super) end: usize,
}

impl PieceRules {
    /// The rules for a tokenizer that works like BERT's; `None` for others, whose words may depend on each other.
    pub(super) fn of(tokenizer: &Tokenizer) -> Option<Self> {
        let (ModelWrapper::WordPiece(model), Some(PreTokenizerWrapper::BertPreTokenizer(_))) =
            (tokenizer.get_model(), tokenizer.get_pre_tokenizer())
        else {
            return None;
        };
        if !matches!(tokenizer.get_normalizer(), None | Some(NormalizerWrapper::BertNormalizer(_))) {
            return None;
        }
        let added = tokenizer.get_added_tokens_decoder();
        let is_plain = |token: &tokenizers::AddedToken| {
            !(token.normalized || token.lstrip || token.rstrip || token.single_word)
                && (1..=LONGEST_ADDED_TOKEN).contains(&token.content.len())
        };
        added.values().all(is_plain).then(|| Self {
            added: added.into_values().map(|token| token.content).collect(),
            max_characters: model.max_input_chars_per_word,
            piece: PIECE,
            long_word: LONG_WORD,
        })
    }

    /// Hands the tokens of `text` to `emit`, in order and without special tokens, until it breaks.
    pub(super) fn encode(
        &self,
        tokenizer: &Tokenizer,
        text: &str,
        emit: &mut dyn FnMut(Token<'_>) -> ControlFlow<()>,
    ) -> tokenizers::Result<()> {
        let mut input = Carried::default();
        let mut position = 0;
        while position < text.len() {
            let end = self.piece_end(text, position);
            input.append(&text[position..end], position);
            position = end;
            let encoding = tokenizer.encode(input.text.as_str(), false)?;
            let pending = match position < text.len() {
                true => pending_word(tokenizer, &input, &encoding)?,
                false => None,
            };
            let complete = pending.as_ref().map_or(encoding.len(), |(first, _)| *first);
            if input.emit(&encoding, complete, emit).is_break() {
                return Ok(());
            }
            input = match pending {
                Some((_, word)) => self.carry(tokenizer, &input, word)?,
                None => Carried::default(),
            };
        }
        Ok(())
    }

    /// Where the piece that starts at `position` ends: at a character, and not within an added token.
    fn piece_end(&self, text: &str, position: usize) -> usize {
        let mut end = (position + self.piece).min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        if end == position {
            end += text[position..].chars().next().map_or(0, char::len_utf8);
        }
        while let Some((start, stop)) = self.added_token_across(text, position, end) {
            if start == position {
                return stop;
            }
            end = start;
        }
        end
    }

    /// Start and end of an added token that starts before `at`, no earlier than `position`, and ends after it.
    fn added_token_across(&self, text: &str, position: usize, at: usize) -> Option<(usize, usize)> {
        self.added.iter().find_map(|added| {
            let is_across = |start: &usize| text.as_bytes()[*start..].starts_with(added.as_bytes());
            let first = position.max((at + 1).saturating_sub(added.len()));
            (first..at).find(is_across).map(|start| (start, start + added.len()))
        })
    }

    /// What to carry of a word, given by its range: all of it, or of a long one as much as decides what it becomes. One
    /// character that vanishes stays where some do, so that what stood apart does not become an added token.
    fn carry(
        &self,
        tokenizer: &Tokenizer,
        input: &Carried,
        word: Range<usize>,
    ) -> tokenizers::Result<Carried> {
        let mut carried = Carried { word: word.len(), word_end: input.end(word.end), ..Carried::default() };
        let after = input.text[word.end..].chars().next();
        if word.len() <= self.long_word {
            carried.copy(input, word.clone());
        } else {
            self.shorten(tokenizer, input, word.clone(), &mut carried)?;
        }
        if let Some(after) = after {
            carried.copy(input, word.end..word.end + after.len_utf8());
        }
        Ok(carried)
    }

    /// Copies the characters of a word that do not vanish, and one of each run that does, until it is known to be too
    /// long to be in the vocabulary.
    fn shorten(
        &self,
        tokenizer: &Tokenizer,
        input: &Carried,
        word: Range<usize>,
        carried: &mut Carried,
    ) -> tokenizers::Result<()> {
        let (mut characters, mut vanished) = (0, false);
        for (at, character) in input.text[word.clone()].char_indices() {
            let range = word.start + at..word.start + at + character.len_utf8();
            let length = normalized(tokenizer, &input.text[range.clone()])?.trim().chars().count();
            if length > 0 || !vanished {
                carried.copy(input, range);
            }
            vanished = length == 0;
            characters += length;
            if characters > self.max_characters {
                break;
            }
        }
        carried.word = carried.text.len();
        Ok(())
    }
}

/// The last word of an encoded piece, if it may go on in the next one: the index of its first token, and its range.
fn pending_word(
    tokenizer: &Tokenizer,
    input: &Carried,
    encoding: &Encoding,
) -> tokenizers::Result<Option<(usize, Range<usize>)>> {
    let (words, offsets) = (encoding.get_word_ids(), encoding.get_offsets());
    let Some(first) = words.iter().position(|word| Some(word) == words.last()) else { return Ok(None) };
    let word = offsets[first].0..offsets[offsets.len() - 1].1;
    // Characters that vanish do not end a word; space does.
    let has_ended = normalized(tokenizer, &input.text[word.end..])?.contains(char::is_whitespace);
    Ok((!has_ended).then_some((first, word)))
}

fn normalized(tokenizer: &Tokenizer, text: &str) -> tokenizers::Result<String> {
    let mut normalized = NormalizedString::from(text);
    if let Some(normalizer) = tokenizer.get_normalizer() {
        normalizer.normalize(&mut normalized)?;
    }
    Ok(normalized.get().to_owned())
}

/// Text to be encoded: what was carried over, then a piece; and where its parts come from.
#[derive(Default)]
struct Carried {
    text: String,
    /// Where parts start: here, and in the whole text.
    parts: Vec<(usize, usize)>,
    /// Where the carried word ends: here, and in the whole text.
    word: usize,
    word_end: usize,
}

impl Carried {
    /// Appends text that starts at `original` in the whole text.
    fn append(&mut self, text: &str, original: usize) {
        let last = self.parts.last();
        if last.is_none_or(|(here, there)| there + (self.text.len() - here) != original) {
            self.parts.push((self.text.len(), original));
        }
        self.text.push_str(text);
    }

    /// Appends a range of another text, with the places that its parts come from.
    fn copy(&mut self, from: &Carried, range: Range<usize>) {
        let mut at = range.start;
        while at < range.end {
            let next_part = from.parts.partition_point(|(here, _)| *here <= at);
            let end = from.parts.get(next_part).map_or(range.end, |(here, _)| range.end.min(*here));
            self.append(&from.text[at..end], from.start(at));
            at = end;
        }
    }

    /// Hands the first `count` tokens of this text to `emit`, with their places in the whole text.
    fn emit(
        &self,
        encoding: &Encoding,
        count: usize,
        emit: &mut dyn FnMut(Token<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let tokens = encoding.get_ids().iter().zip(encoding.get_tokens()).zip(encoding.get_offsets());
        tokens.take(count).try_for_each(|((&id, text), &(start, end))| {
            emit(Token { id, text, start: self.start(start), end: self.end(end) })
        })
    }

    /// Where a character that starts at `at` here starts in the whole text.
    fn start(&self, at: usize) -> usize {
        let part = self.parts.partition_point(|(here, _)| *here <= at).saturating_sub(1);
        self.parts.get(part).map_or(at, |(here, there)| there + (at - here))
    }

    /// Where a token that ends at `at` here ends in the whole text.
    fn end(&self, at: usize) -> usize {
        if at == self.word && self.word > 0 {
            self.word_end
        } else {
            self.start(at.saturating_sub(1)) + usize::from(at > 0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Tokens = Vec<(u32, String, usize, usize)>;

    fn tokenizer() -> &'static Tokenizer {
        static TOKENIZER: std::sync::LazyLock<Tokenizer> = std::sync::LazyLock::new(|| {
            Tokenizer::from_bytes(include_bytes!("../../assets/tokenizer.json")).unwrap()
        });
        &TOKENIZER
    }

    fn whole(text: &str) -> Tokens {
        let encoding = tokenizer().encode(text, false).unwrap();
        let offsets = encoding.get_offsets().iter();
        let tokens = encoding.get_ids().iter().zip(encoding.get_tokens()).zip(offsets);
        tokens.map(|((id, token), (start, end))| (*id, token.clone(), *start, *end)).collect()
    }

    fn in_pieces(text: &str, piece: usize, long_word: usize) -> Tokens {
        let rules = PieceRules { piece, long_word, ..PieceRules::of(tokenizer()).unwrap() };
        let mut tokens = Vec::new();
        let mut emit = |token: Token<'_>| {
            tokens.push((token.id, token.text.to_owned(), token.start, token.end));
            ControlFlow::Continue(())
        };
        rules.encode(tokenizer(), text, &mut emit).unwrap();
        tokens
    }

    /// Texts of fragments that are awkward to cut: added tokens and parts of them, characters that vanish, that are words
    /// alone, that grow or shrink when they are normalized, and long words.
    fn awkward_text() -> impl Strategy<Value = String> {
        let fragment = prop_oneof![
            prop::sample::select(vec![
                " ",
                "\n",
                "\t",
                "\u{a0}",
                "\u{2028}",
                "\u{85}",
                "\0",
                "\u{200b}",
                "\u{ad}",
                "\u{301}",
                "\u{307}",
                "[CLS]",
                "[SEP]",
                "[PAD]",
                "[",
                "]",
                "CLS",
                "[CL",
                "S]",
                "[C",
                "LS]",
                "SEP]",
                "!",
                "-",
                "。",
                "—",
                "\u{37e}",
                "日",
                "本",
                "각",
                "각",
                "é",
                "e",
                "İ",
                "ß",
                "ﬁ",
                "ά",
                "🦋",
                "👩‍👩‍👧",
                "\u{fffd}",
                "embedding",
                "s",
                "un",
                "believ",
                "able",
                "x",
                "1",
                "\u{10ffff}",
                "क्षि",
                "ไทย",
            ])
            .prop_map(str::to_owned),
            any::<char>().prop_map(String::from),
            (prop::sample::select(vec!["a", "é", "\0", "\u{301}", " ", "각", "ab\u{301}"]), 20usize..120)
                .prop_map(|(text, times)| text.repeat(times)),
        ];
        prop::collection::vec(fragment, 0..40).prop_map(|fragments| fragments.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn pieces_give_what_the_whole_gives(text in awkward_text(), piece in 1usize..60, long_word in 1usize..300) {
            prop_assert_eq!(in_pieces(&text, piece, long_word), whole(&text));
        }
    }

    #[test]
    fn the_usual_sizes_give_what_the_whole_gives() {
        let words = "Monarch matrices are sub-quadratic (M2-BERT), naïvely; ".repeat(2000);
        for text in [
            words,
            "a".repeat(50_000),
            format!("x{}y z", "\u{301}".repeat(20_000)),
            format!("{}b", "a\0".repeat(20_000)),
            "[CLS]".repeat(5000),
            "日本語".repeat(5000),
        ] {
            assert!(in_pieces(&text, PIECE, LONG_WORD) == whole(&text));
        }
    }
}
