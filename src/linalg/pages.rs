//! Large pages for large matrices.
//!
//! Fresh memory costs a page fault for every page that is touched first, and a matrix of the
//! factorisation is touched once or twice only. With pages of 2 MiB instead of 4 KiB the faults of a
//! whole matrix are a few dozen, and the processor finds its columns faster. Linux gives them where it
//! has them and where it is asked to; everything works without.

use super::scalar::Scalar;

/// Below this many bytes the large pages of a buffer would be one or none.
const LEAST_BYTES: usize = 4 << 20;

#[cfg(target_os = "linux")]
mod system {
    use std::ffi::{c_int, c_void};

    /// As every architecture of Linux counts it.
    pub const HUGE_PAGE: c_int = 14;

    unsafe extern "C" {
        pub fn madvise(address: *mut c_void, length: usize, advice: c_int) -> c_int;
    }
}

/// Asks for large pages under a buffer, best before it is touched.
pub fn prefer_large<T: Scalar>(buffer: &mut [T]) {
    let bytes = size_of_val(buffer);
    if bytes < LEAST_BYTES {
        return;
    }
    #[cfg(target_os = "linux")]
    {
        const PAGE: usize = 1 << 16;
        let start = buffer.as_mut_ptr().cast::<u8>();
        // The pages of all architectures divide 64 KiB; a part of such a page may be someone else's.
        let skip = start.align_offset(PAGE);
        let inside = bytes.saturating_sub(skip) / PAGE * PAGE;
        // SAFETY: the range lies inside the buffer, and this advice changes neither what the memory
        // holds nor who owns it. An answer of "no" changes nothing.
        unsafe {
            system::madvise(start.wrapping_add(skip).cast(), inside, system::HUGE_PAGE);
        }
    }
}
