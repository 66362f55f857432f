//! Vectors of texts that were asked for before.

use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::vector_key::VectorKey;

/// A text's vector before it is finished; whoever asked for the text shares it.
pub(crate) type Pooled = Arc<Vec<f32>>;

type Vectors = Cache<VectorKey, Pooled, Bytes>;

/// Vectors, as pooled, of the texts asked for most and last, up to a size in bytes.
#[derive(Debug, Clone)]
pub(crate) struct VectorCache(Option<Arc<Vectors>>);

/// How much a cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct CacheSize {
    pub(crate) vectors: usize,
    pub(crate) bytes: u64,
}

/// What an entry takes: its vector, its key, and the cache's own bookkeeping, about.
#[derive(Debug, Clone)]
struct Bytes;

const BOOKKEEPING: usize = 128;

impl Bytes {
    /// For a vector of `dimension` components.
    fn of(dimension: usize) -> u64 {
        (dimension * size_of::<f32>() + size_of::<VectorKey>() + BOOKKEEPING) as u64
    }
}

impl Weighter<VectorKey, Pooled> for Bytes {
    fn weight(&self, _: &VectorKey, vector: &Pooled) -> u64 {
        Bytes::of(vector.len())
    }
}

impl VectorCache {
    /// A cache of that many bytes for vectors of `dimension` components; 0: none.
    pub(crate) fn new(bytes: usize, dimension: usize) -> Self {
        let entry = Bytes::of(dimension);
        let new = || Arc::new(Cache::with_weighter((bytes as u64 / entry) as usize, bytes as u64, Bytes));
        Self((bytes > 0).then(new))
    }

    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    pub(crate) fn get(&self, key: &VectorKey) -> Option<Pooled> {
        self.0.as_ref()?.get(key)
    }

    /// Keeps a vector, unless it is not finite: what is wrong once must not be wrong for ever.
    pub(crate) fn insert(&self, key: VectorKey, vector: &Pooled) {
        if let Some(cache) = &self.0
            && vector.iter().all(|component| component.is_finite())
        {
            cache.insert(key, Arc::clone(vector));
        }
    }

    pub(crate) fn size(&self) -> CacheSize {
        let size = |cache: &Arc<Vectors>| CacheSize { vectors: cache.len(), bytes: cache.weight() };
        self.0.as_ref().map(size).unwrap_or_default()
    }
}
