//! Hints that memory will be read soon, so that it comes while something else is computed.

/// Elements of a line of the cache.
pub(crate) const LINE: usize = 16;

/// Asks for the line at `place`, in the first or the second level of the cache. Nothing is read; it may lie anywhere.
#[inline(always)]
pub(crate) fn fetch<const FIRST: bool>(place: *const impl Sized) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        // SAFETY: a hint has no effect but on the cache.
        unsafe {
            if FIRST {
                _mm_prefetch::<_MM_HINT_T0>(place.cast());
            } else {
                _mm_prefetch::<_MM_HINT_T1>(place.cast());
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// Asks for a share of `data`, `part` of `parts`, in the second level of the cache.
#[inline(always)]
pub(crate) fn fetch_share(data: &[f32], part: usize, parts: usize) {
    let lines = data.len().div_ceil(LINE);
    for line in lines * part / parts..lines * (part + 1) / parts {
        fetch::<false>(data.as_ptr().wrapping_add(line * LINE));
    }
}
