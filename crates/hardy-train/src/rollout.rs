//! Sampled responses with what they were worth, and the groups of them that can not teach anything.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::sequence::Sequence;

/// A response to a problem, with what it was worth.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rollout {
    /// The problem's place among the step's prompts.
    pub group: usize,
    /// Prompt and response.
    pub sequence: Sequence,
    /// The response's text.
    pub text: String,
    /// The log-probability of every response token when it was drawn.
    pub log_probs: Vec<f32>,
    /// Whether it ended by itself.
    pub stopped: bool,
    /// Whether it ended because the next token's logits were not finite.
    pub non_finite: bool,
    /// Strict and flexible score.
    pub scores: [f32; 2],
    /// The score that is rewarded.
    pub score: f32,
    /// What its graders said beside that, by name.
    pub named: BTreeMap<String, f64>,
    /// The soft penalty for its length, at most 0.
    pub penalty: f32,
}

impl Rollout {
    /// Score and penalty.
    pub fn reward(&self) -> f32 {
        self.score + self.penalty
    }
}

/// The responses that a step sampled, whole groups in the order in which they were drawn.
#[derive(Clone, Debug, Default)]
pub struct Sampled {
    /// Those that are learned from.
    pub kept: Vec<Rollout>,
    /// Those that were dropped and replaced.
    pub dropped: Vec<Rollout>,
    /// Rounds of generation that it took.
    pub rounds: usize,
}

impl Sampled {
    /// Kept or not.
    pub fn all(&self) -> impl Iterator<Item = &Rollout> {
        self.kept.iter().chain(&self.dropped)
    }
}

/// How many groups there are in responses that lie group by group.
pub fn groups(rollouts: &[Rollout]) -> usize {
    rollouts.chunk_by(|a, b| a.group == b.group).count()
}

/// Whether all answers of a group are scored alike, so that none has an advantage over another (DAPO,
/// arXiv:2503.14476 eq. 11). Penalties for length do not count, as in the paper.
pub fn is_uniform(group: &[Rollout]) -> bool {
    group.iter().all(|rollout| rollout.score == group[0].score)
}

/// Responses, group by group, parted into those of groups with different scores and of uniform ones.
pub fn part_uniform(rollouts: Vec<Rollout>) -> [Vec<Rollout>; 2] {
    let uniform: Vec<usize> = rollouts
        .chunk_by(|a, b| a.group == b.group)
        .filter(|group| is_uniform(group))
        .map(|group| group[0].group)
        .collect();
    let (dropped, kept) = rollouts.into_iter().partition(|rollout| uniform.contains(&rollout.group));
    [kept, dropped]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rollout(group: usize, score: f32, penalty: f32) -> Rollout {
        let sequence = Sequence { ids: vec![1, 2], prompt_length: 1, prompt: 0, sample: 1 };
        let (text, log_probs, named) = (String::new(), vec![-1.0], BTreeMap::new());
        let scores = [score; 2];
        Rollout {
            group,
            sequence,
            text,
            log_probs,
            stopped: true,
            non_finite: false,
            scores,
            score,
            named,
            penalty,
        }
    }

    #[test]
    fn groups_whose_answers_are_all_right_or_all_wrong_are_parted_from_the_others() {
        let scores = [(0, 1.0), (0, 1.0), (1, 0.0), (1, 1.0), (2, 0.0), (2, 0.0)];
        let rollouts: Vec<Rollout> =
            scores.iter().map(|&(group, score)| rollout(group, score, 0.0)).collect();
        assert_eq!(groups(&rollouts), 3);
        let [kept, dropped] = part_uniform(rollouts);
        assert_eq!(kept.iter().map(|r| r.group).collect::<Vec<_>>(), [1, 1]);
        assert_eq!(dropped.iter().map(|r| r.group).collect::<Vec<_>>(), [0, 0, 2, 2]);
    }

    #[test]
    fn a_penalty_lowers_the_reward_but_makes_no_group_worth_learning_from() {
        let group = [rollout(0, 1.0, 0.0), rollout(0, 1.0, -0.5)];
        assert_eq!(group[1].reward(), 0.5);
        assert!(is_uniform(&group));
    }
}
