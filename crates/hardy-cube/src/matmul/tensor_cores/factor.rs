//! The part of a factor that a cube multiplies, slab by slab: from memory to registers, to shared memory, to fragments. It
//! lies in shared memory as it lies in memory, four numbers at a time, and fragments are loaded along or across it.

use cubecl::cmma::{self, Matrix, MatrixIdent, MatrixLayout};
use cubecl::prelude::*;
use half::bf16;

/// Numbers that a thread reads at once.
pub type Four = Const<4>;
/// Numbers that a line in shared memory is longer than what lies in it, so that lines begin in different banks.
pub const PAD: usize = 8;

/// A slab of a factor as it lies in memory, shared or not: `along` its terms, or across them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slab {
    pub along: bool,
    pub size: usize,
    pub depth: usize,
}

impl Slab {
    /// Numbers of a line.
    fn width(&self) -> usize {
        if self.along { self.depth } else { self.size }
    }

    /// Numbers from a line to the next in shared memory.
    fn pitch(&self) -> usize {
        self.width() + PAD
    }

    /// Fours in shared memory.
    pub fn fours(&self) -> usize {
        self.size * self.depth / self.width() * self.pitch() / 4
    }

    /// Fours that a thread brings there.
    pub fn turns(&self) -> usize {
        self.size * self.depth / 4 / 256
    }

    fn layout(&self, ident: MatrixIdent) -> MatrixLayout {
        if (ident == MatrixIdent::A) == self.along { MatrixLayout::RowMajor } else { MatrixLayout::ColMajor }
    }
}

/// The part of a factor that a cube multiplies: rows from `first` on of `outer`, `k` terms each.
#[derive(CubeType, Clone, Copy)]
pub struct Factor {
    pub first: u32,
    pub outer: u32,
    pub k: u32,
    #[cube(comptime)]
    pub slab: Slab,
}

#[cube]
impl Factor {
    /// Reads the terms `from .. end`, as many as a slab has, and zeros beyond.
    pub fn fetch<F: Float>(
        &self,
        x: &Array<Vector<F, Four>>,
        held: &mut Array<Vector<F, Four>>,
        me: u32,
        from: u32,
        end: u32,
    ) {
        #[unroll]
        for turn in 0..comptime!(self.slab.turns()) {
            let place = 4u32 * (me + comptime!(256 * turn as u32));
            let (line, at) =
                (place / comptime!(self.slab.width() as u32), place % comptime!(self.slab.width() as u32));
            let (mut row, mut term) = (at, line);
            if comptime!(self.slab.along) {
                row = line;
                term = at;
            }
            let mut four = Vector::<F, Four>::new(F::new(0.0));
            if self.first + row < self.outer && from + term < end {
                let mut place = (from + term) * self.outer + self.first + row;
                if comptime!(self.slab.along) {
                    place = (self.first + row) * self.k + from + term;
                }
                four = x[(place / 4u32) as usize];
            }
            held[turn] = four;
        }
    }

    /// Puts what was read into shared memory, rounded to nearest, ties to even.
    pub fn put<F: Float>(
        &self,
        held: &Array<Vector<F, Four>>,
        shared: &mut SharedMemory<Vector<bf16, Four>>,
        me: u32,
    ) {
        #[unroll]
        for turn in 0..comptime!(self.slab.turns()) {
            let index = me + comptime!(256 * turn as u32);
            let fours = comptime!(self.slab.width() as u32 / 4);
            let place = index / fours * comptime!(self.slab.pitch() as u32 / 4) + index % fours;
            shared[place as usize] = Vector::<bf16, Four>::cast_from(held[turn]);
        }
    }

    /// The fragment from that row and term on.
    pub fn fragment(
        &self,
        shared: &SharedMemory<Vector<bf16, Four>>,
        row: u32,
        #[comptime] term: u32,
        #[comptime] ident: MatrixIdent,
    ) -> Matrix<bf16> {
        let pitch = comptime!(self.slab.pitch() as u32);
        let mut place = term * pitch + row;
        if comptime!(self.slab.along) {
            place = row * pitch + term;
        }
        let slice = shared.slice((place / 4u32) as usize, comptime!(self.slab.fours()));
        let layout = comptime!(self.slab.layout(ident));
        // SAFETY: it is loaded before anybody has it.
        let own = unsafe { Matrix::<bf16>::uninitialized(ident, 16usize, 16usize, 16usize, layout) };
        cmma::load(&own, &slice, pitch);
        own
    }
}
