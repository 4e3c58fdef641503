//! The allocator keeps freed pages for the length of the process: a training step frees and takes the same memory over
//! and over, and returning it to the system in between costs a page fault for each of its pages.

/// `mi_option_purge_delay` of mimalloc's `mimalloc.h` (both of its version 2 and 3).
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
const NEVER: std::ffi::c_long = -1;

/// Turns the return of freed pages off.
pub fn keep_freed_pages() {
    // SAFETY: the option exists in every version of mimalloc that is built here, and setting it is allowed at any time.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, NEVER) }
}
