//! The order in which a scatter adds: of every row of the sum, the places that name it, the earlier first. Host and devices add in
//! it, so that sums do not depend on threads.

/// The places that name each row of `[height]`.
#[derive(Debug)]
pub(crate) struct Scatter {
    /// Where those of each row begin in `places`, and after the last row the end, `[height + 1]`.
    starts: Vec<u32>,
    places: Vec<u32>,
}

impl Scatter {
    /// That of the rows which `indices` name.
    ///
    /// # Panics
    /// If an index is not below `height`.
    pub fn new(indices: &[u32], height: usize) -> Self {
        let mut starts = vec![0_u32; height + 1];
        for &index in indices {
            starts[index as usize + 1] += 1;
        }
        for row in 0..height {
            starts[row + 1] += starts[row];
        }
        let (mut next, mut places) = (starts[..height].to_vec(), vec![0; indices.len()]);
        for (place, &index) in (0..).zip(indices) {
            places[next[index as usize] as usize] = place;
            next[index as usize] += 1;
        }
        Self { starts, places }
    }

    /// How many rows there are.
    pub fn height(&self) -> usize {
        self.starts.len() - 1
    }

    /// The places that name each row, from row `first` on.
    pub fn rows_from(&self, first: usize) -> impl Iterator<Item = &[u32]> {
        self.starts[first..].windows(2).map(|ends| &self.places[ends[0] as usize..ends[1] as usize])
    }

    /// As one table: where each row's places begin, the end, and the places.
    pub fn into_table(self) -> Vec<u32> {
        [self.starts, self.places].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::Scatter;

    #[test]
    fn a_scatter_adds_the_rows_of_an_index_in_their_order() {
        let scatter = Scatter::new(&[2, 0, 2, 3], 5);
        assert!(scatter.rows_from(1).eq([&[][..], &[0, 2], &[3], &[]]));
        assert_eq!(scatter.height(), 5);
        assert_eq!(scatter.into_table(), [0, 1, 1, 3, 4, 4, 1, 0, 2, 3]);
    }
}
