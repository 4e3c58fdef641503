//! What one side scored, seen from two sides: problem by problem, and column by column. A column is a run's seed, or,
//! of a single run, a draw of the error: whatever else could have fallen out otherwise.

/// The scores of one side at one level.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// For every problem its mean over the columns.
    pub problems: Vec<f64>,
    /// For every column its mean over the problems.
    pub columns: Vec<f64>,
    /// Whether every score is 1 or 0, so that means are proportions; else they are drawn again ([`super::resample`]).
    pub proportions: bool,
}

impl Scores {
    /// From a table of columns, each with one score a problem.
    ///
    /// # Panics
    ///
    /// When there is no column or no problem, or columns differ in length.
    #[must_use]
    pub fn of(columns: &[Vec<f64>]) -> Self {
        let n = columns.first().map_or(0, Vec::len);
        assert!(n > 0 && columns.iter().all(|column| column.len() == n), "columns of one length, not empty");
        let over_columns =
            |i: usize| columns.iter().map(|column| column[i]).sum::<f64>() / columns.len() as f64;
        Self {
            problems: (0..n).map(over_columns).collect(),
            columns: columns.iter().map(|column| mean(column)).collect(),
            proportions: columns.iter().flatten().all(|&x| is_right_or_wrong(x)),
        }
    }

    /// The mean over everything.
    #[must_use]
    pub fn mean(&self) -> f64 {
        mean(&self.columns)
    }

    /// The same scores with `n` columns where there is one, as of a level without errors, which every draw shares.
    #[must_use]
    pub fn spread_over(&self, n: usize) -> Self {
        match self.columns[..] {
            [only] => Self { columns: vec![only; n], ..self.clone() },
            _ => self.clone(),
        }
    }
}

/// Whether a score is 1 or 0.
pub(crate) fn is_right_or_wrong(score: f64) -> bool {
    score == 0.0 || score == 1.0
}

/// The arithmetic mean; 0 of nothing.
pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Σ(x − x̄)² over `n − 1`; 0 of fewer than two.
pub(crate) fn variance(values: &[f64]) -> f64 {
    let mean = mean(values);
    values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (values.len().max(2) - 1) as f64
}
