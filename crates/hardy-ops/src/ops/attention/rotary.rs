//! Rotary position embedding (arXiv:2104.09864), in the half-split layout of Llama and Qwen: element `i` of a head
//! turns with element `i + d/2`. Attention turns queries and keys on their way in, and their gradients back on the way
//! out; no site of its own.

use std::sync::Arc;

use super::super::parallel;
use crate::device::OnDevice;

/// Cosine and sine of every row's angles, each `[tokens, head_dim/2]`.
#[derive(Clone, Debug)]
pub struct Angles {
    table: Arc<[(f32, f32)]>,
    half: usize,
    on_device: OnDevice,
}

impl Angles {
    /// The angles of `positions` `[tokens]` at `frequencies` `[head_dim/2]`, in radians a position.
    pub fn new(positions: impl Iterator<Item = u32>, frequencies: &[f32]) -> Self {
        let turn = |position: u32| {
            frequencies.iter().map(move |frequency| {
                let (sin, cos) = (position as f32 * frequency).sin_cos();
                (cos, sin)
            })
        };
        Self::of(positions.flat_map(turn).collect(), frequencies.len())
    }

    fn of(table: Arc<[(f32, f32)]>, half: usize) -> Self {
        Self { table, half, on_device: OnDevice::default() }
    }

    /// Cosine and sine, row by row.
    pub(crate) fn pairs(&self) -> &[(f32, f32)] {
        &self.table
    }

    /// Angles of a row.
    pub(crate) fn half(&self) -> usize {
        self.half
    }

    /// The copy on a device.
    pub(crate) fn on_device(&self) -> &OnDevice {
        &self.on_device
    }

    /// The angles of tokens that are left as they are, whatever their position.
    pub fn still(tokens: usize, half: usize) -> Self {
        Self::of(vec![(1.0, 0.0); tokens * half].into(), half)
    }

    /// The same angles for heads that also grow by `factor` as they turn.
    #[must_use]
    pub fn scaled(self, factor: f32) -> Self {
        if factor == 1.0 {
            return self;
        }
        Self::of(self.table.iter().map(|(cos, sin)| (cos * factor, sin * factor)).collect(), self.half)
    }

    /// A copy of `x` `[tokens, width]` with every head of `dim` elements turned by its position's angles.
    ///
    /// # Panics
    /// If the angles are not those of `x`'s rows and heads.
    pub(super) fn turned(&self, x: &[f32], dim: usize, width: usize) -> Vec<f32> {
        self.check(x, dim, width);
        parallel::from_zeros(
            x.len(),
            width,
            #[inline(always)]
            |first, y| {
                y.copy_from_slice(&x[first * width..][..y.len()]);
                self.turn(first, y, width, 1.0);
            },
        )
    }

    /// Turns every head of `dim` elements of `x` `[tokens, width]` back: the transpose of what turned it.
    ///
    /// # Panics
    /// If the angles are not those of `x`'s rows and heads.
    pub(super) fn turn_back(&self, x: &mut [f32], dim: usize, width: usize) {
        self.check(x, dim, width);
        parallel::for_chunks(
            x,
            width,
            #[inline(always)]
            |first, x| self.turn(first, x, width, -1.0),
        );
    }

    /// Turns the rows `x` from row `first` on.
    #[inline(always)]
    fn turn(&self, first: usize, x: &mut [f32], width: usize, sign: f32) {
        let rows = self.table[first * self.half..].chunks_exact(self.half);
        for (row, angles) in x.chunks_exact_mut(width).zip(rows) {
            for head in row.chunks_exact_mut(2 * self.half) {
                let (low, high) = head.split_at_mut(self.half);
                for ((a, b), (cos, sin)) in low.iter_mut().zip(high).zip(angles) {
                    let sin = sign * sin;
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
        }
    }

    fn check(&self, x: &[f32], dim: usize, width: usize) {
        assert_eq!(dim, 2 * self.half, "an angle for every two elements of a head");
        assert_eq!(self.table.len(), x.len() / width * self.half, "a row of angles for every row");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 40 rows of two heads of four.
    fn rows() -> Vec<f32> {
        (0..320).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect()
    }

    #[test]
    fn every_pair_of_a_head_turns_by_its_positions_angle() {
        let (x, frequencies) = (rows(), [1.0_f32, 0.25]);
        let y = Angles::new(3..43, &frequencies).turned(&x, 4, 8);
        for (index, (x, y)) in x.chunks(4).zip(y.chunks(4)).enumerate() {
            for i in 0..2 {
                let (sin, cos) = ((3 + index / 2) as f32 * frequencies[i]).sin_cos();
                let (a, b) = (x[i], x[i + 2]);
                assert_eq!([y[i], y[i + 2]], [a * cos - b * sin, b * cos + a * sin], "head {index}");
            }
        }
    }

    #[test]
    fn what_is_turned_back_is_as_it_was() {
        let (x, angles) = (rows(), Angles::new(0..40, &[1.0, 0.01]));
        let mut y = angles.turned(&x, 4, 8);
        assert_ne!(x, y);
        angles.turn_back(&mut y, 4, 8);
        assert!(x.iter().zip(y).all(|(x, y)| (x - y).abs() < 1e-6));
    }

    #[test]
    fn heads_of_no_position_stay_and_scaled_ones_grow() {
        let x = rows();
        assert_eq!(Angles::still(40, 2).turned(&x, 4, 8), x);
        let turned = Angles::new(0..40, &[1.0, 0.01]).turned(&x, 4, 8);
        let grown = Angles::new(0..40, &[1.0, 0.01]).scaled(2.0).turned(&x, 4, 8);
        assert!(turned.iter().zip(grown).all(|(x, y)| 2.0 * x == y));
    }

    #[test]
    #[should_panic(expected = "a row of angles for every row")]
    fn rows_without_angles_are_refused() {
        Angles::new(0..39, &[1.0, 0.5]).turned(&rows(), 4, 8);
    }
}
