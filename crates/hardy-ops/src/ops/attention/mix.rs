//! The values that one query mixes. Two heads that share values are mixed together, so that a value is read once for both and
//! enough chains run side by side to hide the latency of an addition.

use super::{
    super::chain::CHAIN,
    cache::{Cached, close},
};

/// Elements of a vector.
const LANES: usize = 16;
/// Elements of a head that are mixed together.
const TILE: usize = 2 * LANES;

impl Cached<'_> {
    /// The products of probabilities with values, for query heads that share those from `column` on: of `p` `[heads, keys]`
    /// into `y` `[heads, dim]`.
    #[inline(always)]
    pub fn mix(&self, (p, keys): (&[f32], usize), column: usize, (y, dim): (&mut [f32], usize)) {
        let (mut p, mut y) = (p.chunks_exact(keys), y.chunks_exact_mut(dim));
        while let (Some(first), Some(own)) = (p.next(), y.next()) {
            match (p.next(), y.next()) {
                (Some(second), Some(other)) => self.mix_heads([first, second], column, [own, other]),
                _ => self.mix_heads([first], column, [own]),
            }
        }
    }

    /// The same for `H` heads.
    #[inline(always)]
    fn mix_heads<const H: usize>(&self, p: [&[f32]; H], column: usize, mut y: [&mut [f32]; H]) {
        let dim = y[0].len();
        let whole = dim / TILE * TILE;
        for first in (0..whole).step_by(TILE) {
            let y = y.each_mut().map(|y| &mut y[first..first + TILE]);
            self.mix_tile::<H, 2, LANES>(p, column + first, y);
        }
        for first in whole..dim {
            self.mix_tile::<H, 1, 1>(p, column + first, y.each_mut().map(|y| &mut y[first..first + 1]));
        }
    }

    /// The same for `V` vectors of `L` elements of each head.
    #[inline(always)]
    fn mix_tile<const H: usize, const V: usize, const L: usize>(
        &self,
        p: [&[f32]; H],
        column: usize,
        mut y: [&mut [f32]; H],
    ) {
        let (mut sums, mut position, keys) = ([[[0.0_f32; L]; V]; H], 0, p[0].len());
        for piece in self.0.iter().filter(|piece| !piece.is_empty()) {
            let mut rows = piece.values;
            // A query does not see the positions after its own.
            while !rows.is_empty() && position < keys {
                if position > 0 && position % CHAIN == 0 {
                    end(&mut sums, &mut y, position == CHAIN);
                }
                let count = (CHAIN - position % CHAIN).min(rows.len() / piece.width).min(keys - position);
                let link;
                (link, rows) = rows.split_at(count * piece.width);
                let p = p.map(|p| &p[position..position + count]);
                sums = add(sums, link, piece.width, column, p);
                position += count;
            }
        }
        end(&mut sums, &mut y, position <= CHAIN);
    }
}

/// `sums` and the products of `p` with the rows of `values`, one after another; all sums stay in registers.
#[inline(always)]
fn add<const H: usize, const V: usize, const L: usize>(
    mut sums: [[[f32; L]; V]; H],
    values: &[f32],
    width: usize,
    column: usize,
    p: [&[f32]; H],
) -> [[[f32; L]; V]; H] {
    for (position, row) in values.chunks_exact(width).enumerate() {
        let row: &[[f32; L]; V] =
            row[column..column + V * L].as_chunks().0.try_into().expect("as many vectors");
        for (sums, p) in sums.iter_mut().zip(&p) {
            let p = p[position];
            for (sums, row) in sums.iter_mut().zip(row) {
                for lane in 0..L {
                    sums[lane] = p.mul_add(row[lane], sums[lane]);
                }
            }
        }
    }
    sums
}

/// Ends the links of all heads.
#[inline(always)]
fn end<const H: usize, const V: usize, const L: usize>(
    links: &mut [[[f32; L]; V]; H],
    y: &mut [&mut [f32]; H],
    begins: bool,
) {
    for (link, y) in links.iter_mut().zip(y) {
        close(link.as_flattened_mut(), y, begins);
    }
}
