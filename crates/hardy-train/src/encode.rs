//! From problems to tokens: the prompt as the model is asked, and the prompt followed by a worked answer. Whatever reads
//! a problem reads it through here, so that training, evaluation and probes see the same tokens.

use hardy_model::{ChatTemplate, Message, Prompt};
use hardy_ops::NoisyBackend;

use crate::{data::Problem, error::Result, policy::Policy, sequence::Sequence};

/// The sequence id of a problem's prompt: its tokens have the same noise in every sample.
pub fn prompt_sequence(problem: u64) -> u64 {
    problem << 16
}

/// The sequence id of a problem's sample.
pub fn sample_sequence(problem: u64, sample: usize) -> u64 {
    prompt_sequence(problem) + 1 + sample as u64
}

/// The prompt's text for a question, in `template` where there is one; `wording` holds `{question}`.
///
/// # Errors
/// A chat template that refuses it.
pub fn prompt_text(template: Option<&ChatTemplate>, question: &str, wording: &str) -> Result<String> {
    let content = wording.replace("{question}", question);
    match template {
        Some(template) => Ok(template.render(&[Message::user(content)], true)?),
        None => Ok(content),
    }
}

impl<B: NoisyBackend> Policy<B> {
    /// The tokens that ask for `problem`; `wording` holds `{question}`.
    ///
    /// # Errors
    /// A chat template or tokenizer that refuses the question.
    pub fn prompt_ids(&self, problem: &Problem, wording: &str) -> Result<Vec<u32>> {
        let text = prompt_text(self.template.as_ref(), &problem.question, wording)?;
        Ok(self.tokenizer.encode(&text)?)
    }

    /// The prompts of problems, with the sequence ids of their samples.
    ///
    /// # Errors
    /// As [`Policy::prompt_ids`].
    pub fn prompts<'a>(
        &self,
        problems: impl IntoIterator<Item = &'a Problem>,
        wording: &str,
        samples: usize,
    ) -> Result<Vec<Prompt>> {
        let prompt = |problem: &Problem| {
            Ok(Prompt {
                ids: self.prompt_ids(problem, wording)?,
                sequence: prompt_sequence(problem.id),
                samples: (0..samples).map(|sample| sample_sequence(problem.id, sample)).collect(),
            })
        };
        problems.into_iter().map(prompt).collect()
    }

    /// A problem with a worked answer and the token that ends it.
    ///
    /// # Errors
    /// As [`Policy::prompt_ids`], and a tokenizer that refuses the answer.
    pub fn worked(&self, problem: &Problem, answer: &str, wording: &str) -> Result<Sequence> {
        let mut ids = self.prompt_ids(problem, wording)?;
        let prompt_length = ids.len();
        ids.extend(self.tokenizer.encode(answer)?);
        ids.extend(self.stop().first());
        let (prompt, sample) = (prompt_sequence(problem.id), sample_sequence(problem.id, 0));
        Ok(Sequence { ids, prompt_length, prompt, sample })
    }
}
