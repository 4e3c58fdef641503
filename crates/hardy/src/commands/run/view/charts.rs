//! Curves over the steps of a run: reward of the training steps, accuracy of the evaluations, a line a level.

use hardy_lab::{RunRecords, format::significant, statistics::scores};
use ratatui_core::{
    layout::Rect,
    style::{Color, Style},
    terminal::Frame,
    text::{Line, Span},
};

use super::{dim, dots::Dots, rows, titled};

/// Of lines that follow each other, legible on light and on dark.
const COLOURS: [Color; 6] =
    [Color::Cyan, Color::Yellow, Color::Magenta, Color::Green, Color::Blue, Color::Red];

/// A curve with its name.
struct Curve {
    name: String,
    points: Vec<(f64, f64)>,
}

/// The mean reward of every step.
pub fn reward(frame: &mut Frame<'_>, area: Rect, records: &RunRecords) {
    let points = records.metrics.values("reward_mean").map(|(step, value)| (step as f64, value)).collect();
    // A cell of the terminal has two dots side by side.
    let points = thinned(points, 2 * usize::from(area.width));
    draw(frame, area, ("reward", ""), "no step yet", &[Curve { name: String::new(), points }]);
}

/// The accuracy, or the mean score, of every evaluation at every level, in per cent.
pub fn accuracy(frame: &mut Frame<'_>, area: Rect, records: &RunRecords) {
    let mut curves: Vec<Curve> = Vec::new();
    for (&step, record) in &records.evaluations {
        for level in &record.levels {
            let point = (step as f64, 100.0 * scores(&vec![level.values(&record.metric)]).mean());
            match curves.iter_mut().find(|curve| curve.name == level.label) {
                Some(curve) => curve.points.push(point),
                None => curves.push(Curve { name: level.label.clone(), points: vec![point] }),
            }
        }
    }
    draw(frame, area, ("accuracy,", " %"), "no evaluation yet", &curves);
}

/// At most `most` points, each the mean of as many.
fn thinned(points: Vec<(f64, f64)>, most: usize) -> Vec<(f64, f64)> {
    let together = points.len().div_ceil(most.max(1)).max(1);
    if together == 1 {
        return points;
    }
    let mean = |points: &[(f64, f64)]| {
        let n = points.len() as f64;
        (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n)
    };
    points.chunks(together).map(mean).collect()
}

fn draw(frame: &mut Frame<'_>, area: Rect, (title, unit): (&str, &str), nothing: &str, curves: &[Curve]) {
    let colour = |i: usize| Style::new().fg(COLOURS[i % COLOURS.len()]);
    let mut words = vec![Span::raw(format!("{title} "))];
    for (i, curve) in curves.iter().enumerate() {
        let last =
            curve.points.last().map_or_else(String::new, |(_, y)| format!("{}{unit}", significant(*y, 3)));
        let name = if curve.name.is_empty() { String::new() } else { format!("{}: ", curve.name) };
        let apart = if i > 0 { "  " } else { "" };
        words.push(Span::styled(format!("{apart}{name}{last}"), colour(i)));
    }
    let area = titled(frame, area, Line::from(words));
    let points = || curves.iter().flat_map(|curve| &curve.points).filter(|(_, y)| y.is_finite());
    let (Some(x), Some(y)) = (bounds(points().map(|p| p.0)), bounds(points().map(|p| p.1))) else {
        return rows(frame, area, [Line::styled(nothing.to_owned(), dim())]);
    };
    let area = axes(frame, area, x, y);
    for (i, curve) in curves.iter().enumerate() {
        let mut dots = Dots::new(area.width.into(), area.height.into());
        dots.line(&curve.points, (x, y));
        dots.put(frame.buffer_mut(), area, colour(i));
    }
}

/// The largest and the smallest value beside the curves, the first and the last step below; gives what is left.
fn axes(frame: &mut Frame<'_>, area: Rect, x: [f64; 2], y: [f64; 2]) -> Rect {
    let [low, high] = y.map(|value| significant(value, 3));
    let [from, to] = x.map(|value| significant(value, 4));
    let margin = low.len().max(high.len()) as u16 + 1;
    let inner = Rect {
        x: area.x + margin.min(area.width),
        width: area.width.saturating_sub(margin),
        height: area.height.saturating_sub(1),
        ..area
    };
    let right = |text: &str| Line::styled(format!("{text:>width$}", width = usize::from(margin) - 1), dim());
    rows(frame, Rect { height: inner.height, ..area }, [right(&high)]);
    let last = Rect { y: inner.bottom().saturating_sub(1), height: inner.height.min(1), ..area };
    rows(frame, last, [right(&low)]);
    let gap = usize::from(inner.width).saturating_sub(from.len() + to.len());
    let steps = Rect { y: inner.bottom(), height: area.height.min(1), ..inner };
    rows(frame, steps, [Line::styled(format!("{from}{}{to}", " ".repeat(gap)), dim())]);
    inner
}

/// The smallest and the largest value, apart; `None` of none.
fn bounds(values: impl Iterator<Item = f64>) -> Option<[f64; 2]> {
    let (low, high) =
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
    match high - low {
        apart if apart > 0.0 => Some([low, high]),
        0.0 => Some([low - 0.5, high + 0.5]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_curves_are_means_of_neighbours_and_short_ones_are_themselves() {
        let points: Vec<(f64, f64)> = (0..10).map(|i| (f64::from(i), f64::from(i % 2))).collect();
        assert_eq!(thinned(points.clone(), 10), points);
        assert_eq!(thinned(points, 5), [0.5, 2.5, 4.5, 6.5, 8.5].map(|x| (x, 0.5)));
        assert!(thinned(Vec::new(), 0).is_empty());
    }

    #[test]
    fn bounds_of_one_value_are_apart_and_of_none_there_are_none() {
        assert_eq!(bounds([2.0, 2.0].into_iter()), Some([1.5, 2.5]));
        assert_eq!(bounds([3.0, -1.0].into_iter()), Some([-1.0, 3.0]));
        assert_eq!(bounds(std::iter::empty()), None);
    }
}
