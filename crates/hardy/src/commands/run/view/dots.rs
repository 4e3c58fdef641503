//! Lines of dots: a cell of a terminal is two dots wide and four high in Braille (Unicode 15, U+2800).

use ratatui_core::{buffer::Buffer, layout::Rect, style::Style};

/// The bit of the dot in each row of each column of a cell.
const BITS: [[u32; 4]; 2] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];

/// Cells, each the bits of its dots.
pub struct Dots {
    width: usize,
    height: usize,
    cells: Vec<u32>,
}

impl Dots {
    /// No dot in `width` × `height` cells.
    pub fn new(width: usize, height: usize) -> Self {
        Self { width, height, cells: vec![0; width * height] }
    }

    /// Draws from point to point, in bounds of x and of y; what is not finite parts the line.
    pub fn line(&mut self, points: &[(f64, f64)], ([left, right], [bottom, top]): ([f64; 2], [f64; 2])) {
        if self.cells.is_empty() {
            return;
        }
        let [columns, rows] = [2 * self.width - 1, 4 * self.height - 1].map(|most| most as f64);
        let place = |&(x, y): &(f64, f64)| {
            let at = [(x - left) / (right - left) * columns, (top - y) / (top - bottom) * rows];
            at.iter().all(|value| value.is_finite()).then_some(at)
        };
        let places: Vec<Option<[f64; 2]>> = points.iter().map(place).collect();
        places.iter().flatten().for_each(|at| self.dot(*at));
        for pair in places.windows(2) {
            if let [Some(from), Some(to)] = pair {
                self.stretch(*from, *to);
            }
        }
    }

    /// As many dots between two places as one of its coordinates goes through.
    fn stretch(&mut self, from: [f64; 2], to: [f64; 2]) {
        let steps = (to[0] - from[0]).abs().max((to[1] - from[1]).abs()).ceil();
        for i in 1..steps as usize {
            let share = i as f64 / steps;
            self.dot([0, 1].map(|axis| from[axis] + share * (to[axis] - from[axis])));
        }
    }

    fn dot(&mut self, at: [f64; 2]) {
        let [x, y] = at.map(|value| value.round().max(0.0) as usize);
        if x / 2 < self.width && y / 4 < self.height {
            self.cells[y / 4 * self.width + x / 2] |= BITS[x % 2][y % 4];
        }
    }

    /// Puts the cells that have a dot into `area` of a picture; dots that another line has there stay, in the new colour.
    pub fn put(&self, picture: &mut Buffer, area: Rect, style: Style) {
        for (row, y) in self.cells.chunks(self.width.max(1)).zip(area.top()..) {
            for (bits, x) in row.iter().zip(area.left()..).filter(|(bits, _)| **bits != 0) {
                let Some(cell) = picture.cell_mut((x, y)) else { continue };
                let there = cell.symbol().chars().next().map_or(0, u32::from);
                let there = if (0x2800..0x2900).contains(&there) { there - 0x2800 } else { 0 };
                cell.set_char(char::from_u32(0x2800 + (there | bits)).unwrap_or(' ')).set_style(style);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(points: &[(f64, f64)], width: u16, height: u16) -> Vec<String> {
        let area = Rect::new(0, 0, width, height);
        let mut picture = Buffer::empty(area);
        let mut dots = Dots::new(width.into(), height.into());
        dots.line(points, ([0.0, 1.0], [0.0, 1.0]));
        dots.put(&mut picture, area, Style::new());
        (0..height).map(|y| (0..width).map(|x| picture[(x, y)].symbol()).collect()).collect()
    }

    #[test]
    fn a_line_goes_from_corner_to_corner() {
        assert_eq!(drawn(&[(0.0, 0.0), (1.0, 1.0)], 2, 1), ["⡠⠊"]);
        assert_eq!(drawn(&[(0.0, 1.0), (1.0, 1.0)], 3, 2), ["⠉⠉⠉", "   "]);
        assert_eq!(drawn(&[(1.0, 0.0)], 2, 2), ["  ", " ⢀"]);
    }

    #[test]
    fn what_is_not_finite_parts_a_line_and_no_size_is_too_small() {
        assert_eq!(drawn(&[(0.0, 0.0), (0.5, f64::NAN), (1.0, 0.0)], 3, 1), ["⡀ ⢀"]);
        assert!(drawn(&[(0.0, 0.0)], 0, 0).is_empty());
    }
}
