//! SGLang's `/generate` with `return_logprob`: log-probabilities come as `[log-probability, id, text]`.

use serde_json::{Value, json};

use super::{Answer, http::Client, id_of};
use crate::error::LabError;

const PATH: &str = "/generate";

/// Asks for one sequence.
///
/// # Errors
/// No answer, or one without the log-probabilities.
pub fn ask(client: &Client, ids: &[u32], new_tokens: usize) -> Result<Answer, LabError> {
    let body = json!({
        "input_ids": ids,
        "sampling_params": { "max_new_tokens": new_tokens.max(1), "temperature": 1.0 },
        "return_logprob": true,
        "logprob_start_len": 0,
        "top_logprobs_num": 1,
    });
    let found = client.post(PATH, &body)?;
    let meta = &found["meta_info"];
    let missing = |what: &str| client.wrong(format!("{PATH} answers without `meta_info.{what}`"));
    let mut answer = Answer { prompt: ids.len(), ..Answer::default() };
    for (key, tops, wanted) in [
        ("input_token_logprobs", "input_top_logprobs", Some(ids.len())),
        ("output_token_logprobs", "output_top_logprobs", None),
    ] {
        if wanted.is_none() && new_tokens == 0 {
            continue;
        }
        let all = meta[key].as_array().filter(|all| wanted.is_none_or(|wanted| all.len() == wanted));
        for (index, triple) in all.ok_or_else(|| missing(key))?.iter().enumerate() {
            answer.ids.push(id_of(&triple[1]).ok_or_else(|| missing(key))?);
            answer.log_probs.push(triple[0].as_f64());
            let top: &Value = &meta[tops][index][0][1];
            answer.top.push(id_of(top));
        }
    }
    Ok(answer)
}
