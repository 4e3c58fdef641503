//! A problem: a question, a worked answer, and the number the answer ends in.
//!
//! The worked answer follows GSM8K (arXiv:2110.14168): free text whose last line is `#### N`.

use std::{fmt, sync::Arc};

use hardy_model::Message;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::DataError;

/// What precedes the final number in a worked answer.
pub const MARK: &str = "####";

/// Which problems of a source are meant: those to learn from or those to be judged on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Problems to learn from.
    Train,
    /// Problems held out.
    Eval,
}

/// One problem of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Its index in its source and split; the same every time the source is read.
    pub id: u64,
    /// The question; of a conversation, what the user said last.
    pub question: String,
    /// The conversation that asks for it, where the data set has one; it is put to the model as it stands.
    pub messages: Vec<Message>,
    /// The worked answer, which may end in `#### N`; the truth where the data set has none.
    pub answer: String,
    /// What a response is held against.
    pub truth: String,
    /// What else the data set says, for reward programs.
    pub extra: Value,
    /// Where it stands, for messages.
    pub place: Place,
}

/// Where a problem stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// It was generated, as the problem of this number.
    Made(u64),
    /// On a line of a file, from 1.
    Line(Arc<str>, usize),
    /// In a row of a Parquet file, from 0.
    Row {
        /// The file.
        file: Arc<str>,
        /// Its row group, from 0.
        group: usize,
        /// The row in the file.
        row: usize,
    },
}

impl Place {
    /// What its number counts, and the number.
    pub fn number(&self) -> (&'static str, u64) {
        match self {
            Self::Made(number) => ("problem", *number),
            Self::Line(_, line) => ("line", *line as u64),
            Self::Row { row, .. } => ("row", *row as u64),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Made(number) => write!(f, "problem {number}"),
            Self::Line(file, line) => write!(f, "{file}:{line}"),
            Self::Row { file, group, row } => write!(f, "{file}: row {row} (row group {group})"),
        }
    }
}

/// Several places of one kind, the first five with their numbers: "lines 2, 4", "line 7".
pub fn list_places<'a>(places: impl IntoIterator<Item = &'a Place>) -> String {
    let numbers: Vec<(&str, u64)> = places.into_iter().map(Place::number).collect();
    let Some((unit, _)) = numbers.first() else { return "none".to_owned() };
    let shown: Vec<String> = numbers.iter().take(5).map(|(_, number)| number.to_string()).collect();
    let plural = if numbers.len() == 1 { "" } else { "s" };
    let more = if numbers.len() > shown.len() { ", …" } else { "" };
    format!("{unit}{plural} {}{more}", shown.join(", "))
}

impl Problem {
    /// A question and its worked answer, whose truth is the number after `####`.
    pub fn new(id: u64, question: String, answer: String, place: Place) -> Self {
        let truth = truth_of(&answer).unwrap_or_default();
        Self { id, question, messages: Vec::new(), answer, truth, extra: Value::Null, place }
    }

    /// Why it can not be put to a model.
    pub fn refused(&self, reason: impl Into<String>) -> DataError {
        DataError::Problem { place: self.place.clone(), reason: reason.into() }
    }

    /// The worked steps: the answer before its last `####`, without trailing white space.
    pub fn steps(&self) -> &str {
        self.answer.rsplit_once(MARK).map_or(self.answer.as_str(), |(steps, _)| steps).trim_end()
    }
}

/// The text after the last `####` of a worked answer, without commas, `$` and white space.
pub fn truth_of(answer: &str) -> Option<String> {
    let (_, number) = answer.rsplit_once(MARK)?;
    Some(number.chars().filter(|c| !c.is_whitespace() && !matches!(c, ',' | '$')).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truth_is_the_bare_number_after_the_last_mark() {
        assert_eq!(truth_of("a #### 3\nb\n#### $1,250 ").as_deref(), Some("1250"));
        assert_eq!(truth_of("####-7").as_deref(), Some("-7"));
        assert_eq!(truth_of("no mark"), None);
    }

    #[test]
    fn steps_are_what_comes_before_the_closing_line() {
        let answer = "12+7=19\n19*2=38\n#### 38".into();
        let problem = Problem::new(0, String::new(), answer, Place::Made(0));
        assert_eq!(problem.steps(), "12+7=19\n19*2=38");
        assert_eq!(problem.truth, "38");
    }

    #[test]
    fn lists_of_places_show_the_first_of_them() {
        let line = |line| Place::Line("a.jsonl".into(), line);
        assert_eq!(list_places(&[line(7)]), "line 7");
        assert_eq!(list_places(&[line(2), line(4)]), "lines 2, 4");
        assert_eq!(list_places(&(1..=9).map(line).collect::<Vec<_>>()), "lines 1, 2, 3, 4, 5, …");
    }
}
