//! Memory that starts at a cache line, so that vectors of a row do not straddle two.

use std::ops::{Deref, DerefMut};

/// A cache line, which is also the widest vector.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([u32; Line::WORDS]);

impl Line {
    const WORDS: usize = 16;
}

/// Values of 32 bits for which all bits are valid.
pub trait Word: Copy + sealed::Sealed {}

impl Word for f32 {}
impl Word for u32 {}
impl Word for i32 {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for u32 {}
    impl Sealed for i32 {}
}

/// Values that start at a cache line: a slice that keeps its memory when it shrinks.
#[derive(Debug, Clone)]
pub struct Buffer<T> {
    lines: Vec<Line>,
    length: usize,
    values: std::marker::PhantomData<T>,
}

impl<T: Word> Buffer<T> {
    /// `length` values, all bits zero.
    pub fn zeroed(length: usize) -> Self {
        let mut buffer = Self::default();
        buffer.resize(length);
        buffer
    }

    /// Makes this `length` values long. Those that were never there before have all bits zero; others are what they were
    /// last, even where this was shorter in between.
    pub fn resize(&mut self, length: usize) {
        let lines = length.div_ceil(Line::WORDS);
        if lines > self.lines.len() {
            // Exactly what is asked for: a buffer is sized for its pass, not appended to.
            self.lines.reserve_exact(lines - self.lines.len());
            self.lines.resize(lines, Line([0; Line::WORDS]));
        }
        self.length = length;
    }
}

impl<T> Default for Buffer<T> {
    fn default() -> Self {
        Self { lines: Vec::new(), length: 0, values: std::marker::PhantomData }
    }
}

impl<T: Word> Deref for Buffer<T> {
    type Target = [T];
    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: the lines hold at least `length` words (`resize`), which any `Word` may be made of.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.length) }
    }
}

impl<T: Word> DerefMut for Buffer<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and every `Word` is valid as bits.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.length) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_aligned_and_keeps_its_values() {
        let mut buffer = Buffer::<f32>::zeroed(17);
        assert_eq!(buffer.as_ptr() as usize % 64, 0);
        assert_eq!(*buffer, [0.0; 17]);
        buffer[16] = 3.0;
        buffer.resize(100);
        assert_eq!((buffer.len(), buffer[16], buffer[99]), (100, 3.0, 0.0));
        buffer.resize(17);
        assert_eq!((buffer.len(), buffer[16]), (17, 3.0));
        buffer.resize(0);
        assert!(buffer.is_empty());
    }
}
