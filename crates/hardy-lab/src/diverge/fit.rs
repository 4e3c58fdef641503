//! Which error model explains a machine. What an operator reads stands in a dump beside what it wrote, so that Hardy can
//! compute it again from the machine's own input: what is left is that operator's own error, whatever came before. To it
//! number formats, accumulations and random errors are fitted, class by class, and the best becomes a plan.

mod candidate;
mod operand;
mod residual;

use std::collections::BTreeMap;

use hardy_model::Decoder;
use hardy_ops::{Noise, NoisyBackend, Op, Phase, Plan, Rule, Site};
use serde::Serialize;

use super::dump::Dump;
use crate::error::LabError;

pub use candidate::{Kind, candidates};
use operand::{Product, products};
pub use residual::Fitted;
use residual::fit;

/// Relative errors of an operator below this are rounding of f32.
pub const CLEAN: f64 = 2e-6;
/// Products of a class that candidates are chosen by, spread over the layers.
const SCREENED: usize = 6;

/// A class of operators that share an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Linear layers within the decoder's layers.
    Linear,
    /// The head.
    Head,
}

/// The error of one operator by itself.
#[derive(Clone, Debug, Serialize)]
pub struct Own {
    /// The module path.
    pub module: String,
    /// The decoder layer.
    pub layer: Option<usize>,
    /// The operator.
    pub op: Op,
    /// ‖own error‖₂/‖output‖₂.
    pub relative: f64,
}

/// The error model of one class.
#[derive(Clone, Debug, Serialize)]
pub struct ClassFit {
    /// The class.
    pub class: Class,
    /// Operators that it was fitted to.
    pub operators: usize,
    /// What fits best.
    #[serde(flatten)]
    pub fitted: Fitted,
    /// The next best, and how much of the error it explains.
    pub runner_up: Option<(String, f64)>,
}

/// The error model of a machine.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorModel {
    /// Class by class.
    pub classes: Vec<ClassFit>,
    /// Every operator's own error.
    pub own: Vec<Own>,
    /// The plan, as TOML; empty for a machine without errors of its own.
    pub plan: String,
    /// The rules of it.
    #[serde(skip)]
    pub rules: Vec<Rule>,
}

/// Fits an error model to what a machine computed with the weights of `decoder`.
///
/// # Errors
/// A dump without a linear layer of this model whose input it holds too, or one of other shapes.
pub fn explain<B: NoisyBackend>(decoder: &Decoder<B>, dump: &Dump) -> Result<ErrorModel, LabError> {
    let products = products(decoder, dump)?;
    if products.is_empty() {
        return Err(LabError::Diverge(format!(
            "{} holds no linear layer together with what it reads; dump the norms and act_fn before it too, or with msprobe \
             its inputs",
            dump.source
        )));
    }
    let mut classes: BTreeMap<Class, Vec<&Product<B>>> = BTreeMap::new();
    for product in &products {
        let class = if product.layer.is_some() { Class::Linear } else { Class::Head };
        classes.entry(class).or_default().push(product);
    }
    let mut model =
        ErrorModel { classes: Vec::new(), own: Vec::new(), plan: String::new(), rules: Vec::new() };
    model.own = products.iter().map(Product::own).collect();
    for (class, products) in classes {
        let found = fit_class(class, &products)?;
        model.rules.extend(found.fitted.kind.rules(class));
        model.classes.push(found);
    }
    model.plan = crate::evaluate::rules_toml(&model.rules);
    Ok(model)
}

/// The best candidate: screened on a few products, then fitted to all.
fn fit_class<B: NoisyBackend>(class: Class, products: &[&Product<B>]) -> Result<ClassFit, LabError> {
    let step = products.len().div_ceil(SCREENED).max(1);
    let few: Vec<&Product<B>> = products.iter().step_by(step).copied().collect();
    let mut ranked: Vec<(Kind, f64)> = Vec::new();
    let clean = products.iter().all(|product| product.relative() < CLEAN);
    if !clean {
        for kind in candidates() {
            ranked.push((kind.clone(), residual::explained(&few, &kind)?));
        }
    }
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    let runner_up = ranked.get(1).map(|(kind, share)| (kind.to_string(), *share));
    let fitted = fit(products, ranked.first().map(|(kind, _)| kind), clean)?;
    Ok(ClassFit { class, operators: products.len(), fitted, runner_up })
}

/// What a plan of one rule set makes of one site, in the training phase.
fn noise_of(rules: Vec<Rule>, sites: &[Site]) -> Result<Noise, LabError> {
    let plan = Plan { rules, ..Plan::default() };
    let bound = plan.bind(sites, &[Phase::Train]).map_err(hardy_train::error::Error::from)?;
    Ok(bound.noise(Phase::Train, 0))
}
