//! Text to tokens and back, by the `tokenizer.json` of a model directory. The file is kept as it was read and saved
//! as such, so that a model trained here speaks exactly the language it came with.

mod train;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tokenizers::Tokenizer as Inner;

use crate::error::{Error, Result};
use crate::files::{read_json_if_present, write_atomically};

const FILE: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
/// Files that belong to a tokenizer and are copied with it.
const COMPANIONS: [&str; 3] = [CONFIG, "special_tokens_map.json", "added_tokens.json"];

/// A tokenizer and the files it came from.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: Inner,
    path: PathBuf,
    json: Vec<u8>,
    companions: Vec<(&'static str, Vec<u8>)>,
    eos: Option<u32>,
    pad: Option<u32>,
}

impl Tokenizer {
    /// Reads `tokenizer.json`, and `tokenizer_config.json` where there is one, in the directory `dir`.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Json`], and [`Error::Tokenizer`] when the file describes no tokenizer.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let json = std::fs::read(&path).map_err(Error::read(&path))?;
        let mut tokenizer = Self::from_json(json, path)?;
        for name in COMPANIONS {
            let path = dir.join(name);
            if path.exists() {
                tokenizer.companions.push((name, std::fs::read(&path).map_err(Error::read(&path))?));
            }
        }
        let named = SpecialTokens::from_dir(dir)?;
        tokenizer.eos = named.get("eos_token").and_then(|token| tokenizer.id(token));
        tokenizer.pad = named.get("pad_token").and_then(|token| tokenizer.id(token));
        Ok(tokenizer)
    }

    fn from_json(json: Vec<u8>, path: PathBuf) -> Result<Self> {
        let mut inner = Inner::from_bytes(&json).map_err(|error| problem(&path, error))?;
        // Both are meant for encoders; `transformers` does not apply them to what a decoder reads either.
        inner.with_truncation(None).map_err(|error| problem(&path, error))?;
        inner.with_padding(None);
        Ok(Self { inner, path, json, companions: Vec::new(), eos: None, pad: None })
    }

    /// Makes a byte-level BPE tokenizer from `texts` (Sennrich et al., arXiv:1508.07909; bytes as in GPT-2): `special`
    /// first, then the 256 bytes, then merges, most frequent first and ties by text, until there are `vocab_size`
    /// tokens or no pair occurs twice. Every digit is a token of its own. Equal input gives an equal file.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when `vocab_size` has no room for the bytes and special tokens, or two of those are equal.
    pub fn train(texts: &[String], vocab_size: usize, special: &[&str]) -> Result<Self> {
        let path = PathBuf::from(FILE);
        let json =
            train::tokenizer_json(texts, vocab_size, special).map_err(|error| problem(&path, error))?;
        Self::from_json(json.into_bytes(), path)
    }

    /// Names the tokens that end a text and fill up a batch, and writes a `tokenizer_config.json` that says so in
    /// place of the one that was read, if any.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when one of them is not in the vocabulary.
    pub fn set_special(&mut self, eos: &str, pad: &str) -> Result<()> {
        let find = |token: &str| {
            self.id(token).ok_or_else(|| problem(&self.path, format!("has no token `{token}`")))
        };
        (self.eos, self.pad) = (Some(find(eos)?), Some(find(pad)?));
        let config = json!({
            "clean_up_tokenization_spaces": false,
            "eos_token": eos,
            "pad_token": pad,
            "tokenizer_class": "PreTrainedTokenizerFast",
        });
        self.companions = vec![(CONFIG, format!("{config:#}\n").into_bytes())];
        Ok(())
    }

    /// The tokens of `text`. Special tokens written out in it are recognised; none are added.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the vocabulary has no token for a part of the text; never for byte-level ones.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false).map_err(|error| problem(&self.path, error))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of `tokens`. Those beyond the vocabulary have none; special ones have none if `skip_special`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the file's decoder refuses the tokens.
    pub fn decode(&self, tokens: &[u32], skip_special: bool) -> Result<String> {
        self.inner.decode(tokens, skip_special).map_err(|error| problem(&self.path, error))
    }

    /// The number of tokens, special ones included. A model's embedding may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The id of a token written as in the vocabulary.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token that ends a text, as `tokenizer_config.json` names it.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The token that fills up a batch, as `tokenizer_config.json` names it.
    pub fn pad(&self) -> Option<u32> {
        self.pad
    }

    /// Writes the tokenizer's files to the directory `dir`, byte for byte as they were read.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn save(&self, dir: &Path) -> Result<()> {
        let companions = self.companions.iter().map(|(name, bytes)| (*name, bytes));
        companions
            .chain([(FILE, &self.json)])
            .try_for_each(|(name, bytes)| write_atomically(&dir.join(name), bytes))
    }
}

/// The special tokens that a directory gives names, such as `eos_token`.
pub(crate) struct SpecialTokens(Vec<Map<String, Value>>);

impl SpecialTokens {
    /// From `tokenizer_config.json`, else from `special_tokens_map.json`.
    pub(crate) fn from_dir(dir: &Path) -> Result<Self> {
        let files = [CONFIG, "special_tokens_map.json"];
        let maps =
            files.iter().map(|name| read_json_if_present(&dir.join(name))).collect::<Result<Vec<_>>>()?;
        Ok(Self(maps.into_iter().flatten().collect()))
    }

    /// The token's text; a file has it as a string or as an object with `content`.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find_map(|map| map.get(key).and_then(|token| token.as_str().or(token["content"].as_str())))
    }
}

fn problem(path: &Path, problem: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Tokenizer { path: path.to_owned(), problem: problem.into().to_string() }
}

#[cfg(test)]
mod tests;
