//! TOML that people write, and what to say when it is wrong: the file, the line, the key, and the key that was meant.

use std::fmt;

use serde::de::DeserializeOwned;

/// What is wrong with a TOML text, in one sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TomlError {
    /// The file, or whatever else the text came from.
    pub source_name: String,
    /// The line, from 1, where it is known.
    pub line: Option<usize>,
    /// What is wrong there.
    pub message: String,
}

impl fmt::Display for TomlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.source_name, self.message),
            None => write!(f, "{}: {}", self.source_name, self.message),
        }
    }
}

impl std::error::Error for TomlError {}

/// Reads `text`, which messages call `source_name`.
///
/// # Errors
/// What is no TOML or does not fit `T`, with its line. Of an unknown key or value the nearest known one is named.
pub fn parse<T: DeserializeOwned>(text: &str, source_name: &str) -> Result<T, TomlError> {
    toml::from_str(text).map_err(|error| {
        let start = error.span().map(|span| span.start.min(text.len()));
        let table = start.and_then(|start| enclosing_table(text, start));
        TomlError {
            source_name: source_name.to_owned(),
            line: start.map(|start| line_of(text, start)),
            message: explain(error.message(), table.as_deref()),
        }
    })
}

/// The line, from 1, of the byte at `offset` of `text`.
pub fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|&byte| byte == b'\n').count()
}

/// The header, such as `[[noise]]`, of the table that the byte at `offset` stands in; `None` before the first.
fn enclosing_table(text: &str, offset: usize) -> Option<String> {
    let end = text[offset..].find('\n').map_or(text.len(), |length| offset + length);
    text[..end].lines().rev().find_map(header)
}

/// The header on a line, without what follows it.
fn header(line: &str) -> Option<String> {
    let line = line.split('#').next()?.trim();
    let name = match line.strip_prefix("[[") {
        Some(rest) => rest.strip_suffix("]]")?,
        None => line.strip_prefix('[')?.strip_suffix(']')?,
    };
    let is_key = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    // An array over several lines may have a line such as `[1, 2],`; only names are headers.
    (name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(is_key)).then(|| line.to_owned())
}

/// serde's message in the words of the person who wrote the file.
fn explain(message: &str, table: Option<&str>) -> String {
    let place = table.map(|table| format!(" in {table}")).unwrap_or_default();
    let Some((what, expected)) = message.split_once(", expected ") else {
        return match quoted(message).next() {
            Some(key) if message.starts_with("missing field") => format!("`{key}` is missing{place}"),
            _ => message.trim().replace('\n', "; "),
        };
    };
    let kind = match () {
        () if what.starts_with("unknown field ") => "key",
        () if what.starts_with("unknown variant ") => "value",
        () => return message.trim().replace('\n', "; "),
    };
    let found = quoted(what).next().unwrap_or_default();
    let known: Vec<&str> = quoted(expected).collect();
    format!("unknown {kind} `{found}`{place}; {}", suggestion(found, &known))
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// "did you mean `layers`?", or, where nothing is near, what there is.
pub fn suggestion(found: &str, known: &[&str]) -> String {
    let Some((distance, nearest)) = known.iter().map(|name| (edit_distance(found, name), *name)).min() else {
        return "there are none here".to_owned();
    };
    let near = distance <= 2.max(found.chars().count() / 3);
    match (near, known.len()) {
        (true, _) => format!("did you mean `{nearest}`?"),
        (false, 1) => format!("the only known one is `{nearest}`"),
        (false, _) => format!("the nearest known one is `{nearest}`, of `{}`", known.join("`, `")),
    }
}

/// The number of characters to insert, delete, replace or swap with their neighbour to get from one to the other
/// (optimal string alignment).
fn edit_distance(from: &str, to: &str) -> usize {
    let [from, to]: [Vec<char>; 2] = [from, to].map(|text| text.chars().collect());
    let mut rows = vec![(0..=to.len()).collect::<Vec<usize>>()];
    for i in 1..=from.len() {
        let mut row = vec![i];
        for j in 1..=to.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(from[i - 1] != to[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    // Only the errors of reading these are looked at, not what was read.
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct File {
        #[serde(default)]
        name: String,
        #[serde(default)]
        noise: Vec<Noise>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Noise {
        layers: String,
        #[serde(default)]
        at: At,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum At {
        #[default]
        Input,
        Output,
    }

    fn message(text: &str) -> String {
        parse::<File>(text, "plan.toml").unwrap_err().to_string()
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_its_table_and_the_nearest_key() {
        assert_eq!(
            message("name = \"x\"\n\n[[noise]] # first\nlayerz = \"all\"\n"),
            "plan.toml:4: unknown key `layerz` in [[noise]]; did you mean `layers`?"
        );
        assert_eq!(message("nmae = 1\n"), "plan.toml:1: unknown key `nmae`; did you mean `name`?");
        assert_eq!(
            message("temperature = 1\n"),
            "plan.toml:1: unknown key `temperature`; the nearest known one is `name`, of `name`, `noise`"
        );
    }

    #[test]
    fn an_unknown_value_and_a_missing_key_are_named_with_their_table() {
        assert_eq!(
            message("[[noise]]\nlayers = \"all\"\nat = \"ouput\"\n"),
            "plan.toml:3: unknown value `ouput` in [[noise]]; did you mean `output`?"
        );
        assert_eq!(message("name = \"x\"\n[[noise]]\n"), "plan.toml:2: `layers` is missing in [[noise]]");
    }

    #[test]
    fn what_is_no_toml_is_one_line_with_its_number() {
        for text in ["name = \n", "name = \"x\"\n[noise\n", "name = 1\nname = 2\n", "[[noise]]\nlayers = 3\n"]
        {
            let message = message(text);
            assert!(message.starts_with("plan.toml:") && !message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn lines_of_arrays_are_no_headers() {
        let text = "[a]\nx = [\n[1],\n[\"b\"],\n]\ny = 1";
        assert_eq!(enclosing_table(text, text.len()).as_deref(), Some("[a]"));
        assert_eq!(enclosing_table("x = 1", 0), None);
    }

    #[test]
    fn edit_distance_counts_edits_and_swaps() {
        let distances =
            [("", "abc"), ("abc", ""), ("layerz", "layers"), ("nmae", "name"), ("kitten", "sitting")];
        assert_eq!(distances.map(|(from, to)| edit_distance(from, to)), [3, 3, 1, 1, 3]);
    }
}
