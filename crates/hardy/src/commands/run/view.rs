//! What the dashboard of a run shows, from what the run has written: where it stands, the curves of reward and accuracy, the
//! figures of its steps, the errors asked against those measured, and what was said. A narrow terminal gets one column, a low one
//! the first things only.

mod charts;
mod dots;
mod tables;

use std::time::Duration;

use hardy_lab::{
    RunRecords,
    format::{count, duration},
    live::Followed,
};
use ratatui_core::{
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    terminal::Frame,
    text::{Line, Span},
};

/// Columns from which two things stand side by side.
const WIDE: u16 = 100;
/// Rows of a curve and of a table, at least.
const LEAST: [u16; 2] = [7, 6];
/// Lines at the bottom, at most.
pub const SAID: usize = 4;

/// Work of which so much is done.
#[derive(Clone, Debug)]
pub struct Work {
    /// What it is.
    pub label: String,
    /// Parts that are done.
    pub done: usize,
    /// Parts in all.
    pub of: usize,
}

/// Draws something of a run into an area.
type Part<'a> = dyn Fn(&mut Frame<'_>, Rect) + 'a;

/// What is shown.
pub struct View<'a> {
    /// The run; `None` before it has begun.
    pub run: Option<&'a Followed>,
    /// What it is at.
    pub work: Option<Work>,
    /// The last lines that were said, at most [`SAID`].
    pub said: Vec<String>,
    /// Since it began.
    pub elapsed: Duration,
}

impl View<'_> {
    /// Draws all of it.
    pub fn draw(&self, frame: &mut Frame<'_>) {
        let said = self.said.len() as u16;
        let heights =
            [Constraint::Length(2), Constraint::Fill(1), Constraint::Length(said), Constraint::Length(1)];
        let [head, body, lines, foot] = frame.area().layout(&Layout::vertical(heights));
        self.head(frame, head);
        if let Some(records) = self.run.and_then(Followed::records) {
            self.body(frame, body, records);
        }
        rows(frame, lines, self.said.iter().map(|line| Line::styled(line.as_str(), dim())));
        self.foot(frame, foot);
    }

    /// The name, the directory, the steps made, and the time.
    fn head(&self, frame: &mut Frame<'_>, area: Rect) {
        let [title, steps] = area.layout(&Layout::vertical([Constraint::Length(1); 2]));
        let Some(run) = self.run else {
            return rows(frame, title, [Line::raw("reading the model and the data …")]);
        };
        let name = run.records().map_or("", |records| records.name.as_str());
        let directory = format!("  {}", run.directory().display());
        let name = Span::styled(name, Style::new().add_modifier(Modifier::BOLD));
        rows(frame, title, [Line::from(vec![name, Span::styled(directory, dim())])]);
        let made = run.records().and_then(|records| records.metrics.last_step()).unwrap_or(0);
        let gone = duration(self.elapsed.as_secs_f64());
        let left =
            run.seconds_left().map_or_else(String::new, |left| format!(", training {} left", duration(left)));
        let (of, share) = match run.total() {
            Some(total) => (format!(" of {}", count(total)), made as f64 / total.max(1) as f64),
            None => (String::new(), 0.0),
        };
        gauge(frame, steps, &format!("step {}{of}, {gone} gone{left}", count(made)), share);
    }

    fn body(&self, frame: &mut Frame<'_>, area: Rect, records: &RunRecords) {
        let [curve, table] = LEAST;
        let parts: [(u16, &Part<'_>); 4] = [
            (curve, &|frame, area| charts::reward(frame, area, records)),
            (table, &|frame, area| tables::figures(frame, area, &records.metrics)),
            (curve, &|frame, area| charts::accuracy(frame, area, records)),
            (table, &|frame, area| tables::receipts(frame, area, records)),
        ];
        if area.width >= WIDE && area.height >= curve + table {
            let [above, below] = area.layout(&Layout::vertical([Constraint::Fill(1); 2]));
            let halves = Layout::horizontal([Constraint::Fill(1); 2]).spacing(2);
            let [[a, b], [c, d]] = [above.layout(&halves), below.layout(&halves)];
            // Curves above, tables below.
            for (at, area) in [(0, a), (2, b), (1, c), (3, d)] {
                parts[at].1(frame, area);
            }
            return;
        }
        let mut left = area.height;
        let fit = parts.iter().take_while(|(rows, _)| {
            let fits = *rows <= left;
            left = left.saturating_sub(*rows);
            fits
        });
        let fit: Vec<_> = fit.collect();
        let areas = Layout::vertical(fit.iter().map(|_| Constraint::Fill(1))).split(area);
        fit.iter().zip(areas.iter()).for_each(|((_, part), area)| part(frame, *area));
    }

    /// What the run is at, or how it is ended.
    fn foot(&self, frame: &mut Frame<'_>, area: Rect) {
        match &self.work {
            Some(Work { label, done, of }) => {
                let share = *done as f64 / (*of).max(1) as f64;
                gauge(
                    frame,
                    area,
                    &format!("{label} {} of {}", count(*done as u64), count(*of as u64)),
                    share,
                );
            }
            None => {
                let words =
                    "Ctrl-C ends; --resume goes on from the last checkpoint; --no-dashboard for plain lines";
                rows(frame, area, [Line::styled(words, dim())]);
            }
        }
    }
}

/// Lines one below the other, as far as there is room.
fn rows<'a>(frame: &mut Frame<'_>, area: Rect, lines: impl IntoIterator<Item = Line<'a>>) {
    for (y, line) in (area.top()..area.bottom()).zip(lines) {
        frame.render_widget(line, Rect { y, height: 1, ..area });
    }
}

/// A title on a rule; gives what is left below it.
fn titled(frame: &mut Frame<'_>, area: Rect, title: Line<'_>) -> Rect {
    let rule = "─".repeat(usize::from(area.width).saturating_sub(title.width() + 1));
    let mut spans = title.spans;
    spans.extend([Span::raw(" "), Span::styled(rule, dim())]);
    rows(frame, area, [Line::from(spans)]);
    let taken = area.height.min(1);
    Rect { y: area.y + taken, height: area.height - taken, ..area }
}

/// Words, and a bar of which a share is filled in what is left of the line.
fn gauge(frame: &mut Frame<'_>, area: Rect, label: &str, share: f64) {
    let label = Span::raw(format!("{label} "));
    let width = usize::from(area.width).saturating_sub(label.width());
    let filled = (share.clamp(0.0, 1.0) * width as f64).round() as usize;
    let bar = Span::styled("━".repeat(filled), Style::new().fg(Color::Cyan));
    let rest = Span::styled("─".repeat(width - filled), dim());
    rows(frame, area, [Line::from(vec![label, bar, rest])]);
}

fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

#[cfg(test)]
mod tests;
