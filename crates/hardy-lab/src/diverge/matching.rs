//! Which tensor of one dump is which of another: by module path, kind of value, argument and call. What has no
//! counterpart is listed.

use std::collections::HashMap;

use super::{
    dump::{Dump, Entry, Matrix},
    name::Place,
};
use crate::error::LabError;

/// Tensors of two dumps, paired.
#[derive(Debug)]
pub struct Pairs<'a> {
    /// Those of the same place, in the order of execution where one dump knows it.
    pub pairs: Vec<(&'a Entry, &'a Entry)>,
    /// Those of the first dump alone, with their places in its order.
    pub only_a: Vec<&'a Entry>,
    /// Those of the second alone.
    pub only_b: Vec<&'a Entry>,
}

/// Pairs the tensors of two dumps.
///
/// # Errors
/// Dumps of other tokens, of models with other parameters unless `any_model`, or without a place in common.
pub fn pair<'a>(a: &'a Dump, b: &'a Dump, any_model: bool) -> Result<Pairs<'a>, LabError> {
    same_tokens(a, b)?;
    if !any_model {
        same_model(a, b)?;
    }
    let by_place = first_of_places(b);
    let mine = first_of_places(a);
    let counterpart = |entry: &'a Entry| {
        let first = mine.get(&entry.place).is_some_and(|first| std::ptr::eq(*first, entry));
        first.then(|| by_place.get(&entry.place).copied()).flatten()
    };
    let mut pairs: Vec<_> = a.entries.iter().filter_map(|x| Some((x, counterpart(x)?))).collect();
    if pairs.is_empty() {
        return Err(nothing_shared(a, b));
    }
    if !a.ordered {
        sort_by(&mut pairs, b);
    }
    let paired =
        |entry: &Entry| pairs.iter().any(|(x, y)| std::ptr::eq(*x, entry) || std::ptr::eq(*y, entry));
    let rest = |dump: &'a Dump| dump.entries.iter().filter(|entry| !paired(entry)).collect();
    let (only_a, only_b) = (rest(a), rest(b));
    Ok(Pairs { pairs, only_a, only_b })
}

fn first_of_places(dump: &Dump) -> HashMap<&Place, &Entry> {
    let mut places = HashMap::new();
    for entry in &dump.entries {
        places.entry(&entry.place).or_insert(entry);
    }
    places
}

/// Puts pairs in the order of the second dump, or where it has none in that of their names, layer by layer.
fn sort_by(pairs: &mut [(&Entry, &Entry)], b: &Dump) {
    if b.ordered {
        let at: HashMap<*const Entry, usize> =
            b.entries.iter().enumerate().map(|(i, entry)| (std::ptr::from_ref(entry), i)).collect();
        pairs.sort_by_key(|(_, entry)| at[&std::ptr::from_ref(*entry)]);
    } else {
        pairs.sort_by_cached_key(|(entry, _)| {
            (entry.place.side.is_gradient(), natural(&entry.place.module), entry.place.side)
        });
    }
}

/// A path with its numbers as numbers, so that layer 10 follows layer 9.
fn natural(path: &str) -> Vec<(u64, String)> {
    let part = |part: &str| match part.parse() {
        Ok(number) => (number, String::new()),
        // What stands before the layers comes first: `embed_tokens`; then `layers`, `lm_head`, `norm`.
        Err(_) => (u64::MAX, part.to_owned()),
    };
    path.split('.').map(part).collect()
}

fn nothing_shared(a: &Dump, b: &Dump) -> LabError {
    let some = |dump: &Dump| {
        let names: Vec<&str> = dump.entries.iter().take(2).map(|entry| entry.name.as_str()).collect();
        let count = dump.entries.len();
        format!("{} holds {count} tensors such as `{}`", dump.source, names.join("`, `"))
    };
    LabError::Diverge(format!("no site is in both: {}; {}", some(a), some(b)))
}

fn same_tokens(a: &Dump, b: &Dump) -> Result<(), LabError> {
    let (Some(x), Some(y)) = (&a.ids, &b.ids) else { return Ok(()) };
    let masks = [a, b].map(|dump| dump.mask.as_ref());
    let shown = |i: usize| masks.iter().flatten().all(|mask| mask.values.get(i).is_none_or(|m| *m != 0));
    let same = |(i, (x, y)): (usize, (&i64, &i64))| x == y || !shown(i);
    let alike = x.width == y.width
        && x.values.len() == y.values.len()
        && x.values.iter().zip(&y.values).enumerate().all(same)
        && masks.iter().flatten().all(|mask| mask.values.len() == x.values.len())
        && match masks {
            [Some(p), Some(q)] => p == q,
            _ => true,
        };
    let size = |m: &Matrix| format!("[{}, {}]", m.values.len() / m.width.max(1), m.width);
    if alike {
        return Ok(());
    }
    Err(LabError::Diverge(format!(
        "{} and {} are of different tokens: `input_ids` {} and {}; give both machines the same batch",
        a.source,
        b.source,
        size(x),
        size(y)
    )))
}

fn same_model(a: &Dump, b: &Dump) -> Result<(), LabError> {
    match (a.fact("fingerprint"), b.fact("fingerprint")) {
        (Some(x), Some(y)) if x != y => Err(LabError::Diverge(format!(
            "{} and {} are of models with different parameters ({x} and {y}); --any-model compares them nevertheless",
            a.source, b.source
        ))),
        _ => Ok(()),
    }
}

/// The elements of two tensors that are both there, row by row: padding is left out, and where one side holds the tokens
/// without padding the other's are packed likewise. `None` where one has only statistics.
///
/// # Errors
/// Tensors of other shapes.
pub fn aligned(
    (x, y): (&Entry, &Entry),
    mask: Option<&Matrix>,
    sources: [&str; 2],
) -> Result<Option<[Vec<f32>; 2]>, LabError> {
    let (Some(a), Some(b)) = (x.elements()?, y.elements()?) else { return padded_statistics(mask, sources) };
    let gradient_of_weight = matches!(x.place.side, super::Side::GradWeight | super::Side::GradBias);
    let mask = mask.filter(|_| !gradient_of_weight);
    let packed = |entry: &Entry, values: &[f32]| {
        mask.and_then(|mask| pack(values, &entry.shape, mask)).unwrap_or_else(|| values.to_vec())
    };
    let squeezed = |shape: &[usize]| shape.iter().copied().filter(|&n| n != 1).collect::<Vec<_>>();
    let alike = |a: &[usize], b: &[usize]| squeezed(a) == squeezed(b) || flat(a) == flat(b);
    let (p, q) = (packed(x, &a), packed(y, &b));
    if p.len() == q.len() && (alike(&x.shape, &y.shape) || x.shape.last() == y.shape.last()) {
        return Ok(Some([p, q]));
    }
    Err(LabError::Diverge(format!(
        "`{}` is {:?} in {}, `{}` is {:?} in {}; give both machines the same tokens, with the same padding",
        x.name, x.shape, sources[0], y.name, y.shape, sources[1]
    )))
}

/// Statistics count padding, so that they are compared only where there is none.
fn padded_statistics<T>(mask: Option<&Matrix>, sources: [&str; 2]) -> Result<Option<T>, LabError> {
    if mask.is_none_or(|mask| mask.values.iter().all(|&shown| shown != 0)) {
        return Ok(None);
    }
    Err(LabError::Diverge(format!(
        "of {} or {} only statistics were kept, which count padding, and this batch has some; keep tensors, or take a batch \
         without padding",
        sources[0], sources[1]
    )))
}

/// `[rows, width]` of whatever shape.
fn flat(shape: &[usize]) -> [usize; 2] {
    let width = shape.last().copied().unwrap_or(1);
    [shape.iter().product::<usize>() / width.max(1), width]
}

/// The rows of tokens that the mask `[B, T]` shows, of `[B, T, width]`, `[B·T, width]`, or of `[B, heads, T, keys]` every
/// query's; `None` where the tensor has no such rows.
pub(crate) fn pack(values: &[f32], shape: &[usize], mask: &Matrix) -> Option<Vec<f32>> {
    let (cells, time) = (mask.values.len(), mask.width);
    let batch = cells / time.max(1);
    let shown = |b: usize, t: usize| mask.values[b * time + t] != 0;
    let [rows, width] = flat(shape);
    let cell = |row: usize| match *shape {
        [b, heads, t, _] if (b, t) == (batch, time) => Some((row / (heads * time), row % time)),
        _ if rows == cells => Some((row / time, row % time)),
        _ => None,
    };
    if rows == 0 || width == 0 {
        return None;
    }
    cell(0)?;
    let kept = values
        .chunks_exact(width)
        .enumerate()
        .filter(|(row, _)| cell(*row).is_some_and(|(b, t)| shown(b, t)));
    Some(kept.flat_map(|(_, row)| row.iter().copied()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump(names: &[&str], ordered: bool) -> Dump {
        let entry = |name: &&str| Entry::new((*name).to_owned(), vec![2], vec![1.0, 2.0]);
        Dump {
            source: "a".to_owned(),
            entries: names.iter().map(entry).collect(),
            ordered,
            ..Dump::default()
        }
    }

    #[test]
    fn sites_pair_by_path_in_the_order_that_is_known() {
        let a = dump(&["model.layers.10.mlp", "model.layers.9.mlp", "model.norm"], false);
        let b = dump(&["layers.9.mlp.output", "layers.10.mlp.output", "lm_head"], true);
        let pairs = pair(&a, &b, false).unwrap();
        let names: Vec<&str> = pairs.pairs.iter().map(|(x, _)| x.name.as_str()).collect();
        assert_eq!(names, ["model.layers.9.mlp", "model.layers.10.mlp"]);
        assert_eq!((pairs.only_a[0].name.as_str(), pairs.only_b[0].name.as_str()), ("model.norm", "lm_head"));
        let unordered = dump(&["layers.9.mlp", "layers.10.mlp"], false);
        assert_eq!(pair(&a, &unordered, false).unwrap().pairs[0].0.name, "model.layers.9.mlp");
        assert!(
            pair(&a, &dump(&["other"], true), false).unwrap_err().to_string().contains("no site is in both")
        );
    }

    #[test]
    fn padding_is_left_out_and_packed_rows_are_met() {
        let mask = Matrix { values: vec![1, 0, 1, 1], width: 2 };
        let of = |name: &str, shape: &[usize], values: &[f32]| {
            Entry::new(name.to_owned(), shape.to_vec(), values.to_vec())
        };
        let padded = of("a", &[2, 2, 1], &[1.0, 9.0, 3.0, 4.0]);
        let packed = of("a", &[3, 1], &[1.0, 3.0, 4.0]);
        let [x, y] = aligned((&padded, &packed), Some(&mask), ["p", "q"]).unwrap().unwrap();
        assert_eq!((x, y), (vec![1.0, 3.0, 4.0], vec![1.0, 3.0, 4.0]));
        let wide = of("a", &[2, 2, 2], &[0.0; 8]);
        let message = aligned((&padded, &wide), Some(&mask), ["p", "q"]).unwrap_err().to_string();
        assert!(message.contains("`a` is [2, 2, 1] in p, `a` is [2, 2, 2] in q"), "{message}");
    }

    #[test]
    fn other_tokens_and_other_models_are_refused() {
        let with = |ids: &[i64], fingerprint: &str| Dump {
            ids: Some(Matrix { values: ids.to_vec(), width: 2 }),
            facts: [("fingerprint".to_owned(), fingerprint.to_owned())].into(),
            ..dump(&["norm"], true)
        };
        let refused = |a: &Dump, b: &Dump| pair(a, b, false).unwrap_err().to_string();
        assert!(refused(&with(&[1, 2], "x"), &with(&[1, 3], "x")).contains("different tokens"));
        assert!(refused(&with(&[1, 2], "x"), &with(&[1, 2], "y")).contains("different parameters"));
        assert!(pair(&with(&[1, 2], "x"), &with(&[1, 2], "y"), true).is_ok());
    }
}
