//! Text to token ids.

mod pieces;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use pieces::{PieceRules, Token};

/// A tokenizer of the BERT kind: every text becomes `[CLS] tokens [SEP]`.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    max_id: u32,
    /// The special tokens before and after a text.
    first: Special,
    last: Special,
    /// How to encode long texts piece by piece, where this tokenizer allows it.
    pieces: Option<PieceRules>,
}

/// A special token.
#[derive(Clone)]
struct Special {
    id: u32,
    text: String,
}

/// A text's tokens, `[CLS]` and `[SEP]` included, not truncated. The three lists have the same length.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Encoding {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Tokens as the vocabulary spells them.
    pub tokens: Vec<String>,
    /// Start and end of each token in the text, in characters (Unicode scalar values); (0, 0) for special tokens that
    /// are not in the text.
    pub offsets: Vec<(usize, usize)>,
}

/// Why a tokenizer could not be made, or would not encode.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The file cannot be read.
    #[error("cannot read the tokenizer file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not a tokenizer.
    #[error(
        "{} is not a tokenizer: {reason}. Expected the file tokenizer.json of a BERT model, as the `tokenizers` \
         library writes it",
        path.display()
    )]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The tokenizer does not put a text between two special tokens.
    #[error(
        "the tokenizer {} adds {got} special tokens to a text: expected 2, [CLS] before it and [SEP] after it",
        path.display()
    )]
    SpecialTokens {
        /// The file.
        path: PathBuf,
        /// How many it adds.
        got: usize,
    },
    /// The text cannot be encoded.
    #[error("the text cannot be tokenized: {0}")]
    Encode(String),
}

impl Tokenizer {
    /// The tokenizer of bert-base-uncased, which the M2-BERT models use; built in.
    pub fn bert_base_uncased() -> Self {
        let file = include_bytes!("../../assets/tokenizer.json");
        Self::new(file, Path::new("(built in)")).expect("the built-in tokenizer is a valid one")
    }

    /// Reads a `tokenizer.json`. Truncation and padding that the file asks for are switched off.
    ///
    /// # Errors
    /// A file that cannot be read, is not a tokenizer, or does not put a text between two special tokens.
    pub fn from_file(path: &Path) -> Result<Self, TokenizerError> {
        let file =
            std::fs::read(path).map_err(|source| TokenizerError::Read { path: path.into(), source })?;
        Self::new(&file, path)
    }

    fn new(file: &[u8], path: &Path) -> Result<Self, TokenizerError> {
        let parse = |reason: String| TokenizerError::Parse { path: path.into(), reason };
        let mut inner = tokenizers::Tokenizer::from_bytes(file).map_err(|error| parse(error.to_string()))?;
        inner.with_truncation(None).map_err(|error| parse(error.to_string()))?;
        inner.with_padding(None);
        let max_id = inner
            .get_vocab(true)
            .into_values()
            .max()
            .ok_or_else(|| parse("its vocabulary is empty".into()))?;
        let empty = inner.encode("", true).map_err(|error| parse(error.to_string()))?;
        let ([first_id, last_id], [first, last]) = (empty.get_ids(), empty.get_tokens()) else {
            return Err(TokenizerError::SpecialTokens { path: path.into(), got: empty.len() });
        };
        let word = inner.encode("a", true).map_err(|error| parse(error.to_string()))?;
        if word.get_ids().first() != Some(first_id) || word.get_ids().last() != Some(last_id) {
            return Err(parse("it does not put a text between its two special tokens".to_owned()));
        }
        let first = Special { id: *first_id, text: first.clone() };
        let last = Special { id: *last_id, text: last.clone() };
        let pieces = PieceRules::of(&inner);
        Ok(Self { inner, max_id, first, last, pieces })
    }

    /// The tokens of `text`, `[CLS]` and `[SEP]` included, however many there are.
    ///
    /// Memory is in proportion to the number of tokens; see [`encode_ids`](Self::encode_ids) for texts from outside.
    ///
    /// # Errors
    /// A text that the tokenizer refuses; the built-in one refuses none.
    pub fn encode(&self, text: &str) -> Result<Encoding, TokenizerError> {
        let mut encoding = Encoding::default();
        let (mut starts, mut ends) = (Characters::of(text), Characters::of(text));
        encoding.push(self.first.id, &self.first.text, (0, 0));
        self.for_each_token(text, &mut |token| {
            encoding.push(token.id, token.text, (starts.before(token.start), ends.before(token.end)));
            ControlFlow::Continue(())
        })?;
        encoding.push(self.last.id, &self.last.text, (0, 0));
        Ok(encoding)
    }

    /// The ids of `text`, `[CLS]` and `[SEP]` included. Where there are more than `at_most`, stops early and returns
    /// `at_most + 1` of them, the last one `[SEP]`: enough to see that there are too many, and for [`truncate`].
    ///
    /// With the built-in tokenizer, time and memory are bounded by `at_most` for any text that is made of words (one of
    /// characters without space or punctuation is read to its end, in constant memory).
    ///
    /// # Errors
    /// A text that the tokenizer refuses; the built-in one refuses none.
    pub fn encode_ids(&self, text: &str, at_most: usize) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = vec![self.first.id];
        self.for_each_token(text, &mut |token| {
            if ids.len() >= at_most {
                return ControlFlow::Break(());
            }
            ids.push(token.id);
            ControlFlow::Continue(())
        })?;
        ids.push(self.last.id);
        Ok(ids)
    }

    /// Hands the tokens of `text`, without special ones, to `emit` until it breaks.
    fn for_each_token(
        &self,
        text: &str,
        emit: &mut dyn FnMut(Token<'_>) -> ControlFlow<()>,
    ) -> Result<(), TokenizerError> {
        let result = match &self.pieces {
            Some(pieces) => pieces.encode(&self.inner, text, emit),
            None => self.inner.encode(text, false).map(|encoding| {
                let tokens = encoding.get_ids().iter().zip(encoding.get_tokens()).zip(encoding.get_offsets());
                let mut tokens = tokens.map(|((&id, text), &(start, end))| Token { id, text, start, end });
                let _ = tokens.try_for_each(emit);
            }),
        };
        result.map_err(|error| TokenizerError::Encode(error.to_string()))
    }

    /// The largest id of the vocabulary.
    pub fn max_id(&self) -> u32 {
        self.max_id
    }
}

impl Encoding {
    fn push(&mut self, id: u32, token: &str, offsets: (usize, usize)) {
        self.ids.push(id);
        self.tokens.push(token.to_owned());
        self.offsets.push(offsets);
    }
}

/// Counts the characters of a text up to places that only move forward.
struct Characters<'a> {
    text: &'a str,
    at: usize,
    count: usize,
}

impl<'a> Characters<'a> {
    fn of(text: &'a str) -> Self {
        Self { text, at: 0, count: 0 }
    }

    /// Number of characters before byte `at`.
    fn before(&mut self, at: usize) -> usize {
        let is_start = |byte: &&u8| (**byte as i8) >= -0x40; // all but those that continue a character
        if let Some(passed) = self.text.as_bytes().get(self.at..at) {
            self.count += passed.iter().filter(is_start).count();
            self.at = at;
        }
        self.count
    }
}

/// Shortens `ids` to `max_tokens`: keeps the first `max_tokens - 1` and the last, which is `[SEP]`. Returns whether it
/// cut anything.
pub fn truncate(ids: &mut Vec<u32>, max_tokens: usize) -> bool {
    if ids.len() <= max_tokens {
        return false;
    }
    let last = ids.last().copied();
    ids.truncate(max_tokens.saturating_sub(1));
    if max_tokens > 0 {
        ids.extend(last);
    }
    true
}

/// Shortens `ids` to `max_tokens` from their beginning: keeps the first, which is `[CLS]`, and the last `max_tokens - 1`.
/// Returns whether it cut anything.
pub fn truncate_start(ids: &mut Vec<u32>, max_tokens: usize) -> bool {
    if ids.len() <= max_tokens {
        return false;
    }
    let kept = max_tokens.min(1);
    let cut = ids.len() - max_tokens;
    ids.drain(kept..kept + cut);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    static TOKENIZER: std::sync::LazyLock<Tokenizer> = std::sync::LazyLock::new(Tokenizer::bert_base_uncased);

    proptest! {
        #[test]
        fn encodings_are_the_librarys(text in any::<String>(), words in r"[a-zé\x{301}日!\[\] ]{0,60}") {
            for text in [&text, &words] {
                let expected = TOKENIZER.inner.encode_char_offsets(text.as_str(), true).unwrap();
                let got = TOKENIZER.encode(text).unwrap();
                prop_assert_eq!(&got.ids, expected.get_ids());
                prop_assert_eq!(&got.tokens, expected.get_tokens());
                prop_assert_eq!(&got.offsets, expected.get_offsets());
            }
        }
    }
}
