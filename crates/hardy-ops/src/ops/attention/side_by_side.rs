//! The heads of a long sequence side by side: one thread a head, where a sequence is otherwise one thread's. Which sequences are
//! long depends on their sizes alone, and a head's numbers are the same either way.

use super::{super::parallel, Heads, sequence::Sequence};

/// Multiplications of a sequence's scores from which on its heads are worth tasks of their own.
const LONG: usize = 1 << 26;

/// Whether they are.
pub(super) fn worth(sequence: &Sequence, heads: Heads) -> bool {
    let rows = sequence.rows.len();
    heads.query > 1 && rows * (sequence.offset(heads) + rows) * heads.query_width() >= LONG
}

/// Lays the columns of every head, `[rows, d]` each, side by side into `all` `[rows, heads·d]`.
pub(super) fn lay(parts: &[Vec<f32>], heads: Heads, all: &mut [f32]) {
    let (width, dim) = (heads.query_width(), heads.dim);
    parallel::for_chunks(
        all,
        width,
        #[inline(always)]
        |first, all| {
            for (row, all) in (first..).zip(all.chunks_exact_mut(width)) {
                for (part, all) in parts.iter().zip(all.chunks_exact_mut(dim)) {
                    all.copy_from_slice(&part[row * dim..][..dim]);
                }
            }
        },
    );
}
