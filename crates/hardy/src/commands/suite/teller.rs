//! What a suite tells while it goes on, on standard error: one bar over the steps of all runs, and a line for each
//! evaluation and each run that ends.

use hardy_lab::{
    run::Event,
    suite::{Schedule, SuiteEvent},
};

use crate::{commands::run::evaluation, output::note, progress::Progress};

/// Turns events into lines and a bar.
#[derive(Debug)]
pub struct Teller {
    progress: Progress,
    steps: usize,
    finished: usize,
    runs: usize,
}

impl Teller {
    /// Counts what is finished; `steps` are those of each run.
    pub fn new(schedule: &Schedule, steps: &[u64]) -> Self {
        let members = schedule.members();
        let total = steps.iter().sum::<u64>() as usize;
        let done = members.iter().zip(steps).filter(|(member, _)| member.finished).map(|(_, steps)| *steps);
        let (done, finished) =
            (done.sum::<u64>() as usize, members.iter().filter(|member| member.finished).count());
        if finished > 0 {
            note(&format!("{finished} of {} runs were finished before", members.len()));
        }
        let mut progress = Progress::new("steps of the suite", total);
        progress.at(done);
        Self { progress, steps: done, finished, runs: members.len() }
    }

    /// Tells one event.
    pub fn tell(&mut self, event: &SuiteEvent<'_>) {
        match event {
            SuiteEvent::Run(member, Event::Warning(warning)) => {
                self.progress.line(&format!("{}: warning: {warning}", member.label()));
            }
            SuiteEvent::Run(member, Event::Started { from, total, .. }) => {
                self.steps += *from as usize;
                let from = if *from > 0 { format!(", going on after step {from}") } else { String::new() };
                self.progress.line(&format!("{}: {total} steps{from}", member.label()));
            }
            SuiteEvent::Run(_, Event::Step(..)) => {
                self.steps += 1;
                self.progress.at(self.steps);
            }
            SuiteEvent::Run(member, Event::Evaluated(record)) => {
                self.progress.line(&format!("{}: {}", member.label(), evaluation(record)));
            }
            SuiteEvent::Run(..) => {}
            SuiteEvent::Finished(member) => {
                self.finished += 1;
                let (label, finished, runs) = (member.label(), self.finished, self.runs);
                self.progress.line(&format!("{label}: finished, {finished} of {runs} runs"));
            }
        }
    }
}
