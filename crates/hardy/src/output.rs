//! Where words go: results to standard output, as text or as one JSON document, everything else to standard error. A
//! reader that goes away ends the command quietly.

use std::{
    io::{self, ErrorKind, IsTerminal, Write},
    path::Path,
};

use hardy_model::files::write_json;
use serde::Serialize;

use crate::failure::Failure;

/// Columns of a text that goes to no terminal.
const DEFAULT_WIDTH: usize = 100;

/// How results are printed.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
}

impl Output {
    /// As JSON or as text.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether for machines.
    pub fn is_json(self) -> bool {
        self.json
    }

    /// Prints a result: `value` where JSON was asked for, else `text` for so many columns.
    ///
    /// # Errors
    /// Standard output that can not be written.
    pub fn show(self, value: &impl Serialize, text: impl FnOnce(usize) -> String) -> Result<(), Failure> {
        let mut text = if self.json {
            serde_json::to_string_pretty(value).map_err(|error| Failure::run(error.to_string()))?
        } else {
            text(width())
        };
        if !text.ends_with('\n') {
            text.push('\n');
        }
        print(&text)
    }
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let printed = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    printed.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::ReaderGone,
        _ => Failure::run(format!("standard output: {error}")),
    })
}

/// Keeps a result in the JSON file at `path`, where one was asked for.
///
/// # Errors
/// A file that can not be written.
pub fn keep(value: &impl Serialize, path: Option<&Path>) -> Result<(), Failure> {
    let Some(path) = path else { return Ok(()) };
    let json = serde_json::to_value(value).map_err(|error| Failure::run(error.to_string()))?;
    Ok(write_json(path, &json)?)
}

/// Says something beside the result, on standard error.
pub fn note(line: &str) {
    // Nobody is left to tell if this fails.
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Columns of the terminal on standard output.
pub fn width() -> usize {
    let terminal = io::stdout().is_terminal().then(terminal_size::terminal_size).flatten();
    terminal.map_or(DEFAULT_WIDTH, |(width, _)| usize::from(width.0).max(20))
}
