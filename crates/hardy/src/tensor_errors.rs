//! Changing the tensors of a file: which values can be changed, and how far each tensor was moved.

use std::path::Path;

use hardy_lab::{
    format,
    text_table::{Align, TextTable},
};
use hardy_model::NamedTensor;
use hardy_numerics::ErrorSums;
use serde::Serialize;

use crate::{failure::Failure, tensor_index::index_of};

/// What was done to a tensor.
#[derive(Serialize)]
pub struct Changed<M> {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// How far it was moved.
    #[serde(flatten)]
    pub metrics: M,
}

/// The values of a tensor, which must all be finite unless that is waived.
///
/// # Errors
/// A tensor that holds no floating-point numbers, or one that is not finite.
pub fn values(path: &Path, tensor: &NamedTensor, allow_nonfinite: bool) -> Result<Vec<f32>, Failure> {
    let values = tensor.as_f32()?;
    let found = values.iter().position(|x| !x.is_finite()).filter(|_| !allow_nonfinite);
    let Some(at) = found else { return Ok(values) };
    let (path, name) = (path.display(), &tensor.name);
    let (index, found) = (index_of(at, &tensor.shape), values[at]);
    Err(Failure::input(format!(
        "{path}: `{name}`{index} is {found}, but every number must be finite; --allow-nonfinite lets it pass"
    )))
}

/// The length of a tensor's last axis; of a scalar 1.
pub fn width(shape: &[usize]) -> usize {
    shape.last().copied().unwrap_or(1)
}

/// The error of `after` over the values that were finite before.
pub fn measure(before: &[f32], after: &[f32]) -> ErrorSums {
    if before.iter().all(|x| x.is_finite()) {
        return ErrorSums::measure(before, after);
    }
    let finite = before.iter().zip(after).filter(|(x, _)| x.is_finite());
    let (before, after): (Vec<f32>, Vec<f32>) = finite.map(|(x, y)| (*x, *y)).unzip();
    ErrorSums::measure(&before, &after)
}

/// The head of a column, and what stands in it.
pub type Column<'a, M> = (&'a str, &'a dyn Fn(&M) -> String);

/// A table of tensors and of the measures that columns make of each.
pub fn table<M>(tensors: &[&Changed<M>], columns: &[Column<'_, M>]) -> String {
    let mut heads = vec![("tensor", Align::Left), ("shape", Align::Left)];
    heads.extend(columns.iter().map(|(name, _)| (*name, Align::Right)));
    let mut table = TextTable::new(&heads);
    for Changed { name, shape, metrics } in tensors {
        let cells = columns.iter().map(|(_, cell)| cell(metrics));
        table.row([name.clone(), format!("{shape:?}")].into_iter().chain(cells));
    }
    table.render()
}

/// A share or an error, to a few digits.
pub fn number(value: f64) -> String {
    format::significant(value, 4)
}

/// Decibels.
pub fn decibels(value: f64) -> String {
    format!("{value:.2}")
}
