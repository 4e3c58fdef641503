//! How a product is parted into tasks: so that there are some for every thread, and little is packed twice.

use std::ops::Range;

use super::{
    Element, Mat, Right,
    pack::PANEL,
    tile::{IN_PLACE, Packing},
};

/// Tasks of a thread, so that one that was held up leaves the rest to others; fewer where there is little to do.
const TASKS: [usize; 2] = [8, 4];
/// So many rows are little to do.
const FEW_ROWS: usize = 16;
/// Rows of a task where the left factor is packed too: many, for all read a block of the right one while it is in the cache, and
/// not so many that the packed ones take much memory.
const PACKED_ROWS: usize = 2048;
/// Rows of a task are a multiple of this but for the last one's, which suits the heights of all levels.
const ROWS: usize = 24;
/// Elements of the right factor that a thread keeps packed, for all parts with the same columns.
const KEPT: usize = 1 << 20;
/// What it costs to read an element of the left factor, to pack one, and to pack one of the right factor where its rows lie
/// in one piece and where its columns do, in terms of a vector of the product.
const PACKING: [f64; 4] = [1.0, 3.0, 1.5, 3.0];

/// The parts of a product.
pub(super) struct Grid {
    rows: usize,
    cols: usize,
    /// Rows and columns of a part.
    part: [usize; 2],
    inner: usize,
    threads: usize,
}

impl Grid {
    pub fn new<T: Element>(a: Mat, b: Right<T>, threads: usize) -> Self {
        let (rows, cols) = (a.rows(), b.cols());
        let packed = a.row(0).is_none();
        let right = if b.is_ready() { 0.0 } else { PACKING[if b.is_by_rows() { 2 } else { 3 }] };
        let tasks =
            if packed { rows.div_ceil(threads * PACKED_ROWS) } else { TASKS[usize::from(rows <= FEW_ROWS)] };
        let (left, wanted) = (PACKING[usize::from(packed)], tasks * threads);
        let of = |across: usize| {
            let width = cols.div_ceil(across).next_multiple_of(PANEL);
            let down = wanted.div_ceil(cols.div_ceil(width));
            let height = rows.div_ceil(down).next_multiple_of(ROWS);
            Self { rows, cols, part: [height, width], inner: a.cols(), threads }
        };
        let cost = |grid: &Self| {
            let [down, across] = grid.counts();
            let idle = wanted.saturating_sub(down * across) as f64 / wanted as f64;
            left / 16.0 * (across * rows) as f64
                + right / 16.0 * (grid.packings() * grid.part[1]) as f64
                + idle * (rows * cols) as f64
        };
        let all = (0..)
            .map(|power| 1 << power)
            .take_while(|across| *across <= cols.div_ceil(PANEL).next_power_of_two());
        all.map(of).min_by(|a, b| cost(a).total_cmp(&cost(b))).unwrap_or_else(|| of(1))
    }

    fn counts(&self) -> [usize; 2] {
        [self.rows.div_ceil(self.part[0]), self.cols.div_ceil(self.part[1])]
    }

    /// Whether a thread packs the right factor once for all its parts with the same columns.
    fn kept(&self) -> bool {
        self.len() > self.threads && self.inner * self.part[1].next_multiple_of(PANEL) <= KEPT
    }

    /// How often columns of a part are packed.
    fn packings(&self) -> usize {
        let [down, across] = self.counts();
        if self.kept() { across.max(self.threads) } else { down * across }
    }

    /// What becomes of the right factor.
    pub fn packing(&self) -> Packing {
        let rows = (self.rows * self.counts()[1]).div_ceil(self.packings().max(1));
        Packing { kept: self.kept(), in_place: rows <= IN_PLACE }
    }

    /// How many parts there are.
    pub fn len(&self) -> usize {
        self.counts().iter().product()
    }

    /// The rows and the columns of a part; neighbours share their columns.
    pub fn part(&self, index: usize) -> [Range<usize>; 2] {
        let ([down, _], [height, width]) = (self.counts(), self.part);
        let (row, col) = (index % down * height, index / down * width);
        [row..self.rows.min(row + height), col..self.cols.min(col + width)]
    }
}
