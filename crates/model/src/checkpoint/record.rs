//! What a PyTorch checkpoint says about a tensor: a view of a storage.

/// A tensor as the pickle describes it: a view of a storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TensorRecord<'a> {
    pub(super) storage: Storage<'a>,
    /// First element, counted in the storage's elements.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    /// Distance between neighbours in each dimension, in elements.
    pub(super) strides: Vec<usize>,
}

/// A storage that the archive keeps under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Storage<'a> {
    pub(super) key: &'a str,
    pub(super) kind: StorageKind,
    /// Its length, in elements.
    pub(super) elements: usize,
}

/// The class of a storage, which tells the type of its elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StorageKind(&'static (&'static str, &'static str, usize));

/// Class, dtype, bytes of an element.
const STORAGES: [(&str, &str, usize); 15] = [
    ("FloatStorage", "float32", 4),
    ("HalfStorage", "float16", 2),
    ("BFloat16Storage", "bfloat16", 2),
    ("DoubleStorage", "float64", 8),
    ("LongStorage", "int64", 8),
    ("IntStorage", "int32", 4),
    ("ShortStorage", "int16", 2),
    ("CharStorage", "int8", 1),
    ("ByteStorage", "uint8", 1),
    ("BoolStorage", "bool", 1),
    ("ComplexFloatStorage", "complex64", 8),
    ("ComplexDoubleStorage", "complex128", 16),
    ("QInt8Storage", "qint8", 1),
    ("QUInt8Storage", "quint8", 1),
    ("UntypedStorage", "uint8", 1),
];

impl StorageKind {
    /// The kind of the class of that name in Python's module `torch` or `torch.storage`.
    pub(super) fn of_class(name: &str) -> Option<Self> {
        STORAGES.iter().find(|storage| storage.0 == name).map(Self)
    }

    pub(super) fn dtype(self) -> &'static str {
        self.0.1
    }

    pub(super) fn element_size(self) -> usize {
        self.0.2
    }
}

impl TensorRecord<'_> {
    /// Index in its storage of the element farthest from the start (`Some(None)` for a tensor without elements); `None`
    /// where it overflows.
    pub(super) fn last_element(&self) -> Option<Option<usize>> {
        if self.shape.contains(&0) {
            return Some(None);
        }
        self.shape
            .iter()
            .zip(&self.strides)
            .try_fold(self.offset, |last, (size, stride)| last.checked_add((size - 1).checked_mul(*stride)?))
            .map(Some)
    }

    /// Whether the elements lie one after the other in row-major order.
    pub(super) fn is_contiguous(&self) -> bool {
        let mut expected = 1usize;
        self.shape.iter().zip(&self.strides).rev().all(|(&size, &stride)| {
            let fits = size == 1 || stride == expected;
            expected = expected.saturating_mul(size);
            fits
        })
    }
}
