//! A served model against Hardy: the endpoint is sent token ids, and the log-probabilities that it gives of them, and of what
//! it samples, are held against Hardy's own. It is asked twice: how far it differs from itself is the floor.

mod http;
mod openai;
mod score;
mod sglang;
mod summary;

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::error::LabError;

pub use http::Client;
pub use score::{Scored, score};
pub use summary::{Bin, Gap, Served, compare};

/// How an endpoint is asked.
#[derive(Clone, Debug)]
pub struct Asking {
    /// Where it listens, as in `http://127.0.0.1:8000`.
    pub url: String,
    /// Which interface it has; found out where it is not said.
    pub engine: Option<Engine>,
    /// The model's name there; found out where it is not said.
    pub model: Option<String>,
    /// Tokens that it continues every sequence by.
    pub new_tokens: usize,
    /// How long an answer may take.
    pub timeout: Duration,
}

/// The interfaces that are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// vLLM: `/v1/completions` with `prompt_logprobs`.
    Vllm,
    /// SGLang: `/generate` with `return_logprob`.
    Sglang,
    /// Any other with OpenAI's `/v1/completions`, `echo` and `logprobs`.
    Openai,
}

impl Engine {
    /// Every engine, for parsers.
    pub const ALL: [Self; 3] = [Self::Vllm, Self::Sglang, Self::Openai];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vllm => "vllm",
            Self::Sglang => "sglang",
            Self::Openai => "openai",
        }
    }
}

/// What an endpoint says of itself.
#[derive(Clone, Debug, Serialize)]
pub struct Server {
    /// Where it listens.
    pub url: String,
    /// Its interface.
    pub engine: Engine,
    /// Its version, where it says so.
    pub version: Option<String>,
    /// The model's name there.
    pub model: String,
    /// What its log-probabilities are of: `prompt_logprobs`, `return_logprob` or `echo`.
    pub mode: &'static str,
}

/// What an endpoint says of one sequence: the prompt that it was sent and what it sampled after it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The tokens, the sampled ones after the prompt's.
    pub ids: Vec<u32>,
    /// How many of them are the prompt's.
    pub prompt: usize,
    /// The log-probability of each, where it says one; of the first it says none.
    pub log_probs: Vec<Option<f64>>,
    /// The most probable token in the place of each, where it says so.
    pub top: Vec<Option<u32>>,
}

/// Finds out what listens at `asking.url`.
///
/// # Errors
/// Nothing, or nothing that can be asked.
pub fn meet(client: &Client, asking: &Asking) -> Result<Server, LabError> {
    let version =
        |path: &str| client.get(path).ok().and_then(|json| json["version"].as_str().map(str::to_owned));
    let (engine, version) = match asking.engine {
        Some(engine @ Engine::Sglang) => (engine, version("/get_server_info")),
        Some(engine) => (engine, version("/version")),
        None => match (version("/version"), version("/get_server_info")) {
            (Some(found), _) => (Engine::Vllm, Some(found)),
            (None, Some(found)) => (Engine::Sglang, Some(found)),
            (None, None) => (Engine::Openai, None),
        },
    };
    let model = match (&asking.model, engine) {
        (Some(model), _) => model.clone(),
        (None, Engine::Sglang) => {
            let info = client.get("/get_model_info")?;
            info["model_path"].as_str().unwrap_or("unknown").to_owned()
        }
        (None, _) => {
            let models = client.get("/v1/models")?;
            let name = models["data"][0]["id"].as_str();
            name.ok_or_else(|| client.wrong("/v1/models names no model; give --served-model"))?.to_owned()
        }
    };
    let mode = match engine {
        Engine::Vllm => "prompt_logprobs",
        Engine::Sglang => "return_logprob",
        Engine::Openai => "echo",
    };
    Ok(Server { url: asking.url.clone(), engine, version, model, mode })
}

/// Asks for the log-probabilities of `ids`, and of `new_tokens` sampled after them.
///
/// # Errors
/// An endpoint that does not answer, or whose answer is not what its interface says; tokens beyond the `vocab` of the model.
pub fn ask(
    client: &Client,
    server: &Server,
    ids: &[u32],
    new_tokens: usize,
    vocab: usize,
) -> Result<Answer, LabError> {
    let answer = match server.engine {
        Engine::Sglang => sglang::ask(client, ids, new_tokens)?,
        engine => openai::ask(client, &server.model, engine, ids, new_tokens)?,
    };
    let known = answer.ids.iter().chain(answer.top.iter().flatten());
    if let Some(stray) = known.copied().find(|&id| id as usize >= vocab) {
        return Err(LabError::Diverge(format!(
            "{}: answers with token {stray}, but the model has {vocab} tokens; it serves another model or tokenizer",
            server.url
        )));
    }
    if answer.ids.len() < ids.len() || answer.ids[..ids.len()] != *ids {
        return Err(LabError::Diverge(format!(
            "{}: gives log-probabilities of other tokens than it was sent; it serves another tokenizer, or does not take token ids",
            server.url
        )));
    }
    Ok(answer)
}

/// A token id of JSON.
fn id_of(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}
