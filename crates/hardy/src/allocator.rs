//! The allocator keeps freed pages until it is told to return them: a training step frees and takes the same memory over
//! and over, and returning it to the system in between costs a page fault for each of its pages.

/// `mi_option_purge_delay` of mimalloc's `mimalloc.h` (both of its version 2 and 3).
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
/// Milliseconds of a day. With no delay at all, it would not be noted which pages are to be returned.
const LONG: std::ffi::c_long = 86_400_000;

/// Has freed pages kept until [`return_freed_pages`].
pub fn keep_freed_pages() {
    // SAFETY: the option exists in every version of mimalloc that is built here, and setting it is allowed at any time.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, LONG) }
}

/// Returns all of them to the system.
pub fn return_freed_pages() {
    // SAFETY: allowed at any time, on any thread.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
