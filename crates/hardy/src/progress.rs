//! Progress on standard error: a bar on a terminal, a plain line now and then elsewhere.

use std::{
    io::{IsTerminal, stderr},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::note;

/// Seconds between plain lines.
const INTERVAL: Duration = Duration::from_secs(10);

/// The progress of a piece of work that has `total` parts.
#[derive(Debug)]
pub struct Progress {
    label: String,
    total: u64,
    bar: Option<ProgressBar>,
    said: Instant,
}

impl Progress {
    /// Work called `label`, not begun.
    pub fn new(label: impl Into<String>, total: usize) -> Self {
        let (label, total) = (label.into(), total as u64);
        let bar = stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{msg} {bar:32} {pos}/{len} {eta}");
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_message(label.clone());
            bar
        });
        Self { label, total, bar, said: Instant::now() }
    }

    /// So many parts are done.
    pub fn at(&mut self, done: usize) {
        match &self.bar {
            Some(bar) => bar.set_position(done as u64),
            None if self.said.elapsed() >= INTERVAL => {
                self.said = Instant::now();
                note(&format!("{}: {done}/{}", self.label, self.total));
            }
            None => {}
        }
    }

    /// Says a line that stays.
    pub fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| note(text)),
            None => note(text),
        }
    }

    /// The name of the work.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Whether this is the work called `label` with `total` parts.
    pub fn is_of(&self, label: &str, total: usize) -> bool {
        self.label == label && self.total == total as u64
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
