//! An early word where learning is impossible: what the first steps show already, with the numbers and what to change, so
//! that it is not found after hours.

use crate::{config::RunConfig, step_record::StepRecord};

/// Steps that are looked at.
const STEPS: u64 = 3;
/// The share of answers that are cut off from which on most learning is about that.
const MOSTLY: f64 = 0.5;

/// What stands in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// No group of answers differs in score.
    Uniform,
    /// Most answers are cut off.
    CutOff,
    /// The rewarded form never occurs, though right answers do.
    Form,
}

/// What the first steps of a run have shown; each obstacle is told once.
#[derive(Clone, Debug, Default)]
pub struct EarlyWord {
    told: Vec<Obstacle>,
}

impl EarlyWord {
    /// What a run that goes on told before, by the steps that it has made.
    pub fn after<'a>(made: impl IntoIterator<Item = &'a StepRecord>, config: &RunConfig) -> Self {
        let mut early = Self::default();
        for record in made {
            early.of(record, config);
        }
        early
    }

    /// What `record` shows that was not told before; nothing after the first few steps.
    pub fn of(&mut self, record: &StepRecord, config: &RunConfig) -> Vec<String> {
        if record.step > STEPS {
            return Vec::new();
        }
        let found = [
            (Obstacle::Uniform, uniform(record, config)),
            (Obstacle::CutOff, cut_off(record, config)),
            (Obstacle::Form, form(record, config)),
        ];
        let new = found.into_iter().filter_map(|(obstacle, word)| Some((obstacle, word?)));
        let new: Vec<_> = new.filter(|(obstacle, _)| !self.told.contains(obstacle)).collect();
        self.told.extend(new.iter().map(|(obstacle, _)| *obstacle));
        new.into_iter().map(|(_, word)| format!("step {}: {word}", record.step)).collect()
    }
}

fn uniform(record: &StepRecord, config: &RunConfig) -> Option<String> {
    if record.uniform_groups < 1.0 {
        return None;
    }
    let easy = record.reward_mean > 0.0;
    let problems = if easy { "harder problems" } else { "problems that the model solves now and then" };
    Some(format!(
        "all {} groups of answers are scored alike (mean reward {:.3}), and from such groups nothing is learned: take \
         {problems}, more `train.samples_per_prompt` (now {}), a higher `train.temperature` (now {}), or a [[reward]] with \
         steps between nothing and all",
        record.groups_sampled, record.reward_mean, config.train.samples_per_prompt, config.train.temperature
    ))
}

fn cut_off(record: &StepRecord, config: &RunConfig) -> Option<String> {
    (record.truncated_share > MOSTLY).then(|| {
        format!(
            "{:.0} % of the answers were cut off at `train.max_new_tokens` = {} (mean length {:.0}): raise it, ask for short \
             answers in `data.prompt`, or see that the model has its end-of-sequence token (eos_token_id in config.json)",
            100.0 * record.truncated_share,
            config.train.max_new_tokens,
            record.response_length_mean
        )
    })
}

fn form(record: &StepRecord, config: &RunConfig) -> Option<String> {
    let only_strict = config.rewards().iter().all(|reward| reward.name() == "strict");
    (only_strict && record.strict_accuracy == 0.0 && record.flexible_accuracy > 0.0).then(|| {
        format!(
            "{:.1} % of the answers are right, but none in the rewarded form `#### N`: ask for that form in `data.prompt`, \
             reward any form with `train.reward` = \"flexible\", or teach it first with `hardy sft`",
            100.0 * record.flexible_accuracy
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(records: &[StepRecord]) -> Vec<String> {
        let config = RunConfig::load("baseline", &[]).unwrap();
        let mut word = EarlyWord::default();
        records.iter().flat_map(|record| word.of(record, &config)).collect()
    }

    #[test]
    fn a_run_that_goes_on_does_not_repeat_what_it_told() {
        let bad = StepRecord { step: 1, truncated_share: 0.75, ..StepRecord::default() };
        let config = RunConfig::load("baseline", &[]).unwrap();
        let next = StepRecord { step: 2, ..bad.clone() };
        assert!(EarlyWord::after([&bad], &config).of(&next, &config).is_empty());
        assert_eq!(EarlyWord::after([], &config).of(&next, &config).len(), 1);
    }

    #[test]
    fn each_obstacle_is_told_once_with_its_numbers_and_what_to_change() {
        let bad = StepRecord {
            step: 1,
            uniform_groups: 1.0,
            groups_sampled: 32,
            truncated_share: 0.75,
            flexible_accuracy: 0.125,
            ..StepRecord::default()
        };
        let found = words(&[bad.clone(), StepRecord { step: 2, ..bad }]);
        assert_eq!(found.len(), 3, "{found:?}");
        for (word, parts) in found.iter().zip([
            ["step 1: all 32 groups", "`train.samples_per_prompt` (now 8)"],
            ["step 1: 75 % of the answers", "`train.max_new_tokens` = 64"],
            ["step 1: 12.5 % of the answers are right", "`train.reward` = \"flexible\""],
        ]) {
            assert!(parts.iter().all(|part| word.contains(part)), "{word}");
        }
    }

    #[test]
    fn what_can_learn_is_left_alone_and_so_are_later_steps() {
        let good = StepRecord { step: 1, uniform_groups: 0.9, truncated_share: 0.5, ..StepRecord::default() };
        let late = StepRecord { step: 4, uniform_groups: 1.0, ..StepRecord::default() };
        assert!(words(&[good, late]).is_empty());
    }
}
