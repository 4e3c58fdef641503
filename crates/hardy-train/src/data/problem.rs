//! A problem: a question, a worked answer, and the number the answer ends in.
//!
//! The worked answer follows GSM8K (arXiv:2110.14168): free text whose last line is `#### N`.

use serde::{Deserialize, Serialize};

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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Its index in its source and split; the same every time the source is read.
    pub id: u64,
    /// The question, as the model sees it.
    pub question: String,
    /// The worked answer, ending in `#### N`.
    pub answer: String,
}

impl Problem {
    /// The number to be found, without commas, `$` and spaces; empty where the answer has no `####`.
    pub fn truth(&self) -> String {
        truth_of(&self.answer).unwrap_or_default()
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
        let problem = Problem { id: 0, question: String::new(), answer: "12+7=19\n19*2=38\n#### 38".into() };
        assert_eq!(problem.steps(), "12+7=19\n19*2=38");
        assert_eq!(problem.truth(), "38");
    }
}
