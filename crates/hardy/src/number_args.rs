//! Numbers on the command line: parsed, held against the range of their setting, and explained by it.

use std::fmt::Display;

use hardy_train::config::settings;

/// Parses a flag with the whole number of `setting`: a key, or the flag itself.
pub fn whole<T: TryFrom<u64>>(
    setting: &'static str,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    let range = settings::flag(setting).range;
    move |text| {
        let value = text.trim().parse::<u64>().ok().filter(|&value| range.admits(value as f64, true));
        value.and_then(|value| T::try_from(value).ok()).ok_or_else(|| must_be(range))
    }
}

/// Parses a flag with the number of `setting`.
pub fn number(setting: &'static str) -> impl Fn(&str) -> Result<f64, String> + Clone + Send + Sync + 'static {
    let range = settings::flag(setting).range;
    move |text| {
        let value = text.trim().parse::<f64>().ok().filter(|&value| range.admits(value, false));
        value.ok_or_else(|| must_be(range))
    }
}

/// The meaning of a flag, with what is admissible.
pub fn explained(meaning: &str, setting: &str) -> String {
    format!("{meaning} ({})", settings::flag(setting).range)
}

/// What a setting means, with what is admissible.
pub fn help(setting: &str) -> String {
    explained(settings::flag(setting).meaning, setting)
}

fn must_be(range: impl Display) -> String {
    format!("must be {range}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_take_what_their_setting_admits() {
        let samples = whole::<u16>("train.samples_per_prompt");
        assert_eq!(samples("65535"), Ok(65_535));
        for wrong in ["0", "65536", "-1", "1.5", "", "many"] {
            assert_eq!(samples(wrong), Err("must be a whole number from 1 to 65,535".to_owned()), "{wrong}");
        }
        let top_p = number("train.top_p");
        assert_eq!(top_p("0.5"), Ok(0.5));
        for wrong in ["0", "1.5", "nan", "-1", "inf"] {
            assert_eq!(top_p(wrong), Err("must be above 0 and at most 1".to_owned()), "{wrong}");
        }
    }
}
