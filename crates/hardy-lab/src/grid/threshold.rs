//! The level of an error that a place tolerates: the one at which accuracy falls, or the negative log-likelihood rises, by a
//! chosen amount. It is sought by bisection on a ladder of levels; at each level visited draws are spent until it is clear on
//! which side of the amount the loss lies, and no longer.
//!
//! A look is a batch of problems under a fresh draw of the error, and the test is the anytime-valid t-test: the likelihood ratio
//! of the t-statistic under a normal prior on the standardised loss, which is a test martingale whatever the variance (Lai 1976,
//! Annals of Statistics 4: 265–280; Pérez-Ortiz, Lardy, de Heide & Grünwald 2024, Annals of Statistics 52: 1410–1432), so that
//! one may look after every batch and stop at will. Each of the bisection's tests has its share of [`ALPHA`]; where a test stays
//! open within its budget the search goes on below it, for the level that is surely borne. Hence the true level lies outside of
//! the bracket with chance at most 5 %, as far as batch means are normal and the loss grows with the level.
//!
//! Of made-up places with a known threshold, 400 a row, at most 0.8 % lie outside of their bracket, which is 1 to 3 rungs wide and
//! takes 57 to 99 looks (`a_bracket_misses_as_seldom_as_it_says`): answers lost with a chance that rises with the level, and
//! likelihoods lost with log-normal tails.

use hardy_ops::{NoisyBackend, Pass, Phase};
use hardy_train::splitmix;
use serde::{Deserialize, Serialize};

use super::{Cell, Grid, GridMetric, answers::Answering, prefix::Prefix};
use crate::{
    error::LabError,
    evaluate::{EVAL_STEP, bind},
    nll::{finite, refuse_broken},
    run::Crew,
    statistics::ALPHA,
};

/// Problems of a look.
const BATCH: usize = 16;
/// Looks at one level before it is left open.
const MOST_LOOKS: usize = 60;
/// Levels of the ladder, each √2 times the one before.
const RUNGS: usize = 25;
/// The lowest level.
const LOWEST: f64 = 0.001;
/// The variance of the prior on the standardised loss.
const PRIOR: f64 = 1.0;

/// The level that one place tolerates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Threshold {
    /// The place, with the error at the estimate.
    #[serde(flatten)]
    pub cell: Cell,
    /// The highest level known to lose less than the amount; `None` where even the lowest is not.
    pub low: Option<f64>,
    /// The lowest level known to lose more; `None` where even the highest is not.
    pub high: Option<f64>,
    /// Looks that were spent.
    pub looks: usize,
    /// Whether a level within the bracket stayed open.
    pub open: bool,
}

/// What a search came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bracket {
    /// The rungs between which the loss crosses the amount; −1 and the ladder's length stand for beyond its ends.
    pub rungs: (i32, i32),
    /// Looks that were spent.
    pub looks: usize,
    /// Whether a level stayed open.
    pub open: bool,
}

/// The level of a rung.
fn level(rung: i32) -> Option<f64> {
    let on = (0..RUNGS as i32).contains(&rung);
    on.then(|| LOWEST * 2.0_f64.powf(f64::from(rung) / 2.0))
}

impl Threshold {
    /// The middle of what is known, in the logarithm; the end that is known where only one is.
    #[must_use]
    pub fn estimate(&self) -> f64 {
        match (self.low, self.high) {
            (Some(low), Some(high)) => (low * high).sqrt(),
            (one, other) => one.or(other).unwrap_or(LOWEST),
        }
    }

    fn new(cell: &Cell, bracket: Bracket) -> Self {
        let (low, high) = (level(bracket.rungs.0), level(bracket.rungs.1));
        let Bracket { looks, open, .. } = bracket;
        let threshold = Self { cell: cell.clone(), low, high, looks, open };
        let cell = cell.at_level(threshold.estimate());
        Self { cell, ..threshold }
    }
}

/// Bisects the ladder. `look(rung, k)` is the loss in the k-th look at a rung.
///
/// # Errors
/// Those of `look`.
pub fn search<E>(amount: f64, mut look: impl FnMut(i32, usize) -> Result<f64, E>) -> Result<Bracket, E> {
    let (mut low, mut high) = (-1, RUNGS as i32);
    // The lowest rung that is not known to be borne: below it what is surely borne is sought on where a level stays open.
    let (mut ceiling, mut open) = (high, false);
    let tests = f64::from(RUNGS as u32 + 1).log2().ceil();
    let mut looks = 0;
    while ceiling - low > 1 {
        let rung = i32::midpoint(low, ceiling);
        let mut test = TTest::new(amount);
        let mut verdict = None;
        for k in 0..MOST_LOOKS {
            test.add(look(rung, k)?);
            looks += 1;
            verdict = test.verdict(ALPHA / tests);
            if verdict.is_some() {
                break;
            }
        }
        match verdict {
            Some(true) => (high, ceiling) = (rung, rung),
            Some(false) => low = rung,
            None => (ceiling, open) = (rung, true),
        }
    }
    Ok(Bracket { rungs: (low, high), looks, open })
}

/// The anytime-valid t-test of one mean.
#[derive(Clone, Copy, Debug)]
struct TTest {
    against: f64,
    n: f64,
    mean: f64,
    /// Σ(x − x̄)².
    squares: f64,
}

impl TTest {
    fn new(against: f64) -> Self {
        Self { against, n: 0.0, mean: 0.0, squares: 0.0 }
    }

    /// Adds a value (Welford 1962, Technometrics 4: 419–420).
    fn add(&mut self, x: f64) {
        self.n += 1.0;
        let before = x - self.mean;
        self.mean += before / self.n;
        self.squares += before * (x - self.mean);
    }

    /// Whether the mean lies above; `None` where that is not clear with chance `alpha` of being wrong at any time.
    fn verdict(&self, alpha: f64) -> Option<bool> {
        (self.n >= 2.0 && self.log_ratio() >= -alpha.ln()).then_some(self.mean > self.against)
    }

    /// The logarithm of the likelihood ratio of the t-statistic, an effect N(0, [`PRIOR`]) against none.
    fn log_ratio(&self) -> f64 {
        let (n, degrees) = (self.n, self.n - 1.0);
        let between = n * (self.mean - self.against).powi(2);
        let widened = 1.0 + n * PRIOR;
        // 1 + t²/ν and 1 + t²/(ν(1 + n·c²)), both times Σ(x − x̄)².
        let (plain, wide) = (self.squares + between, self.squares + between / widened);
        if plain == 0.0 {
            return 0.0;
        }
        -0.5 * widened.ln() + 0.5 * (degrees + 1.0) * (plain / wide).ln()
    }
}

impl<B: NoisyBackend> Grid<'_, B> {
    /// The level that every place of the forward pass among `cells` tolerates before it loses `amount`: accuracy as a
    /// fraction, or nats. The places are shared out among the workers of `crew`; `progress` is told how many of this one's are
    /// done, and how many it has.
    ///
    /// # Errors
    /// An error that has no strength or hurts more the weaker it is, or what [`Grid::run`] refuses; a worker that is gone.
    pub fn thresholds(
        &self,
        cells: &[Cell],
        amount: f64,
        crew: &Crew,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Vec<Threshold>, LabError> {
        let places = places(cells)?;
        let mut found: Vec<Option<Threshold>> = vec![None; places.len()];
        let mut looker = Looker::new(self)?;
        let mut own = self.forward(&places);
        own.retain(|(place, _)| crew.shard().is_none_or(|shard| shard.has(*place)));
        let of = own.len();
        for (done, (place, stages)) in own.into_iter().enumerate() {
            looker.advance_to(*stages.start());
            let look = |rung, k| {
                let seed = splitmix::hash(&[self.seed, place as u64, rung as u64, k as u64]);
                let cell = places[place].at_level(level(rung).unwrap_or(LOWEST));
                looker.look(&cell, seed, &stages)
            };
            found[place] = Some(Threshold::new(&places[place], search(amount, look)?));
            progress(done + 1, of);
        }
        crew.join_records(found.into_iter().flatten().collect())
    }
}

/// The places of the forward pass among `cells`, each once.
fn places(cells: &[Cell]) -> Result<Vec<Cell>, LabError> {
    let mut places: Vec<Cell> = Vec::new();
    for cell in cells.iter().filter(|cell| cell.pass == Pass::Forward) {
        if cell.level.is_none() || cell.error.kind_name() == "saturation" {
            return Err(hardy_train::error::Error::config(format!(
                "{} has no strength that hurts more the larger it is, so there is no level that a place tolerates",
                cell.error.kind_name()
            ))
            .into());
        }
        if !places.iter().any(|place| place.same_place(cell)) {
            places.push(cell.clone());
        }
    }
    if places.is_empty() {
        let none = "thresholds are of errors in the forward pass, and no cell is; name it in --passes";
        return Err(hardy_train::error::Error::config(none).into());
    }
    Ok(places)
}

/// One batch of problems under one draw of an error, again and again.
enum Looker<'a, B: NoisyBackend> {
    Nll { prefix: Prefix<'a, B>, sequences: Vec<hardy_train::sequence::Sequence>, clean: Vec<f64> },
    Answers(Answering<'a, B>),
}

impl<'a, B: NoisyBackend> Looker<'a, B> {
    fn new(grid: &Grid<'a, B>) -> Result<Self, LabError> {
        if let GridMetric::Accuracy(_) = grid.metric {
            return Ok(Self::Answers(Answering::in_groups(grid, BATCH)?));
        }
        let sequences = grid.setting.worked()?;
        let prefix = Prefix::in_groups(&grid.setting.policy.decoder, &sequences, BATCH);
        let clean = hardy_ops::Noise::clean();
        let clean = (0..prefix.len()).flat_map(|part| prefix.likelihoods(part, &sequences, &clean, &(0..=0)));
        let clean: Vec<f64> = clean.collect();
        refuse_broken(&clean, grid.setting.problems)?;
        Ok(Self::Nll { prefix, sequences, clean })
    }

    fn advance_to(&mut self, stage: usize) {
        match self {
            Self::Nll { prefix, .. } => prefix.advance_to(stage),
            Self::Answers(answering) => answering.advance_to(stage),
        }
    }

    /// The mean loss of a batch chosen by the seed.
    fn look(
        &self,
        cell: &Cell,
        seed: u64,
        stages: &std::ops::RangeInclusive<usize>,
    ) -> Result<f64, LabError> {
        let choose = |parts: usize| (splitmix::hash(&[seed, 1]) % parts.max(1) as u64) as usize;
        match self {
            Self::Nll { prefix, sequences, clean } => {
                let part = choose(prefix.len());
                let sites = &prefix.decoder().blueprint.sites;
                let bound = bind(&cell.to_string(), &cell.plan(seed), sites)?;
                let noise = bound.noise(Phase::Eval, EVAL_STEP);
                let noisy = prefix.likelihoods(part, sequences, &noise, stages);
                let clean = &clean[prefix.sequences(part)];
                Ok(noisy.iter().zip(clean).map(|(a, b)| finite(*a) - b).sum::<f64>() / clean.len() as f64)
            }
            Self::Answers(answering) => {
                let part = choose(answering.groups());
                let found = answering.look(part, &cell.to_string(), &cell.plan(seed), stages)?;
                let lost = |&(problem, right): &(usize, bool)| {
                    f64::from(u8::from(answering.clean()[problem])) - f64::from(u8::from(right))
                };
                Ok(found.iter().map(lost).sum::<f64>() / found.len().max(1) as f64)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A place whose loss is `amount` at `rung`, between two rungs.
    fn misses(rung: f64, look: impl Fn(f64, u64) -> f64, places: u64) -> (f64, f64) {
        let (mut missed, mut looks) = (0, 0);
        for place in 0..places {
            let found = search::<()>(0.1, |at, k| {
                let seed = splitmix::hash(&[place, at as u64, k as u64]);
                Ok(look((f64::from(at) - rung) / 2.0, seed))
            });
            let found = found.unwrap();
            let (low, high) = found.rungs;
            missed += u32::from(!(f64::from(low) < rung && rung < f64::from(high)));
            looks += found.looks;
        }
        (f64::from(missed) / places as f64, looks as f64 / places as f64)
    }

    fn uniform(seed: u64, i: u64) -> f64 {
        (splitmix::hash(&[seed, 77, i]) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Sixteen answers, each lost with a probability that rises with the level and is 10 % at the threshold.
    fn answers(octaves: f64, seed: u64) -> f64 {
        let p = 1.0 / (1.0 + 9.0 * (-2.0 * octaves).exp());
        let lost = (0..16).filter(|&i| uniform(seed, i) < p).count();
        lost as f64 / 16.0
    }

    /// The mean loss of sixteen problems in nats, log-normal, 0.1 at the threshold and as the square of the level.
    fn nats(octaves: f64, seed: u64) -> f64 {
        let normal = |i: u64| {
            (-2.0 * uniform(seed, 2 * i).max(1e-300).ln()).sqrt()
                * (std::f64::consts::TAU * uniform(seed, 2 * i + 1)).cos()
        };
        let scale = 0.1 * 4.0_f64.powf(octaves);
        (0..16).map(|i| scale * (normal(i) - 0.5).exp()).sum::<f64>() / 16.0
    }

    #[test]
    fn a_bracket_misses_as_seldom_as_it_says() {
        for rung in [3.5, 11.2, 18.9] {
            for (name, look) in [("answers", answers as fn(f64, u64) -> f64), ("nats", nats)] {
                let (missed, looks) = misses(rung, look, 400);
                println!("{name} at rung {rung}: {:.2} % missed, {looks:.0} looks", 100.0 * missed);
                // 5 %, and what 400 places scatter by.
                assert!(missed < 0.05 + 3.0 * (0.05_f64 * 0.95 / 400.0).sqrt(), "{name}: {missed}");
                assert!(looks < 130.0, "{name}: {looks}");
            }
        }
    }

    #[test]
    fn what_no_level_hurts_and_what_every_level_hurts_lie_beyond_the_ladder() {
        let none = search::<()>(0.1, |_, _| Ok(0.0)).unwrap();
        assert_eq!((none.rungs.1, none.open), (RUNGS as i32, false));
        let every = search::<()>(0.1, |_, _| Ok(1.0)).unwrap();
        assert_eq!((every.rungs.0, every.open), (-1, false));
        assert!(none.looks < 60 && every.looks < 60);
    }

    #[test]
    fn at_the_very_amount_a_test_stays_open_within_its_budget() {
        let found = search::<()>(0.1, |at, k| {
            Ok(if at == 12 { 0.1 + if k % 2 == 0 { 0.05 } else { -0.05 } } else { 0.0 })
        });
        let found = found.unwrap();
        // What is surely borne is still found.
        assert!(found.open && found.rungs == (11, 25));
    }
}
