//! Naming an element of a tensor.

/// The index of the element at `offset` of a tensor of `shape`, as in `[3, 5]`; `[]` for a scalar.
pub fn index_of(mut offset: usize, shape: &[usize]) -> String {
    let mut index = vec![0; shape.len()];
    for (place, &extent) in index.iter_mut().zip(shape).rev() {
        *place = offset % extent.max(1);
        offset /= extent.max(1);
    }
    format!("{index:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_counts_rows_first() {
        assert_eq!(index_of(7, &[2, 5]), "[1, 2]");
        assert_eq!(index_of(0, &[]), "[]");
        assert_eq!(index_of(23, &[2, 3, 4]), "[1, 2, 3]");
    }
}
