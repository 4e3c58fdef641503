//! The presets, compiled in: every file of `presets/`, by name.

use crate::error::{Error, Result};

/// Name and text of every preset.
pub const ALL: &[(&str, &str)] = &[
    ("quickstart", include_str!("../../../presets/quickstart.toml")),
    ("baseline", include_str!("../../../presets/baseline.toml")),
    ("bf16-full", include_str!("../../../presets/bf16-full.toml")),
    ("e5", include_str!("../../../presets/e5.toml")),
    ("e5a", include_str!("../../../presets/e5a.toml")),
    ("e5b", include_str!("../../../presets/e5b.toml")),
    ("e5c", include_str!("../../../presets/e5c.toml")),
    ("e8a", include_str!("../../../presets/e8a.toml")),
    ("e8b", include_str!("../../../presets/e8b.toml")),
    ("e8c", include_str!("../../../presets/e8c.toml")),
    ("e8d", include_str!("../../../presets/e8d.toml")),
    ("dapo", include_str!("../../../presets/dapo.toml")),
    ("dr-grpo", include_str!("../../../presets/dr-grpo.toml")),
    ("gspo", include_str!("../../../presets/gspo.toml")),
    ("e3a", include_str!("../../../presets/e3a.toml")),
    ("e3b", include_str!("../../../presets/e3b.toml")),
    ("e4a", include_str!("../../../presets/e4a.toml")),
    ("e4b", include_str!("../../../presets/e4b.toml")),
    ("w4a4-mxfp4", include_str!("../../../presets/w4a4-mxfp4.toml")),
    ("w4a4-nvfp4", include_str!("../../../presets/w4a4-nvfp4.toml")),
    ("w4a4-hif4", include_str!("../../../presets/w4a4-hif4.toml")),
    ("e9a", include_str!("../../../presets/e9a.toml")),
    ("e9b", include_str!("../../../presets/e9b.toml")),
    ("e7a", include_str!("../../../presets/e7a.toml")),
    ("e5a-lora", include_str!("../../../presets/e5a-lora.toml")),
    ("e5b-lora", include_str!("../../../presets/e5b-lora.toml")),
    ("e6a", include_str!("../../../presets/e6a.toml")),
    ("e6b", include_str!("../../../presets/e6b.toml")),
    ("e12", include_str!("../../../presets/e12.toml")),
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
