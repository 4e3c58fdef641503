//! Which layers and operators are to blame: one error at a time at one operator of one layer, and what that alone does to
//! the likelihood of worked answers.

use hardy_ops::{Layers, NoisyBackend, Op, Ops, Plan, Rule, Site};
use serde::Serialize;

use crate::{
    error::LabError,
    nll::{differences, likelihood, mean_with_interval},
    setting::Setting,
    statistics::Interval,
};

/// What an error at one place does.
#[derive(Clone, Debug, Serialize)]
pub struct Sensitivity {
    /// The decoder layer; `None` outside of the layers.
    pub layer: Option<usize>,
    /// The operator.
    pub op: Op,
    /// The mean change of the negative log-likelihood of a token, in nats.
    pub degradation: f64,
    /// Its 95 % interval over problems.
    pub interval: Interval,
}

/// The sensitivities of a model, and its clean likelihood.
#[derive(Clone, Debug, Serialize)]
pub struct Sensitivities {
    /// Mean negative log-likelihood without error.
    pub clean: f64,
    /// One entry for every layer and operator, in the order of the forward pass.
    pub places: Vec<Sensitivity>,
}

/// Puts the error of `rule` at every layer and operator in turn; `progress` is told how many places are done.
///
/// # Errors
/// An error that fits no place, or text that the model can not read.
pub fn sensitivities<B: NoisyBackend>(
    what: &Setting<'_, B>,
    rule: &Rule,
    seed: u64,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Sensitivities, LabError> {
    let places = places(&what.policy.decoder.blueprint.sites, rule);
    let sequences = what.worked()?;
    let clean = likelihood(what, &sequences, "clean", &Plan { seed, ..Plan::default() })?.problems;
    let mut found =
        Sensitivities { clean: mean_with_interval(std::slice::from_ref(&clean)).0, places: Vec::new() };
    for (done, (layer, op, modules)) in places.iter().enumerate() {
        let rule = Rule {
            ops: Ops::Some(vec![*op]),
            layers: layer.map_or(Layers::All, |layer| Layers::List(vec![layer])),
            modules: modules.clone(),
            during: None,
            ..rule.clone()
        };
        let plan = Plan { rules: vec![rule], seed, ..Plan::default() };
        let noisy = likelihood(what, &sequences, modules, &plan)?.problems;
        let (degradation, interval) =
            mean_with_interval(&differences(&[noisy], std::slice::from_ref(&clean)));
        found.places.push(Sensitivity { layer: *layer, op: *op, degradation, interval });
        progress(done + 1, places.len());
    }
    Ok(found)
}

/// Every layer and operator at which `rule` can act, with a glob for the modules outside of layers.
fn places(sites: &[Site], rule: &Rule) -> Vec<(Option<usize>, Op, String)> {
    let mut places = Vec::new();
    for site in sites.iter().filter(|site| rule.selects(site)) {
        let modules = if site.layer.is_some() { rule.modules.clone() } else { site.module.clone() };
        let place = (site.layer, site.op, modules);
        if !places.contains(&place) {
            places.push(place);
        }
    }
    places
}
