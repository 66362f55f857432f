//! Where `danaus embed` writes vectors.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;
use tempfile::NamedTempFile;

use crate::args::OutputFormat;
use crate::npy;

/// One row of the JSON lines.
#[derive(Serialize)]
struct Line<'a> {
    index: u64,
    tokens: usize,
    embedding: &'a [f32],
}

/// Writes rows in order. A file appears under its name only when it is whole.
pub struct Output {
    target: Target,
    array: Option<Array>,
    dimension: usize,
}

enum Target {
    Stdout(BufWriter<io::Stdout>),
    File { writer: BufWriter<NamedTempFile>, path: PathBuf },
}

/// The rows of an array: its header gives their number, so they wait in a temporary file without a name.
struct Array {
    rows: u64,
    values: BufWriter<File>,
}

impl Target {
    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Target::Stdout(writer) => writer,
            Target::File { writer, .. } => writer,
        }
    }
}

impl Output {
    /// Output to `path`, else to standard output, of vectors of `dimension` values.
    pub fn create(format: OutputFormat, path: Option<&Path>, dimension: usize) -> anyhow::Result<Self> {
        let target = match path {
            None => Target::Stdout(BufWriter::new(io::stdout())),
            Some(path) => {
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                let folder = folder.unwrap_or(Path::new("."));
                let file = NamedTempFile::new_in(folder)
                    .with_context(|| format!("cannot write to the folder {}", folder.display()))?;
                Target::File { writer: BufWriter::new(file), path: path.to_owned() }
            }
        };
        let array = match format {
            OutputFormat::Jsonl => None,
            OutputFormat::Npy => {
                let file = tempfile::tempfile().context("cannot make a temporary file")?;
                Some(Array { rows: 0, values: BufWriter::new(file) })
            }
        };
        Ok(Self { target, array, dimension })
    }

    /// Writes one row.
    pub fn write(&mut self, index: u64, tokens: usize, embedding: &[f32]) -> anyhow::Result<()> {
        if let Some(array) = &mut self.array {
            return array.push(embedding);
        }
        let writer = self.target.writer();
        serde_json::to_writer(&mut *writer, &Line { index, tokens, embedding })
            .map_err(io::Error::from)
            .and_then(|()| writer.write_all(b"\n"))
            .context("cannot write the output")
    }

    /// Keeps the place of a row that has no vector, where the format needs it.
    pub fn skip(&mut self) -> anyhow::Result<()> {
        let dimension = self.dimension;
        self.array.as_mut().map_or(Ok(()), |array| array.push(&vec![f32::NAN; dimension]))
    }

    /// Writes what is left, and gives a file its name.
    pub fn finish(mut self) -> anyhow::Result<()> {
        if let Some(array) = self.array.take() {
            array.copy_to(self.target.writer(), self.dimension).context("cannot write the output")?;
        }
        match self.target {
            Target::Stdout(mut writer) => writer.flush().context("cannot write the output"),
            Target::File { writer, path } => {
                let file = writer
                    .into_inner()
                    .map_err(io::IntoInnerError::into_error)
                    .context("cannot write the output")?;
                file.as_file().sync_all().context("cannot write the output")?;
                file.persist(&path).with_context(|| format!("cannot write {}", path.display()))?;
                Ok(())
            }
        }
    }
}

impl Array {
    fn push(&mut self, values: &[f32]) -> anyhow::Result<()> {
        self.rows += 1;
        for value in values {
            self.values.write_all(&value.to_le_bytes()).context("cannot write a temporary file")?;
        }
        Ok(())
    }

    fn copy_to(self, out: &mut dyn Write, dimension: usize) -> io::Result<()> {
        let mut values = self.values.into_inner().map_err(io::IntoInnerError::into_error)?;
        values.seek(SeekFrom::Start(0))?;
        npy::write_header(out, self.rows, dimension)?;
        io::copy(&mut values, out).map(drop)
    }
}
