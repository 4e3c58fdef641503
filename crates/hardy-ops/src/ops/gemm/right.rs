//! Right factors of products: as a matrix lies in memory, or laid out in panels once for many products with few rows, which read
//! them from the first element to the last.

use rayon::prelude::*;

use super::{Mat, element::Element, pack::PANEL};

/// A right factor as the kernels read it, in panels of [`PANEL`] columns: its rows are `row` apart, and from a panel to the next there
/// are `panel` elements.
#[derive(Clone, Copy)]
pub(crate) struct Panels<'a, T = f32> {
    pub data: &'a [T],
    pub row: usize,
    pub panel: usize,
}

/// A right factor.
#[derive(Clone, Copy)]
pub(crate) enum Right<'a, T = f32> {
    Mat(Mat<'a, T>),
    LaidOut(LaidOut<'a, T>),
}

/// A part of a matrix that [`laid_out`] made: its panels one after another, `[rows, PANEL]` each, then the columns that are left,
/// `[rows, rest]`.
#[derive(Clone, Copy)]
pub(crate) struct LaidOut<'a, T> {
    data: &'a [T],
    /// Of the whole matrix.
    height: usize,
    width: usize,
    /// Where the part begins, and its size.
    first: [usize; 2],
    size: [usize; 2],
}

/// The matrix `[inner, outer]` whose columns are the rows of `x` `[outer, inner]`, laid out in panels.
pub(crate) fn laid_out<T: Copy + Default + Send + Sync>(x: &[T], inner: usize) -> Vec<T> {
    let (mut out, size) = (vec![T::default(); x.len()], (PANEL * inner).max(1));
    out.par_chunks_mut(size).zip(x.par_chunks(size)).for_each(|(to, from)| {
        for (k, to) in to.chunks_exact_mut(from.len() / inner).enumerate() {
            to.iter_mut().zip(from[k..].iter().step_by(inner)).for_each(|(to, from)| *to = *from);
        }
    });
    out
}

impl<'a, T: Element> LaidOut<'a, T> {
    /// A whole matrix.
    ///
    /// # Panics
    /// If it has another size.
    pub fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "elements of a matrix [{rows}, {cols}]");
        Self { data, height: rows, width: cols, first: [0; 2], size: [rows, cols] }
    }

    fn get(&self, row: usize, col: usize) -> T {
        let (row, col) = (self.first[0] + row, self.first[1] + col);
        let panel = col / PANEL * PANEL;
        self.data[panel * self.height + row * PANEL.min(self.width - panel) + col - panel]
    }

    /// Its panels, and how many columns these have.
    fn panels(&self) -> (Panels<'a, T>, usize) {
        let ([row, col], whole) = (self.first, self.width / PANEL * PANEL);
        let data = self.data.get(col * self.height + row * PANEL..).unwrap_or_default();
        let panels = Panels { data, row: PANEL, panel: self.height * PANEL };
        (panels, whole.saturating_sub(col).min(self.size[1]))
    }

    /// The columns after its panels.
    fn rest(&self) -> Mat<'a, T> {
        let ([row, _], (_, whole)) = (self.first, self.panels());
        let (rows, cols, width) = (self.size[0], self.size[1] - whole, self.width % PANEL);
        if cols == 0 {
            return Mat::new(&[], rows, 0, 0);
        }
        let data = &self.data[(self.width - width) * self.height..];
        Mat::new(data, self.height, width, width).rows_from(row, rows)
    }
}

impl<'a, T> From<Mat<'a, T>> for Right<'a, T> {
    fn from(mat: Mat<'a, T>) -> Self {
        Self::Mat(mat)
    }
}

impl<'a, T: Element> Right<'a, T> {
    pub fn rows(&self) -> usize {
        match self {
            Self::Mat(mat) => mat.rows(),
            Self::LaidOut(part) => part.size[0],
        }
    }

    pub fn cols(&self) -> usize {
        match self {
            Self::Mat(mat) => mat.cols(),
            Self::LaidOut(part) => part.size[1],
        }
    }

    /// An element.
    ///
    /// # Panics
    /// If there is none.
    pub fn get(&self, row: usize, col: usize) -> T {
        match self {
            Self::Mat(mat) => mat.get(row, col),
            Self::LaidOut(part) => part.get(row, col),
        }
    }

    /// `count` rows from `first` on.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn rows_from(self, first: usize, count: usize) -> Self {
        assert!(first + count <= self.rows(), "rows {first} and {count} more of {}", self.rows());
        match self {
            Self::Mat(mat) => Self::Mat(mat.rows_from(first, count)),
            Self::LaidOut(part) => Self::LaidOut(LaidOut {
                first: [part.first[0] + first, part.first[1]],
                size: [count, part.size[1]],
                ..part
            }),
        }
    }

    /// `count` columns from `first` on, which is where a panel begins.
    ///
    /// # Panics
    /// If there are not so many, or none begins there.
    pub fn columns(self, first: usize, count: usize) -> Self {
        assert!(first + count <= self.cols(), "columns {first} and {count} more of {}", self.cols());
        assert_eq!(first % PANEL, 0, "columns from within a panel on");
        match self {
            Self::Mat(mat) => Self::Mat(mat.columns(first, count)),
            Self::LaidOut(part) => Self::LaidOut(LaidOut {
                first: [part.first[0], part.first[1] + first],
                size: [part.size[0], count],
                ..part
            }),
        }
    }

    /// What a kernel can read where it lies: so many columns; and the columns after these. Of a matrix that is whole panels whose
    /// rows lie in one piece, if it is asked for.
    pub fn parted(self, in_place: bool) -> ((Panels<'a, T>, usize), Mat<'a, T>) {
        match self {
            Self::Mat(mat) => {
                let whole = if in_place && mat.row(0).is_some() { mat.cols() / PANEL * PANEL } else { 0 };
                let panels = Panels { data: mat.data(), row: mat.row_stride(), panel: PANEL };
                ((panels, whole), mat.columns(whole, mat.cols() - whole))
            }
            Self::LaidOut(part) => (part.panels(), part.rest()),
        }
    }

    /// Whether a product with many rows reads it as it is.
    pub fn is_ready(&self) -> bool {
        T::WIDE && matches!(self, Self::LaidOut(_))
    }

    /// Whether its rows lie in one piece.
    pub fn is_by_rows(&self) -> bool {
        match self {
            Self::Mat(mat) => mat.row(0).is_some(),
            Self::LaidOut(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{LaidOut, PANEL, Right, laid_out};

    #[test]
    fn every_element_of_every_part_is_found_where_it_was_laid() {
        for [inner, outer] in [[3, 1], [5, PANEL], [1, PANEL + 1], [7, 3 * PANEL - 1], [4, 2 * PANEL]] {
            let x: Vec<f32> = (0..inner * outer).map(|i| i as f32).collect();
            let data = laid_out(&x, inner);
            let whole = Right::LaidOut(LaidOut::new(&data, inner, outer));
            for first in (0..outer).step_by(PANEL) {
                let (rows, cols) = (inner - inner / 2, outer - first);
                let part = whole.columns(first, cols).rows_from(inner / 2, rows);
                let ((panels, count), rest) = part.parted(false);
                assert_eq!([part.rows(), part.cols(), count + rest.cols()], [rows, cols, cols]);
                for (k, j) in (0..rows).flat_map(|k| (0..cols).map(move |j| (k, j))) {
                    let expected = x[(first + j) * inner + inner / 2 + k];
                    let place = j / PANEL * panels.panel + k * panels.row + j % PANEL;
                    let seen = if j < count { panels.data[place] } else { rest.get(k, j - count) };
                    assert_eq!(
                        [part.get(k, j), seen],
                        [expected; 2],
                        "{k}, {j} of {inner}x{outer} from {first}"
                    );
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "columns from within a panel on")]
    fn a_part_begins_with_a_panel() {
        let data = [0.0; 40];
        Right::LaidOut(LaidOut::new(&data, 1, 40)).columns(8, 16);
    }

    #[test]
    #[should_panic(expected = "elements of a matrix [3, 5]")]
    fn a_matrix_of_another_size_is_refused() {
        LaidOut::new(&[0.0; 16], 3, 5);
    }
}
