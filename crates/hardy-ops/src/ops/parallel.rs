//! Rows in parallel, in chunks whose size depends on their width alone, never on the number of threads.

use std::{mem::MaybeUninit, ops::Range};

use hardy_numerics::simd::dispatch;
use rayon::prelude::*;

/// Elements of a chunk; below one chunk the calling thread does all.
const CHUNK: usize = 16 * 1024;

/// Rows of a chunk for rows of `width`.
pub(crate) fn chunk_rows(width: usize) -> usize {
    (CHUNK / width.max(1)).max(1)
}

/// Calls `kernel(first_row, rows)` on every chunk of `y` `[rows, width]`, under the best SIMD level.
///
/// Here and below, everything between `dispatch` and the loop is `#[inline(always)]`: what is not inlined is compiled
/// without SIMD.
pub(crate) fn for_chunks(y: &mut [f32], width: usize, kernel: impl Fn(usize, &mut [f32]) + Sync) {
    let size = chunk_rows(width) * width;
    for_chunks_of(
        y,
        size,
        #[inline(always)]
        |first, chunk| kernel(first / width, chunk),
    );
}

/// `f` of every element of `x`.
pub(crate) fn map(x: &[f32], f: impl Fn(f32) -> f32 + Sync) -> Vec<f32> {
    // SAFETY: there are as many elements in `x`.
    unsafe {
        written(
            x.len(),
            CHUNK,
            #[inline(always)]
            |first, y| {
                for (y, x) in y.iter_mut().zip(&x[first..]) {
                    y.write(f(*x));
                }
            },
        )
    }
}

/// `f` of every pair of elements of `a` and `b`.
pub(crate) fn map2(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32 + Sync) -> Vec<f32> {
    assert_eq!(a.len(), b.len(), "elements of a pair");
    // SAFETY: there are as many elements in `a` and `b`.
    unsafe {
        written(
            a.len(),
            CHUNK,
            #[inline(always)]
            |first, y| {
                for ((y, a), b) in y.iter_mut().zip(&a[first..]).zip(&b[first..]) {
                    y.write(f(*a, *b));
                }
            },
        )
    }
}

/// `f` of every triple of elements of `a`, `b` and `c`.
pub(crate) fn map3(a: &[f32], b: &[f32], c: &[f32], f: impl Fn(f32, f32, f32) -> f32 + Sync) -> Vec<f32> {
    assert!(a.len() == b.len() && a.len() == c.len(), "elements of a triple");
    // SAFETY: there are as many elements in `a`, `b` and `c`.
    unsafe {
        written(
            a.len(),
            CHUNK,
            #[inline(always)]
            |first, y| {
                for (((y, a), b), c) in y.iter_mut().zip(&a[first..]).zip(&b[first..]).zip(&c[first..]) {
                    y.write(f(*a, *b, *c));
                }
            },
        )
    }
}

/// `len` elements that `kernel(first_element, elements)` writes, chunk by chunk of `size`; nothing is written before.
///
/// # Safety
/// The kernel must write every element of its chunk.
pub(crate) unsafe fn written(
    len: usize,
    size: usize,
    kernel: impl Fn(usize, &mut [MaybeUninit<f32>]) + Sync,
) -> Vec<f32> {
    let mut y = Vec::with_capacity(len);
    for_chunks_of(&mut y.spare_capacity_mut()[..len], size, kernel);
    // SAFETY: all were written, as the caller says.
    unsafe { y.set_len(len) };
    y
}

/// `len` zeros.
pub(crate) fn zeros(len: usize) -> Vec<f32> {
    from_zeros(len, 1, |_, _| ())
}

/// `len` elements, in rows of `width`, that `kernel(first_row, rows)` makes of zeros: cleared by the thread that fills them,
/// while they are in its cache.
pub(crate) fn from_zeros(len: usize, width: usize, kernel: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    // SAFETY: every element is cleared, and a slice of what may not be written lies as one of what is.
    unsafe {
        written(
            len,
            chunk_rows(width) * width,
            #[inline(always)]
            |first, y| {
                y.iter_mut().for_each(|y| _ = y.write(0.0));
                kernel(first / width, &mut *(std::ptr::from_mut(y) as *mut [f32]));
            },
        )
    }
}

/// The elements of all parts, one after another.
pub(crate) fn concat(parts: &[Vec<f32>]) -> Vec<f32> {
    let len = parts.iter().map(Vec::len).sum();
    let mut all = Vec::with_capacity(len);
    let (mut rest, mut places) = (&mut all.spare_capacity_mut()[..len], Vec::new());
    for part in parts {
        let place;
        (place, rest) = rest.split_at_mut(part.len());
        places.push((place, part));
    }
    places.into_par_iter().for_each(|(place, part)| {
        place.iter_mut().zip(part).for_each(|(place, x)| {
            place.write(*x);
        });
    });
    // SAFETY: the places of the parts are all there is, and each was written.
    unsafe { all.set_len(len) };
    all
}

/// Replaces every element of `y` by `f` of it.
pub(crate) fn each(y: &mut [f32], f: impl Fn(f32) -> f32 + Sync) {
    for_chunks_of(
        y,
        CHUNK,
        #[inline(always)]
        |_, y| y.iter_mut().for_each(|y| *y = f(*y)),
    );
}

/// Replaces every element of `y` by `f` of it and of that of `x`.
pub(crate) fn zip(y: &mut [f32], x: &[f32], f: impl Fn(f32, f32) -> f32 + Sync) {
    assert_eq!(y.len(), x.len(), "elements of a pair");
    for_chunks_of(
        y,
        CHUNK,
        #[inline(always)]
        |first, y| {
            for (y, x) in y.iter_mut().zip(&x[first..]) {
                *y = f(*y, *x);
            }
        },
    );
}

/// Calls `kernel(first_element, elements)` on every chunk of `size` elements of `y`.
pub(crate) fn for_chunks_of<T: Send>(y: &mut [T], size: usize, kernel: impl Fn(usize, &mut [T]) + Sync) {
    let one = |(index, chunk): (usize, &mut [T])| {
        dispatch(
            #[inline(always)]
            || kernel(index * size, chunk),
        )
    };
    if y.len() <= size {
        return one((0, y));
    }
    y.par_chunks_mut(size).enumerate().for_each(one);
}

/// Adds to `total` what `kernel(run, &mut sum)` adds for every run of rows, in the order of the runs.
pub(crate) fn sum_over_runs(
    runs: &[Range<usize>],
    total: &mut [f32],
    kernel: impl Fn(&Range<usize>, &mut [f32]) + Sync,
) {
    let size = total.len();
    let part = |run: &Range<usize>| {
        let mut sum = vec![0.0; size];
        dispatch(
            #[inline(always)]
            || kernel(run, &mut sum),
        );
        sum
    };
    let parts: Vec<Vec<f32>> = runs.par_iter().map(part).collect();
    for part in parts {
        total.iter_mut().zip(part).for_each(|(total, x)| *total += x);
    }
}
