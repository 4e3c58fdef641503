//! An answer found by a regular expression: the last match in the response, of its first group where it has one, must
//! be the truth.

use regex::Regex;

/// 1 where the last match of `pattern` is `truth`, both without space around them, else 0.
pub fn score(response: &str, truth: &str, pattern: &Regex) -> f32 {
    if extract(response, pattern).is_some_and(|answer| answer.trim() == truth.trim()) { 1.0 } else { 0.0 }
}

/// The pattern that a text writes.
///
/// # Errors
/// A text that is no regular expression, with what is wrong about it.
pub fn parse(text: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|error| {
        let error = error.to_string();
        let reason = error.lines().rev().find_map(|line| line.strip_prefix("error: ")).unwrap_or(&error);
        format!("`pattern` {text:?} is no regular expression: {reason}")
    })
}

/// The first group of the last match, or all of it where the pattern has no group.
pub fn extract<'a>(response: &'a str, pattern: &Regex) -> Option<&'a str> {
    let last = pattern.captures_iter(response).last()?;
    last.get(1).or_else(|| last.get(0)).map(|found| found.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_group_of_the_last_match_is_the_answer() {
        let pattern = Regex::new(r"answer: (\w+)").unwrap();
        assert_eq!(extract("answer: no. answer: yes!", &pattern), Some("yes"));
        assert_eq!(score("the answer: yes", " yes\n", &pattern), 1.0);
        assert_eq!(score("yes", "yes", &pattern), 0.0);
    }

    #[test]
    fn without_a_group_the_whole_match_is_the_answer() {
        let pattern = Regex::new(r"-?\d+").unwrap();
        assert_eq!(score("3, then -4", "-4", &pattern), 1.0);
    }
}
