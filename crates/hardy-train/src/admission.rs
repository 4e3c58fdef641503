//! Which problems a policy is given: those whose prompts it can read, and that leave room for a response. All of them are
//! looked at before the first is answered, so that a bad one is found at the start and not in step 80.

use hardy_ops::NoisyBackend;
use rayon::prelude::*;

use crate::{
    config::{DataSection, Overlong},
    data::{DataError, Problem, list_places},
    error::Result,
    machine::refuse_large_cache,
    policy::Policy,
};

/// How problems are put to a policy.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// What messages call the source of the problems.
    pub source: &'a str,
    /// How a question is asked, with `{question}` in it.
    pub wording: &'a str,
    /// The longest prompt, in tokens; where it is `None`, what the model leaves beside the response.
    pub max_prompt_tokens: Option<usize>,
    /// What becomes of problems with longer ones.
    pub overlong: Overlong,
    /// Tokens after which a response is cut off.
    pub new_tokens: usize,
}

impl<'a> Asking<'a> {
    /// As `data` says, for problems of `source`.
    pub fn new(data: &'a DataSection, source: &'a str, new_tokens: usize) -> Self {
        let DataSection { prompt, max_prompt_tokens, overlong_prompts, .. } = data;
        let (max_prompt_tokens, overlong) = (*max_prompt_tokens, *overlong_prompts);
        Self { source, wording: prompt, max_prompt_tokens, overlong, new_tokens }
    }
}

/// The problems that a policy is given.
#[derive(Debug)]
pub struct Admitted {
    /// In their order.
    pub problems: Vec<Problem>,
    /// Tokens of the longest prompt.
    pub longest: usize,
    /// What should be said about those that were left out, or are not asked as was said.
    pub warnings: Vec<String>,
}

/// What to say of questions that are conversations, to which no wording is applied.
fn unworded(problems: &[Problem], asking: &Asking<'_>) -> Option<String> {
    let own = problems.iter().filter(|problem| !problem.messages.is_empty()).count();
    (own > 0 && asking.wording != "{question}").then(|| {
        format!(
            "{}: {own} of {} questions are messages and are asked as they stand; `data.prompt` is not applied to them",
            asking.source,
            problems.len()
        )
    })
}

impl<B: NoisyBackend> Policy<B> {
    /// Looks at the prompts of all `problems`.
    ///
    /// # Errors
    /// A prompt that is empty, has a token that the model does not have, or is too long where that is refused; or no
    /// problem that is left.
    pub fn admit(&self, problems: Vec<Problem>, asking: &Asking<'_>) -> Result<Admitted> {
        let most = self.longest_prompt(asking)?;
        let mut warnings: Vec<String> = unworded(&problems, asking).into_iter().collect();
        let length = |problem: &Problem| Ok(self.prompt_ids(problem, asking.wording)?.len());
        let lengths = problems.par_iter().map(length).collect::<Result<Vec<usize>>>()?;
        let nothing = |problem: &&Problem| problem.messages.is_empty() && problem.question.trim().is_empty();
        if let Some(problem) = problems.iter().find(nothing) {
            return Err(problem.refused("the question is empty, and its wording alone asks nothing").into());
        }
        let longest = lengths.iter().copied().max().unwrap_or_default();
        if longest <= most {
            return Ok(Admitted { problems, longest, warnings });
        }
        let (kept, long): (Vec<_>, Vec<_>) = problems.into_iter().zip(lengths).partition(|(_, n)| *n <= most);
        let what = self.too_long(asking, most, (&long, kept.len()), longest);
        if asking.overlong == Overlong::Refuse || kept.is_empty() {
            let first = long.first().map(|(problem, _)| problem.refused(what));
            return Err(first.unwrap_or_else(|| DataError::NoneAsked(asking.source.to_owned())).into());
        }
        let longest = kept.iter().map(|(_, length)| *length).max().unwrap_or_default();
        let problems = kept.into_iter().map(|(problem, _)| problem).collect();
        warnings.push(format!("{}: left out: {what}", asking.source));
        Ok(Admitted { problems, longest, warnings })
    }

    /// Tokens that a prompt may have.
    fn longest_prompt(&self, asking: &Asking<'_>) -> Result<usize> {
        let room = self.max_positions.saturating_sub(asking.new_tokens);
        if room == 0 {
            let what = format!("{} new tokens leave no room for a prompt, ", asking.new_tokens);
            return Err(crate::error::Error::config(what + &self.most_positions()));
        }
        Ok(asking.max_prompt_tokens.map_or(room, |most| most.min(room)))
    }

    fn too_long(
        &self,
        asking: &Asking<'_>,
        most: usize,
        (long, kept): (&[(Problem, usize)], usize),
        longest: usize,
    ) -> String {
        let places = list_places(long.iter().map(|(problem, _)| &problem.place));
        let of = format!("{} of {} problems ({places})", long.len(), long.len() + kept);
        if asking.max_prompt_tokens == Some(most) {
            return format!(
                "the prompts of {of} have more than `data.max_prompt_tokens`, {most} tokens, the longest {longest}; raise \
                 it, or leave them out with `data.overlong_prompts` = \"drop\""
            );
        }
        format!(
            "the prompts of {of} have up to {longest} tokens, which with {} new ones are too many, {}, and \
             `data.overlong_prompts` = \"drop\" leaves them out",
            asking.new_tokens,
            self.most_positions()
        )
    }

    /// Refuses a generation whose key-value cache the machine can not hold; see [`refuse_large_cache`].
    ///
    /// # Errors
    /// It can not.
    pub fn refuse_large_cache(
        &self,
        prompts: usize,
        longest: usize,
        (samples, new_tokens): (usize, usize),
    ) -> Result<()> {
        refuse_large_cache(&self.decoder, (prompts.min(samples), longest), (samples, new_tokens))
    }
}
