//! OpenAI's `/v1/completions`, as vLLM serves it with `prompt_logprobs`, and as others do with `echo`.

use serde_json::{Value, json};

use super::{Answer, Engine, http::Client, id_of};
use crate::error::LabError;

const PATH: &str = "/v1/completions";

/// Asks for one sequence.
///
/// # Errors
/// No answer, or one without the log-probabilities.
pub fn ask(
    client: &Client,
    model: &str,
    engine: Engine,
    ids: &[u32],
    new_tokens: usize,
) -> Result<Answer, LabError> {
    let mut body = json!({
        "model": model,
        "prompt": ids,
        "max_tokens": new_tokens.max(1),
        "temperature": 1.0,
        "logprobs": 1,
    });
    let more = match engine {
        Engine::Vllm => json!({ "prompt_logprobs": 1, "return_tokens_as_token_ids": true }),
        _ => json!({ "echo": true }),
    };
    for (key, value) in more.as_object().into_iter().flatten() {
        body[key] = value.clone();
    }
    let found = client.post(PATH, &body)?;
    let choice = &found["choices"][0];
    let missing = |what: &str| client.wrong(format!("{PATH} answers without `{what}`"));
    match engine {
        Engine::Vllm => vllm(choice, ids, new_tokens, missing),
        _ => echoed(choice, ids, missing),
    }
}

fn vllm(
    choice: &Value,
    ids: &[u32],
    new_tokens: usize,
    missing: impl Fn(&str) -> LabError,
) -> Result<Answer, LabError> {
    let prompt = choice["prompt_logprobs"].as_array().filter(|all| all.len() == ids.len());
    let prompt = prompt.ok_or_else(|| missing("choices[0].prompt_logprobs, one for every token"))?;
    let mut answer = Answer { prompt: ids.len(), ..Answer::default() };
    for (position, (id, place)) in ids.iter().zip(prompt).enumerate() {
        let own = &place[id.to_string()]["logprob"];
        if position > 0 && own.as_f64().is_none() {
            // The sent token always stands there: another is another tokenizer's.
            let other = place.as_object().and_then(|place| place.keys().next()?.parse().ok());
            answer.ids.push(other.ok_or_else(|| missing(&format!("a log-probability of token {position}")))?);
        } else {
            answer.ids.push(*id);
        }
        answer.log_probs.push(own.as_f64());
        let first =
            place.as_object().into_iter().flatten().find(|(_, value)| value["rank"].as_u64() == Some(1));
        answer.top.push(first.and_then(|(id, _)| id.parse().ok()));
    }
    let sampled = &choice["logprobs"];
    let (tokens, values) = (sampled["tokens"].as_array(), sampled["token_logprobs"].as_array());
    if new_tokens == 0 {
        return Ok(answer);
    }
    let (Some(tokens), Some(values)) = (tokens, values) else {
        return Err(missing("choices[0].logprobs.tokens and token_logprobs"));
    };
    for (index, (token, value)) in tokens.iter().zip(values).enumerate() {
        let id = token
            .as_str()
            .and_then(numbered)
            .ok_or_else(|| missing("ids as token_id:N in logprobs.tokens"))?;
        answer.ids.push(id);
        answer.log_probs.push(value.as_f64());
        let top = sampled["top_logprobs"][index].as_object().and_then(|all| {
            all.iter()
                .max_by(|a, b| a.1.as_f64().partial_cmp(&b.1.as_f64()).unwrap_or(std::cmp::Ordering::Equal))
        });
        answer.top.push(top.and_then(|(token, _)| numbered(token)));
    }
    Ok(answer)
}

/// The id in `token_id:N`.
fn numbered(token: &str) -> Option<u32> {
    token.strip_prefix("token_id:")?.parse().ok()
}

/// Tokens come back as text, so that only their number can be checked; what was sampled is left aside.
fn echoed(choice: &Value, ids: &[u32], missing: impl Fn(&str) -> LabError) -> Result<Answer, LabError> {
    let values = choice["logprobs"]["token_logprobs"].as_array();
    let values = values.ok_or_else(|| missing("choices[0].logprobs.token_logprobs"))?;
    if values.len() < ids.len() {
        return Err(missing(&format!(
            "log-probabilities of the prompt: {} for {} tokens",
            values.len(),
            ids.len()
        )));
    }
    let top = |index: usize| id_of(&choice["logprobs"]["top_token_ids"][index]);
    Ok(Answer {
        ids: ids.to_vec(),
        prompt: ids.len(),
        log_probs: values[..ids.len()].iter().map(Value::as_f64).collect(),
        top: (0..ids.len()).map(top).collect(),
    })
}
