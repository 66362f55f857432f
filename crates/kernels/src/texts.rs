//! Where each text of a batch is.

use std::ops::Range;

/// The rows of a batch's texts: in order, disjoint, and within the batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Texts {
    ranges: Vec<Range<usize>>,
}

impl Texts {
    /// Adds a text of `tokens` rows after those that are there.
    ///
    /// # Panics
    /// Where the batch would have more rows than memory has bytes.
    pub fn push(&mut self, tokens: usize) {
        let start = self.rows();
        let end = start.checked_add(tokens).expect("a batch in memory");
        self.ranges.push(start..end);
    }

    /// Rows of all texts.
    pub fn rows(&self) -> usize {
        self.ranges.last().map_or(0, |last| last.end)
    }

    /// Number of texts.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The rows of text `index`.
    ///
    /// # Panics
    /// Where there are fewer texts.
    pub fn range(&self, index: usize) -> Range<usize> {
        self.ranges[index].clone()
    }

    /// The rows of each text, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Range<usize>> + '_ {
        self.ranges.iter().cloned()
    }
}

impl FromIterator<usize> for Texts {
    /// Texts of these lengths, end to end.
    fn from_iter<I: IntoIterator<Item = usize>>(lengths: I) -> Self {
        let mut texts = Self::default();
        lengths.into_iter().for_each(|tokens| texts.push(tokens));
        texts
    }
}
