//! Scales: what an experiment needs to know of the model and the task, apart from what it tests. A preset says only the
//! latter; its `scale` says under which model, data, batch and learning rate, so that no experiment is written twice.
//!
//! A scale's values lie under those of the configuration that names it. Its `[recipe.NAME]` tables lie between them, for the
//! configurations that ask for that recipe with `recipe = ["NAME"]`.

use toml::{Table, Value};

use super::merge;
use crate::{
    error::{Error, Result},
    toml_errors,
};

/// Name and text of every scale.
pub const SCALES: &[(&str, &str)] = &[
    ("tiny", include_str!("../../../../presets/scales/tiny.toml")),
    ("1.5b", include_str!("../../../../presets/scales/1.5b.toml")),
];

/// Lays the scale that `config` names, and its recipes, under it; without a scale nothing changes.
///
/// # Errors
/// A scale or recipe that does not exist, or recipes without a scale.
pub(super) fn lay_under(config: &Table) -> Result<Table> {
    let recipes = recipes(config)?;
    let Some(name) = config.get("scale") else {
        return match recipes.first() {
            None => Ok(config.clone()),
            Some(recipe) => Err(Error::config(format!(
                "`recipe` names {recipe}, but there is no `scale` that could have it; the scales are {}",
                names(SCALES.iter().map(|(name, _)| *name))
            ))),
        };
    };
    let mut base = table(name.as_str().unwrap_or_default())?;
    let known = match base.remove("recipe") {
        Some(Value::Table(known)) => known,
        _ => Table::new(),
    };
    for recipe in recipes {
        match known.get(&recipe) {
            Some(Value::Table(changes)) => merge(&mut base, changes),
            _ => {
                let known = names(known.keys().map(String::as_str));
                return Err(Error::config(format!("scale {name} has no recipe `{recipe}`; it has {known}")));
            }
        }
    }
    merge(&mut base, config);
    Ok(base)
}

/// The recipes that a configuration asks for.
fn recipes(config: &Table) -> Result<Vec<String>> {
    let wrong = || Error::config("`recipe` must be a list of names, as in recipe = [\"lora\"]");
    let list = match config.get("recipe") {
        None => return Ok(Vec::new()),
        Some(list) => list.as_array().ok_or_else(wrong)?,
    };
    list.iter().map(|name| name.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
}

fn table(name: &str) -> Result<Table> {
    let Some((_, text)) = SCALES.iter().find(|(known, _)| *known == name) else {
        let known = names(SCALES.iter().map(|(name, _)| *name));
        return Err(Error::config(format!("unknown scale \"{name}\"; the scales are {known}")));
    };
    Ok(toml_errors::parse(text, &format!("scale {name}"))?)
}

fn names<'a>(all: impl Iterator<Item = &'a str>) -> String {
    all.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn laid(text: &str) -> Result<Table> {
        lay_under(&text.parse().unwrap())
    }

    #[test]
    fn what_a_configuration_says_wins_over_its_recipes_and_these_over_the_scale() {
        let table = laid("scale = \"tiny\"\nrecipe = [\"lora\"]\ntrain.epochs = 7\nlora.alpha = 3").unwrap();
        let get = |section: &str, key: &str| table[section][key].clone();
        assert_eq!(get("train", "epochs"), Value::Integer(7));
        assert_eq!(get("train", "learning_rate"), Value::Float(1e-3));
        assert_eq!((get("lora", "rank"), get("lora", "alpha")), (Value::Integer(16), Value::Integer(3)));
        assert_eq!(get("train", "prompts_per_step"), Value::Integer(32));
    }

    #[test]
    fn without_a_scale_nothing_changes() {
        let text = "name = \"x\"\n[train]\nsteps = 1";
        assert_eq!(laid(text).unwrap(), text.parse::<Table>().unwrap());
    }

    #[test]
    fn unknown_scales_and_recipes_are_refused_with_those_that_exist() {
        for (text, parts) in [
            ("scale = \"7b\"", ["unknown scale \"7b\"", "tiny, 1.5b"]),
            ("scale = 7", ["unknown scale", "tiny, 1.5b"]),
            ("scale = \"tiny\"\nrecipe = [\"qlora\"]", ["no recipe `qlora`", "dapo, lora"]),
            ("recipe = [\"lora\"]", ["no `scale`", "tiny, 1.5b"]),
            ("scale = \"tiny\"\nrecipe = \"lora\"", ["must be a list", "[\"lora\"]"]),
        ] {
            let error = laid(text).unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{text}: {error}");
        }
    }
}
