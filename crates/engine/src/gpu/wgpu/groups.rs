//! In which order texts that go through the model together lie in memory.

use std::ops::Range;

use danaus_kernels::wgpu::{TextRows, gpu_filter_length};

use crate::gpu::{PaddedText, Pooled};

/// Texts as they lie in memory: end to end, those of one filter length together.
#[derive(Debug)]
pub(super) struct Layout {
    /// Which text comes first, second, ...
    pub order: Vec<usize>,
    /// In that order.
    pub places: Vec<TextRows>,
    /// The rows that are pooled, in that order.
    pub pooled: Vec<TextRows>,
    /// Each filter length, and which of the places have it.
    pub lengths: Vec<(usize, Range<usize>)>,
    /// Of all texts.
    pub rows: usize,
}

impl Layout {
    pub fn new(texts: &[PaddedText<'_>]) -> Self {
        let length = |index: usize| gpu_filter_length(texts[index].rows);
        let mut order: Vec<_> = (0..texts.len()).collect();
        order.sort_by_key(|&index| length(index));
        let mut layout = Self { places: Vec::new(), pooled: Vec::new(), lengths: Vec::new(), rows: 0, order };
        for (place, &index) in layout.order.iter().enumerate() {
            let text = &texts[index];
            let first = layout.rows as u32;
            layout.places.push(TextRows { first, rows: text.rows as u32 });
            let pooled = match text.pooled {
                Pooled::Mean => text.ids.len() as u32,
                Pooled::First => 1,
            };
            layout.pooled.push(TextRows { first, rows: pooled });
            match layout.lengths.last_mut() {
                Some((last, range)) if *last == length(index) => range.end = place + 1,
                _ => layout.lengths.push((length(index), place..place + 1)),
            }
            layout.rows += text.rows;
        }
        layout
    }
}

/// Places as the device reads them.
pub(super) fn table(places: &[TextRows]) -> Vec<u8> {
    places.iter().flat_map(|place| [place.first, place.rows]).flat_map(u32::to_ne_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: [u32; 40] = [1; 40];

    fn text(tokens: usize) -> PaddedText<'static> {
        PaddedText { ids: &IDS[..tokens], rows: tokens, far_field: None, pooled: Pooled::Mean }
    }

    #[test]
    fn texts_of_one_filter_length_lie_together() {
        let layout = Layout::new(&[40, 3, 35, 1].map(text));
        assert_eq!(layout.order, [1, 3, 0, 2]);
        assert_eq!(layout.lengths, [(32, 0..2), (64, 2..4)]);
        assert_eq!(layout.places[3], TextRows { first: 44, rows: 35 });
        assert_eq!(layout.rows, 79);
    }
}
