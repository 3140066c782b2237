//! Memory that ends the test where a kernel leaves its slice, on every instruction set.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ffi::{c_int, c_void};

/// The largest page of the systems that p8 runs on, in bytes.
const PAGE: usize = 64 << 10;

const NO_ACCESS: c_int = 0;
const READ_AND_WRITE: c_int = 1 | 2;

unsafe extern "C" {
    fn mprotect(address: *mut c_void, length: usize, protection: c_int) -> c_int;
    fn fork() -> c_int;
    fn waitpid(process: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn _exit(status: c_int) -> !;
}

/// Which end of the floats has no room to its page.
#[derive(Debug, Clone, Copy)]
pub(super) enum Tight {
    Front,
    Back,
}

/// Floats between two pages that cannot be read or written.
pub(super) struct Fenced {
    start: *mut u8,
    layout: Layout,
    floats: *mut f32,
    length: usize,
}

impl Fenced {
    /// A copy of the floats with one end at a page without access.
    pub(super) fn new(floats: &[f32], tight: Tight) -> Self {
        let room = size_of_val(floats).next_multiple_of(PAGE);
        let layout = Layout::from_size_align(room + 2 * PAGE, PAGE).expect("not overly large");
        let first = match tight {
            Tight::Front => PAGE,
            Tight::Back => PAGE + room - size_of_val(floats),
        };
        // SAFETY: the layout is not empty; both protected pages and the floats lie in it, the floats
        // between the pages and at a multiple of four bytes.
        unsafe {
            let start = alloc(layout);
            if start.is_null() {
                handle_alloc_error(layout);
            }
            let fenced = Fenced {
                start,
                layout,
                floats: start.add(first).cast(),
                length: floats.len(),
            };
            fenced
                .floats
                .copy_from_nonoverlapping(floats.as_ptr(), floats.len());
            fenced.protect(NO_ACCESS);
            fenced
        }
    }

    pub(super) fn slice(&self) -> &[f32] {
        // SAFETY: so many floats were copied there.
        unsafe { std::slice::from_raw_parts(self.floats, self.length) }
    }

    pub(super) fn slice_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `slice`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.floats, self.length) }
    }

    fn protect(&self, protection: c_int) {
        for offset in [0, self.layout.size() - PAGE] {
            // SAFETY: both pages are this allocation's and hold nothing.
            let status = unsafe { mprotect(self.start.add(offset).cast(), PAGE, protection) };
            assert_eq!(status, 0, "mprotect");
        }
    }
}

impl Drop for Fenced {
    fn drop(&mut self) {
        self.protect(READ_AND_WRITE);
        // SAFETY: allocated with this layout, and the allocator may write everywhere again.
        unsafe { dealloc(self.start, self.layout) }
    }
}

#[test]
fn a_float_beyond_the_fence_ends_the_process() {
    const SIGSEGV: c_int = 11;
    for (tight, beyond) in [(Tight::Front, -1), (Tight::Back, 5)] {
        let fenced = Fenced::new(&[1.0; 5], tight);
        assert_eq!(fenced.slice(), [1.0; 5]);
        let mut status = 0;
        // SAFETY: the child allocates nothing and takes no lock, and ends at the latest after it has
        // read what lies beyond, which is what the test is about.
        unsafe {
            let child = fork();
            if child == 0 {
                fenced.floats.offset(beyond).read_volatile();
                _exit(0);
            }
            assert_eq!(waitpid(child, &mut status, 0), child, "waitpid");
        }
        assert_eq!(status & 0x7f, SIGSEGV, "{tight:?}");
    }
}
