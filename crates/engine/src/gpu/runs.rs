//! Which texts go through the model together.

use super::PaddedText;

/// Splits texts into runs of at most `most` rows each; a text that is longer than that is a run of its own.
pub(super) fn runs<'t, 'a>(texts: &'t [PaddedText<'a>], most: usize) -> Vec<&'t [PaddedText<'a>]> {
    let mut runs = Vec::new();
    let (mut start, mut rows) = (0, 0);
    for (index, text) in texts.iter().enumerate() {
        if index > start && rows + text.rows > most {
            runs.push(&texts[start..index]);
            (start, rows) = (index, 0);
        }
        rows += text.rows;
    }
    if start < texts.len() {
        runs.push(&texts[start..]);
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Pooled;

    const IDS: [u32; 9] = [1; 9];

    fn text(tokens: usize) -> PaddedText<'static> {
        PaddedText { ids: &IDS[..tokens], rows: tokens, far_field: None, pooled: Pooled::Mean }
    }

    #[test]
    fn runs_are_as_large_as_allowed_and_no_text_is_lost() {
        let texts = [3, 4, 9, 1, 1].map(text);
        let lengths: Vec<_> = runs(&texts, 8).iter().map(|run| run.len()).collect();
        assert_eq!(lengths, [2, 1, 2]);
        assert!(runs(&[], 8).is_empty());
    }
}
