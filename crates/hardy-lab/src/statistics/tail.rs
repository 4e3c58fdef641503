//! The p-value that agrees with an interval: the largest chance at which the interval excludes a value.

use super::Interval;

/// The largest chance of missing, both ends together, at which `missed_by` that chance the interval excludes `value`; 1
/// where even the narrowest holds it.
pub(crate) fn p_of(missed_by: impl Fn(f64) -> Interval, value: f64) -> f64 {
    let apart = |exponent: f64| !missed_by(exponent.exp()).contains(value);
    // The logarithm of the chance is sought; beyond e⁻³⁰ it does not matter.
    let (mut excluded, mut held) = (-1e-9, -30.0);
    if !apart(excluded) || apart(held) {
        return if apart(held) { f64::exp(held) } else { 1.0 };
    }
    for _ in 0..45 {
        let middle = f64::midpoint(excluded, held);
        if apart(middle) { excluded = middle } else { held = middle }
    }
    excluded.exp()
}
