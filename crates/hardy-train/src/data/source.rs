//! From a name in a configuration to problems: `builtin:arith` or a path.

use std::path::Path;

use super::{Arith, DataError, Problem, Split, read_jsonl};

/// How many problems `builtin:arith` gives where no number is asked for.
pub const DEFAULT_PROBLEMS: usize = 4096;

/// Loads the first `n` problems of the source `spec`; of a file all of them where `n` is `None`, or where it has fewer.
///
/// `split` and `seed` choose among the generated problems of `builtin:arith`; a file is what it is.
///
/// # Errors
///
/// An unknown `builtin:` name, `n = 0`, a Parquet file, or a file that [`read_jsonl`] refuses.
pub fn load(spec: &str, split: Split, seed: u64, n: Option<usize>) -> Result<Vec<Problem>, DataError> {
    if n == Some(0) {
        return Err(DataError::NoneAsked(spec.into()));
    }
    match spec.strip_prefix("builtin:") {
        Some("arith") => Ok(Arith::new(seed, split).problems(n.unwrap_or(DEFAULT_PROBLEMS))),
        Some(_) => Err(DataError::UnknownBuiltin(spec.into())),
        None => {
            refuse_parquet(spec)?;
            let mut problems = read_jsonl(spec)?;
            problems.truncate(n.unwrap_or(usize::MAX));
            Ok(problems)
        }
    }
}

fn refuse_parquet(spec: &str) -> Result<(), DataError> {
    let extension = Path::new(spec).extension().map(|extension| extension.to_ascii_lowercase());
    if extension.is_some_and(|extension| extension == "parquet") {
        return Err(DataError::File {
            path: spec.into(),
            reason: "Parquet is not read; convert it to JSON lines with the fields `question` and `answer`"
                .into(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arith_gives_as_many_problems_as_asked_for() {
        assert_eq!(load("builtin:arith", Split::Eval, 1, Some(7)).unwrap().len(), 7);
        assert_eq!(load("builtin:arith", Split::Train, 1, None).unwrap().len(), DEFAULT_PROBLEMS);
    }

    #[test]
    fn sources_that_cannot_be_read_say_what_would_be_right() {
        for (spec, n, part) in [
            ("builtin:algebra", None, "`builtin:arith`"),
            ("builtin:arith", Some(0), "at least 1"),
            ("train.parquet", None, "train.parquet: Parquet is not read; convert it to JSON lines"),
            ("absent.jsonl", None, "absent.jsonl: no such file"),
        ] {
            let error = load(spec, Split::Train, 0, n).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_file_gives_its_first_problems() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.jsonl");
        std::fs::write(&path, "{\"question\":\"q\",\"answer\":\"#### 1\"}\n".repeat(3)).unwrap();
        let count = |n| load(path.to_str().unwrap(), Split::Eval, 0, n).unwrap().len();
        assert_eq!([count(Some(2)), count(Some(9)), count(None)], [2, 3, 3]);
    }
}
