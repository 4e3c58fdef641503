//! JSON files whose outermost value is an object, as every JSON file of a model directory is.

use std::path::Path;

use serde_json::{Map, Value};

use super::write_atomically;
use crate::error::{Error, Result};

/// Reads the object in `path`; keys keep their order.
///
/// # Errors
/// [`Error::Read`] when there is no such file, [`Error::Json`] when it holds something else.
pub fn read_json(path: &Path) -> Result<Map<String, Value>> {
    let bytes = std::fs::read(path).map_err(Error::read(path))?;
    let problem = |problem| Error::Json { path: path.to_owned(), wanted: "object", problem };
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(problem(format!("found {}", excerpt(&other)))),
        Err(error) => Err(problem(error.to_string())),
    }
}

/// As [`read_json`], or `None` when there is no such file.
///
/// # Errors
/// As [`read_json`], a missing file aside.
pub fn read_json_if_present(path: &Path) -> Result<Option<Map<String, Value>>> {
    if path.exists() { read_json(path).map(Some) } else { Ok(None) }
}

/// Writes `value` indented by two spaces, with a newline at the end, atomically.
///
/// # Errors
/// [`Error::Write`].
pub fn write_json(path: &Path, value: &Value) -> Result<()> {
    write_atomically(path, format!("{value:#}\n").as_bytes())
}

/// The first characters of a value, for messages.
pub(crate) fn excerpt(value: &Value) -> String {
    const LENGTH: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_an_object_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, "{\"a\": 1,\n oops}").unwrap();
        let message = read_json(&path).unwrap_err().to_string();
        assert!(message.contains("config.json") && message.contains("line 2"), "{message}");
        std::fs::write(&path, "[1]").unwrap();
        assert!(read_json(&path).unwrap_err().to_string().ends_with("found [1]"));
        assert!(read_json(&dir.path().join("none.json")).is_err());
        assert!(read_json_if_present(&dir.path().join("none.json")).unwrap().is_none());
    }

    #[test]
    fn an_excerpt_does_not_split_a_character() {
        let long = Value::String("\u{e9}".repeat(100));
        assert_eq!(excerpt(&long).chars().count(), 63);
    }
}
