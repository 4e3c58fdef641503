//! What a model can not read or write is said before anything is computed: tokens that it does not have, empty prompts,
//! sequences that are too long, answers that no response can match.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::support::{arg, hardy, refuses, succeeded, text, tiny_model, write_tokens};

/// The built-in model with a tokenizer that has a token more than the model: `<tool>`.
fn added_token(dir: &Path) -> PathBuf {
    let model = tiny_model(dir);
    let path = model.join("tokenizer.json");
    let mut tokenizer: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let token = serde_json::json!({ "id": 400, "content": "<tool>", "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": true });
    tokenizer["added_tokens"].as_array_mut().unwrap().push(token);
    fs::write(&path, tokenizer.to_string()).unwrap();
    model
}

fn problems(dir: &Path, lines: &[&str]) -> String {
    let path = dir.join("data.jsonl");
    fs::write(&path, lines.join("\n") + "\n").unwrap();
    arg(&path).to_owned()
}

fn configuration(dir: &Path, model: &str, data: &str, more: &str) -> String {
    let text = format!(
        "name = \"x\"\n[model]\npath = {model:?}\n[data]\ntrain = {data:?}\neval = {data:?}\n{more}\n"
    );
    let path = dir.join("c.toml");
    fs::write(&path, text).unwrap();
    arg(&path).to_owned()
}

const GOOD: &str = "{\"question\": \"1+1?\", \"answer\": \"1+1=2\\n#### 2\"}";
const RUN: &str = "[train]\nsteps = 1\nprompts_per_step = 1\nsamples_per_prompt = 2\nmax_new_tokens = 8\n\
    [eval]\nn = 2\nnoise_levels = [0.0]";

/// Every command that reads problems, as far as its model and data.
fn readers<'a>(model: &'a str, data: &'a str) -> Vec<Vec<&'a str>> {
    let on = |command: &'a str| vec![command, "--model", model, "--data", data, "--n", "3"];
    let with = |command: &'a str, more: &[&'a str]| [&on(command)[..], more].concat();
    vec![
        with("eval", &["--max-new-tokens", "4"]),
        with("eval", &["--metric", "nll"]),
        on("probe"),
        with("probe", &["--magnitudes"]),
        with("scan", &["--format", "mxfp4"]),
    ]
}

#[test]
fn tokens_that_the_model_does_not_have_are_named_with_their_line() {
    let dir = tempfile::tempdir().unwrap();
    let model = added_token(dir.path());
    let model = arg(&model);
    for line in [
        "{\"question\": \"a <tool>?\", \"answer\": \"#### 2\"}",
        "{\"question\": \"a?\", \"answer\": \"<tool>\\n#### 2\"}",
    ] {
        let data = problems(dir.path(), &[GOOD, line]);
        let said = ["data.jsonl:2: ", "token 400", "`<tool>`", "the model has 400"];
        let in_answer = line.contains("a?");
        for reader in readers(model, &data) {
            if !(in_answer && reader.contains(&"--max-new-tokens")) {
                refuses(&reader, &said);
            }
        }
        let out = dir.path().join("out");
        let sft = configuration(dir.path(), model, &data, "[train]\nsteps = 1\nbatch = 2");
        refuses(&["sft", &sft, "--out", arg(&out)], &said);
        if !in_answer {
            let run = configuration(dir.path(), model, &data, RUN);
            refuses(&["run", &run, "--dry-run", "--out", arg(&out)], &said);
        }
        assert!(!out.exists());
    }
    let generate = ["generate", "--model", model, "--prompt", "a <tool>", "--max-new-tokens", "1"];
    refuses(&generate, &["token 400", "`<tool>`", "the model has 400"]);
}

#[test]
fn an_empty_prompt_is_named_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny_model(dir.path());
    fs::remove_file(model.join("chat_template.jinja")).unwrap();
    let data = problems(dir.path(), &[GOOD, "{\"question\": \"\", \"answer\": \"#### 2\"}"]);
    let said = ["data.jsonl:2: ", "the prompt is empty"];
    for reader in readers(arg(&model), &data) {
        refuses(&reader, &said);
    }
    let run = configuration(dir.path(), arg(&model), &data, RUN);
    refuses(&["run", &run, "--dry-run"], &said);
    let sft = configuration(dir.path(), arg(&model), &data, "[train]\nsteps = 1\nbatch = 2");
    refuses(&["sft", &sft, "--dry-run"], &said);
    // Of a question that is empty a template makes a prompt that asks nothing.
    let judged = ["eval", "--model", "builtin:tiny", "--data", &data, "--max-new-tokens", "2"];
    refuses(&judged, &["data.jsonl:2: ", "the question is empty"]);
    let run = configuration(dir.path(), "builtin:tiny", &data, RUN);
    refuses(&["run", &run, "--dry-run"], &["data.jsonl:2: ", "the question is empty"]);
    let wording = configuration(dir.path(), "builtin:tiny", &problems(dir.path(), &[GOOD]), RUN);
    refuses(&["run", &wording, "--dry-run", "--set", "data.prompt=Think!"], &["`data.prompt`", "{question}"]);
}

#[test]
fn sequences_longer_than_the_model_are_refused_unless_a_length_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let long = format!("{{\"question\": \"{}?\", \"answer\": \"#### 2\"}}", "1+".repeat(300));
    let data = problems(dir.path(), &[GOOD, &long]);
    for reader in readers("builtin:tiny", &data) {
        refuses(&reader, &["data.jsonl:2: ", "tokens", "512", "--max-positions"]);
    }
    let run = configuration(dir.path(), "builtin:tiny", &data, RUN);
    let out = dir.path().join("out");
    let dry = ["run", &run, "--dry-run", "--out", arg(&out)];
    refuses(&dry, &["data.jsonl:2: ", "tokens", "512", "`model.max_positions`"]);
    succeeded(&hardy(&[&dry[..], &["--set", "model.max_positions=1024"]].concat()));
    let dropped = hardy(&[&dry[..], &["--set", "data.overlong_prompts=drop"]].concat());
    succeeded(&dropped);
    let said = text(&dropped.stderr);
    assert!(said.contains("1 of 2 problems") && said.contains("data.jsonl"), "{said}");
    let tokens = ["generate", "--model", "builtin:tiny", "--prompt", "x", "--max-new-tokens"];
    refuses(&[&tokens[..], &["600"]].concat(), &["512", "--max-positions"]);
    let longer = ["--max-positions", "700", "--ignore-eos", "--json"];
    succeeded(&hardy(&[&tokens[..], &["600"], &longer].concat()));
    // As many as the machine can not hold.
    let all = ["1000000", "--max-positions", "1048576", "--samples", "65535"];
    refuses(&[&tokens[..], &all].concat(), &["key-value cache", "GiB"]);
    let batch = dir.path().join("in.safetensors");
    write_tokens(&batch, [1, 600], &[("input_ids", &[1; 600])]);
    let score = ["score", "--model", "builtin:tiny", "--batch", arg(&batch), "--out", arg(&out)];
    refuses(&score, &["in.safetensors", "600 tokens", "512", "--max-positions"]);
    succeeded(&hardy(&[&score[..], &["--max-positions", "600"]].concat()));
}

#[test]
fn answers_that_no_response_can_match_are_said_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let odd = |answer: &str| format!("{{\"question\": \"1+1?\", \"answer\": \"#### {answer}\"}}");
    let (fraction, percent) = (odd("3/4"), odd("50%"));
    let data = problems(dir.path(), &[GOOD, &fraction, GOOD, &percent]);
    let run = configuration(dir.path(), "builtin:tiny", &data, RUN);
    let dry = hardy(&["run", &run, "--dry-run", "--out", arg(&dir.path().join("out"))]);
    succeeded(&dry);
    let said = text(&dry.stderr);
    for part in ["warning: ", "data.jsonl", "2 of 4 problems", "lines 2, 4", "`3/4`"] {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
    let eval = hardy(&["eval", "--model", "builtin:tiny", "--data", &data, "--max-new-tokens", "2"]);
    succeeded(&eval);
    assert!(text(&eval.stderr).contains("2 of 4 problems"), "{}", text(&eval.stderr));
    let data = problems(dir.path(), &[&fraction, &percent]);
    let said = ["data.jsonl", "none of its 2 problems", "`3/4`"];
    refuses(&["eval", "--model", "builtin:tiny", "--data", &data], &said);
    let run = configuration(dir.path(), "builtin:tiny", &data, RUN);
    refuses(&["run", &run, "--dry-run"], &said);
}
