//! Memory for activations and weights that starts at a cache line.

use std::ops::{Deref, DerefMut};

/// A cache line, and the widest vector.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Floats of fixed number whose first one stands at the start of a cache line. A vector load that
/// crosses two lines takes twice as long, and `Vec<f32>` usually starts 16 bytes into one.
#[derive(Debug, Clone)]
pub struct AlignedBuffer {
    lines: Vec<Line>,
    length: usize,
}

impl AlignedBuffer {
    /// `length` zeros.
    pub fn zeroed(length: usize) -> Self {
        let lines = length.div_ceil(16);
        AlignedBuffer {
            lines: vec![Line([0.0; 16]); lines],
            length,
        }
    }
}

impl Deref for AlignedBuffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: `Line` is sixteen floats without padding, and `lines` holds at least `length`
        // floats in one allocation, all initialised.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.length) }
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `deref`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.length) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_has_its_length_in_zeros_and_starts_at_a_cache_line() {
        for length in [0, 1, 15, 16, 17, 1000] {
            let buffer = AlignedBuffer::zeroed(length);
            assert_eq!(buffer.len(), length);
            assert!(buffer.iter().all(|&value| value == 0.0));
            assert_eq!(buffer.as_ptr().addr() % 64, 0);
        }
    }

    #[test]
    fn what_is_written_is_read_back_up_to_the_last_float() {
        let mut buffer = AlignedBuffer::zeroed(35);
        for (at, value) in buffer.iter_mut().enumerate() {
            *value = at as f32;
        }
        assert_eq!(buffer[34], 34.0);
        assert_eq!(buffer.clone()[..3], [0.0, 1.0, 2.0]);
    }
}
