//! How texts are padded, and how far the preparation of fast padding is.

use danaus_engine::Padding;
use danaus_engine::padding::Progress;
use prometheus::{Error, IntCounter, IntGauge};

use super::register::Register;

#[derive(Debug, Clone)]
pub(super) struct Paddings {
    /// By padding, in the order of its numbers.
    texts: [IntCounter; 3],
    done: IntGauge,
    total: IntGauge,
    longest_fast: IntGauge,
}

impl Paddings {
    pub(super) fn new(register: Register<'_>) -> Result<Self, Error> {
        let texts = "Texts embedded, by how they were padded: none, fast or max-length.";
        let texts = register.counters("danaus_texts_padded_total", texts, &["padding"])?;
        let done =
            "Passes of the preparation of fast padding that are done; 0 where nothing is being prepared.";
        let total = "Passes of the whole preparation of fast padding; 0 where nothing is being prepared.";
        let longest = "Texts of 2 to so many tokens are fast with mean pooling; 0 where none is.";
        let all = [Padding::None, Padding::MaxLength, Padding::Fast];
        Ok(Self {
            texts: all.map(|padding| texts.with_label_values(&[&padding.to_string()])),
            done: register.gauge("danaus_padding_prepare_done", done)?,
            total: register.gauge("danaus_padding_prepare_total", total)?,
            longest_fast: register.gauge("danaus_padding_longest_fast_tokens", longest)?,
        })
    }

    pub(super) fn text(&self, padding: Padding) {
        self.texts[padding as usize].inc();
    }

    pub(super) fn present(&self, progress: Option<Progress>, longest_fast: usize) {
        let Progress { done, total, .. } = progress.unwrap_or_default();
        for (gauge, value) in [(&self.done, done), (&self.total, total), (&self.longest_fast, longest_fast)] {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }
}
