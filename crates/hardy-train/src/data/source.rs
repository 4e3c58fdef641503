//! From a name in a configuration to problems: `builtin:arith` or a path.

use std::{fs::File, io::Read, path::Path};

use super::{Answers, Arith, Columns, DataError, Problem, Split, parquet::MAGIC, read_jsonl, read_parquet};

/// How many problems `builtin:arith` gives where no number is asked for.
pub const DEFAULT_PROBLEMS: usize = 4096;

/// A source of problems and how it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source<'a> {
    /// `builtin:arith`, or a file of JSON lines or Parquet.
    pub spec: &'a str,
    /// Where question and answer stand in a file.
    pub columns: Columns,
    /// What its answers must hold.
    pub answers: Answers,
}

impl<'a> Source<'a> {
    /// A source in one of the layouts that are recognised, with any answers.
    pub fn texts(spec: &'a str) -> Self {
        Self { spec, columns: Columns::default(), answers: Answers::Text }
    }
}

/// Loads the first `n` problems of a source; of a file all of them where `n` is `None`, or where it has fewer.
///
/// `split` and `seed` choose among the generated problems of `builtin:arith`; a file is what it is.
///
/// # Errors
///
/// An unknown `builtin:` name, `n = 0`, or a file that [`read_jsonl`] or [`read_parquet`] refuses.
pub fn load(
    source: &Source<'_>,
    split: Split,
    seed: u64,
    n: Option<usize>,
) -> Result<Vec<Problem>, DataError> {
    let Source { spec, columns, answers } = source;
    if n == Some(0) {
        return Err(DataError::NoneAsked((*spec).into()));
    }
    match spec.strip_prefix("builtin:") {
        Some("arith") => Ok(Arith::new(seed, split).problems(n.unwrap_or(DEFAULT_PROBLEMS))),
        Some(_) => Err(DataError::UnknownBuiltin((*spec).into())),
        None if is_parquet(spec) => read_parquet(spec, columns, *answers, n),
        None => {
            let mut problems = read_jsonl(spec, columns, *answers)?;
            problems.truncate(n.unwrap_or(usize::MAX));
            Ok(problems)
        }
    }
}

/// By its name, or by how it begins.
fn is_parquet(spec: &str) -> bool {
    let extension = Path::new(spec).extension().map(|extension| extension.to_ascii_lowercase());
    let begins = || {
        let mut first = [0; MAGIC.len()];
        File::open(spec).and_then(|mut file| file.read_exact(&mut first)).is_ok_and(|()| first == *MAGIC)
    };
    extension.is_some_and(|extension| extension == "parquet") || begins()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arith_gives_as_many_problems_as_asked_for() {
        assert_eq!(load(&Source::texts("builtin:arith"), Split::Eval, 1, Some(7)).unwrap().len(), 7);
        assert_eq!(
            load(&Source::texts("builtin:arith"), Split::Train, 1, None).unwrap().len(),
            DEFAULT_PROBLEMS
        );
    }

    #[test]
    fn sources_that_cannot_be_read_say_what_would_be_right() {
        for (spec, n, part) in [
            ("builtin:algebra", None, "`builtin:arith`"),
            ("builtin:arith", Some(0), "at least 1"),
            ("absent.parquet", None, "absent.parquet: no such file"),
            ("absent.jsonl", None, "absent.jsonl: no such file"),
        ] {
            let error = load(&Source::texts(spec), Split::Train, 0, n).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_file_gives_its_first_problems() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.jsonl");
        std::fs::write(&path, "{\"question\":\"q\",\"answer\":\"#### 1\"}\n".repeat(3)).unwrap();
        let count = |n| load(&Source::texts(path.to_str().unwrap()), Split::Eval, 0, n).unwrap().len();
        assert_eq!([count(Some(2)), count(Some(9)), count(None)], [2, 3, 3]);
    }
}
