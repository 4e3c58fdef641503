//! A part of a product on one thread: its columns in blocks that stay in the second-level cache, its rows in groups as high as
//! the registers allow.

use std::ops::Range;

use hardy_numerics::simd::Level;

use super::{
    Mat,
    element::{Element, read_in_place},
    kernel::{Kernels, Micro, Sums},
    pack::{self, PANEL},
    right::{Panels, Right},
    scratch::{Blocks, Room, Scratch},
};

/// Elements of the right factor that stay in the cache while the rows of the left one pass by.
const BLOCK: usize = 96 * 1024;
/// Up to so many rows, the right factor is read where it lies.
pub(super) const IN_PLACE: usize = 96;

/// A part of a product: `out = a·b`, or `out += a·b`, every link of the inner dimension a chain of its own.
pub(super) struct Tile<'a, T = f32> {
    pub a: Mat<'a>,
    pub b: Right<'a, T>,
    pub out: *mut f32,
    /// From one row of the product to the next.
    pub stride: usize,
    pub links: &'a [Range<usize>],
    pub accumulate: bool,
    pub packing: Packing,
}

/// What becomes of the right factor.
#[derive(Clone, Copy)]
pub(super) struct Packing {
    /// It is packed wholly, for other parts with these columns too, and not block by block.
    pub kept: bool,
    /// It is read where it lies, if its rows lie in one piece.
    pub in_place: bool,
}

impl Packing {
    /// That of a product of `rows` rows in one part.
    pub fn of_one(rows: usize) -> Self {
        Self { kept: false, in_place: rows <= IN_PLACE }
    }
}

impl<T: Element> Tile<'_, T> {
    /// Computes it. The room holds blocks of the same columns of the same factor, if any.
    ///
    /// # Safety
    /// The part must be valid for writes, for reads too where it accumulates, and overlap neither factor; the shapes must fit.
    pub unsafe fn run(self, level: Level, scratch: &mut Scratch) {
        scratch.right.rewind();
        for (index, link) in self.links.iter().enumerate() {
            self.link(level, link, self.accumulate || index > 0, scratch);
        }
    }

    /// One link of the inner dimension.
    fn link(&self, level: Level, link: &Range<usize>, accumulate: bool, scratch: &mut Scratch) {
        let (a, inner) = (self.a.columns(link.start, link.len()), link.len());
        let packed_a = if a.row(0).is_some() { None } else { Some(pack_left(level, a, &mut scratch.left)) };
        let kept = self.packing.kept;
        let width = (BLOCK / inner.max(1) / PANEL * PANEL).clamp(PANEL, 1024);
        for first in (0..self.b.cols()).step_by(width) {
            let columns = first..self.b.cols().min(first + width);
            let b = self.b.rows_from(link.start, inner).columns(first, columns.len());
            let in_place = self.packing.in_place && read_in_place::<T>(level, packed_a.is_some());
            let ((panels, whole), rest) = b.parted(in_place);
            let middle = first + whole;
            if whole > 0 && (in_place || b.is_ready()) {
                self.block(level, (a, packed_a), &panels, first..middle, accumulate);
            } else if whole > 0 {
                let b = pack_right(
                    level,
                    [inner, whole],
                    kept,
                    &mut scratch.right,
                    #[inline(always)]
                    |to| pack::widen_panels(&panels, inner, to),
                );
                self.block(level, (a, packed_a), &b, first..middle, accumulate);
            }
            if middle < columns.end {
                let b = pack_right(
                    level,
                    [inner, rest.cols()],
                    kept,
                    &mut scratch.right,
                    #[inline(always)]
                    |to| pack::panels(level, rest, to),
                );
                self.block(level, (a, packed_a), &b, middle..columns.end, accumulate);
            }
        }
    }

    /// The columns `columns` of the product.
    fn block<U: Element>(
        &self,
        level: Level,
        left: (Mat, Option<&[f32]>),
        b: &Panels<U>,
        columns: Range<usize>,
        accumulate: bool,
    ) {
        let out = (self.out.wrapping_add(columns.start), self.stride);
        let sums = if accumulate { Sums::Add } else { Sums::Begin };
        // SAFETY: the factors lie within their slices, the right one with whole panels; the product is the creator's.
        unsafe { product(Kernels::of(level), left, b, out, columns.len(), sums) };
    }
}

/// A product whose factors are laid out: the left one as it is, or packed, and `cols` columns, at `out` with rows `stride` apart.
///
/// # Safety
/// The processor must have the level of the kernels; the right factor must have whole panels of as many rows as the left one
/// has columns, and the product be writable, and readable unless its sums begin.
pub(super) unsafe fn product<T: Element>(
    kernels: &Kernels,
    (a, packed): (Mat, Option<&[f32]>),
    b: &Panels<T>,
    (out, stride): (*mut f32, usize),
    cols: usize,
    sums: Sums,
) {
    for (group, (first, kernel)) in kernels.groups(a.rows()).enumerate() {
        let left = match packed {
            Some(packed) => &packed[pack::group_start(group, first, a.cols())..],
            None => a.rows_from(first, kernels.heights[kernel]).data(),
        };
        let part = Micro {
            inner: a.cols(),
            a: left.as_ptr(),
            a_row: a.row_stride(),
            b: b.data.as_ptr(),
            b_row: b.row,
            b_panel: b.panel,
            out: out.wrapping_add(first * stride),
            out_row: stride,
            cols,
            sums,
        };
        let sweep = T::sweep(kernels, kernel, packed.is_some()).expect("such a factor is packed");
        // SAFETY: the caller's.
        unsafe { sweep(&part) };
    }
}

/// Packs the left factor, group after group.
fn pack_left<'a>(level: Level, a: Mat, room: &'a mut Room) -> &'a [f32] {
    let (inner, kernels) = (a.cols(), Kernels::of(level));
    let packed = room.elements(pack::group_start(kernels.groups(a.rows()).count(), a.rows(), inner));
    level.dispatch(
        #[inline(always)]
        || {
            let mut group = 0;
            for (first, count, height) in kernels.runs(a.rows()) {
                let rows = a.rows_from(first, count);
                let to = &mut packed[pack::group_start(group, first, inner)..];
                group += count / height;
                match height {
                    12 => pack::groups::<12>(rows, to),
                    8 => pack::groups::<8>(rows, to),
                    6 => pack::groups::<6>(rows, to),
                    4 => pack::groups::<4>(rows, to),
                    3 => pack::groups::<3>(rows, to),
                    2 => pack::groups::<2>(rows, to),
                    _ => pack::groups::<1>(rows, to),
                }
            }
        },
    );
    packed
}

/// A block of the right factor `[inner, cols]`, panel after panel, which `pack` writes if it is not packed yet.
#[inline(always)]
fn pack_right(
    level: Level,
    [inner, cols]: [usize; 2],
    kept: bool,
    blocks: &mut Blocks,
    pack: impl FnOnce(&mut [f32]),
) -> Panels<'_> {
    let data = blocks.block(pack::panels_len(inner, cols), kept, |to| {
        level.dispatch(
            #[inline(always)]
            || pack(to),
        );
    });
    Panels { data, row: PANEL, panel: inner * PANEL }
}

#[cfg(test)]
mod tests {
    use burn_tensor::bf16;
    use proptest::prelude::*;

    use super::{
        super::right::{LaidOut, laid_out},
        *,
    };

    /// A matrix as it lies, or transposed, within a slice with a few elements between its rows.
    fn matrix<T: Element>(data: &[T], [rows, cols]: [usize; 2], by_rows: bool) -> Mat<'_, T> {
        if by_rows { Mat::new(data, rows, cols, cols + 3) } else { Mat::new(data, cols, rows, rows + 1).t() }
    }

    fn values(count: usize, seed: u32) -> Vec<f32> {
        let value = |i: u32| ((i ^ seed).wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0;
        (0..count as u32).map(value).collect()
    }

    fn bits(x: &[f32]) -> Vec<u32> {
        x.iter().map(|x| x.to_bits()).collect()
    }

    /// Whether every level gives the product of the definition, to the bit.
    fn agrees<T: Element>(
        (a, b): (Mat, Right<T>),
        links: &[Range<usize>; 2],
        (before, stride): (&[f32], usize),
        accumulate: bool,
        packing: Packing,
    ) -> bool {
        let mut expected = before.to_vec();
        for i in 0..a.rows() {
            for j in 0..b.cols() {
                let chain = |link: &Range<usize>| {
                    link.clone().fold(0.0_f32, |sum, k| a.get(i, k).mul_add(b.get(k, j).widen(), sum))
                };
                let place = &mut expected[i * stride + j];
                let first = chain(&links[0]);
                *place = if accumulate { *place + first } else { first };
                *place += chain(&links[1]);
            }
        }
        Level::available().into_iter().all(|level| {
            let mut out = before.to_vec();
            let half = a.rows() / 2;
            Scratch::with(|scratch| {
                for rows in [0..half, half..a.rows()] {
                    let (a, out) =
                        (a.rows_from(rows.start, rows.len()), out[rows.start * stride..].as_mut_ptr());
                    let tile = Tile { a, b, out, stride, links, accumulate, packing };
                    // SAFETY: `out` has room for all rows, and the shapes fit.
                    unsafe { tile.run(level, scratch) };
                }
            });
            bits(&out) == bits(&expected)
        })
    }

    proptest! {
        #[test]
        fn every_level_gives_the_chains_of_the_definition_to_the_bit(
            [rows, cols, inner] in [1..45_usize, 1..300_usize, 1..120_usize],
            [a_by_rows, b_by_rows, accumulate, kept, in_place] in any::<[bool; 5]>(),
            seed: u32,
        ) {
            let (a_data, b_data) = (values((rows + 3) * (inner + 3), seed), values((cols + 3) * (inner + 3), !seed));
            let narrow_data: Vec<bf16> = b_data.iter().map(|x| bf16::from_f32(*x)).collect();
            let a = matrix(&a_data, [rows, inner], a_by_rows);
            let b = matrix(&b_data, [inner, cols], b_by_rows);
            let narrow = matrix(&narrow_data, [inner, cols], b_by_rows);
            let by_columns: Vec<f32> = (0..cols * inner).map(|i| b.get(i % inner, i / inner)).collect();
            let narrow_by_columns: Vec<bf16> = by_columns.iter().map(|x| bf16::from_f32(*x)).collect();
            let (panels, narrow_panels) = (laid_out(&by_columns, inner), laid_out(&narrow_by_columns, inner));
            let (panels, narrow_panels) = (LaidOut::new(&panels, inner, cols), LaidOut::new(&narrow_panels, inner, cols));
            let (links, stride) = ([0..inner / 3, inner / 3..inner], cols + 2);
            let before = values(rows * stride, seed / 2);
            let packing = Packing { kept, in_place };
            let shapes = format!("{rows}x{cols}x{inner}");
            prop_assert!(agrees((a, Right::LaidOut(panels)), &links, (&before, stride), accumulate, packing), "{shapes}, laid out");
            prop_assert!(agrees((a, Right::LaidOut(narrow_panels)), &links, (&before, stride), accumulate, packing), "{shapes}, narrow, laid out");
            prop_assert!(agrees((a, Right::Mat(b)), &links, (&before, stride), accumulate, packing), "{shapes}");
            prop_assert!(agrees((a, Right::Mat(narrow)), &links, (&before, stride), accumulate, packing), "{shapes}, narrow");
        }
    }
}
