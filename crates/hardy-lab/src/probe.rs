//! A look at a model before hours are spent on it: the magnitudes of its activations and gradients, and how much of them
//! the errors of a plan would leave, from one forward and backward pass over worked answers under that plan.

use hardy_ops::{NoisyBackend, Op, Pass, Phase, Plan, Point, Receipt, Site};
use hardy_train::{
    error::Error,
    gradients::Gradients,
    recording::Recording,
    sequence::{Sequence, parts},
};
use serde::Serialize;

use crate::{
    error::LabError,
    evaluate::{EVAL_STEP, receipts},
    setting::Setting,
};

/// Tokens of a forward and backward pass.
const TOKENS: usize = 4096;

/// Values and the error that a rule makes on them, over all sites of one layer with one operator.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Magnitude {
    /// The decoder layer; `None` outside of the layers.
    pub layer: Option<usize>,
    /// The operator.
    pub op: Op,
    /// What was measured: `output` and the like are activations, `grad_input` and `grad_weight` gradients.
    pub point: Point,
    /// The pass.
    pub pass: Pass,
    /// The rule, from 1.
    pub rule: usize,
    /// Values measured, those that are not finite among them.
    pub elements: u64,
    /// Those of them that are not finite, and not in what follows.
    pub non_finite: u64,
    /// The root mean square of the values before the error.
    pub magnitude: f64,
    /// That of the error.
    pub error: f64,
    /// Their ratio in dB; `None` where there is no error or nothing but error.
    pub signal_to_noise_db: Option<f64>,
}

/// Measures the values that every rule of `plan` acts on. The gradients are those of the mean negative log-likelihood of
/// the worked answers' tokens.
///
/// # Errors
/// A plan that does not fit the model or never fires, or text that the model can not read.
pub fn magnitudes<B: NoisyBackend>(what: &Setting<'_, B>, plan: &Plan) -> Result<Vec<Magnitude>, LabError> {
    let decoder = &what.policy.decoder;
    let sites = &decoder.blueprint.sites;
    let bound = decoder.blueprint.bind(plan, &[Phase::Train]).map_err(Error::from)?;
    if !bound.acts_in(Phase::Train) {
        let silent =
            "no rule of the plan acts in the phase train; leave `during` out, or name \"train\" there";
        return Err(Error::config(silent).into());
    }
    let noise = bound.noise(Phase::Train, EVAL_STEP).gathering(sites.len());
    let sequences = what.worked()?;
    let tokens: usize = sequences.iter().map(Sequence::response_length).sum();
    let tracked = decoder.tracked();
    for (_, packed) in parts(&sequences, TOKENS, !noise.acts_backward()) {
        let derivative = vec![-1.0 / tokens as f32; packed.targets.len()];
        let pass = Recording::forward(&tracked, &packed, &noise, 1.0, false);
        pass.backward(&derivative, None);
    }
    // The errors on ∂W fall, and are counted, here.
    drop(Gradients::gathered(decoder, &noise));
    receipts(&bound)?;
    Ok(by_layer(&bound.receipts(), sites))
}

/// Receipts of one layer, operator, point and rule as one, in the order in which they come.
fn by_layer(receipts: &[Receipt], sites: &[Site]) -> Vec<Magnitude> {
    let mut groups: Vec<(Option<usize>, Receipt)> = Vec::new();
    for receipt in receipts {
        let site = sites.iter().find(|site| site.module == receipt.site && site.op == receipt.op);
        let layer = site.and_then(|site| site.layer);
        let key = |receipt: &Receipt| (receipt.op, receipt.point, receipt.rule);
        match groups.iter_mut().find(|(other, sum)| *other == layer && key(sum) == key(receipt)) {
            Some((_, sum)) => {
                sum.elements += receipt.elements;
                sum.non_finite += receipt.non_finite;
                sum.error_energy += receipt.error_energy;
                sum.signal_energy += receipt.signal_energy;
            }
            None => groups.push((layer, receipt.clone())),
        }
    }
    groups.iter().map(|(layer, sum)| magnitude(*layer, sum)).collect()
}

fn magnitude(layer: Option<usize>, sum: &Receipt) -> Magnitude {
    let measured = (sum.elements - sum.non_finite).max(1) as f64;
    let rms = |energy: f64| (energy / measured).sqrt();
    let db = 10.0 * (sum.signal_energy / sum.error_energy).log10();
    Magnitude {
        layer,
        op: sum.op,
        point: sum.point,
        pass: sum.pass,
        rule: sum.rule,
        elements: sum.elements,
        non_finite: sum.non_finite,
        magnitude: rms(sum.signal_energy),
        error: rms(sum.error_energy),
        signal_to_noise_db: db.is_finite().then_some(db),
    }
}
