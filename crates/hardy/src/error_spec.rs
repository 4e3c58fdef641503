//! Errors in one word on the command line: `KIND`, or `KIND:key=value,key=value` with the options that a rule's `error` takes.

use hardy_lab::grid::with_level;
use hardy_numerics::{Options, Perturbation};
use toml::{Table, Value};

/// The strength of an error that is named without one.
const USUAL: f64 = 0.05;

/// Splits `KIND:key=value,…` into the kind and its keys. A list in brackets is one value.
pub fn split(text: &str) -> Result<(String, Table), String> {
    let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
    let mut table = Table::new();
    for pair in pairs(rest) {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| format!("`{pair}` is not key=value; write {kind}:key=value,key=value"))?;
        table.insert(key.trim().to_owned(), value_of(value.trim()));
    }
    Ok((kind.trim().to_owned(), table))
}

/// The options of an error of `kind` from its keys.
pub fn options(kind: &str, mut keys: Table) -> Result<Options, String> {
    keys.insert("kind".to_owned(), Value::String(kind.to_owned()));
    let options: Options = Value::Table(keys).try_into().map_err(|error| first_line(&error))?;
    match Options::taken_by(kind) {
        Some(_) => Ok(options),
        None => Err(format!("unknown kind `{kind}`; the kinds are {}", Perturbation::NAMES.join(", "))),
    }
}

/// The errors of an error in words at every one of `levels`; without levels at its own strength, or 5 %.
pub fn at_levels(mut options: Options, levels: &[f64]) -> Result<Vec<Perturbation>, String> {
    let takes = Options::taken_by(&options.kind).unwrap_or_default();
    let first = levels.first().copied();
    if takes.contains(&"scale") && options.value.is_none() {
        options.scale = options.scale.or(options.step).or(first).or(Some(USUAL));
    } else if takes.contains(&"rate") {
        options.rate = options.rate.or(first);
    } else if first.is_some() {
        return Err(format!("--levels means nothing with kind \"{}\", which has one strength", options.kind));
    }
    let error = options.perturbation().map_err(|error| error.to_string())?;
    let errors = match levels {
        [] => vec![error],
        levels => levels.iter().map(|&level| with_level(error, level)).collect(),
    };
    errors.iter().try_for_each(Perturbation::validate)?;
    Ok(errors)
}

/// Cuts at commas outside of brackets.
fn pairs(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, character) in text.char_indices() {
        match character {
            '[' => depth += 1,
            ']' => depth -= 1,
            ',' if depth == 0 => {
                found.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    found.push(&text[start..]);
    found.retain(|pair| !pair.trim().is_empty());
    found
}

/// A value as TOML reads it, else a word.
fn value_of(text: &str) -> Value {
    let parsed = toml::from_str::<Table>(&format!("x = {text}")).ok().and_then(|mut table| table.remove("x"));
    match parsed {
        // Scales are numbers with a fraction.
        Some(Value::Integer(whole)) => Value::Integer(whole),
        Some(value) => value,
        None => Value::String(text.to_owned()),
    }
}

fn first_line(error: &impl ToString) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(text: &str, levels: &[f64]) -> Result<Vec<Perturbation>, String> {
        let (kind, keys) = split(text)?;
        at_levels(options(&kind, keys)?, levels)
    }

    #[test]
    fn an_error_is_spelled_in_one_word() {
        let scales = [0.01, 0.1].map(|scale| Perturbation::RelativeGaussian { scale });
        assert_eq!(errors("relative_gaussian", &[0.01, 0.1]).unwrap(), scales);
        assert_eq!(errors("relative_gaussian", &[]).unwrap()[0].scale(), Some(0.05));
        assert_eq!(errors("spike:rate=0.01", &[3.0]).unwrap()[0].scale(), Some(3.0));
        let flips = errors("bit_flip:bits=[23, 30],image=f32", &[1e-6, 1e-3]).unwrap();
        assert_eq!(flips.len(), 2);
        assert!(flips.iter().all(|flip| flip.kind_name() == "bit_flip"));
        assert_eq!(errors("mxfp4", &[]).unwrap().len(), 1);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, levels, part) in [
            ("relative_gausian", &[][..], "unknown kind `relative_gausian`"),
            ("mxfp4", &[0.1][..], "has one strength"),
            ("bit_flip", &[][..], "missing field `rate`"),
            ("spike:rate", &[][..], "`rate` is not key=value"),
            ("dead_zone:colour=red", &[][..], "unknown field `colour`"),
            ("relative_gaussian:scale=-1", &[][..], "scale is -1"),
        ] {
            let message = errors(text, levels).unwrap_err();
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
