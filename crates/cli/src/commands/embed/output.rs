//! Where `danaus embed` writes vectors.

use std::fs::{File, Metadata};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::Serialize;
use tempfile::NamedTempFile;

use crate::args::OutputFormat;
use crate::{npy, signals, stdout};

/// Where rows go.
pub enum Target {
    Stdout(BufWriter<io::Stdout>),
    /// A pipe or a device, which is written to and not replaced.
    Stream {
        writer: BufWriter<File>,
        path: PathBuf,
    },
    /// A file, which appears under its name only when it is whole.
    File {
        writer: BufWriter<NamedTempFile>,
        path: PathBuf,
    },
}

impl Target {
    /// Opens `path`, or standard output: what cannot be written is known before anything is computed.
    pub fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self::Stdout(BufWriter::new(io::stdout()))) };
        let context = || format!("cannot write to {}", path.display());
        let existing = match std::fs::metadata(path) {
            Ok(metadata) => Some(metadata),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(context),
        };
        match existing {
            Some(metadata) if metadata.is_dir() => bail!("{} is a folder: expected a file", path.display()),
            Some(metadata) if !metadata.is_file() => {
                let file = File::options().write(true).open(path).with_context(context)?;
                Ok(Self::Stream { writer: BufWriter::new(file), path: path.to_owned() })
            }
            // Not the link is replaced, but what it leads to.
            Some(metadata) => {
                Self::file(path.canonicalize().with_context(context)?, Some(&metadata)).with_context(context)
            }
            None => Self::file(path.to_owned(), None).with_context(context),
        }
    }

    fn file(path: PathBuf, existing: Option<&Metadata>) -> anyhow::Result<Self> {
        if path.file_name().is_none() || path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            bail!("expected the name of a file");
        }
        let file = incomplete_file(folder_of(&path), existing)?;
        signals::remove_when_stopped(file.path().to_owned())?;
        Ok(Self::File { writer: BufWriter::new(file), path })
    }

    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Self::Stdout(writer) => writer,
            Self::Stream { writer, .. } => writer,
            Self::File { writer, .. } => writer,
        }
    }

    /// What to report where a row could not be written.
    fn failure(&self, error: io::Error) -> anyhow::Error {
        match self {
            Self::Stdout(_) => stdout::failure(error),
            Self::Stream { path, .. } | Self::File { path, .. } => {
                anyhow::Error::new(error).context(format!("cannot write to {}", path.display()))
            }
        }
    }

    /// A file without a name, where there is room for as much as goes to the target.
    fn scratch(&self) -> io::Result<File> {
        match self {
            Self::Stdout(_) | Self::Stream { .. } => tempfile::tempfile(),
            Self::File { path, .. } => tempfile::tempfile_in(folder_of(path)),
        }
    }

    /// Writes what is left, and gives a file its name.
    fn finish(mut self) -> anyhow::Result<()> {
        self.writer().flush().map_err(|error| self.failure(error))?;
        if let Self::File { writer, path } = self {
            let whole = || {
                let file = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
                file.as_file().sync_all()?;
                file.persist(&path).map_err(|error| error.error)
            };
            whole().with_context(|| format!("cannot write to {}", path.display()))?;
        }
        Ok(())
    }
}

/// A file beside the one that it will replace, with the permissions of that one, or of an ordinary one.
fn incomplete_file(folder: &Path, existing: Option<&Metadata>) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".danaus-incomplete-");
    #[cfg(unix)]
    builder.permissions(match existing {
        Some(metadata) => metadata.permissions(),
        None => std::os::unix::fs::PermissionsExt::from_mode(0o666), // less what the umask takes
    });
    builder.tempfile_in(folder)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// One row of the JSON lines.
#[derive(Serialize)]
struct Line<'a> {
    index: u64,
    tokens: usize,
    embedding: &'a [f32],
}

/// Writes rows in order.
pub struct Output {
    target: Target,
    array: Option<Array>,
    dimension: usize,
}

/// The rows of an array: its header gives their number, so they wait in a file without a name.
struct Array {
    rows: u64,
    values: BufWriter<File>,
}

impl Output {
    /// Output to `target` of vectors of `dimension` values.
    pub fn new(format: OutputFormat, target: Target, dimension: usize) -> anyhow::Result<Self> {
        let array = match format {
            OutputFormat::Jsonl => None,
            OutputFormat::Npy => {
                let file = target.scratch().context("cannot make a temporary file")?;
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
            .map_err(|error| self.target.failure(error))
    }

    /// Keeps the place of a row that has no vector, where the format needs it.
    pub fn skip(&mut self) -> anyhow::Result<()> {
        let dimension = self.dimension;
        self.array.as_mut().map_or(Ok(()), |array| array.push(&vec![f32::NAN; dimension]))
    }

    /// Writes what is left, and gives a file its name.
    pub fn finish(mut self) -> anyhow::Result<()> {
        if let Some(array) = self.array.take() {
            let copied = array.copy_to(self.target.writer(), self.dimension);
            copied.map_err(|error| self.target.failure(error))?;
        }
        self.target.finish()
    }
}

impl Array {
    fn push(&mut self, values: &[f32]) -> anyhow::Result<()> {
        self.rows += 1;
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.values.write_all(&bytes).context("cannot write to a temporary file")
    }

    fn copy_to(self, out: &mut dyn Write, dimension: usize) -> io::Result<()> {
        let mut values = self.values.into_inner().map_err(io::IntoInnerError::into_error)?;
        values.seek(SeekFrom::Start(0))?;
        npy::write_header(out, self.rows, dimension)?;
        io::copy(&mut values, out).map(drop)
    }
}
