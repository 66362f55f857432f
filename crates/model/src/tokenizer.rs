//! Text to token ids.

use std::path::{Path, PathBuf};

/// A tokenizer of the BERT kind: every text becomes `[CLS] tokens [SEP]`.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    max_id: u32,
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
        let file = include_bytes!("../assets/tokenizer.json");
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
        let tokenizer = Self { inner, max_id };
        let got = tokenizer.encode("")?.ids.len();
        if got == 2 { Ok(tokenizer) } else { Err(TokenizerError::SpecialTokens { path: path.into(), got }) }
    }

    /// The tokens of `text`, `[CLS]` and `[SEP]` included, however many there are.
    ///
    /// # Errors
    /// A text that the tokenizer refuses; the built-in one refuses none.
    pub fn encode(&self, text: &str) -> Result<Encoding, TokenizerError> {
        let encoding = self
            .inner
            .encode_char_offsets(text, true)
            .map_err(|error| TokenizerError::Encode(error.to_string()))?;
        Ok(Encoding {
            ids: encoding.get_ids().to_vec(),
            tokens: encoding.get_tokens().to_vec(),
            offsets: encoding.get_offsets().to_vec(),
        })
    }

    /// The largest id of the vocabulary.
    pub fn max_id(&self) -> u32 {
        self.max_id
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
