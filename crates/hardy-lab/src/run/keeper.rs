//! Which checkpoints of a run are written, and which are kept: those at their interval, the last, and the best.

use std::path::Path;

use hardy_model::files::write_json;
use hardy_ops::NoisyBackend;
use hardy_train::{
    checkpoint,
    config::{Best, CheckpointSection},
    error::Error,
    trainer::Trainer,
};
use serde_json::json;

use crate::{
    error::LabError,
    record::{EvalRecord, LevelRecord},
    run::Event,
};

/// Writes the checkpoints of a run and removes those that are not to be kept.
pub(super) struct Keeper<'a> {
    run: &'a Path,
    how: &'a CheckpointSection,
    /// The best checkpoint so far, and its score.
    best: Option<(u64, f64)>,
}

impl<'a> Keeper<'a> {
    /// A keeper for a run that goes on after `from` steps; `record` gives the evaluation after a step, if there was one.
    pub(super) fn new(
        run: &'a Path,
        how: &'a CheckpointSection,
        from: u64,
        record: impl Fn(u64) -> Option<EvalRecord>,
    ) -> Self {
        let mut keeper = Self { run, how, best: None };
        for step in checkpoint::steps(run).into_iter().filter(|&step| step <= from) {
            if let (Some(by), Some(record)) = (how.best, record(step)) {
                keeper.is_best(step, score(&record, by));
            }
        }
        keeper
    }

    /// Writes a checkpoint of `trainer` where one is due, or where its evaluation is the best so far. The first worker decides
    /// and writes; all hand it what they hold.
    pub(super) fn keep<B: NoisyBackend>(
        &mut self,
        trainer: &mut Trainer<B>,
        evaluation: Option<&EvalRecord>,
        tell: &mut (dyn FnMut(Event<'_>) + Send),
    ) -> Result<(), LabError> {
        let due = self.how.is_due(trainer.steps, trainer.total_steps, evaluation.is_some());
        let scored = evaluation.zip(self.how.best).map(|(record, by)| (by, score(record, by)));
        let best = scored.filter(|&(_, score)| self.is_best(trainer.steps, score));
        // Only the first worker knows the evaluations from before a run went on.
        if !trainer.workers.of_first(due || best.is_some())? {
            return Ok(());
        }
        trainer.gather_receipts()?;
        trainer.gather_optimizer()?;
        if !trainer.workers.is_first() {
            return Ok(());
        }
        let path = checkpoint::save(self.run, &trainer.learner(), self.how)?;
        if let Some((by, score)) = best {
            let value = json!({ "step": trainer.steps, "by": by, "score": score });
            write_json(&self.run.join("checkpoints/best.json"), &value).map_err(Error::from)?;
        }
        trainer.release_optimizer();
        checkpoint::prune(self.run, self.how, self.best.map(|(step, _)| step))?;
        tell(Event::Checkpoint(&path));
        Ok(())
    }

    /// Whether `score` is better than all before, of which the first is kept where two are equal.
    fn is_best(&mut self, step: u64, score: f64) -> bool {
        let better = self.best.is_none_or(|(_, best)| score > best);
        if better {
            self.best = Some((step, score));
        }
        better
    }
}

/// What an evaluation is compared by.
fn score(record: &EvalRecord, by: Best) -> f64 {
    let at = |level: &LevelRecord| {
        let values = level.values(&record.metric).concat();
        values.iter().sum::<f64>() / values.len().max(1) as f64
    };
    by.of(&record.levels.iter().map(at).collect::<Vec<_>>())
}
