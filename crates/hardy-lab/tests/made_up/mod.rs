//! Made-up suites whose truth is known: answers are right where a normal score is above 0, so that the expected accuracy
//! is Φ of its mean over its standard deviation. Problems differ in difficulty, sides in the problems that suit them,
//! columns (seeds, or draws) in how well they fell out, and every answer has a part of its own.

use hardy_lab::statistics::{
    self, Answers, Claim, Interval, PairedTest, Scores, accuracy, decide, difference, mean_interval, peak,
    retention,
};
use statrs::distribution::{ContinuousCDF, Normal};

/// How often each kind of interval covered the truth, of how many.
pub const KINDS: [&str; 5] = ["accuracy", "difference", "retention", "peak of 6", "nll lost"];
/// The same of scores between right and wrong.
pub const SCORED: [&str; 2] = ["score", "difference of scores"];
const CONFIDENCE: f64 = 0.95;
/// The standard deviation of a problem's difficulty.
const DIFFICULTY: f64 = 1.0;
/// That of how much a problem suits a side.
const SUITS: f64 = 0.5;

/// Where suites are made up.
#[derive(Clone, Copy, Debug)]
pub struct World {
    /// Seeds of every preset, or draws of one run.
    pub columns: usize,
    /// The standard deviation of a column's score, on the scale on which an answer's own part is 1.
    pub scatter: f64,
}

/// What came of many suites.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub suites: usize,
    /// By kind.
    pub covered: [usize; KINDS.len()],
    /// By kind, intervals that were given.
    pub given: [usize; KINDS.len()],
    /// Pages that claim a difference where there is none.
    pub false_pages: usize,
}

/// SplitMix64, as a stream of numbers.
pub struct Draws(u64);

impl Draws {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// In (0, 1).
    fn uniform(&mut self) -> f64 {
        ((self.bits() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// Box and Muller's.
    fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }

    fn normals(&mut self, n: usize, scale: f64) -> Vec<f64> {
        (0..n).map(|_| scale * self.normal()).collect()
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[(self.uniform() * choices.len() as f64) as usize]
    }
}

impl World {
    /// The standard deviation of a score.
    fn spread(self) -> f64 {
        (DIFFICULTY.powi(2) + SUITS.powi(2) + self.scatter.powi(2) + 1.0).sqrt()
    }

    /// The answers of a side whose expected accuracy is `truth`, column by column.
    fn answers(self, truth: f64, difficulty: &[f64], columns: &[f64], draws: &mut Draws) -> Vec<Vec<bool>> {
        let mean = Normal::standard().inverse_cdf(truth) * self.spread();
        let suits = draws.normals(difficulty.len(), SUITS);
        let column = |&column: &f64| {
            let problems = difficulty.iter().zip(&suits);
            problems
                .map(|(difficulty, suits)| mean + difficulty + suits + column + draws.normal() > 0.0)
                .collect()
        };
        columns.iter().map(column).collect()
    }

    /// One suite: an accuracy, a difference, a retention, a peak and a likelihood lost, and a page without differences.
    pub fn suite(self, accuracy_of: impl Fn(f64) -> f64, draws: &mut Draws, tally: &mut Tally) {
        let n = draws.of(&[100, 200, 400]);
        let clean = accuracy_of(draws.uniform());
        let noisy = (clean - draws.of(&[0.0, 0.02, 0.05, 0.2])).max(0.5 * clean);
        let difficulty = draws.normals(n, DIFFICULTY);
        let [one, other] = [0, 1].map(|_| draws.normals(self.columns, self.scatter));
        let a = self.answers(noisy, &difficulty, &one, draws);
        let b = self.answers(clean, &difficulty, &other, draws);
        let [a, b] = [&a, &b].map(|side| scores(side));
        tally.count(0, clean, Some(accuracy(&b, CONFIDENCE)));
        tally.count(1, noisy - clean, Some(difference(&a, &b, CONFIDENCE)));
        tally.count(2, noisy / clean, retention(&a, &b, CONFIDENCE));
        let (best, interval) = self.peak(clean, &difficulty, &one, draws);
        tally.count(3, best, interval);
        let (lost, interval) = self.likelihood(n, draws);
        tally.count(4, lost, Some(interval));
        tally.false_pages += usize::from(self.page(clean, &difficulty, draws));
        tally.suites += 1;
    }

    /// The intervals of a mean score, of four answers to every problem, and of the difference of two, of one column; whether
    /// they cover the truth.
    pub fn scored(self, accuracy_of: impl Fn(f64) -> f64, draws: &mut Draws) -> [bool; SCORED.len()] {
        let n = draws.of(&[100, 200, 400]);
        let clean = accuracy_of(draws.uniform());
        let noisy = (clean - draws.of(&[0.0, 0.02, 0.05, 0.2])).max(0.5 * clean);
        let difficulty = draws.normals(n, DIFFICULTY);
        let [a, b] = [noisy, clean].map(|truth| {
            let answers = self.answers(truth, &difficulty, &[0.0; 4], draws);
            let right = |problem: usize| answers.iter().filter(|column| column[problem]).count();
            let mean = (0..n).map(|problem| right(problem) as f64 / answers.len() as f64).collect();
            statistics::scores(&vec![vec![mean]])
        });
        let of_difference = difference(&a, &b, CONFIDENCE);
        [accuracy(&b, CONFIDENCE).contains(clean), of_difference.contains(noisy - clean)]
    }

    /// Six evaluations of a run that learns; the true best and the interval of the peak.
    fn peak(
        self,
        clean: f64,
        difficulty: &[f64],
        columns: &[f64],
        draws: &mut Draws,
    ) -> (f64, Option<Interval>) {
        let rise = draws.of(&[0.0, 0.02]);
        let truths =
            [5.0, 4.0, 3.0, 2.0, 1.0, 0.0].map(|before: f64| (clean - before * rise).max(0.5 * clean));
        let all: Vec<Scores> =
            truths.iter().map(|&truth| scores(&self.answers(truth, difficulty, columns, draws))).collect();
        (clean, peak(&all, CONFIDENCE).map(|(_, interval)| interval))
    }

    /// What likelihood is lost: skewed over problems (gamma of shape 2), shifted by columns.
    fn likelihood(self, n: usize, draws: &mut Draws) -> (f64, Interval) {
        let own: Vec<f64> = (0..n).map(|_| -draws.uniform().ln() - draws.uniform().ln()).collect();
        let column = |shift: f64, draws: &mut Draws| own.iter().map(|x| x + shift + draws.normal()).collect();
        let columns: Vec<Vec<f64>> = (0..self.columns)
            .map(|_| {
                let shift = self.scatter * draws.normal();
                column(shift, draws)
            })
            .collect();
        (2.0, mean_interval(&Scores::of(&columns), CONFIDENCE))
    }

    /// Whether a page of three presets, held against a fourth that is no different, at three levels, claims a difference.
    fn page(self, truth: f64, difficulty: &[f64], draws: &mut Draws) -> bool {
        let preset = |draws: &mut Draws| {
            let columns = draws.normals(self.columns, self.scatter);
            [(); 3].map(|()| self.answers(truth, difficulty, &columns, draws))
        };
        let baseline = preset(draws);
        let mut claims: Vec<Claim> = Vec::new();
        for _ in 0..3 {
            let own = preset(draws);
            claims.extend(own.iter().zip(&baseline).map(|(a, b)| PairedTest::of(&seeds(a), &seeds(b)).claim));
        }
        decide(&mut claims);
        claims.iter().any(|claim| claim.resolved)
    }
}

impl Tally {
    fn count(&mut self, kind: usize, truth: f64, interval: Option<Interval>) {
        self.given[kind] += usize::from(interval.is_some());
        self.covered[kind] += usize::from(interval.is_some_and(|interval| interval.contains(truth)));
    }

    /// The share covered of a kind.
    pub fn coverage(&self, kind: usize) -> f64 {
        self.covered[kind] as f64 / self.given[kind].max(1) as f64
    }

    /// The share of pages that claim what is not there.
    pub fn false_claims(&self) -> f64 {
        self.false_pages as f64 / self.suites.max(1) as f64
    }
}

/// Every column as a seed.
fn seeds(columns: &[Vec<bool>]) -> Answers {
    let score = |&right: &bool| f64::from(u8::from(right));
    columns.iter().map(|column| vec![column.iter().map(score).collect()]).collect()
}

fn scores(columns: &[Vec<bool>]) -> Scores {
    statistics::scores(&seeds(columns))
}

/// What made-up suites look like.
pub const ANY: fn(f64) -> f64 = |u| 0.02 + 0.96 * u;
/// Those near the edges.
pub const EDGES: fn(f64) -> f64 = |u| if u < 0.5 { 0.02 + 0.16 * u } else { 0.98 - 0.16 * (1.0 - u) };
