//! The interval of `first − weight·second` on the same problems and columns. Over problems it is Newcombe's hybrid score
//! interval for paired data (Newcombe 1998, Statistics in Medicine 17: 2635–2650, method 10), on as many problems as the
//! variance of their means is worth; of scores that are more than right and wrong it is the bootstrap's ([`super::resample`]).
//! The doubt of the columns is added ([`super::doubt`]).
//!
//! Weight 1 is a difference, weight 0 the first side's accuracy; a ratio is the weight whose interval holds 0 (Fieller
//! 1954, J. R. Stat. Soc. B 16: 175–185).

use super::{
    Interval, Scores,
    doubt::Doubt,
    normal_quantile,
    resample::{RESAMPLES, Resampled},
    scores::{mean, variance},
    tail::p_of,
    wilson::score_interval,
};

/// `first − weight·second`.
#[derive(Debug, Clone)]
pub(crate) struct Contrast<'a> {
    first: &'a Scores,
    second: &'a Scores,
    weight: f64,
    doubt: Doubt,
    correlation: f64,
    worth: [f64; 2],
    /// What the problems show when they are drawn again, where scores are more than right and wrong.
    resampled: Option<Resampled>,
}

impl<'a> Contrast<'a> {
    pub fn new(first: &'a Scores, second: &'a Scores, weight: f64) -> Self {
        assert_eq!(first.problems.len(), second.problems.len(), "the same problems");
        assert_eq!(first.columns.len(), second.columns.len(), "the same columns");
        let doubt = Self::doubt(first, second, weight);
        let (correlation, worth) = (correlation(first, second), [worth(first), worth(second)]);
        let resampled = (!(first.proportions && second.proportions)).then(|| Resampled::new(first, second));
        Self { first, second, weight, doubt, correlation, worth, resampled }
    }

    /// The same sides under another weight.
    pub fn reweighted(&self, weight: f64) -> Self {
        Self { weight, doubt: Self::doubt(self.first, self.second, weight), ..self.clone() }
    }

    fn doubt(first: &Scores, second: &Scores, weight: f64) -> Doubt {
        let pairs = first.columns.iter().zip(&second.columns);
        Doubt::of(&pairs.map(|(a, b)| a - weight * b).collect::<Vec<f64>>())
    }

    /// Whether both sides are proportions.
    pub fn is_of_proportions(&self) -> bool {
        self.resampled.is_none()
    }

    pub fn estimate(&self) -> f64 {
        self.first.mean() - self.weight * self.second.mean()
    }

    /// The interval at a two-sided `confidence`.
    pub fn interval(&self, confidence: f64) -> Interval {
        self.missed_by(1.0 - confidence)
    }

    /// The largest chance at which the interval excludes `value`: what a test of that value gives. 1 where the estimate
    /// is `value`.
    pub fn p_against(&self, value: f64) -> f64 {
        if self.resampled.is_some() {
            // So many draws can not show less.
            return self.largest_excluding(value).max(1.0 / (1 + RESAMPLES) as f64);
        }
        self.largest_excluding(value)
    }

    fn largest_excluding(&self, value: f64) -> f64 {
        p_of(|tail| self.missed_by(tail), value)
    }

    /// The interval whose ends are missed together with chance `tail`.
    fn missed_by(&self, tail: f64) -> Interval {
        if let Some(resampled) = &self.resampled {
            let (estimate, columns) = (self.estimate(), self.doubt.half(tail));
            let [below, above] =
                resampled.reach(self.weight, estimate, tail).map(|reach| reach.hypot(columns));
            return Interval { low: estimate - below, high: estimate + above };
        }
        let z = -normal_quantile(tail / 2.0);
        let [(a, of_a), (b, of_b)] = [(self.first, self.worth[0]), (self.second, self.worth[1])]
            .map(|(side, worth)| (side.mean(), score_interval(side.mean(), worth, z)));
        let alone = self.weight == 0.0;
        let [below, above] = if alone { self.doubt.around(a, tail) } else { [self.doubt.half(tail); 2] };
        let reach = |x: f64, y: f64, columns: f64| {
            (x * x - 2.0 * self.correlation * x * y + y * y + columns * columns).max(0.0).sqrt()
        };
        Interval {
            low: self.estimate() - reach(a - of_a.low, self.weight * (of_b.high - b), below),
            high: self.estimate() + reach(of_a.high - a, self.weight * (b - of_b.low), above),
        }
    }
}

/// How many independent problems of one column the problems' means are worth: `p(1 − p)/V`, from their number where
/// columns repeat each other to all answers where they are independent.
fn worth(side: &Scores) -> f64 {
    let (n, columns) = (side.problems.len() as f64, side.columns.len() as f64);
    let p = mean(&side.problems);
    let of_mean = variance(&side.problems) * (n - 1.0) / n / n;
    if of_mean > 0.0 { (p * (1.0 - p) / of_mean).clamp(n, n * columns) } else { n }
}

/// The correlation φ of the two sides' problems, Newcombe's method 10: a positive covariance is drawn toward 0 by half a
/// problem; 0 where a side is the same on all problems.
fn correlation(first: &Scores, second: &Scores) -> f64 {
    let n = first.problems.len() as f64;
    let (a, b) = (mean(&first.problems), mean(&second.problems));
    let pairs = || first.problems.iter().zip(&second.problems);
    let covariance = pairs().map(|(x, y)| (x - a) * (y - b)).sum::<f64>() / n;
    let spread = |side: &Scores| (variance(&side.problems) * (n - 1.0) / n).sqrt();
    let corrected = if covariance > 0.0 { (covariance - 0.5 / n).max(0.0) } else { covariance };
    let both = spread(first) * spread(second);
    if both > 0.0 { (corrected / both).clamp(-1.0, 1.0) } else { 0.0 }
}
