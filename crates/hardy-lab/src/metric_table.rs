//! The numbers of a run's steps, by column: what `metrics.jsonl` says, in a tenth of the memory that a map for every line
//! takes. It grows line by line, so that a run that is still going on can be followed.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, MapAccess, SeqAccess, Visitor},
};

/// Rows that a table has room for beyond those that were announced.
const SPARE: usize = 64;

/// Numbers by step and name, in order of step; of a step that was repeated after a resume, the last.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetricTable {
    steps: Vec<u64>,
    columns: Vec<Column>,
    /// What the steps warned of.
    pub warnings: Vec<String>,
}

/// A quantity: one value a step, NaN where a step does not say.
#[derive(Clone, Debug, Default, PartialEq)]
struct Column {
    name: String,
    values: Vec<f64>,
}

impl MetricTable {
    /// Adds a line of `metrics.jsonl`; one that does not say its step follows the last. What is neither a number nor a
    /// warning is passed over.
    ///
    /// # Errors
    /// A line that is no JSON object; the table is as it was.
    pub fn push(&mut self, line: &str) -> serde_json::Result<()> {
        let (rows, columns, warnings) = (self.steps.len(), self.columns.len(), self.warnings.len());
        let mut json = serde_json::Deserializer::from_str(line);
        if let Err(error) = Row(self).deserialize(&mut json).and_then(|()| json.end()) {
            self.columns.truncate(columns);
            self.columns.iter_mut().for_each(|column| column.values.truncate(rows));
            self.warnings.truncate(warnings);
            return Err(error);
        }
        let step =
            self.last("step").map_or_else(|| self.steps.last().map_or(1, |last| last + 1), |x| x as u64);
        self.go_back_to(step, rows);
        self.steps.push(step);
        self.level();
        Ok(())
    }

    /// Makes room for some `rows` more, so that long columns do not grow by moving.
    pub fn expect(&mut self, rows: usize) {
        self.steps.reserve_exact(rows + SPARE);
        let capacity = self.steps.capacity();
        let columns = self.columns.iter_mut().map(|column| &mut column.values);
        columns.for_each(|values| values.reserve_exact(capacity.saturating_sub(values.len())));
    }

    /// Steps.
    #[must_use]
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether there is no step.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The last step.
    #[must_use]
    pub fn last_step(&self) -> Option<u64> {
        self.steps.last().copied()
    }

    /// The steps that say `name`, and what they say.
    pub fn values(&self, name: &str) -> impl DoubleEndedIterator<Item = (u64, f64)> + '_ {
        let column = self.columns.iter().find(|column| column.name == name);
        let values = column.map_or(&[][..], |column| &column.values);
        self.steps.iter().copied().zip(values.iter().copied()).filter(|(_, value)| !value.is_nan())
    }

    /// The mean of the last `n` values of `name`.
    #[must_use]
    pub fn recent(&self, name: &str, n: usize) -> Option<f64> {
        let (sum, count) =
            self.values(name).rev().take(n).fold((0.0, 0.0), |(s, n), (_, x)| (s + x, n + 1.0));
        (count > 0.0).then_some(sum / count)
    }

    /// The names of all quantities, in the order in which they first came.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|column| column.name.as_str())
    }

    /// What the row that is being read says of `name`.
    fn last(&self, name: &str) -> Option<f64> {
        let column = self.columns.iter().find(|column| column.name == name)?;
        column.values.get(self.steps.len()).copied().filter(|value| !value.is_nan())
    }

    /// Drops the rows of `step` and of those after it, before the newest, which is row `newest`.
    fn go_back_to(&mut self, step: u64, newest: usize) {
        let kept = self.steps.partition_point(|&before| before < step);
        if kept < newest {
            for column in &mut self.columns {
                column.values.drain(kept.min(column.values.len())..newest.min(column.values.len()));
            }
            self.steps.truncate(kept);
        }
    }

    /// Fills up the columns of which the newest row says nothing.
    fn level(&mut self) {
        let rows = self.steps.len();
        self.columns.iter_mut().for_each(|column| column.values.resize(rows, f64::NAN));
    }

    /// The column `name`, sought first where lines of one make have it, at `place`; filled up to the newest row.
    fn column(&mut self, name: &str, place: usize) -> (usize, &mut Vec<f64>) {
        let is_it = |column: &Column| column.name == name;
        let found = match self.columns.get(place).is_some_and(is_it) {
            true => Some(place),
            false => self.columns.iter().position(is_it),
        };
        let index = found.unwrap_or_else(|| {
            self.columns.push(Column { name: name.to_owned(), values: Vec::new() });
            self.columns.len() - 1
        });
        let (rows, values) = (self.steps.len(), &mut self.columns[index].values);
        if values.capacity() <= rows {
            // A doubling would hold twice what long runs need.
            values.reserve_exact(self.steps.capacity().max(rows + rows / 8 + SPARE) - values.len());
        }
        values.resize(rows, f64::NAN);
        (index, values)
    }
}

/// Reads a line into a new row.
struct Row<'a>(&'a mut MetricTable);

impl<'de> DeserializeSeed<'de> for Row<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Row<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object with the numbers of a step")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut place = 0;
        while let Some(Name(name)) = map.next_key()? {
            match map.next_value::<Cell>()? {
                Cell::Number(value) => {
                    let (index, values) = self.0.column(&name, place);
                    values.push(value);
                    place = index + 1;
                }
                Cell::Texts(texts) if name == "warnings" => self.0.warnings.extend(texts),
                Cell::Texts(_) | Cell::Other => {}
            }
        }
        Ok(())
    }
}

/// A key, borrowed where it can be.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// A value.
enum Cell {
    Number(f64),
    Texts(Vec<String>),
    Other,
}

impl<'de> Deserialize<'de> for Cell {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Cell;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_f64<E>(self, x: f64) -> Result<Cell, E> {
                Ok(Cell::Number(x))
            }

            fn visit_u64<E>(self, x: u64) -> Result<Cell, E> {
                Ok(Cell::Number(x as f64))
            }

            fn visit_i64<E>(self, x: i64) -> Result<Cell, E> {
                Ok(Cell::Number(x as f64))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Cell, E> {
                Ok(Cell::Other)
            }

            fn visit_str<E>(self, _: &str) -> Result<Cell, E> {
                Ok(Cell::Other)
            }

            fn visit_unit<E>(self) -> Result<Cell, E> {
                Ok(Cell::Other)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Cell, A::Error> {
                let mut texts = Vec::new();
                while let Some(value) = all.next_element::<serde_json::Value>()? {
                    texts.extend(value.as_str().map(str::to_owned));
                }
                Ok(Cell::Texts(texts))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut all: A) -> Result<Cell, A::Error> {
                while all.next_entry::<serde::de::IgnoredAny, serde::de::IgnoredAny>()?.is_some() {}
                Ok(Cell::Other)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(lines: &[&str]) -> MetricTable {
        let mut table = MetricTable::default();
        lines.iter().for_each(|line| table.push(line).unwrap());
        table
    }

    fn of(table: &MetricTable, name: &str) -> Vec<(u64, f64)> {
        table.values(name).collect()
    }

    #[test]
    fn what_a_step_does_not_say_is_absent() {
        let table = table(&[
            r#"{"step":1,"loss":0.5}"#,
            r#"{"step":2,"kl":0.1,"loss":null}"#,
            r#"{"step":3,"loss":-2}"#,
        ]);
        assert_eq!(of(&table, "loss"), [(1, 0.5), (3, -2.0)]);
        assert_eq!(of(&table, "kl"), [(2, 0.1)]);
        assert_eq!(of(&table, "absent"), []);
        assert_eq!(table.recent("loss", 2), Some(-0.75));
        assert_eq!((table.len(), table.last_step()), (3, Some(3)));
    }

    #[test]
    fn a_run_that_was_resumed_goes_on_from_the_step_that_it_repeats() {
        let lines = [1, 2, 3, 2, 3].map(|step| format!("{{\"step\":{step},\"x\":{step}}}"));
        let mut table = table(&lines[..3].iter().map(String::as_str).collect::<Vec<_>>());
        table.push(r#"{"step":2,"y":7}"#).unwrap();
        assert_eq!(of(&table, "x"), [(1, 1.0)]);
        assert_eq!(of(&table, "y"), [(2, 7.0)]);
        table.push(&lines[4]).unwrap();
        assert_eq!(of(&table, "x"), [(1, 1.0), (3, 3.0)]);
    }

    #[test]
    fn a_broken_line_leaves_nothing_behind() {
        let mut table = table(&[r#"{"step":1,"x":1}"#]);
        let before = table.clone();
        for broken in
            [r#"{"step":2,"x":2,"new":3"#, "nonsense", r#"{"warnings":["w"],"x":}"#, "[1]", r#"{"x":1} 2"#]
        {
            assert!(table.push(broken).is_err(), "{broken}");
            assert_eq!(table, before, "{broken}");
        }
    }

    #[test]
    fn warnings_are_kept_and_texts_and_objects_passed_over() {
        let table = table(&[
            r#"{"step":1,"warnings":["a","b"],"name":"x","more":{"deep":[1,{"y":2}]},"on":true,"x":4}"#,
        ]);
        assert_eq!(table.warnings, ["a", "b"]);
        assert_eq!(table.names().collect::<Vec<_>>(), ["step", "x"]);
    }
}
