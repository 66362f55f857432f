//! The rows of `danaus embed`'s input.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::args::InputFormat;

/// One row, as its format reads it.
#[derive(Debug, PartialEq, Eq)]
pub enum Row {
    /// To be tokenised.
    Text(String),
    /// Token ids, special tokens included.
    Ids(Vec<u32>),
}

/// Where a row stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// File, or `standard input`.
    pub source: String,
    /// Line, from 1.
    pub line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, line {}", self.source, self.line)
    }
}

/// The lines of several sources, one after the other.
pub struct Rows {
    format: InputFormat,
    pending: std::vec::IntoIter<PathBuf>,
    current: Option<(Place, Box<dyn BufRead>)>,
    bytes: u64,
}

impl Rows {
    /// Rows of `files`; of standard input where there is none.
    pub fn new(format: InputFormat, files: &[PathBuf]) -> Self {
        let files = if files.is_empty() { vec![PathBuf::from("-")] } else { files.to_vec() };
        Self { format, pending: files.into_iter(), current: None, bytes: 0 }
    }

    /// Bytes read so far, for the progress bar.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next row: its place, and the row or what is wrong with it. `None` at the end.
    ///
    /// # Errors
    /// A source that cannot be opened or read.
    pub fn next(&mut self) -> anyhow::Result<Option<(Place, Result<Row, String>)>> {
        loop {
            if self.current.is_none() {
                let Some(path) = self.pending.next() else { return Ok(None) };
                self.current = Some(open(&path)?);
            }
            let Some((place, reader)) = &mut self.current else { continue };
            let mut line = Vec::new();
            let read = reader
                .read_until(b'\n', &mut line)
                .with_context(|| format!("cannot read {}", place.source))?;
            if read == 0 {
                self.current = None;
                continue;
            }
            self.bytes += read as u64;
            place.line += 1;
            let row = parse(self.format, trim_newline(&line));
            return Ok(Some((place.clone(), row)));
        }
    }
}

fn open(path: &Path) -> anyhow::Result<(Place, Box<dyn BufRead>)> {
    if path == Path::new("-") {
        return Ok((Place { source: "standard input".to_owned(), line: 0 }, Box::new(io::stdin().lock())));
    }
    let source = path.display().to_string();
    let file = File::open(path).with_context(|| format!("cannot open {source}"))?;
    Ok((Place { source, line: 0 }, Box::new(BufReader::with_capacity(1 << 16, file))))
}

fn trim_newline(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[derive(serde::Deserialize)]
struct TextRow {
    text: String,
}

fn parse(format: InputFormat, line: &[u8]) -> Result<Row, String> {
    let line = std::str::from_utf8(line).map_err(|error| format!("expected UTF-8 text, got {error}"))?;
    match format {
        InputFormat::Text => Ok(Row::Text(line.to_owned())),
        InputFormat::Jsonl => {
            serde_json::from_str(line).map(|TextRow { text }| Row::Text(text)).map_err(|error| {
                format!("expected {{\"text\": \"...\"}}, got {}: {}", shown(line), reason(&error))
            })
        }
        InputFormat::Ids => serde_json::from_str(line).map(Row::Ids).map_err(|error| {
            format!("expected a JSON list of token ids, got {}: {}", shown(line), reason(&error))
        }),
    }
}

/// serde's message without its line number, which is always 1 here and would contradict ours.
fn reason(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column ", " at column ")
}

/// The beginning of a line, for a message.
fn shown(line: &str) -> String {
    const CHARACTERS: usize = 40;
    let start: String = line.chars().take(CHARACTERS).collect();
    if start.len() < line.len() { format!("{start:?}...") } else { format!("{start:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_each_format() {
        let text = |text: &str| Ok(Row::Text(text.to_owned()));
        assert_eq!(parse(InputFormat::Text, trim_newline(b" a b \r\n")), text(" a b "));
        assert_eq!(parse(InputFormat::Text, b""), text(""));
        assert_eq!(parse(InputFormat::Jsonl, br#"{"text": "a\nb", "more": 1}"#), text("a\nb"));
        assert_eq!(parse(InputFormat::Ids, b"[101, 102]"), Ok(Row::Ids(vec![101, 102])));
    }

    #[test]
    fn bad_rows_say_what_was_expected_and_what_came() {
        for (format, line, expected) in [
            (InputFormat::Text, &b"\xff"[..], "expected UTF-8 text"),
            (InputFormat::Jsonl, b"{\"txt\": 1}", "missing field `text`"),
            (InputFormat::Jsonl, b"", "expected {\"text\": \"...\"}, got \"\""),
            (InputFormat::Ids, b"[1, -2]", "expected a JSON list of token ids"),
            (InputFormat::Ids, b"[1.5]", "at column 5"),
        ] {
            let error = parse(format, line).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
