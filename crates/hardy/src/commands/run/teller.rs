//! What a run tells while it goes on, on standard error.

use hardy_lab::{EvalRecord, format, run::Event, statistics::scores};
use hardy_train::step_record::StepRecord;

use crate::{output::note, progress::Progress};

/// Turns events into lines and bars.
#[derive(Debug, Default)]
pub struct Teller {
    /// The work in progress.
    progress: Option<Progress>,
}

impl Teller {
    /// Tells one event.
    pub fn tell(&mut self, event: &Event<'_>) {
        match event {
            Event::Warning(warning) => self.line(&format!("warning: {warning}")),
            Event::Started { name, directory, from, total } => {
                let from = if *from > 0 { format!(", going on after step {from}") } else { String::new() };
                self.line(&format!("{name}: {total} steps{from}, in {}", directory.display()));
            }
            Event::Rollout(done, of) => self.at("rollout", *done, *of),
            Event::Step(record, total) => self.line(&step(record, *total)),
            Event::Evaluating(level, done, of) => self.at(&format!("evaluation, {level}"), *done, *of),
            Event::Evaluated(record) => self.line(&evaluation(record)),
            Event::Checkpoint(path) => self.line(&format!("checkpoint {}", path.display())),
        }
    }

    fn at(&mut self, label: &str, done: usize, of: usize) {
        if self.progress.as_ref().is_none_or(|progress| !progress.is_of(label, of)) {
            self.progress = Some(Progress::new(label, of));
        }
        if let Some(progress) = &mut self.progress {
            progress.at(done);
        }
    }

    fn line(&mut self, text: &str) {
        self.progress = None;
        note(text);
    }
}

fn step(record: &StepRecord, total: u64) -> String {
    let StepRecord { step, reward_mean, flexible_accuracy, response_length_mean, grad_norm, .. } = record;
    let seconds = record.step_seconds;
    let flexible = format::percent(*flexible_accuracy);
    let dropped = match record.groups_dropped {
        0 => String::new(),
        dropped => format!("  dropped {dropped} of {} groups", record.groups_sampled),
    };
    let skipped = match record.skipped_updates {
        0 => String::new(),
        skipped => format!("  left out {skipped} of {} updates, not finite", skipped + record.updates),
    };
    format!(
        "step {step}/{total}  reward {reward_mean:.3}  flexible {flexible}  length {response_length_mean:.1}  \
         gradient {grad_norm:.3}{dropped}{skipped}  {seconds:.1} s"
    )
}

/// The accuracy at every level of an evaluation in one line.
pub fn evaluation(record: &EvalRecord) -> String {
    let level = |level: &hardy_lab::LevelRecord| {
        let accuracy = scores(&vec![level.values(&record.metric)]).mean();
        let non_finite = match level.non_finite {
            0 => String::new(),
            n => format!(" ({n} answers ended, not finite)"),
        };
        format!("{} {}{non_finite}", level.label, format::percent(accuracy))
    };
    let levels: Vec<String> = record.levels.iter().map(level).collect();
    let step = record.step.map(|step| format!(" after step {step}")).unwrap_or_default();
    format!("evaluation{step}, {}: {}", record.metric, levels.join(", "))
}
