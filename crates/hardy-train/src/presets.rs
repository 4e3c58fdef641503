//! The presets, compiled in: every file of `presets/`, by name.

use crate::error::{Error, Result};

/// Name and text of every preset.
pub const ALL: &[(&str, &str)] = &[
    ("quickstart", include_str!("../../../presets/quickstart.toml")),
    ("baseline", include_str!("../../../presets/baseline.toml")),
    ("e5", include_str!("../../../presets/e5.toml")),
    ("e5a", include_str!("../../../presets/e5a.toml")),
    ("e5b", include_str!("../../../presets/e5b.toml")),
    ("e8c", include_str!("../../../presets/e8c.toml")),
    ("e8d", include_str!("../../../presets/e8d.toml")),
    ("tiny-base", include_str!("../../../presets/tiny-base.toml")),
];

/// The text of a configuration and what to call it in messages: a preset's where `spec` names one, else a file's.
///
/// # Errors
/// Neither a preset nor a file that can be read.
pub fn read(spec: &str) -> Result<(String, String)> {
    if let Some((_, text)) = ALL.iter().find(|(name, _)| *name == spec) {
        return Ok(((*text).to_owned(), format!("preset {spec}")));
    }
    let names: Vec<&str> = ALL.iter().map(|(name, _)| *name).collect();
    let text = std::fs::read_to_string(spec).map_err(|source| {
        Error::config(format!(
            "{spec}: {source}; give a TOML file, or one of the presets {}",
            names.join(", ")
        ))
    })?;
    Ok((text, spec.to_owned()))
}
