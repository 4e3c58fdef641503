//! Reading token ids from safetensors files, checked before anything is computed from them.

use std::path::Path;

use hardy_model::{NamedTensor, TensorFile, files::read_tensors};

use crate::{failure::Failure, tensor_index::index_of};

/// A matrix of tokens, row by row.
#[derive(Debug)]
pub struct TokenMatrix {
    /// Its rows.
    pub rows: Vec<Vec<u32>>,
    /// Its columns.
    pub width: usize,
}

/// A batch to score.
#[derive(Debug)]
pub struct ScoreBatch {
    /// `input_ids`, `[rows, width]`.
    pub ids: TokenMatrix,
    /// `attention_mask`, of the same shape: whether a token counts.
    pub mask: Vec<Vec<bool>>,
}

/// Reads `input_ids` and `attention_mask` `[B, T]`; a file without a mask has no padding.
///
/// # Errors
/// A file that is damaged, a tensor that is missing or has the wrong shape, or a value out of range.
pub fn read_score_batch(path: &Path, vocab: usize) -> Result<ScoreBatch, Failure> {
    let file = read_tensors(path)?;
    let mask = match file.find("attention_mask") {
        None => None,
        Some(mask) => {
            let ids = file.get("input_ids")?;
            if mask.shape != ids.shape {
                return Err(Failure::input(format!(
                    "{}: `attention_mask` is {:?}, but `input_ids` is {:?}",
                    path.display(),
                    mask.shape,
                    ids.shape
                )));
            }
            Some(matrix(path, mask, 2, "0 or 1")?)
        }
    };
    // Tokens under the mask may be anything, as padding often is.
    let ids = read_ids(path, &file, "input_ids", vocab, mask.as_ref())?;
    let shown = |row: Vec<u32>| row.into_iter().map(|m| m != 0).collect();
    let mask = match mask {
        Some(mask) => mask.rows.into_iter().map(shown).collect(),
        None => vec![vec![true; ids.width]; ids.rows.len()],
    };
    Ok(ScoreBatch { ids, mask })
}

/// Reads `prompt_ids` `[B, P]`.
///
/// # Errors
/// As [`read_score_batch`].
pub fn read_prompts(path: &Path, vocab: usize) -> Result<TokenMatrix, Failure> {
    read_ids(path, &read_tensors(path)?, "prompt_ids", vocab, None)
}

fn read_ids(
    path: &Path,
    file: &TensorFile,
    name: &str,
    vocab: usize,
    mask: Option<&TokenMatrix>,
) -> Result<TokenMatrix, Failure> {
    let tensor = file.get(name)?;
    let (shape, mut values) = (&tensor.shape, tensor.as_i64()?);
    if let Some(mask) = mask {
        let shown = mask.rows.iter().flatten();
        values.iter_mut().zip(shown).filter(|(_, shown)| **shown == 0).for_each(|(id, _)| *id = 0);
    }
    tokens(path, name, shape, &values, vocab, &format!("a token from 0 to {}", vocab.saturating_sub(1)))
}

fn matrix(path: &Path, tensor: &NamedTensor, below: usize, wanted: &str) -> Result<TokenMatrix, Failure> {
    tokens(path, &tensor.name, &tensor.shape, &tensor.as_i64()?, below, wanted)
}

fn tokens(
    path: &Path,
    name: &str,
    shape: &[usize],
    values: &[i64],
    below: usize,
    wanted: &str,
) -> Result<TokenMatrix, Failure> {
    let path = path.display();
    let [_, width] = *shape else {
        return Err(Failure::input(format!("{path}: `{name}` is {shape:?}; it should have two axes")));
    };
    if values.is_empty() {
        return Err(Failure::input(format!("{path}: `{name}` is {shape:?}, which holds nothing")));
    }
    if let Some(at) = values.iter().position(|&value| usize::try_from(value).map_or(true, |v| v >= below)) {
        let (index, value) = (index_of(at, shape), values[at]);
        return Err(Failure::input(format!("{path}: `{name}`{index} is {value}; it should be {wanted}")));
    }
    let rows = values.chunks(width).map(|row| row.iter().map(|&id| id as u32).collect()).collect();
    Ok(TokenMatrix { rows, width })
}
