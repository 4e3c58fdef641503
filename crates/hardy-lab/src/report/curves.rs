//! Curves of `metrics.jsonl`: one small chart per quantity, one line per run. Quantities that no run wrote are left
//! out, and those that are 0 throughout are named instead of drawn.

use super::{Entry, figure, legend};
use crate::html::{details, escape};
use crate::svg::{Chart, Point, Series, Style, smoothing_window};

/// A quantity of `metrics.jsonl`.
struct Curve {
    key: &'static str,
    caption: &'static str,
    /// What values are multiplied by.
    factor: f64,
    unit: &'static str,
    bounds: (f64, f64),
    style: Style,
}

const ANY: (f64, f64) = (f64::MIN, f64::MAX);
const POSITIVE: (f64, f64) = (0.0, f64::MAX);

const fn plain(key: &'static str, caption: &'static str, bounds: (f64, f64)) -> Curve {
    Curve { key, caption, factor: 1.0, unit: "", bounds, style: Style::Line }
}

const fn share(key: &'static str, caption: &'static str) -> Curve {
    Curve { key, caption, factor: 100.0, unit: " %", bounds: (0.0, 100.0), style: Style::Line }
}

const fn steps(key: &'static str, caption: &'static str) -> Curve {
    Curve { style: Style::Steps, ..plain(key, caption, POSITIVE) }
}

/// What is shown at once.
const FIRST: &[Curve] = &[
    plain("reward_mean", "Reward, mean", ANY),
    share("strict_accuracy", "Accuracy of all responses sampled, strict"),
    share("flexible_accuracy", "Accuracy of all responses sampled, flexible"),
    plain("loss", "Loss", ANY),
    plain("kl", "KL to the reference", POSITIVE),
    plain("grad_norm", "Gradient norm", POSITIVE),
    plain("entropy", "Entropy, nats per token", POSITIVE),
    steps("aqn_sigma", "AQN sigma"),
    plain("response_length_mean", "Response length, tokens", POSITIVE),
    plain("logprob_mismatch", "Log-probability, rollout against training", POSITIVE),
    share("effective_sample_size", "Effective sample size of training on rollouts"),
    plain("groups_dropped", "Groups dropped by dynamic sampling", POSITIVE),
    plain("skipped_updates", "Updates left out, not finite", POSITIVE),
    plain("nonfinite_responses", "Responses that ended at logits that are not finite", POSITIVE),
];

/// What is shown on a click.
const MORE: &[Curve] = &[
    plain("reward_std", "Reward, standard deviation", POSITIVE),
    share("truncated_share", "Truncated responses"),
    share("uniform_groups", "Groups whose answers are all scored alike"),
    plain("kept_reward_mean", "Reward of the responses learned from, mean", ANY),
    share("kept_strict_accuracy", "Accuracy of the responses learned from, strict"),
    plain("generation_rounds", "Rounds of generation", POSITIVE),
    plain("groups_sampled", "Groups sampled", POSITIVE),
    plain("overlong_penalty_mean", "Overlong penalty, mean", ANY),
    share("clip_share", "Clipped tokens"),
    plain("ratio_mean", "Ratio, mean", POSITIVE),
    plain("ratio_max", "Ratio, largest", POSITIVE),
    plain("importance_weight_max", "Importance weight, largest", POSITIVE),
    share("tis_capped_share", "Tokens whose importance weight was truncated"),
    steps("learning_rate", "Learning rate"),
    plain("tokens_per_second", "Tokens per second", POSITIVE),
    plain("rollout_seconds", "Seconds in rollout", POSITIVE),
    plain("train_seconds", "Seconds in training", POSITIVE),
    plain("step_seconds", "Seconds per step", POSITIVE),
];

pub fn html(entries: &[Entry]) -> String {
    let (first, more) = (charts(entries, FIRST), charts(entries, MORE));
    if first.is_empty() && more.is_empty() {
        return String::new();
    }
    let more = if more.is_empty() { more } else { details("More curves", false, &more) };
    format!("{}{}{first}{more}{}", legend(entries), smoothing(entries), zeros(entries))
}

fn charts(entries: &[Entry], curves: &[Curve]) -> String {
    let drawn = curves.iter().filter(|curve| !is_zero(entries, curve));
    let figures: String = drawn.map(|curve| figure(curve.caption, &chart(entries, curve).render())).collect();
    if figures.is_empty() { figures } else { format!("<div class=\"charts\">{figures}</div>") }
}

fn chart(entries: &[Entry], curve: &Curve) -> Chart {
    Chart {
        title: format!("{} over training steps", curve.caption),
        x_label: "training step".into(),
        y_unit: curve.unit,
        y_bounds: curve.bounds,
        x_ticks: vec![],
        x_unit: "",
        size: (360.0, 210.0),
        style: curve.style,
        series: entries.iter().enumerate().map(|(i, entry)| series(i, entry, curve)).collect(),
    }
}

fn series(i: usize, entry: &Entry, curve: &Curve) -> Series {
    let metrics = &entry.run.metrics;
    // At its length at once: of many long lines what a growing list leaves behind is much.
    let mut points = Vec::with_capacity(metrics.len());
    let values = metrics.values(curve.key);
    points.extend(values.map(|(step, y)| Point { x: step as f64, y: curve.factor * y, interval: None }));
    Series { name: entry.name.into(), colour: i, points }
}

fn values<'a>(entries: &'a [Entry], curve: &'a Curve) -> impl Iterator<Item = f64> + 'a {
    entries.iter().flat_map(|entry| entry.run.metrics.values(curve.key)).map(|(_, value)| value)
}

/// Whether the quantity was written and is 0 in every step of every run.
fn is_zero(entries: &[Entry], curve: &Curve) -> bool {
    values(entries, curve).next().is_some() && values(entries, curve).all(|value| value == 0.0)
}

fn zeros(entries: &[Entry]) -> String {
    let zero = FIRST.iter().chain(MORE).filter(|curve| is_zero(entries, curve));
    let names: Vec<_> = zero.map(|curve| curve.caption).collect();
    match names.is_empty() {
        true => String::new(),
        false => {
            format!("<p class=\"quiet\">0 throughout, and not drawn: {}.</p>", escape(&names.join("; ")))
        }
    }
}

fn smoothing(entries: &[Entry]) -> String {
    let longest = entries.iter().map(|entry| entry.run.metrics.len()).max().unwrap_or(0);
    match smoothing_window(longest) {
        1 => String::new(),
        window => format!("<p class=\"quiet\">Faint: every step; strong: the mean of {window} steps.</p>"),
    }
}
