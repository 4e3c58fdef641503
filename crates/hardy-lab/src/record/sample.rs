//! The outcome of one problem: one answer, or several that were sampled.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Metric;

/// The outcome of one problem.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "Flat")]
pub struct ProblemRecord {
    /// The problem's number in its data set; pairs are made by it.
    pub id: u64,
    /// The true answer.
    pub truth: String,
    /// The answer; of several the first.
    #[serde(flatten)]
    pub first: SampleRecord,
    /// Further answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<SampleRecord>,
}

/// One answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SampleRecord {
    /// Whether the answer is right and in the strict form.
    pub strict: bool,
    /// Whether the answer is right in any form.
    pub flexible: bool,
    /// The answer that was extracted, if any.
    pub answer: Option<String>,
    /// All that the model wrote.
    pub response: String,
    /// Tokens of the response.
    pub tokens: usize,
    /// Whether it ended because the next token's logits were not finite.
    #[serde(default)]
    pub non_finite: bool,
    /// Whether it was cut off before it ended by itself; records of schema 1 do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncated: Option<bool>,
    /// Its score, where the metric is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// What the graders said beside it, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, f64>,
}

/// A [`ProblemRecord`] as it is read: `flatten` would keep every record as values of unknown types first.
#[derive(Deserialize)]
struct Flat {
    id: u64,
    truth: String,
    strict: bool,
    flexible: bool,
    answer: Option<String>,
    response: String,
    tokens: usize,
    #[serde(default)]
    non_finite: bool,
    #[serde(default)]
    truncated: Option<bool>,
    #[serde(default)]
    score: Option<f64>,
    #[serde(default)]
    metrics: BTreeMap<String, f64>,
    #[serde(default)]
    samples: Vec<SampleRecord>,
}

impl From<Flat> for ProblemRecord {
    fn from(flat: Flat) -> Self {
        let Flat {
            id, truth, strict, flexible, answer, response, tokens, non_finite, truncated, score, ..
        } = flat;
        let (metrics, samples) = (flat.metrics, flat.samples);
        let first = SampleRecord {
            strict,
            flexible,
            answer,
            response,
            tokens,
            non_finite,
            truncated,
            score,
            metrics,
        };
        Self { id, truth, first, samples }
    }
}

impl ProblemRecord {
    /// Every answer.
    pub fn answers(&self) -> impl Iterator<Item = &SampleRecord> {
        std::iter::once(&self.first).chain(&self.samples)
    }

    /// What the answers are worth on average.
    #[must_use]
    pub fn value(&self, metric: &Metric) -> f64 {
        let n = 1 + self.samples.len();
        self.answers().map(|answer| answer.value(metric)).sum::<f64>() / n as f64
    }

    /// The chance that of `k` of the answers, drawn without replacement, one is right: `1 − C(n−c, k)/C(n, k)` (Chen et
    /// al. 2021, arXiv:2107.03374, eq. 1); `None` where there are fewer than `k`.
    #[must_use]
    pub fn pass_at(&self, k: usize, metric: &Metric) -> Option<f64> {
        let n = 1 + self.samples.len();
        let wrong = self.answers().filter(|answer| !answer.right(metric)).count();
        let all_wrong = |drawn: usize| wrong.saturating_sub(drawn) as f64 / (n - drawn) as f64;
        (k <= n).then(|| 1.0 - (0..k).map(all_wrong).product::<f64>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_is_written_with_every_field() {
        let metrics = BTreeMap::from([("words".to_owned(), 3.0)]);
        let first = SampleRecord {
            strict: true,
            flexible: true,
            answer: Some("7".into()),
            response: "#### 7".into(),
            tokens: 5,
            non_finite: true,
            truncated: Some(true),
            score: Some(0.1),
            metrics,
        };
        let samples = vec![SampleRecord { answer: None, ..first.clone() }, SampleRecord::default()];
        let written = ProblemRecord { id: 4, truth: "7".into(), first, samples };
        let text = serde_json::to_string(&written).unwrap();
        assert_eq!(serde_json::from_str::<ProblemRecord>(&text).unwrap(), written);
        let cut = text.replace("\"strict\":true,", "");
        assert!(serde_json::from_str::<ProblemRecord>(&cut).unwrap_err().to_string().contains("strict"));
    }

    #[test]
    fn pass_at_k_is_the_chance_of_one_right_among_k() {
        let answer = |strict| SampleRecord { strict, ..SampleRecord::default() };
        let samples = [false, true, false].map(answer).to_vec();
        let problem = ProblemRecord { id: 0, truth: "1".into(), first: answer(false), samples };
        // Of 4 answers one is right: 1/4, 1 − C(3,2)/C(4,2) = 1/2, 3/4, 1.
        let found = [1, 2, 3, 4].map(|k| problem.pass_at(k, &Metric::Strict).unwrap());
        assert!(found.iter().zip([0.25, 0.5, 0.75, 1.0]).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?}");
        assert_eq!(problem.pass_at(5, &Metric::Strict), None);
        assert_eq!(problem.value(&Metric::Strict), 0.25);
    }
}
