//! The reward of GSM8K as verl scores it: does the response end in the right number?
//!
//! Only the last 300 characters of a response count. The strict extraction wants the number after `#### `; the flexible
//! one takes the last number there is.

use serde::{Deserialize, Serialize};

/// How many characters at the end of a response are looked at.
const LAST_CHARACTERS: usize = 300;
/// What stands before the number in the strict format.
const MARK: &str = "#### ";

/// How the answer is found in a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Extraction {
    /// The last number that follows `#### `, without its commas.
    Strict,
    /// The last number, as written: its commas, and a full stop that follows it, are part of it and do not match.
    Flexible,
}

/// 1 where the extracted answer is `truth` to the character, else 0.
pub fn score(response: &str, truth: &str, extraction: Extraction) -> f32 {
    if extract(response, extraction).as_deref() == Some(truth) { 1.0 } else { 0.0 }
}

/// Whether some response earns the reward for `truth`: the one that ends in nothing but it does, if any.
pub fn can_match(truth: &str) -> bool {
    truth.contains(|c: char| c.is_ascii_digit())
        && score(&format!("{MARK}{truth}"), truth, Extraction::Strict) == 1.0
}

/// The answer in the last 300 characters of `response`, if there is one.
pub fn extract(response: &str, extraction: Extraction) -> Option<String> {
    let tail = last_characters(response, LAST_CHARACTERS);
    match extraction {
        Extraction::Strict => after_last_mark(tail).map(|number| number.replace(',', "")),
        Extraction::Flexible => numbers(tail).filter(|number| *number != ".").last().map(str::to_string),
    }
}

fn last_characters(text: &str, n: usize) -> &str {
    let start = text.char_indices().rev().nth(n - 1).map_or(0, |(at, _)| at);
    &text[start..]
}

/// The last match of `#### (-?[0-9.,]+)`.
fn after_last_mark(text: &str) -> Option<&str> {
    text.rmatch_indices(MARK).find_map(|(at, _)| number_at(&text[at + MARK.len()..]))
}

/// All matches of `-?[0-9.,]+`, from left to right.
fn numbers(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            rest = &rest[rest.find(|c| c == '-' || in_number(c))?..];
            match number_at(rest) {
                Some(number) => {
                    rest = &rest[number.len()..];
                    return Some(number);
                }
                None => rest = &rest[1..],
            }
        }
    })
}

/// The match of `-?[0-9.,]+` at the start of `text`.
fn number_at(text: &str) -> Option<&str> {
    let sign = usize::from(text.starts_with('-'));
    let digits = text[sign..].find(|c| !in_number(c)).unwrap_or(text.len() - sign);
    (digits > 0).then(|| &text[..sign + digits])
}

fn in_number(c: char) -> bool {
    c.is_ascii_digit() || c == '.' || c == ','
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn strict(response: &str) -> Option<String> {
        extract(response, Extraction::Strict)
    }

    fn flexible(response: &str) -> Option<String> {
        extract(response, Extraction::Flexible)
    }

    #[test]
    fn strict_wants_one_space_and_a_number_after_the_mark() {
        assert_eq!(strict("#### 1,250").as_deref(), Some("1250"));
        assert_eq!(strict("##### -7.5 #### x").as_deref(), Some("-7.5"));
        assert_eq!(strict("#### 1\n#### 2 apples").as_deref(), Some("2"));
        for response in ["####5", "####  5", "#### $5", "#### -", "### 5", ""] {
            assert_eq!(strict(response), None, "{response}");
        }
    }

    #[test]
    fn only_bare_numbers_can_be_matched() {
        for truth in ["38", "-7", "1.5", "1250"] {
            assert!(can_match(truth), "{truth}");
        }
        for truth in ["3/4", "50%", "", ".", "five", "1,250", "5 apples", "--5", &"1".repeat(400)] {
            assert!(!can_match(truth), "{truth}");
        }
    }

    #[test]
    fn flexible_takes_the_last_number_as_written() {
        assert_eq!(flexible("from 3 to -4 apples, all.").as_deref(), Some(","));
        assert_eq!(flexible("20-8 = 12 . ").as_deref(), Some("12"));
        assert_eq!(flexible("--5").as_deref(), Some("-5"));
        assert_eq!(flexible("it is 38.").as_deref(), Some("38."));
        assert_eq!(flexible("none - at all."), None);
    }

    #[test]
    fn only_the_last_300_characters_count_and_they_are_not_bytes() {
        let padded = |n: usize| format!("#### 5{}", "é".repeat(n));
        assert_eq!(score(&padded(294), "5", Extraction::Strict), 1.0);
        assert_eq!(score(&padded(295), "5", Extraction::Strict), 0.0);
        assert_eq!(score(&padded(299), "5", Extraction::Flexible), 1.0);
        assert_eq!(score(&padded(300), "5", Extraction::Flexible), 0.0);
    }

    proptest! {
        #[test]
        fn no_response_makes_extraction_fail(response in "[-#., 0-9é\n]{0,400}") {
            for number in [strict(&response), flexible(&response)].into_iter().flatten() {
                prop_assert!(number.is_empty() || number.chars().all(|c| c == '-' || in_number(c)));
            }
        }

        #[test]
        fn strict_finds_any_number_behind_the_last_mark(text in "[a-z #0-9]{0,50}", n in -99999i64..99999) {
            prop_assert_eq!(score(&format!("{text}\n#### {n}"), &n.to_string(), Extraction::Strict), 1.0);
        }
    }
}
