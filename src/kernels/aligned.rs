//! Memory for activations and weights that starts at a cache line.

use std::alloc::{Layout, handle_alloc_error};
use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

/// A cache line, and the widest vector.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

/// Floats of a cache line.
const LINE: usize = 16;

/// From this size on, a buffer has pages of its own: two of the large pages of x86-64.
const OWN_PAGES: usize = 4 << 20;

/// Floats of fixed number whose first one stands at the start of a cache line. A vector load that
/// crosses two lines takes twice as long, and `Vec<f32>` usually starts 16 bytes into one.
#[derive(Debug)]
pub struct AlignedBuffer {
    memory: Memory,
    length: usize,
}

#[derive(Debug)]
enum Memory {
    Lines(Vec<Line>),
    /// Zeroed by the system when they are first written, so that the threads which fill a buffer
    /// share that work, and large where the system has such pages: weights are read from end to
    /// end, and every small page costs a look-up of its address.
    Pages(MmapMut),
}

impl AlignedBuffer {
    /// `length` zeros.
    pub fn zeroed(length: usize) -> Self {
        let memory = if length * size_of::<f32>() < OWN_PAGES {
            Memory::Lines(vec![Line([0.0; LINE]); length.div_ceil(LINE)])
        } else {
            Memory::Pages(pages(length * size_of::<f32>()))
        };
        AlignedBuffer { memory, length }
    }
}

/// Fresh pages; ends the program where there is no memory, as every allocation does.
fn pages(bytes: usize) -> MmapMut {
    let Ok(pages) = MmapMut::map_anon(bytes) else {
        handle_alloc_error(Layout::array::<u8>(bytes).unwrap_or(Layout::new::<Line>()));
    };
    // A kernel without large pages refuses, and small ones hold the same numbers.
    #[cfg(target_os = "linux")]
    let _ = pages.advise(memmap2::Advice::HugePage);
    pages
}

impl Deref for AlignedBuffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        let start = match &self.memory {
            Memory::Lines(lines) => lines.as_ptr().cast(),
            Memory::Pages(pages) => pages.as_ptr().cast(),
        };
        // SAFETY: `Line` is sixteen floats without padding, a page starts at a multiple of 64
        // bytes, and each kind of memory holds at least `length` floats in one piece, all
        // initialised.
        unsafe { std::slice::from_raw_parts(start, self.length) }
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        let start = match &mut self.memory {
            Memory::Lines(lines) => lines.as_mut_ptr().cast(),
            Memory::Pages(pages) => pages.as_mut_ptr().cast(),
        };
        // SAFETY: as in `deref`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(start, self.length) }
    }
}

impl Clone for AlignedBuffer {
    fn clone(&self) -> Self {
        let mut copy = AlignedBuffer::zeroed(self.length);
        copy.copy_from_slice(self);
        copy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_has_its_length_in_zeros_and_starts_at_a_cache_line() {
        let large = OWN_PAGES / size_of::<f32>();
        for length in [0, 1, 15, 16, 17, 1000, large - 1, large, large + 17] {
            let buffer = AlignedBuffer::zeroed(length);
            assert_eq!(buffer.len(), length);
            assert!(buffer.iter().all(|&value| value == 0.0));
            assert_eq!(buffer.as_ptr().addr() % 64, 0);
        }
    }

    #[test]
    fn what_is_written_is_read_back_up_to_the_last_float() {
        for length in [35, OWN_PAGES / size_of::<f32>() + 3] {
            let mut buffer = AlignedBuffer::zeroed(length);
            for (at, value) in buffer.iter_mut().enumerate() {
                *value = at as f32;
            }
            let copy = buffer.clone();
            drop(buffer);
            assert_eq!(copy[length - 1], (length - 1) as f32);
            assert_eq!(copy[..3], [0.0, 1.0, 2.0]);
        }
    }
}
