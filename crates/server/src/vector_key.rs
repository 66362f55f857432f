//! What a vector follows from.

use danaus_engine::Text;
use danaus_engine::padding::Window;
use sha2::{Digest, Sha256};

/// A digest of everything that can change a text's vector within one process: two texts with the same key have the same one.
///
/// Of the text itself only its token ids count, and of its padding only what is computed: a text that fast padding does not
/// serve shares its vector with one that was to be padded to the model's length. Rows, of the window and of its sketch, tell apart
/// fast windows of plans that follow each other. (Two that have the same rows are both within the bound.) Where a GPU was given up, the CPU's vectors follow, and what the GPU computed before is no longer
/// trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct VectorKey([u8; 32]);

impl VectorKey {
    pub(crate) fn new(text: &Text<'_>, demoted: bool) -> Self {
        let Window { padding, rows, .. } = text.window;
        let cost = text.window.cost();
        let mut hash = Sha256::new();
        hash.update(format!("{} {padding} {rows} {cost} {demoted}\n", text.pooling));
        for &id in text.ids {
            hash.update(id.to_le_bytes());
        }
        Self(hash.finalize().into())
    }
}
