//! The entropy bonus (A3C, arXiv:1602.01783 §4): the loss falls by c·Σ w·H, so that the policy keeps exploring.

use super::Loss;

/// Takes `coefficient`·Σ weight·entropy off `loss`; gives the derivative in the entropy of every token.
///
/// # Panics
///
/// If `entropy` and `weight` differ in length.
pub fn add_entropy(loss: &mut Loss, entropy: &[f32], weight: &[f32], coefficient: f32) -> Vec<f32> {
    assert_eq!(entropy.len(), weight.len(), "one weight per entropy");
    let bonus: f64 = entropy.iter().zip(weight).map(|(&h, &w)| f64::from(h) * f64::from(w)).sum();
    loss.value -= (f64::from(coefficient) * bonus) as f32;
    weight.iter().map(|weight| -coefficient * weight).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bonus_lowers_the_loss_by_the_weighted_entropy() {
        let mut loss = Loss { value: 1.0, ..Loss::default() };
        let derivative = add_entropy(&mut loss, &[2.0, 4.0], &[0.25, 0.75], 0.5);
        assert_eq!((loss.value, derivative), (-0.75, vec![-0.125, -0.375]));
    }
}
