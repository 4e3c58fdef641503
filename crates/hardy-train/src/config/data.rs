//! `[data]`: the problems to learn from and to be judged by, and how they are asked.

use serde::{Deserialize, Serialize};

use crate::{
    data::{Answers, Columns, Source},
    error::{Error, Result},
};

/// The problems to learn from and to be judged by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataSection {
    /// `builtin:arith`, or a file of JSON lines or Parquet, laid out as GSM8K or as verl does.
    pub train: String,
    /// The same, for evaluation.
    pub eval: String,
    /// Problems of an epoch; a file's first ones, or all where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_problems: Option<usize>,
    /// The column of the question, text or messages; `question` or `prompt` where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
    /// The column of the answer; `answer` or verl's `reward_model.ground_truth` where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// What is asked, with `{question}` for the problem's text; questions that are messages are asked as they stand.
    pub prompt: String,
    /// The system's message, where a problem has none of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// The longest prompt, in tokens; where it is left out, what the model leaves beside the response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_prompt_tokens: Option<usize>,
    /// What becomes of problems with longer prompts.
    pub overlong_prompts: Overlong,
}

/// What becomes of problems whose prompts are too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overlong {
    /// The run does not start.
    #[default]
    Refuse,
    /// They are left out, and counted.
    Drop,
}

impl DataSection {
    /// One of the section's files, and how it is read.
    pub fn source<'a>(&self, spec: &'a str, answers: Answers) -> Source<'a> {
        let columns = Columns { question: self.question.clone(), answer: self.answer.clone() };
        Source { spec, columns, answers }
    }

    /// Checks that what is asked holds the question, and that nobody is judged on toy arithmetic who learned from a file:
    /// where a model is `judged`, both sources are of one kind.
    ///
    /// # Errors
    /// A source that is missing or of the other kind, or wording without `{question}`.
    pub(crate) fn check(&self, judged: bool) -> Result<()> {
        let sources = [("data.train", &self.train), ("data.eval", &self.eval)];
        let sources = if judged { &sources[..] } else { &sources[..1] };
        if let Some((key, _)) = sources.iter().find(|(_, source)| source.is_empty()) {
            return Err(Error::config(format!(
                "`{key}` is missing: write `builtin:arith`, or the path of a GSM8K-style file"
            )));
        }
        if let [(train, from_train), (eval, from_eval)] = *sources {
            match (is_builtin(from_train), is_builtin(from_eval)) {
                (false, true) => return Err(mixed((train, from_train), (eval, from_eval))),
                (true, false) => return Err(mixed((eval, from_eval), (train, from_train))),
                _ => {}
            }
        }
        if !self.prompt.contains("{question}") {
            return Err(Error::config(format!(
                "`data.prompt` is {:?}, but must hold {{question}}, where the problem's text goes",
                self.prompt
            )));
        }
        Ok(())
    }
}

fn is_builtin(source: &str) -> bool {
    source.starts_with("builtin:")
}

impl Default for DataSection {
    fn default() -> Self {
        let arith = "builtin:arith".to_owned();
        Self {
            train: arith.clone(),
            eval: arith,
            train_problems: None,
            question: None,
            answer: None,
            prompt: "{question}".to_owned(),
            system: None,
            max_prompt_tokens: None,
            overlong_prompts: Overlong::Refuse,
        }
    }
}

fn mixed((key, file): (&str, &str), (toy, builtin): (&str, &str)) -> Error {
    Error::config(format!(
        "`{key}` is {file}, but `{toy}` is {builtin}, toy arithmetic; write {toy} = \"FILE\" with problems of the same \
         kind, or --set {toy}=FILE"
    ))
}
