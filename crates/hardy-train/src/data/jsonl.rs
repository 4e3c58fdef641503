//! JSON lines: one object a line.
//!
//! Every line is checked before any problem is given out, so that a bad line is found at the start and not in step 80.

use std::fs;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Answers, Columns, DataError, Place, Problem, layout::kind};

/// Reads all problems of the file at `path`, in order; blank lines are skipped.
///
/// # Errors
///
/// A file that cannot be read, is not UTF-8 or holds no problem; a line that is not a JSON object, or holds no problem as
/// `columns` and `answers` want it.
pub fn read_jsonl(path: &str, columns: &Columns, answers: Answers) -> Result<Vec<Problem>, DataError> {
    let file_error = |reason: String| DataError::File { path: path.to_owned(), reason };
    let bytes = fs::read(path).map_err(|error| DataError::unreadable(path, &error))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        file_error(format!(
            "not UTF-8 text (byte {}); JSON lines are expected",
            error.utf8_error().valid_up_to()
        ))
    })?;
    // Some editors write a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut problems = Vec::new();
    let file: Arc<str> = path.into();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let place = Place::Line(Arc::clone(&file), index + 1);
        let id = problems.len() as u64;
        let problem = object(line).and_then(|object| columns.problem(&object, answers, id, place.clone()));
        problems.push(problem.map_err(|reason| DataError::Problem { place, reason })?);
    }
    if problems.is_empty() {
        return Err(file_error("holds no problem; one JSON object a line is expected".into()));
    }
    Ok(problems)
}

fn object(line: &str) -> Result<Map<String, Value>, String> {
    match serde_json::from_str(line) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(format!("expected an object with `question` and `answer`, found {}", kind(&other))),
        Err(error) => Err(not_json(&error)),
    }
}

/// The parser's message with its place given as a column only, for its line is always 1.
fn not_json(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or_default();
    format!("not JSON: {message} at column {}", error.column())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &[u8]) -> Result<Vec<Problem>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.jsonl");
        fs::write(&path, content).unwrap();
        let strip = format!("{}/", dir.path().display());
        read_jsonl(path.to_str().unwrap(), &Columns::default(), Answers::Numbered)
            .map_err(|error| error.to_string().replace(&strip, ""))
    }

    #[test]
    fn blank_lines_are_skipped_and_ids_count_problems() {
        let text = "\n{\"question\":\"q\",\"answer\":\"#### 1\",\"more\":0}\r\n  \n{\"question\":\"r\",\"answer\":\"#### 2\"}";
        let problems = read(text.as_bytes()).unwrap();
        assert_eq!(
            problems.iter().map(|p| (p.id, p.truth.clone())).collect::<Vec<_>>(),
            [(0, "1".to_string()), (1, "2".to_string())]
        );
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_line() {
        let text = "\u{feff}{\"question\":\"q\",\"answer\":\"#### 1\"}\n";
        assert_eq!(read(text.as_bytes()).unwrap()[0].truth, "1");
        let twice = format!("{text}{text}");
        assert!(read(twice.as_bytes()).unwrap_err().starts_with("data.jsonl:2: not JSON"));
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
        let error = read_jsonl("no/such.jsonl", &Columns::default(), Answers::Text).unwrap_err();
        assert_eq!(error.to_string(), "no/such.jsonl: no such file");
    }
}
