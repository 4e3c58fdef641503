//! How far an endpoint's log-probabilities are from Hardy's, in the measures of those who train with one engine and sample
//! with another.

use serde::Serialize;

use super::{Answer, Server, score::Scored};
use crate::diverge::verdict::{ABOVE_FLOOR, Verdict, VerdictKind};

/// Above this mean of exp|Δ|, NeMo-RL flags a mismatch of engines.
pub const FLAG: f64 = 1.05;
/// Parts of the sequences' positions that are shown apart.
const BINS: usize = 8;
/// Ratios that pass.
const RATIOS: [f64; 2] = [0.9, 1.1];

/// Measures of Δ = Hardy's log-probability − the endpoint's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Gap {
    /// Tokens compared.
    pub tokens: usize,
    /// mean |Δ|, in nats.
    pub mean: f64,
    /// The largest |Δ|.
    pub largest: f64,
    /// mean exp|Δ|.
    pub mean_exp: f64,
    /// The estimator k3 of KL(endpoint‖Hardy): the mean of r − 1 − log r with r = exp Δ.
    pub k3: f64,
    /// Effective sample size of the weights r, as a share of the tokens.
    pub effective_sample_size: f64,
    /// Share of tokens with r outside of [0.9, 1.1].
    pub outside: f64,
    /// Share of places at which the most probable token is another, where both are known.
    pub flips: Option<f64>,
}

/// The same of some positions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bin {
    /// The first position.
    pub from: usize,
    /// The last.
    pub to: usize,
    /// The measures there.
    #[serde(flatten)]
    pub gap: Gap,
}

/// An endpoint against Hardy.
#[derive(Clone, Debug, Serialize)]
pub struct Served {
    /// What was asked.
    pub server: Server,
    /// What is said of it.
    pub verdict: Verdict,
    /// mean |Δ| up to which both agree, in nats.
    pub tolerance: f64,
    /// Whether mean exp|Δ| is above 1.05.
    pub flagged: bool,
    /// All tokens.
    pub all: Gap,
    /// Those that were sent.
    pub prompt: Gap,
    /// Those that the endpoint sampled.
    pub sampled: Gap,
    /// The endpoint against itself, asked a second time.
    pub floor: Gap,
    /// By position in the sequence.
    pub positions: Vec<Bin>,
    /// Sequences.
    pub sequences: usize,
}

/// A token on both sides.
#[derive(Clone, Copy)]
struct Pair {
    position: usize,
    sampled: bool,
    delta: f64,
    flip: Option<bool>,
}

impl Gap {
    fn of<'a>(pairs: impl IntoIterator<Item = &'a Pair>) -> Self {
        let pairs: Vec<Pair> = pairs.into_iter().copied().collect();
        let tokens = pairs.len();
        let mean = |of: &dyn Fn(f64) -> f64| {
            pairs.iter().map(|pair| of(pair.delta)).sum::<f64>() / tokens.max(1) as f64
        };
        let (sum, squares) = (mean(&f64::exp), mean(&|delta| (2.0 * delta).exp()));
        let flips: Vec<bool> = pairs.iter().filter_map(|pair| pair.flip).collect();
        let flipped = flips.iter().filter(|flip| **flip).count();
        Self {
            tokens,
            mean: mean(&f64::abs),
            largest: pairs.iter().map(|pair| pair.delta.abs()).fold(0.0, f64::max),
            mean_exp: mean(&|delta| delta.abs().exp()),
            k3: mean(&|delta| delta.exp_m1() - delta),
            effective_sample_size: if squares > 0.0 { sum * sum / squares } else { 0.0 },
            outside: mean(&|delta| f64::from(u8::from(!(RATIOS[0]..=RATIOS[1]).contains(&delta.exp())))),
            flips: (!flips.is_empty()).then(|| flipped as f64 / flips.len() as f64),
        }
    }
}

/// Judges what an endpoint said of sequences (`first`), what it said of the same when asked again (`second`: prompts that hold
/// what it had sampled), and what Hardy says of them (`own`). Both agree up to a mean |Δ| of `tolerance` nats.
pub fn compare(
    server: Server,
    first: &[Answer],
    second: &[Answer],
    own: &[Scored],
    tolerance: f64,
) -> Served {
    let mut pairs = Vec::new();
    let mut again = Vec::new();
    for ((first, second), own) in first.iter().zip(second).zip(own) {
        for position in 1..first.ids.len() {
            let pair = |delta, flip| Pair { position, sampled: position >= first.prompt, delta, flip };
            let differs = |a: Option<u32>, b: Option<u32>| Some(a? != b?);
            let Some(said) = first.log_probs[position] else { continue };
            let (hardy, top) = (own.log_probs[position - 1], own.top[position - 1]);
            pairs.push(pair(hardy - said, differs(first.top[position], Some(top))));
            if let Some(repeated) = second.log_probs.get(position).copied().flatten() {
                again.push(pair(repeated - said, differs(first.top[position], second.top[position])));
            }
        }
    }
    let (all, floor) = (Gap::of(pairs.iter()), Gap::of(again.iter()));
    let of = |sampled: bool| Gap::of(pairs.iter().filter(move |pair| pair.sampled == sampled));
    let flagged = all.mean_exp > FLAG;
    Served {
        verdict: judge(&all, &floor, tolerance, flagged),
        tolerance,
        flagged,
        all,
        prompt: of(false),
        sampled: of(true),
        floor,
        positions: bins(&pairs),
        sequences: first.len(),
        server,
    }
}

fn bins(pairs: &[Pair]) -> Vec<Bin> {
    let last = pairs.iter().map(|pair| pair.position).max().unwrap_or(0);
    let width = last.div_ceil(BINS).max(1);
    let bin = |from: usize| {
        let to = (from + width - 1).min(last);
        let gap = Gap::of(pairs.iter().filter(move |pair| (from..=to).contains(&pair.position)));
        Bin { from, to, gap }
    };
    (1..=last).step_by(width).map(bin).filter(|bin| bin.gap.tokens > 0).collect()
}

fn judge(all: &Gap, floor: &Gap, tolerance: f64, flagged: bool) -> Verdict {
    let seen = format!(
        "mean |Δ| is {:.2e} nats, the largest {:.2e}, mean exp|Δ| {:.4}",
        all.mean, all.largest, all.mean_exp
    );
    let (kind, reason, next) = if all.tokens == 0 {
        (
            VerdictKind::Inconclusive,
            "the endpoint gave no log-probability".to_owned(),
            "turn log-probabilities on there",
        )
    } else if all.mean <= tolerance && !flagged {
        (VerdictKind::Equal, seen, "nothing to do; rollouts from this endpoint can be trained on as they are")
    } else if all.mean <= ABOVE_FLOOR * floor.mean {
        (
            VerdictKind::NotReproduced,
            format!("{seen}, but the endpoint differs from itself by {:.2e}", floor.mean),
            "first make the endpoint repeat itself: no other load, no prefix cache, deterministic kernels",
        )
    } else {
        (
            VerdictKind::Inconclusive,
            format!(
                "{seen}; the endpoint differs from itself by {:.2e}. Log-probabilities do not say where it begins",
                floor.mean
            ),
            "dump activations on that machine and hold them against `hardy dump`; under a --plan that is that machine's error the \
             difference should shrink; for training, truncate importance weights (`train.tis_cap`) or train under that plan",
        )
    };
    Verdict { kind, first: None, last_agreeing: None, between: Vec::new(), reason, next: next.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_of_a_worked_example() {
        let pair = |delta, flip| Pair { position: 1, sampled: false, delta, flip };
        let pairs = [pair(0.0, Some(false)), pair(0.2, Some(true)), pair(-0.05, None)];
        let gap = Gap::of(pairs.iter());
        let near = |x: f64, y: f64| assert!((x - y).abs() < 1e-12, "{x} {y}");
        near(gap.mean, 0.25 / 3.0);
        near(gap.largest, 0.2);
        near(gap.mean_exp, (1.0 + 0.2_f64.exp() + 0.05_f64.exp()) / 3.0);
        near(gap.k3, (0.2_f64.exp_m1() - 0.2 + (-0.05_f64).exp_m1() + 0.05) / 3.0);
        let r = [1.0, 0.2_f64.exp(), (-0.05_f64).exp()];
        near(
            gap.effective_sample_size,
            r.iter().sum::<f64>().powi(2) / 3.0 / r.iter().map(|r| r * r).sum::<f64>(),
        );
        assert_eq!((gap.tokens, gap.outside, gap.flips), (3, 1.0 / 3.0, Some(0.5)));
    }

    #[test]
    fn verdicts_weigh_the_floor() {
        let gap = |mean: f64| Gap { tokens: 9, mean, mean_exp: 1.0 + mean, ..Gap::default() };
        let kind = |all, floor| judge(&gap(all), &gap(floor), 0.01, gap(all).mean_exp > FLAG).kind;
        assert_eq!(kind(0.005, 0.0), VerdictKind::Equal);
        assert_eq!(kind(0.02, 0.015), VerdictKind::NotReproduced);
        assert_eq!(kind(0.2, 0.001), VerdictKind::Inconclusive);
    }
}
