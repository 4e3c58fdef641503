//! Holding the numbers of a TOML table against the settings, and finding the line that a wrong one stands in.

use toml::{
    Spanned, Table, Value,
    de::{DeTable, DeValue},
};

use super::{Kind, range::spelled};
use crate::{
    error::{Error, Result},
    toml_errors::{TomlError, line_of},
};

/// A step on the way to a value.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Key(String),
    Entry(usize),
}

/// A number that is not admissible.
struct Wrong {
    path: Vec<Step>,
    sentence: String,
}

/// Configurations whose numbers are held against a table of settings.
pub(crate) trait Checked {
    /// The table.
    const KIND: Kind;
}

impl Kind {
    /// Checks every number of `table`, which was read from `text`.
    ///
    /// # Errors
    /// The first number that is not admissible, with its line, key, value and range.
    pub(crate) fn check_text(self, table: &Table, text: &str, source: &str) -> Result<()> {
        let Some(wrong) = self.wrong(table) else { return Ok(()) };
        let line = DeTable::parse(text).ok().and_then(|table| offset(&table, &wrong.path));
        let line = line.map(|offset| line_of(text, offset));
        Err(TomlError { source_name: source.to_owned(), line, message: wrong.sentence }.into())
    }

    /// Checks every number of `table` after `change`, the `--set` of the command line.
    ///
    /// # Errors
    /// As [`Kind::check_text`], without a line.
    pub(crate) fn check_change(self, table: &Table, change: &str) -> Result<()> {
        let wrong = |wrong: Wrong| Err(Error::config(format!("--set {change}: {}", wrong.sentence)));
        self.wrong(table).map_or(Ok(()), wrong)
    }

    fn wrong(self, table: &Table) -> Option<Wrong> {
        table.iter().find_map(|(key, value)| self.wrong_value(value, &[Step::Key(key.clone())]))
    }

    fn wrong_value(self, value: &Value, path: &[Step]) -> Option<Wrong> {
        let deeper = |step: Step, value: &Value| self.wrong_value(value, &[path, &[step]].concat());
        match value {
            Value::Table(table) => {
                table.iter().find_map(|(key, value)| deeper(Step::Key(key.clone()), value))
            }
            Value::Array(entries) => {
                entries.iter().enumerate().find_map(|(index, value)| deeper(Step::Entry(index), value))
            }
            Value::Integer(x) => self.wrong_number((*x as f64, true), &x.to_string(), path),
            Value::Float(x) => self.wrong_number((*x, false), &spelled(*x), path),
            _ => None,
        }
    }

    fn wrong_number(self, (x, whole): (f64, bool), found: &str, path: &[Step]) -> Option<Wrong> {
        let key = key(path);
        let range = self.find(&key)?.range;
        if range.admits(x, whole) {
            return None;
        }
        Some(Wrong { path: path.to_vec(), sentence: format!("`{key}` is {found}, but must be {range}") })
    }
}

/// The key of a path: that of an arm's value is the run's, that of a list's entry the list's.
fn key(path: &[Step]) -> String {
    let keys = path.iter().filter_map(|step| match step {
        Step::Key(key) => Some(key.as_str()),
        Step::Entry(_) => None,
    });
    let keys: Vec<&str> = keys.collect();
    keys.strip_prefix(&["arm"]).unwrap_or(&keys).join(".")
}

/// Where the value at `path` begins.
fn offset(table: &Spanned<DeTable<'_>>, path: &[Step]) -> Option<usize> {
    let (Step::Key(first), rest) = path.split_first()? else { return None };
    let mut at = entry(table.get_ref(), first)?;
    for step in rest {
        at = match (step, at.get_ref()) {
            (Step::Key(key), DeValue::Table(table)) => entry(table, key)?,
            (Step::Entry(index), DeValue::Array(entries)) => entries.get(*index)?,
            _ => return None,
        };
    }
    Some(at.span().start)
}

fn entry<'a, 'i>(table: &'a DeTable<'i>, key: &str) -> Option<&'a Spanned<DeValue<'i>>> {
    table.iter().find(|(name, _)| name.get_ref().as_ref() == key).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        let table: Table = text.parse().unwrap();
        Kind::Run.check_text(&table, text, "c.toml").unwrap_err().to_string()
    }

    #[test]
    fn the_line_is_that_of_the_number_wherever_it_stands() {
        assert_eq!(
            message("[train]\nsteps = 3\nbetas = [\n  0.9,\n  1.0,\n]\n"),
            "c.toml:5: `train.betas` is 1, but must be at least 0 and below 1"
        );
        assert_eq!(
            message("train.steps = 3\n[[arm]]\nname = 'a'\n[[arm]]\nname = 'b'\ntrain.top_p = 2\n"),
            "c.toml:6: `train.top_p` is 2, but must be above 0 and at most 1"
        );
    }

    #[test]
    fn what_no_setting_knows_is_left_to_the_parser() {
        let table: Table = "[train]\nmystery = -1\nsteps = 'x'".parse().unwrap();
        assert!(Kind::Run.check_text(&table, "", "c.toml").is_ok());
    }
}
