//! An axis: a range that ends on round numbers, its ticks and their labels, and where a value lies on the picture.

use crate::format::significant;

/// About how many ticks an axis gets.
const TICKS: f64 = 5.0;

/// An axis of a chart.
pub struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    unit: &'static str,
    step: f64,
    /// Values that are labelled, ascending.
    pub ticks: Vec<f64>,
}

impl Axis {
    /// From `low` to `high`, widened to round numbers but not past `bounds`.
    pub fn rounded(low: f64, high: f64, bounds: (f64, f64), unit: &'static str) -> Self {
        let (low, high) = if high > low { (low, high) } else { widened(low) };
        let step = round_step((high - low) / TICKS);
        let (low, high) = ((low / step + 1e-9).floor() * step, (high / step - 1e-9).ceil() * step);
        Self::with_step(low.max(bounds.0), high.min(bounds.1), step, unit)
    }

    /// From `low` to `high` exactly, ticks on whole numbers.
    pub fn whole(low: f64, high: f64, unit: &'static str) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        Self::with_step(low, high, round_step((high - low) / TICKS).max(1.0).round(), unit)
    }

    /// Ticks at these values and nowhere else.
    pub fn at(ticks: &[f64], unit: &'static str) -> Self {
        let (low, high) =
            (ticks.iter().copied().fold(f64::MAX, f64::min), ticks.iter().copied().fold(f64::MIN, f64::max));
        let high = if high > low { high } else { low + 1.0 };
        Self { low, high, from: 0.0, to: 1.0, unit, step: 0.0, ticks: ticks.to_vec() }
    }

    fn with_step(low: f64, high: f64, step: f64, unit: &'static str) -> Self {
        let (first, last) = ((low / step - 1e-9).ceil() as i64, (high / step + 1e-9).floor() as i64);
        let ticks = (first..=last).map(|i| i as f64 * step).collect();
        Self { low, high, from: 0.0, to: 1.0, unit, step, ticks }
    }

    /// The axis laid from pixel `from` (its low end) to pixel `to`.
    pub fn placed(self, from: f64, to: f64) -> Self {
        Self { from, to, ..self }
    }

    /// The pixel of `value`; values outside the range lie on its ends.
    pub fn place(&self, value: f64) -> f64 {
        let share = ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        self.from + share * (self.to - self.from)
    }

    /// The label of a tick, with as many decimals as its neighbours need to differ.
    pub fn label(&self, tick: f64) -> String {
        let plain = (1e-4..1e6).contains(&self.step);
        let number = if plain {
            let decimals = (0..6).find(|d| is_whole(self.step * 10f64.powi(*d))).unwrap_or(6) as usize;
            format!("{:.decimals$}", tick + 0.0)
        } else {
            significant(tick, 3)
        };
        format!("{}{}", number.replace('-', "−"), self.unit)
    }

    /// A value as a tooltip says it.
    pub fn value(&self, value: f64) -> String {
        format!("{}{}", significant(value, 4), self.unit)
    }

    /// Characters of the longest label.
    pub fn longest_label(&self) -> usize {
        self.ticks.iter().map(|tick| self.label(*tick).chars().count()).max().unwrap_or(0)
    }
}

fn is_whole(value: f64) -> bool {
    (value - value.round()).abs() < 1e-6 * value.abs().max(1.0)
}

/// A range around a single value.
fn widened(value: f64) -> (f64, f64) {
    let margin = if value == 0.0 { 1.0 } else { 0.1 * value.abs() };
    (value - margin, value + margin)
}

/// The smallest of 1, 2, 2.5, 5 times a power of ten that is at least `raw > 0`.
fn round_step(raw: f64) -> f64 {
    let power = 10f64.powf(raw.log10().floor());
    let factor = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|factor| factor * power >= raw * (1.0 - 1e-9));
    factor.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(axis: &Axis) -> Vec<String> {
        axis.ticks.iter().map(|tick| axis.label(*tick)).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        let axis = Axis::rounded(0.61, 0.78, (0.0, 1.0), "");
        assert_eq!(labels(&axis), ["0.60", "0.65", "0.70", "0.75", "0.80"]);
        assert_eq!(labels(&Axis::rounded(52.0, 99.0, (0.0, 100.0), " %")).last().unwrap(), "100 %");
        assert_eq!(labels(&Axis::whole(0.0, 3.0, "")), ["0", "1", "2", "3"]);
        assert_eq!(labels(&Axis::rounded(-0.3, 0.5, (f64::MIN, f64::MAX), ""))[0], "−0.4");
        assert_eq!(labels(&Axis::rounded(0.0, 1e-6, (0.0, f64::MAX), ""))[1], "2e−7");
    }

    proptest! {
        #[test]
        fn an_axis_covers_its_data_with_few_distinct_ticks(low in -1e3f64..1e3, span in 1e-3f64..1e6) {
            let axis = Axis::rounded(low, low + span, (f64::MIN, f64::MAX), "").placed(0.0, 100.0);
            prop_assert!((2..=9).contains(&axis.ticks.len()));
            prop_assert!(axis.low <= low + 1e-6 * span && axis.high >= low + span * (1.0 - 1e-6));
            prop_assert!(axis.place(low) <= axis.place(low + span));
        }
    }
}
