//! Message lengths cut below the limit of an MPI count, which is a C int.

use std::ops::Range;

/// Largest number of bytes in one MPI message: 2^30, half of what a C int can count.
pub const LARGEST_MESSAGE: usize = 1 << 30;

/// Cuts `length` bytes into ranges of at most `largest` bytes; none for a length of 0.
pub fn chunks(length: usize, largest: usize) -> impl Iterator<Item = Range<usize>> {
    assert!(largest > 0, "a message holds at least one byte");
    (0..length.div_ceil(largest)).map(move |i| i * largest..length.min((i + 1) * largest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_in_one_chunk_and_no_chunk_is_too_long() {
        for length in [
            0,
            1,
            LARGEST_MESSAGE - 1,
            LARGEST_MESSAGE,
            LARGEST_MESSAGE + 1,
            9 * LARGEST_MESSAGE + 5,
        ] {
            let mut next = 0;
            for chunk in chunks(length, LARGEST_MESSAGE) {
                assert_eq!(chunk.start, next);
                assert!(chunk.end - chunk.start <= LARGEST_MESSAGE && !chunk.is_empty());
                next = chunk.end;
            }
            assert_eq!(next, length);
        }
        assert!(i32::try_from(LARGEST_MESSAGE).is_ok());
    }
}
