//! The suites that come with Hardy: every registered file of `suites/`, by name.

/// Name and text of every shipped suite.
pub const ALL: &[(&str, &str)] = &[
    ("hw-noise", include_str!("../../../../suites/hw-noise.toml")),
    ("forward-backward", include_str!("../../../../suites/forward-backward.toml")),
    ("quantised", include_str!("../../../../suites/quantised.toml")),
    ("lora", include_str!("../../../../suites/lora.toml")),
];

#[cfg(test)]
mod tests {
    use hardy_train::config::RunConfig;

    use super::*;
    use crate::suite::{Schedule, Suite};

    #[test]
    fn every_shipped_suite_names_presets_that_exist_and_differ() {
        for (name, _) in ALL {
            let suite = Suite::load(name).unwrap();
            assert_eq!(suite.name, *name);
            let schedule = Schedule::new(&suite, std::path::Path::new("nowhere"), |_| Ok(())).unwrap();
            assert_eq!(schedule.members().len(), suite.presets.len() * suite.seeds.len());
        }
    }

    #[test]
    fn hypotheses_speak_of_levels_that_are_evaluated() {
        for (name, _) in ALL {
            for criterion in Suite::load(name).unwrap().hypothesis.iter().flat_map(|h| &h.criterion) {
                for preset in [&criterion.preset, &criterion.against] {
                    let config = RunConfig::load(preset, &[]).unwrap();
                    assert!(config.eval.noise_levels.contains(&criterion.level), "{name}: {preset}");
                }
            }
        }
    }
}
