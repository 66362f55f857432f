//! How far a request reaches: where the next one's head begins.

/// What a request has left: bytes whose number is known, and a chunked body after them.
#[derive(Debug)]
pub(super) struct Extent {
    plain: u64,
    chunks: Option<Chunks>,
}

impl Extent {
    /// A head and a body of known length.
    pub(super) fn sized(head: usize, body: u64) -> Self {
        Self { plain: body.saturating_add(head as u64), chunks: None }
    }

    /// A head and a chunked body.
    pub(super) fn chunked(head: usize) -> Self {
        Self { plain: head as u64, chunks: Some(Chunks::Size(0)) }
    }

    /// All that is to come.
    pub(super) fn endless() -> Self {
        Self::sized(0, u64::MAX)
    }

    /// How many of these bytes belong to the request, which are taken off it.
    pub(super) fn take(&mut self, bytes: &[u8]) -> usize {
        let plain = self.plain.min(bytes.len() as u64) as usize;
        if self.plain != u64::MAX {
            self.plain -= plain as u64;
        }
        let rest = &bytes[plain..];
        plain + self.chunks.as_mut().map_or(0, |chunks| chunks.take(rest))
    }

    /// Whether nothing of it is to come.
    pub(super) fn is_over(&self) -> bool {
        self.plain == 0 && self.chunks.as_ref().is_none_or(|chunks| matches!(chunks, Chunks::End))
    }
}

/// Where in a chunked body we are. What is wrong with one is for hyper to say, which reads it too, and after which no other
/// request comes.
#[derive(Debug, Clone, Copy)]
enum Chunks {
    /// In a chunk's size, of which so much is known.
    Size(u64),
    /// In what may follow a chunk's size.
    Extension(u64),
    /// In a chunk; so much is left, the end of its line included.
    Data(u64),
    /// In a line after the last chunk: whether it is empty so far, and whether a CR was last. Only CR LF ends it, as for hyper.
    Trailer {
        empty: bool,
        cr: bool,
    },
    End,
}

impl Chunks {
    fn take(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while taken < bytes.len() {
            match self {
                Self::End => break,
                Self::Data(left) => {
                    let count = (*left).min((bytes.len() - taken) as u64);
                    *left -= count;
                    taken += count as usize;
                    if *left == 0 {
                        *self = Self::Size(0);
                    }
                }
                _ => {
                    *self = self.after(bytes[taken]);
                    taken += 1;
                }
            }
        }
        taken
    }

    fn after(self, byte: u8) -> Self {
        match (self, byte) {
            (Self::Size(0) | Self::Extension(0), b'\n') => Self::Trailer { empty: true, cr: false },
            (Self::Size(size) | Self::Extension(size), b'\n') => Self::Data(size.saturating_add(2)),
            (Self::Size(size), _) => match char::from(byte).to_digit(16) {
                Some(digit) => Self::Size(size.saturating_mul(16).saturating_add(digit.into())),
                None => Self::Extension(size),
            },
            (Self::Trailer { empty: true, cr: true }, b'\n') => Self::End,
            (Self::Trailer { cr: true, .. }, b'\n') => Self::Trailer { empty: true, cr: false },
            (Self::Trailer { empty, .. }, b'\r') => Self::Trailer { empty, cr: true },
            (Self::Trailer { .. }, _) => Self::Trailer { empty: false, cr: false },
            (other, _) => other,
        }
    }
}
