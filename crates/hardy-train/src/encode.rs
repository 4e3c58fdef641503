//! From problems to tokens: the prompt as the model is asked, and the prompt followed by a worked answer. Whatever reads
//! a problem reads it through here, so that training, evaluation and probes see the same tokens.

use hardy_model::{ChatTemplate, Message, Prompt, Tokenizer};
use hardy_ops::{NoisyBackend, ops::attention::MOST_KEYS};
use rayon::prelude::*;

use crate::{data::Problem, error::Result, policy::Policy, sequence::Sequence};

/// The sequence id of a problem's prompt: its tokens have the same noise in every sample.
pub fn prompt_sequence(problem: u64) -> u64 {
    problem << 16
}

/// The sequence id of a problem's sample.
pub fn sample_sequence(problem: u64, sample: usize) -> u64 {
    prompt_sequence(problem) + 1 + sample as u64
}

/// The prompt's text for a problem: a conversation in `template` where there is one, else what is said in it with blank
/// lines between. `wording` holds `{question}`.
///
/// # Errors
/// A chat template that refuses it.
pub fn prompt_text(
    template: Option<&ChatTemplate>,
    system: Option<&str>,
    problem: &Problem,
    wording: &str,
) -> Result<String> {
    let messages = conversation(system, problem, wording);
    match template {
        Some(template) => Ok(template.render(&messages, true)?),
        None => Ok(messages.into_iter().map(|message| message.content).collect::<Vec<_>>().join("\n\n")),
    }
}

/// The conversation of the data set as it stands, or the question as it is worded; `system` speaks first where nobody else
/// speaks for the system.
fn conversation(system: Option<&str>, problem: &Problem, wording: &str) -> Vec<Message> {
    let mut messages = match &problem.messages[..] {
        [] => vec![Message::user(wording.replace("{question}", &problem.question))],
        own => own.to_vec(),
    };
    if let Some(system) = system.filter(|_| messages.iter().all(|message| message.role != "system")) {
        messages.insert(0, Message { role: "system".to_owned(), content: system.to_owned() });
    }
    messages
}

impl<B: NoisyBackend> Policy<B> {
    /// The text that asks for `problem`; `wording` holds `{question}`.
    ///
    /// # Errors
    /// A chat template that refuses it.
    pub fn prompt_text(&self, problem: &Problem, wording: &str) -> Result<String> {
        prompt_text(self.template.as_ref(), self.system.as_deref(), problem, wording)
    }

    /// The tokens that ask for `problem`, at least one, all of which the model has; `wording` holds `{question}`.
    ///
    /// # Errors
    /// A chat template or tokenizer that refuses the question, an empty prompt, or a token that the model does not have.
    pub fn prompt_ids(&self, problem: &Problem, wording: &str) -> Result<Vec<u32>> {
        let text = self.prompt_text(problem, wording)?;
        let ids = self.encode(&text, problem)?;
        if ids.is_empty() {
            return Err(problem
                .refused("the prompt is empty; a model needs at least one token to go on from")
                .into());
        }
        Ok(ids)
    }

    /// The tokens of a text of `problem`, all of which the model has.
    fn encode(&self, text: &str, problem: &Problem) -> Result<Vec<u32>> {
        let ids = self.tokenizer.encode(text)?;
        self.unknown(&ids).map_or(Ok(ids), |unknown| Err(problem.refused(unknown).into()))
    }

    /// What is wrong with tokens that the model does not have, if there are any.
    pub fn unknown(&self, ids: &[u32]) -> Option<String> {
        unknown_token(ids, self.decoder.blueprint.config.vocab_size, &self.tokenizer)
    }

    /// The end-of-sequence token, where the model has one.
    fn end(&self) -> Option<u32> {
        self.stop().into_iter().find(|&id| (id as usize) < self.decoder.blueprint.config.vocab_size)
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
        let prompt = |problem: &&Problem| {
            Ok(Prompt {
                ids: self.prompt_ids(problem, wording)?,
                sequence: prompt_sequence(problem.id),
                samples: (0..samples).map(|sample| sample_sequence(problem.id, sample)).collect(),
            })
        };
        let problems: Vec<&Problem> = problems.into_iter().collect();
        // All first, so that of several that are refused the first is told.
        let prompts: Vec<Result<Prompt>> = problems.par_iter().map(prompt).collect();
        prompts.into_iter().collect()
    }

    /// A problem with a worked answer and the token that ends it.
    ///
    /// # Errors
    /// As [`Policy::prompt_ids`], an answer without a token, or more tokens than the model has positions for.
    pub fn worked(&self, problem: &Problem, answer: &str, wording: &str) -> Result<Sequence> {
        let mut ids = self.prompt_ids(problem, wording)?;
        let prompt_length = ids.len();
        ids.extend(self.encode(answer, problem)?);
        ids.extend(self.end());
        if ids.len() == prompt_length {
            return Err(problem
                .refused("the answer is empty, and the model has no end-of-sequence token")
                .into());
        }
        if ids.len() > self.max_positions {
            let reason = format!("prompt and answer have {} tokens, {}", ids.len(), self.most_positions());
            return Err(problem.refused(reason).into());
        }
        let (prompt, sample) = (prompt_sequence(problem.id), sample_sequence(problem.id, 0));
        Ok(Sequence { ids, prompt_length, prompt, sample })
    }

    /// How long sequences may be, and how they may be longer.
    pub(crate) fn most_positions(&self) -> String {
        most_positions(self.max_positions)
    }
}

/// What is wrong with a token that a model of `vocab` tokens does not have, if there is one among `ids`.
pub fn unknown_token(ids: &[u32], vocab: usize, tokenizer: &Tokenizer) -> Option<String> {
    let id = *ids.iter().find(|&&id| id as usize >= vocab)?;
    let text = tokenizer.decode(&[id], false).unwrap_or_default();
    Some(format!(
        "the tokenizer gives token {id}, `{text}`, but the model has {vocab} tokens (vocab_size in config.json); use the \
         tokenizer that the model was made with, or a text without that token"
    ))
}

/// How long sequences may be, after how long one is, and how they may be longer.
pub fn most_positions(most: usize) -> String {
    if most == MOST_KEYS {
        return format!("but attention sees at most {MOST_KEYS}");
    }
    format!(
        "but the model was made for {most} (max_position_embeddings in config.json); `model.max_positions` or \
         --max-positions allows more"
    )
}

#[cfg(test)]
mod tests {
    use hardy_model::chat::CHATML;

    use super::*;
    use crate::data::Place;

    #[test]
    fn a_conversation_is_asked_as_it_stands_and_a_question_as_it_is_worded() {
        let plain = Problem::new(0, "2+2?".into(), "#### 4".into(), Place::Made(0));
        let said = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
        let turns = vec![said("system", "s"), said("user", "u")];
        let own = Problem { messages: turns, ..plain.clone() };
        let template = ChatTemplate::new(CHATML).unwrap();
        let text = |problem: &Problem, system, template| {
            prompt_text(template, system, problem, "Q: {question}").unwrap()
        };
        assert_eq!(text(&plain, None, None), "Q: 2+2?");
        assert_eq!(text(&plain, Some("Be brief."), None), "Be brief.\n\nQ: 2+2?");
        assert_eq!(text(&own, Some("Be brief."), None), "s\n\nu");
        let chat = text(&plain, Some("Be brief."), Some(&template));
        assert!(
            chat.starts_with("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nQ: 2+2?"),
            "{chat}"
        );
    }
}
