//! What a vector follows from.

use danaus_engine::Text;
use sha2::{Digest, Sha256};

/// A digest of everything that can change a text's vector within one process: two texts with the same key have the same one.
///
/// Of the text itself only its token ids count. Rows are what the encoder computes for it: with fast padding they differ from
/// those of the exact pass. Where a GPU was given up, the CPU's vectors follow, and what the GPU computed before is no longer
/// trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct VectorKey([u8; 32]);

impl VectorKey {
    pub(crate) fn new(text: &Text<'_>, rows: usize, demoted: bool) -> Self {
        let mut hash = Sha256::new();
        hash.update(format!("{} {} {rows} {demoted}\n", text.pooling, text.padding));
        for &id in text.ids {
            hash.update(id.to_le_bytes());
        }
        Self(hash.finalize().into())
    }
}
