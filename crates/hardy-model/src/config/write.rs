//! Writing a configuration back: the files as they were read, with the type of the weights and the special tokens as
//! they are now.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::ModelConfig;
use super::fields::Fields;
use crate::error::Result;
use crate::files::write_json;

const EOS: &str = "eos_token_id";

impl ModelConfig {
    /// The object of a `config.json`. Keys that Hardy does not know are as they were read.
    pub fn to_json(&self) -> Value {
        let mut json = self.source.clone();
        let key = if json.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        json.insert(key.to_owned(), self.dtype.name().into());
        set_token(&mut json, "bos_token_id", self.bos_token_id);
        set_token(&mut json, "pad_token_id", self.pad_token_id);
        if self.eos_changed() {
            set_eos(&mut json, &self.eos_token_ids);
        }
        Value::Object(json)
    }

    /// What the files name as the end of a text; `generation_config.json` goes before `config.json`.
    pub(super) fn eos_in_files(&self, config: &Path, generation: &Path) -> Result<Vec<u32>> {
        let named = |path, map| Fields::new(path, map).token_ids(EOS);
        match self.generation.as_ref().map(|map| named(generation, map)).transpose()? {
            Some(tokens) if !tokens.is_empty() => Ok(tokens),
            _ => named(config, &self.source),
        }
    }

    fn eos_changed(&self) -> bool {
        let nowhere = Path::new("");
        self.eos_in_files(nowhere, nowhere).ok().as_ref() != Some(&self.eos_token_ids)
    }

    /// Writes `config.json`, and `generation_config.json` where one was read, to the directory `dir`.
    ///
    /// # Errors
    /// [`crate::Error::Write`].
    pub fn save(&self, dir: &Path) -> Result<()> {
        write_json(&dir.join("config.json"), &self.to_json())?;
        let Some(mut generation) = self.generation.clone() else { return Ok(()) };
        if self.eos_changed() {
            set_eos(&mut generation, &self.eos_token_ids);
        }
        write_json(&dir.join("generation_config.json"), &Value::Object(generation))
    }
}

fn set_token(json: &mut Map<String, Value>, key: &str, token: Option<u32>) {
    if Fields::new(Path::new(""), json).token_id(key).ok().flatten() != token {
        json.insert(key.to_owned(), json!(token));
    }
}

fn set_eos(json: &mut Map<String, Value>, tokens: &[u32]) {
    let value = match tokens {
        [] => Value::Null,
        [one] => json!(one),
        several => json!(several),
    };
    json.insert(EOS.to_owned(), value);
}
