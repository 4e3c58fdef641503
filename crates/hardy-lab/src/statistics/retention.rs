//! The interval of a retained share, one accuracy over another on the same problems and columns: every ratio ρ for which
//! the interval of `noisy − ρ·clean` holds 0 (Fieller 1954, J. R. Stat. Soc. B 16: 175–185).

use super::{Interval, Scores, contrast::Contrast};

/// Beyond this ratio there is no upper end: the clean side can not be told from 0.
const UNBOUNDED: f64 = 1e3;

/// The interval of `noisy` over `clean` at a two-sided `confidence`; `None` where the clean side is 0 or can not be told
/// from it.
///
/// # Panics
///
/// When the sides have other numbers of problems or columns.
#[must_use]
pub fn retention(noisy: &Scores, clean: &Scores, confidence: f64) -> Option<Interval> {
    let ratio = noisy.mean() / clean.mean();
    let contrast = Contrast::new(noisy, clean, 1.0);
    let holds = |rho: f64| contrast.reweighted(rho).interval(confidence).contains(0.0);
    let mut beyond = 2.0 * ratio.max(0.5);
    while holds(beyond) {
        beyond *= 2.0;
        if beyond > UNBOUNDED || beyond.is_nan() {
            return None;
        }
    }
    let low = if holds(0.0) { 0.0 } else { edge(&holds, ratio, 0.0) };
    (clean.mean() > 0.0).then(|| Interval { low, high: edge(&holds, ratio, beyond) })
}

/// The place between `inside`, which holds, and `outside`, which does not, at which that changes.
fn edge(holds: &impl Fn(f64) -> bool, mut inside: f64, mut outside: f64) -> f64 {
    for _ in 0..30 {
        let middle = f64::midpoint(inside, outside);
        if holds(middle) { inside = middle } else { outside = middle }
    }
    f64::midpoint(inside, outside)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(right: usize, n: usize) -> Scores {
        Scores::of(&[(0..n).map(|i| f64::from(u8::from(i < right))).collect()])
    }

    #[test]
    fn the_ratio_lies_inside_and_more_problems_narrow_it() {
        let wide = retention(&first(60, 100), &first(80, 100), 0.95).unwrap();
        let narrow = retention(&first(600, 1000), &first(800, 1000), 0.95).unwrap();
        assert!(wide.low < narrow.low && narrow.low < 0.75 && 0.75 < narrow.high && narrow.high < wide.high);
        assert!(wide.high < 1.0, "the same problems: a loss of 20 of 80 is no chance");
    }

    #[test]
    fn nothing_kept_is_still_in_doubt_and_nothing_to_keep_has_no_share() {
        let lost = retention(&first(0, 100), &first(80, 100), 0.95).unwrap();
        assert!(lost.low == 0.0 && lost.high > 0.01 && lost.high < 0.1, "{lost:?}");
        assert_eq!(retention(&first(0, 100), &first(0, 100), 0.95), None);
    }
}
