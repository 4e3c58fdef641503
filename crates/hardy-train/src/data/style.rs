//! Ways of closing a worked answer, for warming up a base model that has the ability but not the habit.
//!
//! Real base models know the number and write it in many ways, of which a reward accepts one. A warm-up set whose
//! answers end in several styles makes such a model: the worked steps stay, only the closing line differs.

use serde::{Deserialize, Serialize};

use super::Problem;
use crate::splitmix::{below, hash, unit};

/// The share of answers in the rewarded style where no other is asked for.
pub const REWARDED_SHARE: f64 = 0.15;

/// How the last line of a worked answer says its number.
///
/// No style puts a full stop after the number: the flexible reward would take it for a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerStyle {
    /// `#### 38`, which both rewards accept.
    Hashes,
    /// `The answer is 38`.
    TheAnswerIs,
    /// `Answer = 38`.
    Equals,
    /// `\boxed{38}`.
    Boxed,
    /// `38`.
    Plain,
}

impl AnswerStyle {
    /// Every style, the rewarded one first.
    pub const ALL: [Self; 5] = [Self::Hashes, Self::TheAnswerIs, Self::Equals, Self::Boxed, Self::Plain];

    /// The closing line for the number `n`.
    pub fn closing(&self, n: &str) -> String {
        match self {
            Self::Hashes => format!("#### {n}"),
            Self::TheAnswerIs => format!("The answer is {n}"),
            Self::Equals => format!("Answer = {n}"),
            Self::Boxed => format!("\\boxed{{{n}}}"),
            Self::Plain => n.to_string(),
        }
    }

    /// The style of the answer at `index` of a warm-up set: [`Self::Hashes`] with probability `rewarded_share`, the
    /// others equally; a function of `seed` and `index` alone.
    pub fn choose(index: u64, rewarded_share: f64, seed: u64) -> Self {
        if unit(hash(&[seed, index, 0])) < rewarded_share {
            return Self::Hashes;
        }
        let others = &Self::ALL[1..];
        others[below(hash(&[seed, index, 1]), others.len() as u64) as usize]
    }
}

/// The worked answer of `problem`, closed in the style that [`AnswerStyle::choose`] gives for `index`.
pub fn styled_answer(problem: &Problem, index: u64, rewarded_share: f64, seed: u64) -> String {
    let closing = AnswerStyle::choose(index, rewarded_share, seed).closing(&problem.truth);
    match problem.steps() {
        "" => closing,
        steps => format!("{steps}\n{closing}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Place;
    use crate::reward::{Extraction, score};

    #[test]
    fn flexible_reward_finds_the_number_in_every_style_and_strict_only_in_hashes() {
        for style in AnswerStyle::ALL {
            let response = format!("12+7=19\n19*2=38\n{}", style.closing("38"));
            assert_eq!(score(&response, "38", Extraction::Flexible), 1.0, "{style:?}");
            let strict = if style == AnswerStyle::Hashes { 1.0 } else { 0.0 };
            assert_eq!(score(&response, "38", Extraction::Strict), strict, "{style:?}");
        }
    }

    #[test]
    fn only_the_closing_line_differs() {
        let answer = "12+7=19\n19*2=38\n#### 38".into();
        let problem = Problem::new(3, "q".into(), answer, Place::Made(3));
        for index in 0..50 {
            let answer = styled_answer(&problem, index, 0.15, 0);
            assert!(answer.starts_with("12+7=19\n19*2=38\n"), "{answer}");
            assert_eq!(answer.lines().count(), 3);
        }
        assert_eq!(styled_answer(&problem, 0, 1.0, 0), problem.answer);
    }

    #[test]
    fn styles_come_in_the_shares_asked_for() {
        let n = 20_000;
        let share = |style| {
            (0..n).filter(|&i| AnswerStyle::choose(i, REWARDED_SHARE, 5) == style).count() as f64 / n as f64
        };
        assert!((share(AnswerStyle::Hashes) - REWARDED_SHARE).abs() < 0.01);
        for style in &AnswerStyle::ALL[1..] {
            assert!((share(*style) - (1.0 - REWARDED_SHARE) / 4.0).abs() < 0.015, "{style:?}");
        }
    }
}
