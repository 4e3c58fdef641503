//! Line charts as inline SVG, for pages without scripts. Colours are CSS classes, so that one chart serves light and
//! dark; every marked point carries its value as a tooltip and every chart a description for screen readers.

mod axis;
mod decimate;

use std::fmt::Write;

use crate::html::escape;
use crate::statistics::Interval;
use axis::Axis;

/// Colours before they repeat.
const COLOURS: usize = 8;
/// From this many points a line is drawn faint, under its running mean.
const SMOOTH_FROM: usize = 40;
/// Points a line is thinned to; more would not be seen.
const MOST_POINTS: usize = 600;
/// Points of all lines of a chart together, as far as every line keeps [`LEAST_POINTS`].
const MOST_IN_ALL: usize = 2400;
const LEAST_POINTS: usize = 100;
/// Up to so many lines are drawn with their every step, faint; more hide each other.
const FAINT_LINES: usize = 4;
const FONT_WIDTH: f64 = 6.6;
const TOP: f64 = 10.0;
const RIGHT: f64 = 14.0;
const BOTTOM: f64 = 38.0;

/// A chart of one quantity.
#[derive(Debug, Clone)]
pub struct Chart {
    /// What is drawn, for screen readers.
    pub title: String,
    /// What stands under the horizontal axis.
    pub x_label: String,
    /// What is put after every number of the vertical axis, e.g. ` %`.
    pub y_unit: &'static str,
    /// Bounds that the vertical axis does not leave, e.g. 0 to 100 for per cent.
    pub y_bounds: (f64, f64),
    /// Places of the horizontal ticks; empty for round numbers.
    pub x_ticks: Vec<f64>,
    /// What is put after every number of the horizontal axis.
    pub x_unit: &'static str,
    /// Width and height in CSS pixels at scale 1.
    pub size: (f64, f64),
    /// How the series are drawn.
    pub style: Style,
    /// What is drawn.
    pub series: Vec<Series>,
}

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A line; with many points faint, under its running mean.
    Line,
    /// Level from each point to the next, as schedules are.
    Steps,
    /// A line with marks and a shaded band of the intervals.
    Band,
    /// A line with marks and an error bar at each; series stand side by side.
    ErrorBars,
}

/// One line of a chart.
#[derive(Debug, Clone)]
pub struct Series {
    /// Its name in tooltips.
    pub name: String,
    /// Its colour, from 0.
    pub colour: usize,
    /// Its points, in order of `x`; those that are not finite are left out.
    pub points: Vec<Point>,
}

/// One point of a series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Where it stands.
    pub x: f64,
    /// Its value.
    pub y: f64,
    /// The interval of the value, in the same unit.
    pub interval: Option<Interval>,
}

/// The classes of the style that give the `i`-th series its colour, from 0; where colours repeat its lines are broken.
#[must_use]
pub fn class_of(i: usize) -> String {
    let line = ["", " dash", " dot"][i / COLOURS % 3];
    format!("c{}{line}", i % COLOURS)
}

/// Steps over which the running mean of `count` points is taken; odd.
#[must_use]
pub fn smoothing_window(count: usize) -> usize {
    if count < SMOOTH_FROM { 1 } else { (count / 20) | 1 }
}

impl Chart {
    /// The chart as an `<svg>` element; empty when no point is finite.
    #[must_use]
    pub fn render(mut self) -> String {
        self.series.iter_mut().for_each(Series::keep_finite);
        let series = &self.series[..];
        let Some(plot) = Plot::new(&self, series) else { return String::new() };
        let (width, height) = self.size;
        let mut out = format!(
            "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\">",
            escape(&self.title)
        );
        plot.grid(&mut out, &self.x_label, self.size);
        for (i, one) in series.iter().enumerate() {
            let _ = write!(out, "<g class=\"{}\">", class_of(one.colour));
            match self.style {
                Style::Line => plot.line(&mut out, one, series.len()),
                Style::Steps => {
                    // A rate that follows a curve has as many corners as steps.
                    let corners = decimate::extremes(&steps(&one.points), most_points(series.len()));
                    plot.path(&mut out, "line", &corners);
                }
                Style::Band => plot.band(&mut out, one),
                Style::ErrorBars => plot.error_bars(&mut out, one, dodge(i, series.len())),
            }
            out.push_str("</g>");
        }
        out.push_str("</svg>");
        out
    }
}

impl Series {
    fn keep_finite(&mut self) {
        self.points.retain(|point| point.x.is_finite() && point.y.is_finite());
    }
}

/// The axes of a chart and where they lie.
struct Plot {
    x: Axis,
    y: Axis,
}

impl Plot {
    fn new(chart: &Chart, series: &[Series]) -> Option<Self> {
        let points = || series.iter().flat_map(|one| &one.points);
        let lows = points().map(|point| point.interval.map_or(point.y, |interval| interval.low.min(point.y)));
        let highs =
            points().map(|point| point.interval.map_or(point.y, |interval| interval.high.max(point.y)));
        let (low, high) = (lows.reduce(f64::min)?, highs.reduce(f64::max)?);
        let (first, last) = (
            points().map(|point| point.x).reduce(f64::min)?,
            points().map(|point| point.x).reduce(f64::max)?,
        );
        let (width, height) = chart.size;
        let y = Axis::rounded(low, high, chart.y_bounds, chart.y_unit).placed(height - BOTTOM, TOP);
        let left = 12.0 + FONT_WIDTH * y.longest_label() as f64;
        let x = match chart.x_ticks.is_empty() {
            true => Axis::whole(first, last, chart.x_unit),
            false => Axis::at(&chart.x_ticks, chart.x_unit),
        };
        let inset = if chart.style == Style::ErrorBars { 24.0 } else { 0.0 };
        Some(Self { x: x.placed(left + inset, width - RIGHT - inset), y })
    }

    fn grid(&self, out: &mut String, x_label: &str, (width, height): (f64, f64)) {
        let (left, bottom) = (12.0 + FONT_WIDTH * self.y.longest_label() as f64, height - BOTTOM);
        let right = width - RIGHT;
        for tick in &self.y.ticks {
            let y = self.y.place(*tick);
            let _ = write!(out, "<path class=\"grid\" d=\"M{left:.1} {y:.1}H{right:.1}\"/>");
            let label = self.y.label(*tick);
            let _ = write!(
                out,
                "<text class=\"end\" x=\"{:.1}\" y=\"{:.1}\">{label}</text>",
                left - 6.0,
                y + 4.0
            );
        }
        let _ = write!(out, "<path class=\"axis\" d=\"M{left:.1} {bottom:.1}H{right:.1}\"/>");
        for tick in &self.x.ticks {
            let x = self.x.place(*tick);
            let _ = write!(out, "<path class=\"axis\" d=\"M{x:.1} {bottom:.1}v4\"/>");
            let label = self.x.label(*tick);
            let _ = write!(out, "<text class=\"mid\" x=\"{x:.1}\" y=\"{:.1}\">{label}</text>", bottom + 17.0);
        }
        let (middle, y) = ((left + right) / 2.0, height - 4.0);
        let _ = write!(
            out,
            "<text class=\"mid quiet\" x=\"{middle:.1}\" y=\"{y:.1}\">{}</text>",
            escape(x_label)
        );
    }

    /// A line, one of `lines`.
    fn line(&self, out: &mut String, series: &Series, lines: usize) {
        let most = most_points(lines);
        let window = smoothing_window(series.points.len());
        let raw: Vec<(f64, f64)> = series.points.iter().map(|point| (point.x, point.y)).collect();
        if window > 1 && lines <= FAINT_LINES {
            self.path(out, "line faint", &decimate::extremes(&raw, most));
        }
        self.path(out, "line", &decimate::extremes(&decimate::running_mean(&raw, window), most));
        if let [only] = series.points[..] {
            self.mark(out, &series.name, &only, 0.0);
        }
    }

    fn band(&self, out: &mut String, series: &Series) {
        let ends = |end: fn(Interval) -> f64| {
            series
                .points
                .iter()
                .filter_map(move |point| Some((point.x, end(point.interval?))))
                .collect::<Vec<_>>()
        };
        let mut outline = ends(|interval| interval.high);
        outline.extend(ends(|interval| interval.low).into_iter().rev());
        self.path(out, "band", &outline);
        self.path(out, "line", &series.points.iter().map(|point| (point.x, point.y)).collect::<Vec<_>>());
        series.points.iter().for_each(|point| self.mark(out, &series.name, point, 0.0));
    }

    fn error_bars(&self, out: &mut String, series: &Series, shift: f64) {
        let _ = write!(out, "<g transform=\"translate({shift:.1} 0)\">");
        self.path(
            out,
            "line thin",
            &series.points.iter().map(|point| (point.x, point.y)).collect::<Vec<_>>(),
        );
        out.push_str("</g>");
        for point in &series.points {
            if let Some(interval) = point.interval {
                let x = self.x.place(point.x) + shift;
                let (low, high) = (self.y.place(interval.low), self.y.place(interval.high));
                let cap = |y: f64| format!("M{:.1} {y:.1}h8", x - 4.0);
                let bar = format!("M{x:.1} {low:.1}V{high:.1}");
                let _ = write!(out, "<path class=\"line bar\" d=\"{bar}{}{}\"/>", cap(low), cap(high));
            }
            self.mark(out, &series.name, point, shift);
        }
    }

    /// A mark with its value as a tooltip.
    fn mark(&self, out: &mut String, name: &str, point: &Point, shift: f64) {
        let (x, y) = (self.x.place(point.x) + shift, self.y.place(point.y));
        let interval = point.interval.map(|interval| format!(" [{:.1}, {:.1}]", interval.low, interval.high));
        let value = format!("{}{}", self.y.value(point.y), interval.unwrap_or_default());
        let tooltip = escape(&format!("{name} at {}: {value}", self.x.value(point.x)));
        let _ =
            write!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"><title>{tooltip}</title></circle>");
    }

    fn path(&self, out: &mut String, class: &str, points: &[(f64, f64)]) {
        let _ = write!(out, "<path class=\"{class}\" d=\"");
        for (i, (x, y)) in points.iter().enumerate() {
            let (x, y) = (self.x.place(*x), self.y.place(*y));
            let _ = write!(out, "{}{x:.1} {y:.1}", if i == 0 { 'M' } else { 'L' });
        }
        out.push_str("\"/>");
    }
}

/// Points of each of `lines` lines, at most.
fn most_points(lines: usize) -> usize {
    (MOST_IN_ALL / lines.max(1)).clamp(LEAST_POINTS, MOST_POINTS)
}

/// How far series `i` of `count` stands beside the tick, in pixels.
fn dodge(i: usize, count: usize) -> f64 {
    9.0 * (i as f64 - (count as f64 - 1.0) / 2.0)
}

/// Corners of a line that keeps each value until the next point.
fn steps(points: &[Point]) -> Vec<(f64, f64)> {
    let mut corners: Vec<(f64, f64)> = vec![];
    for (i, point) in points.iter().enumerate() {
        let before = corners.last().map(|(_, before)| *before);
        if let Some(before) = before.filter(|before| *before != point.y) {
            corners.push((point.x, before));
        }
        if before != Some(point.y) || i + 1 == points.len() {
            corners.push((point.x, point.y));
        }
    }
    corners
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(style: Style, points: &[(f64, f64)]) -> Chart {
        let interval = |y: f64| Some(Interval { low: y - 1.0, high: y + 1.0 });
        let points = points.iter().map(|(x, y)| Point { x: *x, y: *y, interval: interval(*y) }).collect();
        Chart {
            title: "a < b".into(),
            x_label: "step".into(),
            y_unit: " %",
            y_bounds: (0.0, 100.0),
            x_ticks: vec![],
            x_unit: "",
            size: (360.0, 220.0),
            style,
            series: vec![Series { name: "<e5>".into(), colour: 9, points }],
        }
    }

    #[test]
    fn every_style_draws_within_the_picture() {
        for style in [Style::Line, Style::Steps, Style::Band, Style::ErrorBars] {
            for points in [vec![(0.0, 5.0)], vec![(0.0, 0.0), (10.0, 0.0)], vec![(0.0, 60.0), (7.0, 99.5)]] {
                let svg = chart(style, &points).render();
                assert!(svg.starts_with("<svg") && svg.ends_with("</svg>"));
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
                assert!(
                    !svg.contains("<e5>") && svg.contains("a &lt; b") && svg.contains("class=\"c1 dash\"")
                );
            }
        }
    }

    #[test]
    fn nothing_finite_is_no_chart() {
        assert_eq!(chart(Style::Line, &[]).render(), "");
        assert_eq!(chart(Style::Line, &[(1.0, f64::NAN)]).render(), "");
    }

    #[test]
    fn a_schedule_is_drawn_with_corners() {
        let point = |x, y| Point { x, y, interval: None };
        assert_eq!(
            steps(&[point(0.0, 1.0), point(1.0, 1.0), point(2.0, 3.0)]),
            [(0.0, 1.0), (2.0, 1.0), (2.0, 3.0)]
        );
    }

    #[test]
    fn long_lines_are_thinned_and_smoothed() {
        let points: Vec<_> = (0..20_000).map(|i| (f64::from(i), 50.0 + f64::from(i % 7))).collect();
        let svg = chart(Style::Line, &points).render();
        assert!(svg.contains("line faint") && svg.len() < 40_000, "{} bytes", svg.len());
    }
}
