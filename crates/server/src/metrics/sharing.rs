//! Texts that were not computed anew.

use prometheus::{Error, IntCounter, IntCounterVec, IntGauge};

use super::register::Register;
use crate::cache::CacheSize;

#[derive(Debug, Clone)]
pub(super) struct Sharing {
    cache_texts: IntCounterVec,
    cache_entries: IntGauge,
    cache_bytes: IntGauge,
    shared_texts: IntCounter,
}

impl Sharing {
    pub(super) fn new(register: Register<'_>) -> Result<Self, Error> {
        let asked = "Texts looked up in the cache, by result: hit or miss.";
        let shared = "Texts not computed because an equal one was on its way.";
        Ok(Self {
            cache_texts: register.counters("danaus_cache_texts_total", asked, &["result"])?,
            cache_entries: register.gauge("danaus_cache_entries", "Vectors in the cache.")?,
            cache_bytes: register.gauge("danaus_cache_bytes", "What the vectors in the cache take.")?,
            shared_texts: register.counter("danaus_shared_texts_total", shared)?,
        })
    }

    pub(super) fn cache_asked(&self, hits: usize, misses: usize) {
        self.cache_texts.with_label_values(&["hit"]).inc_by(hits as u64);
        self.cache_texts.with_label_values(&["miss"]).inc_by(misses as u64);
    }

    pub(super) fn texts_shared(&self, texts: usize) {
        self.shared_texts.inc_by(texts as u64);
    }

    pub(super) fn cached(&self, CacheSize { vectors, bytes }: CacheSize) {
        self.cache_entries.set(i64::try_from(vectors).unwrap_or(i64::MAX));
        self.cache_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}
