//! What a run tells while it goes on, on standard error.

use hardy_lab::{EvalRecord, format, run::Event, statistics::scores};
use hardy_train::step_record::StepRecord;

use super::dashboard::Dashboard;
use crate::{output::note, progress::Progress, screen::can_show};

/// Turns events into lines and bars, or into a dashboard.
#[derive(Default)]
pub struct Teller {
    /// The work in progress.
    progress: Option<Progress>,
    /// Whether a dashboard is wanted, from when a run begins.
    wanted: bool,
    /// The terminal, where it shows one.
    dashboard: Option<Dashboard>,
}

impl Teller {
    /// With a dashboard where standard error is a terminal for it.
    pub fn on_terminal() -> Self {
        Self { wanted: can_show(), ..Self::default() }
    }

    /// Tells one event.
    pub fn tell(&mut self, event: &Event<'_>) {
        match event {
            Event::Rollout(done, of) => self.at("rollout", *done, *of),
            Event::Evaluating(level, done, of) => self.at(&format!("evaluation, {level}"), *done, *of),
            _ => self.line(event, &line(event)),
        }
    }

    fn at(&mut self, label: &str, done: usize, of: usize) {
        if let Some(dashboard) = &self.dashboard {
            return dashboard.at(label, done, of);
        }
        if self.progress.as_ref().is_none_or(|progress| !progress.is_of(label, of)) {
            self.progress = Some(Progress::new(label, of));
        }
        if let Some(progress) = &mut self.progress {
            progress.at(done);
        }
    }

    fn line(&mut self, event: &Event<'_>, text: &str) {
        if self.wanted && matches!(event, Event::Started { .. }) {
            self.wanted = false;
            self.dashboard = Dashboard::open();
        }
        let Some(dashboard) = &self.dashboard else {
            self.progress = None;
            return note(text);
        };
        match event {
            Event::Started { directory, .. } => dashboard.follow(directory),
            _ => dashboard.news(),
        }
        // A step is in the curves.
        if !matches!(event, Event::Step(..)) {
            dashboard.line(text);
        }
    }
}

/// What is said of an event.
fn line(event: &Event<'_>) -> String {
    match event {
        Event::Warning(warning) => format!("warning: {warning}"),
        Event::Started { name, directory, from, total } => {
            let from = if *from > 0 { format!(", going on after step {from}") } else { String::new() };
            format!("{name}: {total} steps{from}, in {}", directory.display())
        }
        Event::Step(record, total) => step(record, *total),
        Event::Evaluated(record) => evaluation(record),
        Event::Checkpoint(path) => format!("checkpoint {}", path.display()),
        Event::Rollout(done, of) | Event::Evaluating(_, done, of) => format!("{done}/{of}"),
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
