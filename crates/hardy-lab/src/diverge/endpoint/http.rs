//! JSON over HTTP, with a limit on time and size, and patience where the server asks for it.

use std::{thread::sleep, time::Duration};

use serde_json::Value;
use ureq::{Agent, Error as HttpError, http::Response};

use crate::error::LabError;

/// The largest answer.
const MOST_BYTES: u64 = 1 << 30;
/// How often a server that asks to be asked later is asked again.
const RETRIES: usize = 5;
/// The longest wait that it may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A client of one server.
#[derive(Debug)]
pub struct Client {
    url: String,
    timeout: Duration,
    agent: Agent,
}

impl Client {
    /// A client of the server at `url`; an answer may take `timeout`.
    ///
    /// # Errors
    /// A URL that is not `http://`.
    pub fn new(url: &str, timeout: Duration) -> Result<Self, LabError> {
        if !url.starts_with("http://") {
            return Err(LabError::Diverge(format!(
                "{url}: must begin with http://; for a server behind TLS open a tunnel, as in `ssh -L 8000:localhost:8000 HOST`"
            )));
        }
        let config = Agent::config_builder()
            .timeout_global(Some(timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .build();
        Ok(Self { url: url.trim_end_matches('/').to_owned(), timeout, agent: config.into() })
    }

    /// Reads JSON from `path`.
    ///
    /// # Errors
    /// No answer, or none that is JSON.
    pub fn get(&self, path: &str) -> Result<Value, LabError> {
        self.patiently(path, || self.agent.get(format!("{}{path}", self.url)).call())
    }

    /// Sends JSON to `path` and reads the answer.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn post(&self, path: &str, body: &Value) -> Result<Value, LabError> {
        let body = body.to_string();
        let send = || {
            let request = self.agent.post(format!("{}{path}", self.url));
            request.header("content-type", "application/json").send(&body)
        };
        self.patiently(path, send)
    }

    /// What is wrong with the server.
    pub fn wrong(&self, reason: impl Into<String>) -> LabError {
        LabError::Endpoint { url: self.url.clone(), reason: reason.into() }
    }

    fn patiently(
        &self,
        path: &str,
        send: impl Fn() -> Result<Response<ureq::Body>, HttpError>,
    ) -> Result<Value, LabError> {
        for attempt in 0..=RETRIES {
            let mut response = send().map_err(|error| self.failed(path, &error))?;
            let status = response.status().as_u16();
            if matches!(status, 429 | 503) && attempt < RETRIES {
                sleep(wait(&response, attempt));
                continue;
            }
            let text = response.body_mut().with_config().limit(MOST_BYTES).read_to_string();
            let text = text.map_err(|error| self.failed(path, &error))?;
            if status != 200 {
                let said: String = text.chars().take(200).collect();
                let tries = if attempt > 0 { format!(" after {} tries", attempt + 1) } else { String::new() };
                return Err(self.wrong(format!("{path} answers {status}{tries}: {}", said.trim())));
            }
            return serde_json::from_str(&text)
                .map_err(|error| self.wrong(format!("{path} answers what is not JSON ({error}); cut off?")));
        }
        Err(self.wrong(format!("{path} is too busy")))
    }

    fn failed(&self, path: &str, error: &HttpError) -> LabError {
        self.wrong(match error {
            HttpError::Timeout(_) => {
                format!(
                    "{path} did not answer within {} s; --timeout allows more",
                    self.timeout.as_secs_f64()
                )
            }
            other => format!("{path}: {other}; is a server listening there?"),
        })
    }
}

/// How long a server asks to wait; without a word of it twice as long every time.
fn wait<T>(response: &Response<T>, attempt: usize) -> Duration {
    let asked = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
    let seconds = asked.and_then(|text| text.trim().parse::<f64>().ok()).filter(|seconds| *seconds >= 0.0);
    let seconds = seconds.unwrap_or_else(|| 0.25 * f64::from(1_u32 << attempt.min(8)));
    Duration::from_secs_f64(seconds.min(LONGEST_WAIT.as_secs_f64()))
}
