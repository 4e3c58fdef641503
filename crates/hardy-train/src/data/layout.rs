//! How a record of a data set becomes a problem: GSM8K's own layout (`question`, `answer`), verl's (`prompt` as messages,
//! `reward_model.ground_truth`, `extra_info`), or columns that a configuration names.

use hardy_model::Message;
use serde_json::{Map, Value};

use super::{Place, Problem, problem::truth_of};
use crate::config::{RewardKind, RewardSection};

/// Where the question and the answer stand, where a configuration says so; a column within another is named with a dot,
/// as `extra_info.question`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    /// The question, text or messages.
    pub question: Option<String>,
    /// The worked answer, or only the truth.
    pub answer: Option<String>,
}

/// What answers must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// A number after `####`, to which GSM8K's rewards hold responses.
    Numbered,
    /// Any text: what follows a `####` is the truth, else all of it.
    Text,
}

/// What the answers must hold for graders to judge by them: a number after `####` where nobody but GSM8K's compares them.
pub fn answers_for(rewards: &[RewardSection]) -> Answers {
    let mut comparing = rewards.iter().filter(|reward| reward.kind != RewardKind::Length).peekable();
    let numbered = comparing.peek().is_some() && comparing.all(|reward| reward.kind.is_gsm8k());
    if numbered { Answers::Numbered } else { Answers::Text }
}

/// Columns that a question, an answer and a truth are looked for in, in this order.
const QUESTION: [&str; 2] = ["question", "prompt"];
const ANSWER: &str = "answer";
const TRUTH: &str = "reward_model.ground_truth";
const WORKED: &str = "extra_info.answer";
const EXTRA: &str = "extra_info";

/// What a question may be.
const TEXT_OR_MESSAGES: &str = "should be a string, or a list of messages with `role` and `content`";

impl Columns {
    /// The problem in a record.
    ///
    /// # Errors
    /// A field that is missing, null or of another type, or an answer without what it must hold.
    pub(super) fn problem(
        &self,
        record: &Map<String, Value>,
        answers: Answers,
        id: u64,
        place: Place,
    ) -> Result<Problem, String> {
        let (question, messages) = self.question(record)?;
        let (answer, truth) = self.answer(record, answers)?;
        Ok(Problem { id, question, messages, answer, truth, extra: self.extra(record), place })
    }

    fn question(&self, record: &Map<String, Value>) -> Result<(String, Vec<Message>), String> {
        let known = || QUESTION.into_iter().find(|name| record.contains_key(*name)).unwrap_or(QUESTION[0]);
        let name = self.question.as_deref().unwrap_or_else(known);
        match field(record, name)? {
            Value::String(text) => Ok((text.clone(), Vec::new())),
            Value::Array(turns) if self.question.is_some() || name != QUESTION[0] => {
                let messages = turns.iter().map(message).collect::<Result<Vec<_>, _>>();
                let messages = messages.map_err(|what| format!("`{name}` {TEXT_OR_MESSAGES}, {what}"))?;
                let asked = messages.iter().rev().find(|message| message.role == "user");
                let asked = asked.ok_or_else(|| format!("`{name}` holds no message of the `user`"))?;
                Ok((asked.content.clone(), messages))
            }
            other if name == QUESTION[0] => Err(not_text(name, other)),
            other => Err(format!("`{name}` {TEXT_OR_MESSAGES}, found {}", kind(other))),
        }
    }

    /// The worked answer and the truth.
    fn answer(&self, record: &Map<String, Value>, answers: Answers) -> Result<(String, String), String> {
        let own = record.contains_key(ANSWER) || at(record, TRUTH).is_none();
        let name = match &self.answer {
            Some(name) => name,
            None if own => ANSWER,
            None => {
                let truth = scalar(field(record, TRUTH)?).map_err(|found| not_text(TRUTH, found))?;
                let worked = at(record, WORKED).and_then(Value::as_str).unwrap_or(&truth);
                return Ok((worked.to_owned(), truth.trim().to_owned()));
            }
        };
        let answer = match field(record, name)? {
            Value::String(text) => text.clone(),
            other if self.answer.is_some() => scalar(other).map_err(|found| not_text(name, found))?,
            other => return Err(not_text(name, other)),
        };
        let truth = match (truth_of(&answer), answers) {
            (Some(truth), _) if truth.is_empty() => {
                return Err(format!("`{name}` has nothing after its last `####`"));
            }
            (Some(truth), _) => truth,
            (None, Answers::Text) => answer.trim().to_owned(),
            (None, Answers::Numbered) => {
                return Err(format!("`{name}` has no `####`; it should end in `#### N`"));
            }
        };
        Ok((answer, truth))
    }

    /// `extra_info`, or whatever else the record holds.
    fn extra(&self, record: &Map<String, Value>) -> Value {
        if let Some(extra) = record.get(EXTRA) {
            return extra.clone();
        }
        let read = |key: &str| {
            let of = |name: &Option<String>, usual: &[&str]| match name {
                Some(name) => name == key,
                None => usual.contains(&key),
            };
            of(&self.question, &QUESTION) || of(&self.answer, &[ANSWER, "reward_model"])
        };
        let rest: Map<String, Value> = record.clone().into_iter().filter(|(key, _)| !read(key)).collect();
        if rest.is_empty() { Value::Null } else { Value::Object(rest) }
    }
}

/// The value at a path of names joined by dots; a name that holds dots itself is found too.
fn at<'a>(record: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    record.get(path).or_else(|| {
        let (first, rest) = path.split_once('.')?;
        at(record.get(first)?.as_object()?, rest)
    })
}

fn field<'a>(record: &'a Map<String, Value>, name: &str) -> Result<&'a Value, String> {
    at(record, name).ok_or_else(|| {
        if record.is_empty() {
            return format!("lacks the field `{name}`; the object is empty");
        }
        let found: Vec<String> = record.keys().map(|key| format!("`{key}`")).collect();
        format!("lacks the field `{name}`; found {}", found.join(", "))
    })
}

fn message(turn: &Value) -> Result<Message, String> {
    let text = |key: &str| match turn.get(key) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(format!("found a message whose `{key}` is {}", kind(other))),
        None => Err(format!("found {} without `{key}`", kind(turn))),
    };
    Ok(Message { role: text("role")?, content: text("content")? })
}

/// Text, or a number as it is written.
fn scalar(value: &Value) -> Result<String, &Value> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        other => Err(other),
    }
}

fn not_text(name: &str, found: &Value) -> String {
    format!("`{name}` should be a string, found {}", kind(found))
}

/// What a value is, in words.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(columns: &Columns, record: &Value, answers: Answers) -> Result<Problem, String> {
        columns.problem(record.as_object().unwrap(), answers, 0, Place::Made(0))
    }

    fn usual(record: &Value) -> Result<Problem, String> {
        read(&Columns::default(), record, Answers::Numbered)
    }

    #[test]
    fn gsm8ks_layout_and_its_further_fields() {
        let problem = usual(&json!({ "question": "q", "answer": "2+2=4\n#### 4", "source": "web" })).unwrap();
        assert_eq!((problem.question.as_str(), problem.truth.as_str()), ("q", "4"));
        assert_eq!((problem.extra, problem.messages.len()), (json!({ "source": "web" }), 0));
    }

    #[test]
    fn verls_layout() {
        let problem = usual(&json!({
            "data_source": "openai/gsm8k",
            "prompt": [{ "role": "system", "content": "s" }, { "role": "user", "content": "q" }],
            "ability": "math",
            "reward_model": { "style": "rule", "ground_truth": "72" },
            "extra_info": { "split": "train", "index": 0, "answer": "48+24=72\n#### 72", "question": "q" },
        }))
        .unwrap();
        assert_eq!((problem.question.as_str(), problem.truth.as_str()), ("q", "72"));
        assert_eq!((problem.answer.as_str(), problem.messages.len()), ("48+24=72\n#### 72", 2));
        assert_eq!(problem.extra["index"], 0);
        let bare = usual(&json!({ "prompt": "q", "reward_model": { "ground_truth": 7 } })).unwrap();
        assert_eq!((bare.truth.as_str(), bare.answer.as_str()), ("7", "7"));
    }

    #[test]
    fn named_columns_may_stand_within_others() {
        let columns = Columns { question: Some("extra.q".into()), answer: Some("solution".into()) };
        let record = json!({ "extra": { "q": "why?" }, "solution": "because", "answer": 3 });
        let problem = read(&columns, &record, Answers::Text).unwrap();
        assert_eq!((problem.question.as_str(), problem.truth.as_str()), ("why?", "because"));
    }

    #[test]
    fn what_is_missing_null_or_of_another_type_is_said() {
        let good = json!({ "role": "user", "content": "q" });
        for (record, message) in [
            (json!({ "question": null, "answer": "#### 1" }), "`question` should be a string, found null"),
            (
                json!({ "prompt": 3, "answer": "#### 1" }),
                "`prompt` should be a string, or a list of messages",
            ),
            (
                json!({ "prompt": [{ "role": "user" }], "answer": "#### 1" }),
                "found an object without `content`",
            ),
            (json!({ "prompt": [], "answer": "#### 1" }), "holds no message of the `user`"),
            (
                json!({ "prompt": [good], "reward_model": { "ground_truth": null } }),
                "`reward_model.ground_truth` should be a string, found null",
            ),
            (json!({ "prompt": "q", "reward_model": {} }), "lacks the field `answer`"),
        ] {
            let error = usual(&record).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
    }
}
