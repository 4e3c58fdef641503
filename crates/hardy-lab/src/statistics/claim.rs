//! What makes a claim resolved: Holm's correction over everything that one page or table claims, and an interval that
//! agrees. Suites, comparisons, reports and criteria all decide here.

use serde::{Deserialize, Serialize};

use super::{ALPHA, holm};

/// A claim that some difference is not a certain value, usually 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    /// Its two-sided p-value.
    pub p: f64,
    /// The same after Holm's correction over the claims of its page; `p` where it stands alone.
    pub p_holm: f64,
    /// Whether `p_holm` is below 5 % and the interval excludes the value.
    pub resolved: bool,
    /// Whether the interval excludes the value.
    #[serde(skip)]
    excluded: bool,
}

impl Claim {
    /// A claim that stands alone.
    #[must_use]
    pub fn alone(p: f64, excluded: bool) -> Self {
        Self { p, p_holm: p, resolved: p < ALPHA && excluded, excluded }
    }
}

/// Decides all claims of one page together.
pub fn decide<'a>(claims: impl IntoIterator<Item = &'a mut Claim>) {
    let claims: Vec<&mut Claim> = claims.into_iter().collect();
    let adjusted = holm(&claims.iter().map(|claim| claim.p).collect::<Vec<f64>>());
    for (claim, p_holm) in claims.into_iter().zip(adjusted) {
        (claim.p_holm, claim.resolved) = (p_holm, p_holm < ALPHA && claim.excluded);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_among_others_needs_more_and_never_goes_without_its_interval() {
        let (mut one, mut other, mut bare) =
            (Claim::alone(0.03, true), Claim::alone(0.001, true), Claim::alone(0.001, false));
        assert!(one.resolved && other.resolved && !bare.resolved);
        decide([&mut one, &mut other, &mut bare]);
        assert!((one.p_holm - 0.03).abs() < 1e-12 && (other.p_holm - 0.003).abs() < 1e-12);
        assert!(one.resolved && other.resolved && !bare.resolved);
        let mut four = [0.03; 4].map(|p| Claim::alone(p, true));
        decide(&mut four);
        assert!(four.iter().all(|claim| !claim.resolved));
    }
}
