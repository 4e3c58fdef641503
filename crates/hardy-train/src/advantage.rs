//! Advantages of responses relative to the others of their group, the samples of one prompt.
//!
//! GRPO divides the distance from the group's mean by its standard deviation (arXiv:2402.03300 §4.1.2); Dr. GRPO does
//! not (arXiv:2503.20783), so that easy and hard problems weigh alike.

use std::collections::BTreeMap;

/// What verl adds to the standard deviation.
pub const EPSILON: f32 = 1e-6;

/// (r − mean) / (std + `epsilon`) in each group, with the sample standard deviation (n − 1).
///
/// A group of one has no spread: verl takes mean 0 and standard deviation 1 for it, and so does this.
///
/// # Panics
///
/// If `rewards` and `group` differ in length.
pub fn grpo(rewards: &[f32], group: &[usize], epsilon: f32) -> Vec<f32> {
    relative(rewards, group, |deviation| deviation + f64::from(epsilon))
}

/// r − mean in each group; a group of one keeps its reward.
///
/// # Panics
///
/// If `rewards` and `group` differ in length.
pub fn dr_grpo(rewards: &[f32], group: &[usize]) -> Vec<f32> {
    relative(rewards, group, |_| 1.0)
}

fn relative(rewards: &[f32], group: &[usize], divisor: impl Fn(f64) -> f64) -> Vec<f32> {
    assert_eq!(rewards.len(), group.len(), "one group per reward");
    let mut members: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for (&reward, &id) in rewards.iter().zip(group) {
        members.entry(id).or_default().push(reward.into());
    }
    let moments: BTreeMap<usize, (f64, f64)> =
        members.into_iter().map(|(id, rewards)| (id, mean_and_deviation(&rewards))).collect();
    let advantage = |(&reward, id): (&f32, &usize)| {
        let (mean, deviation) = moments[id];
        ((f64::from(reward) - mean) / divisor(deviation)) as f32
    };
    rewards.iter().zip(group).map(advantage).collect()
}

fn mean_and_deviation(rewards: &[f64]) -> (f64, f64) {
    if rewards.len() == 1 {
        return (0.0, 1.0);
    }
    let n = rewards.len() as f64;
    let mean = rewards.iter().sum::<f64>() / n;
    let squares: f64 = rewards.iter().map(|reward| (reward - mean).powi(2)).sum();
    (mean, (squares / (n - 1.0)).sqrt())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_group_of_one_keeps_its_reward() {
        assert_eq!(grpo(&[0.5], &[7], 0.0), [0.5]);
        assert_eq!(dr_grpo(&[0.5], &[7]), [0.5]);
    }

    #[test]
    fn equal_rewards_give_no_advantage() {
        assert_eq!(grpo(&[0.1; 6], &[0, 1, 0, 1, 0, 1], EPSILON), [0.0; 6]);
    }

    proptest! {
        #[test]
        fn advantages_of_a_group_sum_to_zero_with_unit_deviation(
            rewards in prop::collection::vec(-2.0f32..2.0, 8..40),
        ) {
            let group: Vec<usize> = (0..rewards.len()).map(|i| i % 3).collect();
            let advantages = grpo(&rewards, &group, 0.0);
            for id in 0..3 {
                let own: Vec<f64> = advantages.iter().skip(id).step_by(3).map(|&a| a.into()).collect();
                let (mean, deviation) = mean_and_deviation(&own);
                prop_assert!(mean.abs() < 1e-5);
                prop_assert!((deviation - 1.0).abs() < 1e-5);
            }
        }

        #[test]
        fn groups_do_not_affect_each_other(rewards in prop::collection::vec(0.0f32..1.0, 4), other: f32) {
            let alone = grpo(&rewards, &[0; 4], EPSILON);
            let mut with_other = vec![other];
            with_other.extend(&rewards);
            prop_assert_eq!(&grpo(&with_other, &[1, 0, 0, 0, 0], EPSILON)[1..], &alone[..]);
        }
    }
}
