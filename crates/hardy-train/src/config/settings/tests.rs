//! The table and the structs that serde reads are two lists of the same keys; here each is held against the other.

use std::collections::BTreeSet;

use super::*;
use crate::{config::RunConfig, sft::SftConfig};

/// The smallest configurations that have every section.
const RUN: &str = "name = 'x'\nmodel.path = 'x'\naqn.schedule = 'constant'\naqn.sigma = 0.1\nlora.rank = 1\n";
const SFT: &str = "name = 'x'\nmodel.path = 'x'\nlora.rank = 1\n";

fn error(kind: Kind, text: &str) -> Option<String> {
    match kind {
        Kind::Run => toml::from_str::<RunConfig>(text).err().map(|error| error.message().to_owned()),
        Kind::Sft => toml::from_str::<SftConfig>(text).err().map(|error| error.message().to_owned()),
    }
}

/// The keys that serde knows beside an unknown one in `section`.
fn known(kind: Kind, section: &str) -> BTreeSet<String> {
    let text = match section {
        "" => "no_such_key = 1".to_owned(),
        "reward" => "reward = [{ no_such_key = 1 }]".to_owned(),
        "noise" => "noise = [{ no_such_key = 1 }]".to_owned(),
        "noise.error" => "noise = [{ error = { no_such_key = 1 } }]".to_owned(),
        section => format!("{section}.no_such_key = 1"),
    };
    let message = error(kind, &text).unwrap_or_default();
    let (_, expected) = message.split_once(", expected ").unwrap_or_else(|| panic!("{section}: {message}"));
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_key_that_is_read_is_in_the_table() {
    let sections = |kind| match kind {
        Kind::Run => &[
            "",
            "model",
            "data",
            "train",
            "reward",
            "noise",
            "noise.error",
            "aqn",
            "lora",
            "eval",
            "checkpoint",
        ][..],
        Kind::Sft => {
            &["", "model", "model.new", "data", "train", "noise", "noise.error", "lora", "checkpoint"]
        }
    };
    for kind in [Kind::Run, Kind::Sft] {
        for section in sections(kind) {
            let under =
                |key: &str| if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") };
            for key in known(kind, section).iter().map(|key| under(key)).filter(|key| key != "build") {
                let found = kind.settings().any(|setting| setting.is_in(&key));
                assert!(found, "{kind:?}: `{key}` is read, but has no row in config/settings");
            }
        }
    }
}

#[test]
fn every_key_in_the_table_is_read() {
    for kind in [Kind::Run, Kind::Sft] {
        for setting in kind.settings().filter(|setting| setting.key != "aqn.sigma") {
            let (section, key) = setting.key.rsplit_once('.').unwrap_or(("", setting.key));
            assert!(
                known(kind, section).contains(key),
                "{kind:?}: `{}` has a row, but is not read",
                setting.key
            );
        }
    }
}

/// A TOML line with `value` for a key.
fn line(key: &str, value: &str) -> String {
    if let Some(key) = key.strip_prefix("reward.") {
        return format!("reward = [{{ {key} = {value} }}]");
    }
    match key.strip_prefix("noise.") {
        Some(key) if key.starts_with("error.") => format!("noise = [{{ {key} = {value} }}]"),
        Some("at") => format!("noise = [{{ at = {value}, error = {{ kind = 'mxfp4' }} }}]"),
        Some(key) => format!("noise = [{{ {key} = [{value}], error = {{ kind = 'mxfp4' }} }}]"),
        None => format!("{key} = {value}"),
    }
}

#[test]
fn words_of_the_table_are_those_that_are_read() {
    for kind in [Kind::Run, Kind::Sft] {
        for setting in kind.settings() {
            let Range::Words(words) = setting.range else { continue };
            let text = |word: &str| line(setting.key, &format!("'{word}'"));
            let refused = error(kind, &text("no_such_word")).unwrap_or_default();
            let Some((_, expected)) = refused.split_once(", expected ") else { continue };
            let read: BTreeSet<&str> = expected.split('`').skip(1).step_by(2).collect();
            assert!(read.is_empty() || read == words.iter().copied().collect(), "{}: {refused}", setting.key);
        }
    }
}

#[test]
fn every_default_is_admissible() {
    for kind in [Kind::Run, Kind::Sft] {
        let text = if kind == Kind::Run { RUN } else { SFT };
        assert_eq!(error(kind, text), None);
        for setting in kind.settings() {
            let Some(default) = kind.default(setting.key) else { continue };
            let values = default.trim_matches(['[', ']']).split(", ");
            for x in values.filter_map(|value| value.parse::<f64>().ok()) {
                let whole = matches!(setting.range, Range::Whole(..));
                assert!(setting.range.admits(x, whole), "{}: {default}", setting.key);
            }
        }
    }
    assert_eq!(Kind::Run.default("train.betas").as_deref(), Some("[0.9, 0.999]"));
    assert_eq!(Kind::Run.default("train.temperature").as_deref(), Some("1"));
    assert_eq!(Kind::Run.default("train.clip_low"), None);
    assert_eq!(Kind::Sft.default("train.steps").as_deref(), Some("100"));
}

#[test]
fn every_preset_and_scale_is_in_range() {
    for (name, text) in crate::presets::ALL.iter().chain(crate::config::SCALES) {
        let kind = if *name == "tiny-base" { Kind::Sft } else { Kind::Run };
        let table: toml::Table = text.parse().unwrap();
        kind.check_text(&table, text, name).unwrap_or_else(|error| panic!("{error}"));
    }
}
