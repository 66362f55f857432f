//! Text files, cut into passages.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};

/// Larger files are data rather than documents.
const MAX_FILE: u64 = 8 << 20;

/// Bytes after which a passage ends with its paragraph; and with its line, where a paragraph is as long as that. Longer lines are cut.
const PARAGRAPHS: usize = 600;
const LINES: usize = 1200;

/// What marks a folder whose contents can be made again (<https://bford.info/cachedir/>): cargo's `target` has one.
const CACHE_MARK: &str = "CACHEDIR.TAG";

/// A folder of others' programs.
const OTHERS: &str = "node_modules";

/// Some lines of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    /// Which file, in the order in which they were found.
    pub file: usize,
    /// The first one's number, from 1.
    pub line: usize,
    pub text: String,
}

/// The files that were read, and those that were not.
#[derive(Debug, Default)]
pub struct Library {
    pub files: Vec<PathBuf>,
    pub passages: Vec<Passage>,
    /// Files in folders that are no UTF-8 text, too large, or cannot be read.
    pub skipped: usize,
    /// The same file may be reached by several paths.
    seen: HashSet<PathBuf>,
}

impl Library {
    /// Reads files, and what folders hold: not what is hidden, linked, or made by programs.
    ///
    /// # Errors
    /// A path that is not there, cannot be read, or is a file without text; no text at all.
    pub fn read(paths: &[PathBuf]) -> anyhow::Result<Self> {
        let mut library = Self::default();
        for path in paths {
            let missing = || {
                format!(
                    "{} cannot be read (is it a part of the query? that has to be in quotes)",
                    path.display()
                )
            };
            if fs::metadata(path).with_context(missing)?.is_dir() {
                library.add_folder(path)?;
            } else {
                library.add_file(path)?;
            }
        }
        if library.passages.is_empty() {
            let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
            bail!(
                "there is no text in {} ({} files were skipped): expected files of UTF-8 text of up to {} MiB, or folders of them",
                paths.join(", "),
                library.skipped,
                MAX_FILE >> 20
            );
        }
        Ok(library)
    }

    fn add_folder(&mut self, folder: &Path) -> anyhow::Result<()> {
        let entries = fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let mut entries = entries.with_context(|| format!("{} cannot be read", folder.display()))?;
        if entries.iter().any(|entry| entry.file_name() == CACHE_MARK) {
            return Ok(());
        }
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (name, path) = (entry.file_name(), entry.path());
            if name.as_encoded_bytes().starts_with(b".") || name == OTHERS {
                continue;
            }
            // Links may lead back up here.
            let added = match entry.file_type() {
                Ok(kind) if kind.is_dir() => self.add_folder(&path),
                Ok(kind) if kind.is_file() => self.add_file(&path),
                _ => Err(anyhow!("{} is neither a file nor a folder", path.display())),
            };
            if let Err(error) = added {
                tracing::debug!("skipped: {error:#}");
                self.skipped += 1;
            }
        }
        Ok(())
    }

    fn add_file(&mut self, path: &Path) -> anyhow::Result<()> {
        let unreadable = || format!("{} cannot be read", path.display());
        let about = fs::metadata(path).with_context(unreadable)?;
        // A pipe or a device would have no end.
        if !about.is_file() || about.len() > MAX_FILE {
            bail!("{} is no file of at most {} MiB", path.display(), MAX_FILE >> 20);
        }
        if !self.seen.insert(path.canonicalize().with_context(unreadable)?) {
            return Ok(());
        }
        match String::from_utf8(fs::read(path).with_context(unreadable)?) {
            Ok(text) if !text.contains('\0') => {
                self.passages.extend(passages(&text, self.files.len()));
                self.files.push(path.to_owned());
                Ok(())
            }
            _ => bail!("{} is no UTF-8 text", path.display()),
        }
    }
}

/// Cuts a text into passages, at empty lines where it can.
fn passages(text: &str, file: usize) -> Vec<Passage> {
    let mut found = Vec::new();
    let mut held = Passage { file, line: 0, text: String::new() };
    let mut end = |held: &mut Passage| {
        let passage = std::mem::replace(held, Passage { file, line: 0, text: String::new() });
        if !passage.text.is_empty() {
            found.push(passage);
        }
    };
    for (index, line) in text.lines().map(str::trim).enumerate() {
        if held.text.len() >= if line.is_empty() { PARAGRAPHS } else { LINES } {
            end(&mut held);
        }
        for piece in pieces(line) {
            if held.text.len() + piece.len() > 2 * LINES {
                end(&mut held);
            }
            if held.text.is_empty() {
                held.line = index + 1;
            } else {
                held.text.push('\n');
            }
            held.text.push_str(piece);
        }
    }
    end(&mut held);
    found
}

/// A line in pieces of about `LINES` bytes, at characters' ends; an empty one has none.
fn pieces(mut line: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    while !line.is_empty() {
        let end = line.char_indices().map(|(start, _)| start).find(|&start| start >= LINES);
        let (piece, rest) = line.split_at(end.unwrap_or(line.len()));
        pieces.push(piece);
        line = rest;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(text: &str) -> Vec<(usize, usize)> {
        passages(text, 0).iter().map(|passage| (passage.line, passage.text.len())).collect()
    }

    #[test]
    fn paragraphs_are_joined_and_long_ones_cut_at_lines() {
        assert_eq!(starts(""), []);
        assert_eq!(starts("\n \n"), []);
        assert_eq!(starts("\n  one\ntwo\n\nthree"), [(2, 13)]);
        let paragraph = format!("{}\n", "x".repeat(99)).repeat(6);
        // 599 bytes are not enough, with the next paragraph they are.
        assert_eq!(starts(&format!("{paragraph}\n{paragraph}\n{paragraph}")), [(1, 1199), (15, 599)]);
        let long = format!("{}\n", "x".repeat(399)).repeat(7);
        assert_eq!(starts(&long), [(1, 1599), (5, 1199)]);
    }

    #[test]
    fn long_lines_are_cut_and_nothing_is_lost() {
        for line in ["x".repeat(5000), "\u{65e5}".repeat(3000)] {
            let found = passages(&format!("before\n{line}\nafter"), 0);
            assert!(found.iter().all(|passage| passage.text.len() <= 2 * LINES + 8));
            let joined: String = found.iter().flat_map(|passage| passage.text.split('\n')).collect();
            assert_eq!(joined, format!("before{line}after"));
            assert!(found.iter().skip(1).take(2).all(|passage| passage.line == 2));
        }
    }
}
