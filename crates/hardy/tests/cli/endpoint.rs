//! `diverge --endpoint` against a double that speaks as vLLM, SGLang and others do, and that fails in their ways.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use serde_json::{Value, json};

use crate::support::{arg, hardy, read, refused, succeeded, text, write_tokens};

const IDS: [i32; 6] = [5, 17, 33, 90, 41, 7];

/// What answers a path and a body: a status, more headers, a body.
type Answer = Arc<dyn Fn(&str, &Value) -> (u16, String, String) + Send + Sync>;

/// Serves until the process ends; gives the URL.
fn serve(answer: Answer) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = Arc::clone(&answer);
            thread::spawn(move || respond(stream, &answer));
        }
    });
    url
}

fn respond(mut stream: TcpStream, answer: &Answer) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut request, mut length) = (String::new(), 0);
    reader.read_line(&mut request).unwrap_or(0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let (status, headers, body) = answer(&path, &body);
    let head = format!(
        "HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
}

fn ok(body: &Value) -> (u16, String, String) {
    (200, String::new(), body.to_string())
}

/// The log-probabilities of the tiny model for [`IDS`], by `score`, and the batch file.
fn truth(dir: &std::path::Path) -> (String, Vec<f64>) {
    let [batch, out] = ["batch.safetensors", "out.safetensors"].map(|name| dir.join(name));
    write_tokens(&batch, [1, IDS.len()], &[("input_ids", &IDS)]);
    succeeded(&hardy(&["score", "--model", "builtin:tiny", "--batch", arg(&batch), "--out", arg(&out)]));
    let scores = read(&out).get("logprobs").unwrap().as_f32().unwrap();
    (arg(&batch).to_owned(), scores.iter().map(|&x| f64::from(x)).collect())
}

/// A double of vLLM whose log-probabilities are those of `truth` plus `shift`, for the tokens it is sent and a sampled one.
fn vllm(truth: Vec<f64>, shift: f64) -> Answer {
    Arc::new(move |path, body| match path {
        "/version" => ok(&json!({ "version": "0.9.1" })),
        "/v1/models" => ok(&json!({ "data": [{ "id": "tiny" }] })),
        "/v1/completions" => {
            let ids = body["prompt"].as_array().unwrap();
            let place = |(i, id): (usize, &Value)| match i {
                0 => Value::Null,
                _ => {
                    json!({ id.to_string(): { "logprob": truth.get(i - 1).copied().unwrap_or(-9.0) + shift, "rank": 2 },
                             "3": { "logprob": -0.5, "rank": 1 } })
                }
            };
            let prompt: Vec<Value> = ids.iter().enumerate().map(place).collect();
            ok(&json!({ "choices": [{ "prompt_logprobs": prompt, "logprobs":
                { "tokens": ["token_id:4"], "token_logprobs": [-9.0 + shift], "top_logprobs": [{ "token_id:4": -9.0 }] } }] }))
        }
        _ => (404, String::new(), "no".to_owned()),
    })
}

fn ask(url: &str, batch: &str, more: &[&str]) -> std::process::Output {
    let usual = ["diverge", "--model", "builtin:tiny", "--batch", batch, "--endpoint", url, "--sampled", "0"];
    hardy(&[&usual, more].concat())
}

fn found(output: &std::process::Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)))
}

#[test]
fn an_endpoint_that_serves_the_model_agrees_and_one_that_is_off_is_flagged() {
    let dir = tempfile::tempdir().unwrap();
    let (batch, truth) = truth(dir.path());
    let output = ask(&serve(vllm(truth.clone(), 0.0)), &batch, &["--json"]);
    let same = found(&output);
    assert_eq!((same["verdict"]["kind"].as_str(), output.status.code()), (Some("equal"), Some(0)), "{same}");
    assert_eq!((&same["server"]["engine"], &same["server"]["version"]), (&"vllm".into(), &"0.9.1".into()));
    assert_eq!(same["all"]["tokens"], IDS.len() - 1);
    assert!(same["all"]["largest"].as_f64().unwrap() < 1e-5, "{same}");
    let output = ask(&serve(vllm(truth, -0.2)), &batch, &["--json"]);
    let off = found(&output);
    assert_eq!((off["verdict"]["kind"].as_str(), output.status.code()), (Some("inconclusive"), Some(1)));
    assert_eq!(off["flagged"], true);
    let near = |key: &str, expected: f64| {
        let value = off["all"][key].as_f64().unwrap();
        assert!((value - expected).abs() < 1e-4, "{key}: {value}");
    };
    near("mean", 0.2);
    near("mean_exp", 0.2_f64.exp());
    near("k3", 0.2_f64.exp_m1() - 0.2);
    near("effective_sample_size", 1.0);
    near("outside", 1.0);
    assert_eq!(off["floor"]["largest"], 0.0);
}

#[test]
fn sglang_and_plain_servers_are_asked_in_their_ways() {
    let dir = tempfile::tempdir().unwrap();
    let (batch, truth) = truth(dir.path());
    let own = truth.clone();
    let sglang: Answer = Arc::new(move |path, body| match path {
        "/get_server_info" => ok(&json!({ "version": "0.4.6" })),
        "/get_model_info" => ok(&json!({ "model_path": "tiny" })),
        "/generate" => {
            let ids = body["input_ids"].as_array().unwrap();
            let triple = |(i, id): (usize, &Value)| {
                if i == 0 { json!([null, id, null]) } else { json!([own[i - 1], id, null]) }
            };
            let all: Vec<Value> = ids.iter().enumerate().map(triple).collect();
            ok(&json!({ "meta_info": { "input_token_logprobs": all } }))
        }
        _ => (404, String::new(), String::new()),
    });
    let output = ask(&serve(sglang), &batch, &["--json"]);
    assert_eq!(found(&output)["verdict"]["kind"], "equal");
    assert_eq!(found(&output)["server"]["engine"], "sglang");
    let plain: Answer = Arc::new(move |path, body| match path {
        "/v1/models" => ok(&json!({ "data": [{ "id": "tiny" }] })),
        "/v1/completions" => {
            assert_eq!(body["echo"], true);
            let values: Vec<Value> =
                std::iter::once(Value::Null).chain(truth.iter().map(|&x| x.into())).collect();
            ok(&json!({ "choices": [{ "logprobs": { "token_logprobs": values } }] }))
        }
        _ => (404, String::new(), String::new()),
    });
    let output = ask(&serve(plain), &batch, &["--json"]);
    assert_eq!((found(&output)["verdict"]["kind"].as_str(), output.status.code()), (Some("equal"), Some(0)));
}

#[test]
fn a_server_that_is_busy_is_asked_again_and_one_that_fails_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (batch, truth) = truth(dir.path());
    let (calls, inner) = (Arc::new(AtomicUsize::new(0)), vllm(truth.clone(), 0.0));
    let counted = Arc::clone(&calls);
    let busy: Answer = Arc::new(move |path, body| {
        if path == "/v1/completions" && counted.fetch_add(1, Ordering::Relaxed) == 0 {
            return (429, "retry-after: 0.1\r\n".to_owned(), String::new());
        }
        inner(path, body)
    });
    succeeded(&ask(&serve(busy), &batch, &[]));
    assert_eq!(calls.load(Ordering::Relaxed), 3);
    let failing = |completions: fn(&Value) -> (u16, String, String)| {
        let inner = vllm(truth.clone(), 0.0);
        serve(Arc::new(
            move |path, body| if path == "/v1/completions" { completions(body) } else { inner(path, body) },
        ))
    };
    let fails = |url: &str, more: &[&str], part: &str| {
        let output = ask(url, &batch, more);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains(part) && output.stdout.is_empty(), "{}", text(&output.stderr));
    };
    let cut = failing(|_| (200, String::new(), "{\"choices\": [{\"prompt_lo".to_owned()));
    fails(&cut, &[], "what is not JSON");
    fails(&failing(|_| ok(&json!({ "choices": [{}] }))), &[], "prompt_logprobs");
    fails(&failing(|_| (500, String::new(), "out of memory".to_owned())), &[], "500: out of memory");
    let hangs = failing(|_| {
        thread::sleep(std::time::Duration::from_secs(5));
        ok(&Value::Null)
    });
    fails(&hangs, &["--timeout", "0.3"], "within 0.3 s");
    fails("http://127.0.0.1:9", &[], "is a server listening");
    let other = failing(|body| {
        let ids = body["prompt"].as_array().unwrap().len();
        let place = json!({ "151643": { "logprob": -1.0, "rank": 1 } });
        ok(&json!({ "choices": [{ "prompt_logprobs": vec![place; ids] }] }))
    });
    refused_after_note(&ask(&other, &batch, &[]), "token 151643");
    refused(&ask("https://127.0.0.1:9", &batch, &[]), &["http://"]);
}

/// As `refused`, for a command that has said something before.
fn refused_after_note(output: &std::process::Output, part: &str) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(part) && output.stdout.is_empty(), "{said}");
}
