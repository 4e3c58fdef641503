//! A level of an evaluation: the rules that it adds, on the hardware that a run stands on.

use hardy_ops::{Phase, Plan, Rule, Streams};
use serde::Serialize;

/// One condition of an evaluation.
#[derive(Clone, Debug)]
pub struct Level {
    /// What tables call it, after its whole plan.
    pub label: String,
    /// The relative scale of the noise that it adds, 0 for none; `None` for a plan without one scale.
    pub noise: Option<f64>,
    /// The rules that it adds.
    pub added: Vec<Rule>,
    /// All rules: those that the run stands on, then those that it adds.
    pub plan: Plan,
}

impl Level {
    /// Relative Gaussian error of `scale` on the outputs of every linear and matmul; 0 is clean.
    pub fn noise(scale: f64, seed: u64) -> Self {
        let clean = scale == 0.0;
        let label = if clean { CLEAN.to_owned() } else { format!("{} %", round(100.0 * scale)) };
        let rules = if clean { Vec::new() } else { vec![Rule::noise(scale)] };
        let plan = Plan { rules: rules.clone(), seed, streams: Streams::PerPhase };
        Self { label, noise: Some(scale), added: rules, plan }
    }

    /// The rules of a plan, under a name.
    pub fn plan(label: String, plan: Plan) -> Self {
        Self { label, noise: None, added: plan.rules.clone(), plan }
    }

    /// The same level on hardware that has errors of its own: those of `rules` that name the phase of evaluation. So a
    /// run in W4A4 is judged in W4A4.
    #[must_use]
    pub fn under(self, rules: &[Rule]) -> Self {
        let names_eval = |rule: &&Rule| rule.during.as_ref().is_some_and(|d| d.contains(&Phase::Eval));
        let standing = rules.iter().filter(names_eval);
        let standing: Vec<Rule> =
            standing.map(|rule| Rule { during: Some(vec![Phase::Eval]), ..rule.clone() }).collect();
        let mut kinds: Vec<&str> = standing.iter().map(|rule| rule.error.kind_name()).collect();
        kinds.dedup();
        let name = kinds.join(" + ");
        self.on(&standing, &name)
    }

    /// The same level on hardware with the errors of `rules`, which come first; `name` stands for them in the label.
    #[must_use]
    pub fn on(mut self, rules: &[Rule], name: &str) -> Self {
        if rules.is_empty() {
            return self;
        }
        self.plan.rules = rules.iter().cloned().chain(std::mem::take(&mut self.plan.rules)).collect();
        self.label = if self.label == CLEAN { name.to_owned() } else { format!("{name} + {}", self.label) };
        self
    }
}

/// The label of a level without any rule.
const CLEAN: &str = "clean";

/// Ten decimals, so that 100·0.07 reads as 7.
fn round(x: f64) -> f64 {
    (x * 1e10).round() / 1e10
}

/// Rules as `[[noise]]` tables; nothing for none.
pub fn rules_toml(rules: &[Rule]) -> String {
    #[derive(Serialize)]
    struct Rules<'a> {
        noise: &'a [Rule],
    }
    if rules.is_empty() {
        return String::new();
    }
    toml::to_string(&Rules { noise: rules }).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_named_by_its_whole_plan() {
        let rule = Rule { during: Some(vec![Phase::Train, Phase::Eval]), ..Rule::noise(0.1) };
        let training = Rule { during: Some(vec![Phase::Train]), ..Rule::noise(0.1) };
        let names = |rules: &[Rule]| [0.0, 0.07].map(|scale| Level::noise(scale, 0).under(rules).label);
        assert_eq!(names(&[]), ["clean", "7 %"]);
        assert_eq!(names(&[training]), ["clean", "7 %"]);
        assert_eq!(names(std::slice::from_ref(&rule)), ["relative_gaussian", "relative_gaussian + 7 %"]);
        let level = Level::noise(0.07, 0).under(&[rule]);
        assert_eq!((level.added.len(), level.plan.rules.len()), (1, 2));
    }
}
