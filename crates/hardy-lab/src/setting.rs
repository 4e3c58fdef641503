//! What a look at a model needs: the model, problems, and how they are asked.

use hardy_ops::NoisyBackend;
use hardy_train::{data::Problem, error::Error, policy::Policy, sequence::Sequence};

use crate::error::LabError;

/// A model before its problems.
#[derive(Debug)]
pub struct Setting<'a, B: NoisyBackend> {
    /// The model.
    pub policy: &'a Policy<B>,
    /// The problems; at least one.
    pub problems: &'a [Problem],
    /// How a question is asked, with `{question}` in it.
    pub wording: &'a str,
}

// Derived, these would ask the backend to be `Copy`.
impl<B: NoisyBackend> Clone for Setting<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: NoisyBackend> Copy for Setting<'_, B> {}

impl<B: NoisyBackend> Setting<'_, B> {
    /// Every problem with its worked answer and the end-of-sequence token.
    pub(crate) fn worked(&self) -> Result<Vec<Sequence>, LabError> {
        let sequence = |problem: &Problem| self.policy.worked(problem, &problem.answer, self.wording);
        Ok(self.problems.iter().map(sequence).collect::<Result<_, Error>>()?)
    }
}
