//! A plan on the command line: `--noise`, `--plan`, and the environment variable `HARDY_NOISE`, together with the seed
//! and the step that address its noise.

use std::path::PathBuf;

use clap::Args;
use hardy_model::Blueprint;
use hardy_ops::{BoundPlan, Pass, Phase, Plan, Point, Rule};
use hardy_train::plan_file::{self, PlanFile, VARIABLE, read_plan};

use crate::{failure::Failure, number_args::number, output::note};

/// The noise of one command.
#[derive(Clone, Debug, Args)]
pub struct NoiseArgs {
    /// Relative Gaussian error of this scale on the outputs of linear layers and matmuls, forward: 0.05 is 5 %
    #[arg(long, value_name = "SCALE", value_parser = scale, allow_negative_numbers = true)]
    noise: Option<f64>,
    /// A TOML file with `[[noise]]` rules, and possibly `seed` and `streams`
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// The seed of everything that is drawn [default: the plan's, else 0]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// The step whose noise is wanted
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub step: u64,
}

/// A scale of noise.
pub fn scale(text: &str) -> Result<f64, String> {
    number("noise.error.scale")(text)
}

impl NoiseArgs {
    /// The plan that was asked for, with the rules of `HARDY_NOISE` at its end.
    ///
    /// # Errors
    /// A plan that can not be read or understood.
    pub fn plan(&self) -> Result<Plan, Failure> {
        let mut file = PlanFile::default();
        file.noise.extend(self.noise.filter(|&scale| scale != 0.0).map(Rule::noise));
        if let Some(path) = &self.plan {
            file.append(read_plan(path)?);
        }
        if let Some(environment) = environment()? {
            file.append(environment);
        }
        let seed = self.seed.or(file.seed).unwrap_or_default();
        Ok(Plan { rules: file.noise, seed, streams: file.streams.unwrap_or_default() })
    }
}

/// What `HARDY_NOISE` says, echoed on standard error.
///
/// # Errors
/// What is no plan.
pub fn environment() -> Result<Option<PlanFile>, Failure> {
    let found = plan_file::from_environment()?;
    if let Some(file) = &found {
        let rules = if file.noise.len() == 1 { "rule" } else { "rules" };
        note(&format!("{VARIABLE}: {} {rules}", file.noise.len()));
        for rule in &file.noise {
            let scale = rule.error.scale().map(|scale| format!(" {scale}")).unwrap_or_default();
            note(&format!("{VARIABLE}: {rule}, {}{scale}", rule.error.kind_name()));
        }
    }
    Ok(found)
}

/// The plan without errors of the backward pass, for commands that make none.
///
/// # Errors
/// A rule that acts in the backward pass alone; `remedy` says what would be right.
pub fn forward_only(plan: Plan, remedy: &str) -> Result<Plan, Failure> {
    let narrow = |(index, mut rule): (usize, Rule)| {
        let in_gradients = matches!(rule.at, Point::GradInput | Point::GradWeight);
        if in_gradients || !rule.pass.contains(&Pass::Forward) {
            let number = index + 1;
            return Err(Failure::input(format!(
                "rule {number} ({rule}) acts in the backward pass alone; {remedy}"
            )));
        }
        rule.pass = vec![Pass::Forward];
        Ok(rule)
    };
    let rules = plan.rules.into_iter().enumerate().map(narrow).collect::<Result<_, _>>()?;
    Ok(Plan { rules, ..plan })
}

/// Binds a plan to a model, for one phase.
///
/// # Errors
/// A rule that matches nothing, or a plan none of whose rules acts in that phase.
pub fn bind(plan: &Plan, blueprint: &Blueprint, phase: Phase) -> Result<BoundPlan, Failure> {
    let bound = plan.bind(&blueprint.sites, &[phase])?;
    if !plan.rules.is_empty() && !bound.acts_in(phase) {
        let phase = phase.name();
        return Err(Failure::input(format!(
            "no rule of the plan acts in the phase {phase}; leave `during` out, or name \"{phase}\" there"
        )));
    }
    Ok(bound)
}

/// Checks that everything the plan asked for happened.
///
/// # Errors
/// What did not.
pub fn check_fired(plan: &BoundPlan) -> Result<(), Failure> {
    match plan.unfired().into_iter().next() {
        None => Ok(()),
        Some(silent) => Err(hardy_train::error::Error::Unfired(silent).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(rule: Rule) -> Plan {
        Plan { rules: vec![rule], ..Plan::default() }
    }

    #[test]
    fn a_scale_is_finite_and_not_negative() {
        assert_eq!(scale("0.05"), Ok(0.05));
        assert_eq!(scale("0"), Ok(0.0));
        for wrong in ["-0.05", "nan", "inf", "1e300", "5%", ""] {
            assert!(scale(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn without_a_backward_pass_rules_act_forward_and_those_that_can_not_are_refused() {
        let both = Rule { pass: vec![Pass::Forward, Pass::Backward], ..Rule::noise(0.1) };
        let narrowed = forward_only(plan(both.clone()), "").unwrap();
        assert_eq!(narrowed.rules, [Rule::noise(0.1)]);
        let backward = Rule { pass: vec![Pass::Backward], ..Rule::noise(0.1) };
        assert!(forward_only(plan(backward), "").is_err());
        let gradients = Rule { at: Point::GradWeight, ..both };
        assert!(forward_only(plan(gradients), "").is_err());
    }
}
