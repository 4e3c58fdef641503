//! What two passes, and one by itself, say of every site.

use std::collections::{HashMap, HashSet};

use hardy_model::Decoder;
use hardy_numerics::formats::Format;
use hardy_ops::{NoisyBackend, Op, Site};

use super::machine::{Output, Snapshot};

/// One number a site, where it has one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scores(HashMap<usize, Score>);

/// What a check says of one site.
#[derive(Clone, Copy, Debug)]
struct Score {
    score: f64,
    /// The value that it is about.
    about: Option<f64>,
    /// What is usual at the site itself.
    runner_up: f64,
}

impl Scores {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn put(&mut self, site: usize, score: f64) {
        self.0.insert(site, Score { score, about: None, runner_up: 0.0 });
    }

    pub fn get(&self, site: usize) -> Option<f64> {
        self.0.get(&site).map(|found| found.score)
    }

    /// The value that the score of a site is about.
    pub fn value(&self, site: usize) -> Option<f64> {
        self.0.get(&site).and_then(|found| found.about)
    }

    /// Keeps the larger score of every site.
    pub fn merge(&mut self, other: Self) {
        for (site, new) in other.0 {
            let own = self.0.entry(site).or_insert(new);
            if new.score > own.score {
                *own = new;
            }
        }
    }

    /// The median score of the same module in other layers, or what is usual at the site itself where that is more. A module that
    /// no layer has is held against all of its operator.
    pub fn usual(&self, sites: &[Site], site: usize) -> f64 {
        let own = &sites[site];
        let name = |of: &Site| of.layer.map(|layer| of.module.replacen(&format!(".{layer}."), ".N.", 1));
        let wanted = name(own);
        let same = |other: &Site| match own.layer {
            Some(layer) => other.layer.is_some_and(|l| l != layer) && name(other) == wanted,
            None => other.op == own.op,
        };
        let others = sites.iter().enumerate().filter(|(index, other)| *index != site && same(other));
        let mut scores: Vec<f64> = others.filter_map(|(other, _)| self.get(other)).collect();
        scores.sort_by(f64::total_cmp);
        let median = scores.get(scores.len() / 2).copied().unwrap_or_default();
        median.max(self.0.get(&site).map_or(0.0, |found| found.runner_up))
    }
}

/// The share of every site's values that differ between two passes.
pub(crate) fn stability(first: &Snapshot, again: &Snapshot) -> Scores {
    let mut scores = Scores::new();
    for (&site, output) in &first.outputs {
        let Some(other) = again.outputs.get(&site) else { continue };
        let pairs = output.rows.iter().flatten().zip(other.rows.iter().flatten());
        let (mut all, mut differ) = (0_u64, 0_u64);
        for (a, b) in pairs {
            all += 1;
            differ += u64::from(a.to_bits() != b.to_bits());
        }
        scores.put(site, differ as f64 / all.max(1) as f64);
    }
    scores
}

/// What a disturbance tells.
pub(crate) struct Responses {
    /// How many values that do not move share one magnitude: the largest such group of a site.
    pub groups: Scores,
    /// The smallest share of a channel's values that move.
    pub least_moving: Scores,
    /// Channels of which no value moves.
    pub dead: Scores,
    /// Channels whose largest magnitude stands still in at least two places.
    pub saturated: Scores,
}

/// What of every site moved with the disturbance. A softmax is left out: where there is one key its probability is always 1.
pub(crate) fn responses(first: &Snapshot, moved: &Snapshot, sites: &[Site]) -> Responses {
    let mut found = Responses {
        groups: Scores::new(),
        least_moving: Scores::new(),
        dead: Scores::new(),
        saturated: Scores::new(),
    };
    for (&site, output) in &first.outputs {
        let Some(other) = moved.outputs.get(&site) else { continue };
        // The embedding lies before the disturbance.
        if !matches!(sites[site].op, Op::Softmax | Op::Embedding) {
            found.add(site, output, other);
        }
    }
    found
}

/// What was seen of one channel.
#[derive(Clone, Copy, Default)]
struct Channel {
    seen: u64,
    silent: u64,
    largest: f32,
    at_largest: u64,
}

impl Responses {
    fn add(&mut self, site: usize, output: &Output, moved: &Output) {
        let mut groups: HashMap<u32, u64> = HashMap::new();
        let mut channels: HashMap<usize, Channel> = HashMap::new();
        // Tokens that see the same give the same rows, which would look like values that agree.
        let mut known: HashSet<Vec<u32>> = HashSet::new();
        for (i, (row, other)) in output.rows.iter().zip(&moved.rows).enumerate() {
            if !known.insert(row.iter().map(|x| x.to_bits()).collect()) {
                continue;
            }
            for (j, (x, y)) in row.iter().zip(other).enumerate() {
                let channel = channels.entry(output.first[i] + j).or_default();
                let silent = x.to_bits() == y.to_bits();
                channel.see(x.abs(), silent);
                if silent {
                    *groups.entry(x.abs().to_bits()).or_default() += 1;
                }
            }
        }
        let largest = groups.iter().max_by_key(|(bits, count)| (**count, **bits));
        let (bits, count) = largest.map_or((0, 0), |(bits, count)| (*bits, *count));
        // On a coarse grid many values stand still, at many magnitudes.
        let next = groups.iter().filter(|(other, _)| **other != bits).map(|(_, count)| *count).max();
        let (about, runner_up) = (Some(f64::from(f32::from_bits(bits))), next.unwrap_or(0) as f64);
        self.groups.0.insert(site, Score { score: count as f64, about, runner_up });
        let moving = channels.values().filter(|channel| channel.seen > 1);
        let share = moving.map(|channel| 1.0 - channel.silent as f64 / channel.seen as f64);
        self.least_moving.put(site, share.fold(1.0, f64::min));
        let count = |of: fn(&Channel) -> bool| channels.values().filter(|channel| of(channel)).count() as f64;
        self.dead.put(site, count(|channel| channel.seen > 1 && channel.silent == channel.seen));
        self.saturated.put(site, count(|channel| channel.at_largest > 1 && channel.silent < channel.seen));
    }
}

impl Channel {
    fn see(&mut self, x: f32, silent: bool) {
        self.seen += 1;
        self.silent += u64::from(silent);
        if x > self.largest {
            (self.largest, self.at_largest) = (x, 0);
        }
        self.at_largest += u64::from(silent && x == self.largest && x > 0.0);
    }
}

/// How far the rows of every softmax are from adding up to 1, and the embedding from its table, at most.
pub(crate) fn sums<B: NoisyBackend>(decoder: &Decoder<B>, pass: &Snapshot) -> Scores {
    let mut scores = Scores::new();
    for (&site, output) in &pass.outputs {
        let of = &decoder.blueprint.sites[site];
        if of.op == Op::Softmax {
            let off = |row: &Vec<f32>| (row.iter().map(|&p| f64::from(p)).sum::<f64>() - 1.0).abs();
            scores.put(site, worst(output.rows.iter().map(off)));
        }
        if of.op == Op::Embedding {
            scores.put(site, from_table(decoder, site, output));
        }
    }
    scores
}

/// The largest; of what is not finite ∞.
fn worst(errors: impl Iterator<Item = f64>) -> f64 {
    errors.fold(0.0, |worst, error| if error.is_finite() { worst.max(error) } else { f64::INFINITY })
}

/// The share of rows that the embedding gave and its table does not have, be it in fewer bits.
fn from_table<B: NoisyBackend>(decoder: &Decoder<B>, site: usize, output: &Output) -> f64 {
    let weights = decoder.blueprint.weights();
    let Some((_, weight, _)) = weights.iter().find(|(id, ..)| id.0 == site) else { return 0.0 };
    let table = &decoder.parameters[*weight];
    let width = table.dims()[1];
    let host = B::host(&table.clone().into_primitive().tensor()).to_vec();
    let bits = |row: &[f32]| row.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
    let mut strange: HashSet<Vec<u32>> = output.rows.iter().map(|row| bits(row)).collect();
    for row in host.chunks_exact(width) {
        strange.remove(&bits(row));
        for format in [Format::Bf16, Format::Fp16] {
            let mut image = row.to_vec();
            format.fake_quantize_row(&mut image);
            strange.remove(&bits(&image));
        }
    }
    let count = output.rows.iter().filter(|row| strange.contains(&bits(row))).count();
    count as f64 / output.rows.len().max(1) as f64
}

/// The fourth moment about the mean over the squared variance.
pub(crate) fn kurtosis(values: &[f32]) -> f64 {
    let n = values.len().max(1) as f64;
    let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let (mut second, mut fourth) = (0.0, 0.0);
    for &x in values {
        let square = (f64::from(x) - mean).powi(2);
        second += square;
        fourth += square * square;
    }
    n * fourth / (second * second)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(rows: &[&[f32]]) -> Output {
        let rows: Vec<Vec<f32>> = rows.iter().map(|row| row.to_vec()).collect();
        Output { first: vec![0; rows.len()], rows }
    }

    #[test]
    fn values_that_stand_still_at_one_magnitude_are_a_group_and_equal_rows_count_once() {
        let mut found = Responses {
            groups: Scores::new(),
            least_moving: Scores::new(),
            dead: Scores::new(),
            saturated: Scores::new(),
        };
        let first = output(&[&[2.0, 0.1, 0.3], &[-2.0, 0.2, 0.4], &[2.0, 0.5, 0.6], &[2.0, 0.5, 0.6]]);
        let moved = output(&[&[2.0, 0.11, 0.3], &[-2.0, 0.21, 0.41], &[2.0, 0.51, 0.61], &[2.0, 0.5, 0.6]]);
        found.add(0, &first, &moved);
        assert_eq!((found.groups.get(0), found.groups.value(0)), (Some(3.0), Some(2.0)));
        assert_eq!(
            (found.dead.get(0), found.saturated.get(0), found.least_moving.get(0)),
            (Some(1.0), Some(0.0), Some(0.0))
        );
    }

    #[test]
    fn kurtosis_is_that_of_the_tables() {
        assert!((kurtosis(&[-1.0, 1.0, -1.0, 1.0]) - 1.0).abs() < 1e-12);
        let normal: Vec<f32> = (1..4000).map(|i| statrs_quantile(f64::from(i) / 4000.0)).collect();
        assert!((kurtosis(&normal) - 3.0).abs() < 0.05);
    }

    fn statrs_quantile(p: f64) -> f32 {
        use statrs::distribution::{ContinuousCDF, Normal};
        Normal::standard().inverse_cdf(p) as f32
    }
}
