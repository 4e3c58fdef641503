//! Where errors hurt: a grid of cells, each one error of one strength at one operator of one layer, and what it alone does to
//! the answers of a model, to their likelihood, or to the gradient.
//!
//! What an error can not have changed is not computed again: forward a cell starts from what reaches its layer ([`prefix`]),
//! backward from the gradient that arrives there ([`gradient`]), and an answer is written anew only where the error changes one
//! of its tokens ([`answers`]). All of that is equal to the bit to the whole computation.

pub mod advise;
mod answers;
mod axes;
mod cell;
mod gradient;
pub mod page;
mod prefix;
mod record;
pub mod share;
pub mod shipped;
pub mod table;
pub mod threshold;

pub use axes::Axes;
pub use cell::{Cell, level_of, with_level};
pub use record::{CellRecord, GridMetric, GridRecord};

use hardy_ops::{BoundPlan, NoisyBackend, Pass, Phase, Plan, Receipt};
use hardy_train::error::Error;

use self::{
    answers::Answering,
    gradient::Backward,
    prefix::{Prefix, stages_of},
    record::Scored,
};
use crate::{
    error::LabError,
    evaluate::{EVAL_STEP, bind, receipts},
    nll::refuse_broken,
    record::draw_of,
    setting::Setting,
};

/// Tokens of a pass.
pub(crate) const TOKENS: usize = 4096;

/// How the cells of a grid are measured.
#[derive(Debug)]
pub struct Grid<'a, B: NoisyBackend> {
    /// The model and its problems.
    pub setting: Setting<'a, B>,
    /// What is measured of cells of the forward pass; of those of the backward pass the gradient's direction is.
    pub metric: GridMetric,
    /// Draws of every error that is random; at least 1.
    pub draws: usize,
    /// The seed of the noise.
    pub seed: u64,
    /// Tokens after which an answer is cut off.
    pub max_new_tokens: usize,
    /// Sequences that are generated at once.
    pub batch: usize,
}

impl<B: NoisyBackend> Grid<'_, B> {
    /// Measures `cells`; `progress` is told how many are done. Their claims are decided together.
    ///
    /// # Errors
    /// An error that fits no place, noise that never fired, or text that the model can not read.
    pub fn run(&self, cells: &[Cell], progress: &mut dyn FnMut(usize)) -> Result<GridRecord, LabError> {
        let backward = |cell: &&Cell| cell.pass == Pass::Backward;
        let mut found: Vec<Option<Scored>> = vec![None; cells.len()];
        let mut done = 0;
        let mut put = |place: usize, scored: Scored| {
            found[place] = Some(scored);
            done += 1;
            progress(done);
        };
        let clean = match self.metric {
            GridMetric::Nll => self.likelihoods(cells, &mut put)?,
            GridMetric::Accuracy(_) => self.answers(cells, &mut put)?,
        };
        if cells.iter().any(|cell| backward(&cell)) {
            self.gradients(cells, &mut put)?;
        }
        let scored = found.into_iter().flatten().collect();
        Ok(GridRecord::new(self, clean, cells, scored))
    }

    /// The places of the forward cells with their stages, in the order of the stage that each begins in.
    fn forward(&self, cells: &[Cell]) -> Vec<(usize, std::ops::RangeInclusive<usize>)> {
        let stages = |cell: &Cell| stages_of(&self.setting.policy.decoder, &cell.rule());
        let forward = cells.iter().enumerate().filter(|(_, cell)| cell.pass == Pass::Forward);
        let mut order: Vec<_> = forward.map(|(place, cell)| (place, stages(cell))).collect();
        order.sort_by_key(|(_, stages)| *stages.start());
        order
    }

    fn draws_of(&self, cell: &Cell) -> usize {
        if cell.error.is_random() { self.draws.max(1) } else { 1 }
    }

    fn plan(&self, cell: &Cell, draw: usize) -> Plan {
        draw_of(&cell.plan(self.seed), draw)
    }

    fn likelihoods(&self, cells: &[Cell], put: &mut dyn FnMut(usize, Scored)) -> Result<Vec<f64>, LabError> {
        let decoder = &self.setting.policy.decoder;
        let sequences = self.setting.worked()?;
        let mut prefix = Prefix::new(decoder, &sequences, TOKENS);
        let all = |prefix: &Prefix<B>, noise: &_, stages: &_| -> Vec<f64> {
            (0..prefix.len()).flat_map(|part| prefix.likelihoods(part, &sequences, noise, stages)).collect()
        };
        let clean = all(&prefix, &hardy_ops::Noise::clean(), &(0..=0));
        refuse_broken(&clean, self.setting.problems)?;
        for (place, stages) in self.forward(cells) {
            let cell = &cells[place];
            prefix.advance_to(*stages.start());
            let mut draws = Vec::new();
            let mut sum = Vec::new();
            for draw in 0..self.draws_of(cell) {
                let bound = bind(&cell.to_string(), &self.plan(cell, draw), &decoder.blueprint.sites)?;
                draws.push(all(&prefix, &bound.noise(Phase::Eval, EVAL_STEP), &stages));
                sum.extend(receipts(&bound)?);
            }
            put(place, Scored::likelihood(&clean, draws, &sum));
        }
        Ok(clean)
    }

    fn answers(&self, cells: &[Cell], put: &mut dyn FnMut(usize, Scored)) -> Result<Vec<f64>, LabError> {
        let mut answering = Answering::new(self)?;
        for (place, stages) in self.forward(cells) {
            let cell = &cells[place];
            answering.advance_to(*stages.start());
            let mut draws = Vec::new();
            let mut sum = Vec::new();
            for draw in 0..self.draws_of(cell) {
                let (right, receipts) =
                    answering.under(&cell.to_string(), &self.plan(cell, draw), &stages)?;
                draws.push(right);
                sum.extend(receipts);
            }
            put(place, Scored::accuracy(answering.clean(), &draws, &sum));
        }
        Ok(answering.clean().iter().map(|&right| f64::from(u8::from(right))).collect())
    }

    fn gradients(&self, cells: &[Cell], put: &mut dyn FnMut(usize, Scored)) -> Result<(), LabError> {
        let decoder = &self.setting.policy.decoder;
        let backward = Backward::new(decoder, &self.setting.worked()?, TOKENS);
        for (place, cell) in cells.iter().enumerate().filter(|(_, cell)| cell.pass == Pass::Backward) {
            let mut draws = Vec::new();
            let mut sum: Vec<Receipt> = Vec::new();
            for draw in 0..self.draws_of(cell) {
                let plan = self.plan(cell, draw);
                let bound: BoundPlan = decoder.blueprint.bind(&plan, &[Phase::Train]).map_err(Error::from)?;
                draws.push(backward.directions(&cell.rule(), &bound.noise(Phase::Train, EVAL_STEP)));
                sum.extend(receipts(&bound)?);
            }
            put(place, Scored::direction(&draws, &sum));
        }
        Ok(())
    }
}
