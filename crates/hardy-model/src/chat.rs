//! A conversation as the text that a model was taught to continue, by the Jinja template of its directory. Templates
//! are rendered as `transformers` renders them: block lines vanish, Python's string methods work, and the special
//! tokens are at hand by name.

mod clock;

pub use clock::strftime;

use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{Environment, Error as JinjaError, ErrorKind, context};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files::{read_json_if_present, write_atomically};
use crate::tokenizer::SpecialTokens;

const FILE: &str = "chat_template.jinja";
const CONFIG: &str = "tokenizer_config.json";
/// The template's name for the engine; without an ending, so that nothing is escaped.
const NAME: &str = "chat_template";

/// The ChatML template, for models made from nothing.
pub const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n\
    {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A turn of the user.
    pub fn user(content: impl Into<String>) -> Self {
        Self { role: "user".to_owned(), content: content.into() }
    }
}

/// A compiled chat template.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    path: PathBuf,
    source: String,
}

impl ChatTemplate {
    /// From `chat_template.jinja` in the directory `dir`, else from `chat_template` in `tokenizer_config.json` (where
    /// several are listed, the one named `default`); `None` where there is neither.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Json`], and [`Error::ChatTemplate`] when the template is not Jinja.
    pub fn from_dir(dir: &Path) -> Result<Option<Self>> {
        let Some((path, source)) = find(dir)? else { return Ok(None) };
        let mut template = Self::compile(path, source)?;
        let tokens = SpecialTokens::from_dir(dir)?;
        for key in ["bos_token", "eos_token", "pad_token", "unk_token"] {
            if let Some(token) = tokens.get(key) {
                template.environment.add_global(key, token.to_owned());
            }
        }
        Ok(Some(template))
    }

    /// From the template itself, such as [`CHATML`], without special tokens by name.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] when it is not Jinja.
    pub fn new(source: &str) -> Result<Self> {
        Self::compile(PathBuf::from(FILE), source.to_owned())
    }

    /// Sets the time that `strftime_now` tells, in seconds since 1970 in UTC; without this it tells today's.
    /// Few templates ask, but those that do give other prompts on another day.
    #[must_use]
    pub fn at(mut self, unix_seconds: i64) -> Self {
        clock::set(&mut self.environment, unix_seconds);
        self
    }

    /// The text of `messages`, and after it the beginning of the assistant's turn if `add_generation_prompt`.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] when the template refuses the messages or fails on them.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let turns: Vec<Value> = messages
            .iter()
            .map(|m| context! { role => m.role.as_str(), content => m.content.as_str() })
            .collect();
        let none = Value::from(());
        let variables =
            context! { messages => turns, add_generation_prompt, tools => none.clone(), documents => none };
        let template = self.environment.get_template(NAME);
        template.and_then(|template| template.render(variables)).map_err(|error| problem(&self.path, &error))
    }

    /// The template itself.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Writes `chat_template.jinja` to the directory `dir`.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn save(&self, dir: &Path) -> Result<()> {
        write_atomically(&dir.join(FILE), self.source.as_bytes())
    }

    fn compile(path: PathBuf, source: String) -> Result<Self> {
        let mut environment = Environment::new();
        let compiled = without_generation_marks(&source);
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| problem(&path, &error))?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function(
            "raise_exception",
            |message: String| -> std::result::Result<Value, JinjaError> {
                Err(JinjaError::new(ErrorKind::InvalidOperation, message))
            },
        );
        clock::set(&mut environment, clock::now());
        environment.add_template_owned(NAME, compiled).map_err(|error| problem(&path, &error))?;
        Ok(Self { environment, path, source })
    }
}

/// The template's text and the file it stands in.
fn find(dir: &Path) -> Result<Option<(PathBuf, String)>> {
    let file = dir.join(FILE);
    if file.exists() {
        let source = std::fs::read_to_string(&file).map_err(Error::read(&file))?;
        return Ok(Some((file, source)));
    }
    let path = dir.join(CONFIG);
    let Some(config) = read_json_if_present(&path)? else { return Ok(None) };
    let source = match config.get("chat_template") {
        None | Some(serde_json::Value::Null) => return Ok(None),
        Some(serde_json::Value::Array(list)) => {
            list.iter().find(|entry| entry["name"] == "default").and_then(|entry| entry["template"].as_str())
        }
        Some(one) => one.as_str(),
    };
    match source {
        Some(source) => Ok(Some((path, source.to_owned()))),
        None => Err(Error::Value {
            path,
            key: "chat_template".to_owned(),
            found: crate::files::excerpt(&config["chat_template"]),
            wanted: "a string, or a list with one {name, template} named default".to_owned(),
        }),
    }
}

/// `{% generation %}` marks what an assistant said and prints nothing; the engine does not know it.
fn without_generation_marks(source: &str) -> String {
    let mut parts = source.split("{%");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push_str("{%");
        let (tag, rest) = part.split_once("%}").map_or((part, None), |(tag, rest)| (tag, Some(rest)));
        match tag.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+') {
            "generation" => text.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => text.push_str(&tag.replace("endgeneration", "endif")),
            _ => text.push_str(tag),
        }
        if let Some(rest) = rest {
            text.push_str("%}");
            text.push_str(rest);
        }
    }
    text
}

fn problem(path: &Path, error: &JinjaError) -> Error {
    let line = error.line().map(|line| format!(" (line {line})")).unwrap_or_default();
    let text = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    Error::ChatTemplate { path: path.to_owned(), problem: format!("{text}{line}") }
}

#[cfg(test)]
mod tests;
