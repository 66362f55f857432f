//! The rows of `danaus embed`'s input.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use danaus_server::without_texts;

use crate::args::InputFormat;

/// How standard input is named among files.
const STDIN: &str = "-";

/// Longest line in bytes: far above any text that a model takes, and few enough that a file without newlines cannot
/// fill the memory.
const MAX_LINE: usize = 64 << 20;

/// What some programs write at the start of a file, to say that it is UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

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
    ///
    /// # Errors
    /// A file that is not there: better now than hours later.
    pub fn new(format: InputFormat, files: &[PathBuf]) -> anyhow::Result<Self> {
        let files = if files.is_empty() { vec![PathBuf::from(STDIN)] } else { files.to_vec() };
        for path in files.iter().filter(|path| *path != Path::new(STDIN)) {
            let metadata =
                std::fs::metadata(path).with_context(|| format!("cannot open {}", path.display()))?;
            if metadata.is_dir() {
                bail!("{} is a folder: expected a file", path.display());
            }
        }
        Ok(Self { format, pending: files.into_iter(), current: None, bytes: 0 })
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
            let line = read_line(reader).with_context(|| format!("cannot read {}", place.source))?;
            let Some((line, rest)) = line else {
                self.current = None;
                continue;
            };
            self.bytes += (line.len() + rest) as u64;
            place.line += 1;
            let mut content = trim_newline(&line);
            if place.line == 1 {
                content = content.strip_prefix(BYTE_ORDER_MARK).unwrap_or(content);
            }
            let row = match rest {
                0 => parse(self.format, content),
                _ => Err(format!("a line of more than {MAX_LINE} bytes: is this a text file?")),
            };
            return Ok(Some((place.clone(), row)));
        }
    }
}

/// A line with its newline, and how many bytes of it were skipped because it is too long; `None` at the end.
fn read_line(reader: &mut dyn BufRead) -> io::Result<Option<(Vec<u8>, usize)>> {
    let mut line = Vec::new();
    reader.take(MAX_LINE as u64).read_until(b'\n', &mut line)?;
    let is_whole = line.len() < MAX_LINE || line.ends_with(b"\n");
    let rest = if is_whole { 0 } else { reader.skip_until(b'\n')? };
    Ok((!line.is_empty()).then_some((line, rest)))
}

fn open(path: &Path) -> anyhow::Result<(Place, Box<dyn BufRead>)> {
    if path == Path::new(STDIN) {
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
#[serde(expecting = "an object")]
struct TextRow {
    text: String,
}

fn parse(format: InputFormat, line: &[u8]) -> Result<Row, String> {
    let line = std::str::from_utf8(line).map_err(|error| format!("expected UTF-8 text, got {error}"))?;
    match format {
        InputFormat::Text => Ok(Row::Text(line.to_owned())),
        InputFormat::Jsonl => {
            let row = serde_json::from_str(line).map(|TextRow { text }| Row::Text(text));
            row.map_err(|error| format!("expected {{\"text\": \"...\"}}: {}", reason(line, &error)))
        }
        InputFormat::Ids => serde_json::from_str(line)
            .map(Row::Ids)
            .map_err(|error| format!("expected a JSON list of token ids: {}", reason(line, &error))),
    }
}

/// serde's message without what may be a text, and without its line number, which is always 1 here and would contradict ours.
fn reason(line: &str, error: &serde_json::Error) -> String {
    if line.trim().is_empty() {
        return "the line is empty".to_owned();
    }
    without_texts(&error.to_string()).replace(" at line 1 column ", " at column ")
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
            (InputFormat::Jsonl, b"", "expected {\"text\": \"...\"}: the line is empty"),
            (InputFormat::Jsonl, b"\"SECRET\"", "invalid type: a string, expected an object"),
            (InputFormat::Ids, b"[\"SECRET\"]", "invalid type: a string, expected u32"),
            (InputFormat::Jsonl, b"{\"text\": \"SECRET", "EOF while parsing a string"),
            (InputFormat::Jsonl, b"{\"x\": \"SECRET\"}", "missing field `text`"),
            (InputFormat::Ids, b"[1, -2]", "expected a JSON list of token ids"),
            (InputFormat::Ids, b"[1.5]", "at column 4"),
        ] {
            let error = parse(format, line).unwrap_err();
            assert!(error.contains(expected) && !error.contains("SECRET"), "{error}");
        }
    }
}
