//! GSM8K-style JSON lines: one object a line with the strings `question` and `answer`.
//!
//! Every line is checked before any problem is given out, so that a bad line is found at the start and not in step 80.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::{DataError, Place, Problem, truth_of};

/// Reads all problems of the file at `path`, in order; blank lines are skipped and other fields ignored.
///
/// # Errors
///
/// A file that cannot be read, is not UTF-8 or holds no problem; a line that is not a JSON object, lacks `question` or
/// `answer`, has one that is not a string, or whose answer has no number after a `####`.
pub fn read_jsonl(path: impl AsRef<Path>) -> Result<Vec<Problem>, DataError> {
    let path = path.as_ref();
    let name = path.display().to_string();
    let file_error = |reason: String| DataError::File { path: name.clone(), reason };
    let bytes = fs::read(path).map_err(|error| {
        file_error(match error.kind() {
            std::io::ErrorKind::NotFound => "no such file".into(),
            _ => format!("cannot be read: {error}"),
        })
    })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        file_error(format!(
            "not UTF-8 text (byte {}); JSON lines are expected",
            error.utf8_error().valid_up_to()
        ))
    })?;
    let mut problems = Vec::new();
    let file: Arc<str> = name.as_str().into();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let (question, answer) = parse_line(line).map_err(|reason| DataError::Line {
            path: name.clone(),
            line: index + 1,
            reason,
        })?;
        let place = Place::Line(Arc::clone(&file), index + 1);
        problems.push(Problem { id: problems.len() as u64, question, answer, place });
    }
    if problems.is_empty() {
        return Err(file_error("holds no problem; one JSON object a line is expected".into()));
    }
    Ok(problems)
}

/// The question and the answer of one line, or what is wrong with it.
fn parse_line(line: &str) -> Result<(String, String), String> {
    let object = match serde_json::from_str(line) {
        Ok(Value::Object(object)) => object,
        Ok(other) => {
            return Err(format!("expected an object with `question` and `answer`, found {}", kind(&other)));
        }
        Err(error) => return Err(not_json(&error)),
    };
    let question = field(&object, "question")?;
    let answer = field(&object, "answer")?;
    match truth_of(&answer) {
        None => Err("`answer` has no `####`; it should end in `#### N`".into()),
        Some(truth) if truth.is_empty() => Err("`answer` has nothing after its last `####`".into()),
        Some(_) => Ok((question, answer)),
    }
}

fn field(object: &Map<String, Value>, name: &str) -> Result<String, String> {
    match object.get(name) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(format!("`{name}` should be a string, found {}", kind(other))),
        None if object.is_empty() => Err(format!("lacks the field `{name}`; the object is empty")),
        None => {
            let found: Vec<String> = object.keys().map(|key| format!("`{key}`")).collect();
            Err(format!("lacks the field `{name}`; found {}", found.join(", ")))
        }
    }
}

/// The parser's message with its place given as a column only, for its line is always 1.
fn not_json(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or_default();
    format!("not JSON: {message} at column {}", error.column())
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &[u8]) -> Result<Vec<Problem>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.jsonl");
        fs::write(&path, content).unwrap();
        let strip = format!("{}/", dir.path().display());
        read_jsonl(&path).map_err(|error| error.to_string().replace(&strip, ""))
    }

    #[test]
    fn blank_lines_are_skipped_and_ids_count_problems() {
        let text = "\n{\"question\":\"q\",\"answer\":\"#### 1\",\"more\":0}\r\n  \n{\"question\":\"r\",\"answer\":\"#### 2\"}";
        let problems = read(text.as_bytes()).unwrap();
        assert_eq!(
            problems.iter().map(|p| (p.id, p.truth())).collect::<Vec<_>>(),
            [(0, "1".to_string()), (1, "2".to_string())]
        );
    }

    #[test]
    fn every_bad_line_is_named_with_what_was_found() {
        let good = "{\"question\":\"q\",\"answer\":\"#### 1\"}\n\n";
        for (line, message) in [
            ("{\"question\":", "data.jsonl:3: not JSON: EOF while parsing a value at column 12"),
            ("[1]", "data.jsonl:3: expected an object with `question` and `answer`, found an array"),
            (
                "{\"question\":\"q\",\"solution\":\"#### 1\"}",
                "data.jsonl:3: lacks the field `answer`; found `question`, `solution`",
            ),
            ("{}", "data.jsonl:3: lacks the field `question`; the object is empty"),
            (
                "{\"question\":\"q\",\"answer\":4}",
                "data.jsonl:3: `answer` should be a string, found a number",
            ),
            (
                "{\"question\":\"q\",\"answer\":\"4\"}",
                "data.jsonl:3: `answer` has no `####`; it should end in `#### N`",
            ),
            (
                "{\"question\":\"q\",\"answer\":\"#### \"}",
                "data.jsonl:3: `answer` has nothing after its last `####`",
            ),
        ] {
            assert_eq!(read(format!("{good}{line}\n").as_bytes()).unwrap_err(), message);
        }
    }

    #[test]
    fn a_file_without_problems_is_an_error() {
        let message = "data.jsonl: holds no problem; one JSON object a line is expected";
        assert_eq!(read(b"").unwrap_err(), message);
        assert_eq!(read(b"\n \n").unwrap_err(), message);
        assert_eq!(
            read(b"\xff").unwrap_err(),
            "data.jsonl: not UTF-8 text (byte 0); JSON lines are expected"
        );
    }

    #[test]
    fn a_missing_file_is_named() {
        assert_eq!(read_jsonl("no/such.jsonl").unwrap_err().to_string(), "no/such.jsonl: no such file");
    }
}
