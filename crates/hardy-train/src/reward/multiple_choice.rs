//! Multiple choice: the letter that the response settles on must be the truth's.
//!
//! Looked for in this order: the last `\boxed{X}`, the last `answer is X` or `answer: X`, the last letter in parentheses,
//! and a response that is nothing but a letter. A letter in the middle of prose ("A car …") is no answer.

use std::sync::LazyLock;

use regex::Regex;

use super::math::boxed;

static ANSWER: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?i:answer)(?:\s+is)?[\s:*$]*\(?([A-Z])\b"));
/// A letter in a box, in whatever type and brackets, alone or before its text: `\textbf{(B) } 12`, `B) Berlin`.
static BOXED: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^(?:\\[a-z]+\{|[\s({*$])*([A-Z])(?:[\s).}*$]*$|[).:}])"));
static PARENTHESES: LazyLock<Regex> = LazyLock::new(|| pattern(r"\(([A-Z])\)"));

fn pattern(text: &str) -> Regex {
    Regex::new(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// 1 where the response chooses the letter of `truth` (`B`, `(B)` or `B) because …`), else 0.
pub fn score(response: &str, truth: &str) -> f32 {
    let truth = truth.trim().trim_start_matches('(').chars().next();
    if truth.is_some() && choice(response) == truth { 1.0 } else { 0.0 }
}

/// The letter that a response settles on.
pub fn choice(response: &str) -> Option<char> {
    let last_in = |text: &str, pattern: &Regex| {
        let letter = pattern.captures_iter(text).last()?.get(1)?;
        letter.as_str().chars().next()
    };
    let last = |pattern: &Regex| last_in(response, pattern);
    let in_box = boxed(response).and_then(|text| last_in(text, &BOXED));
    in_box.or_else(|| last(&ANSWER)).or_else(|| last(&PARENTHESES)).or_else(|| alone(response))
}

/// The letter that is all there is, but for what surrounds it.
fn alone(text: &str) -> Option<char> {
    let bare = text.trim_matches(|c: char| c.is_whitespace() || "().*$".contains(c));
    let mut letters = bare.chars();
    letters.next().filter(|letter| letter.is_ascii_uppercase() && letters.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_letter_that_a_response_settles_on_is_found() {
        for (response, letter) in [
            ("The answer is (B).", Some('B')),
            ("Answer: C", Some('C')),
            ("**Answer: D**", Some('D')),
            ("**Answer:** D", Some('D')),
            ("The correct answer is: **B**", Some('B')),
            ("Final answer: $B$", Some('B')),
            (r"so \boxed{\text{B}}", Some('B')),
            (r"so $\boxed{\textbf{(C) } 12}$", Some('C')),
            (r"so \boxed{\mathrm{(D)}}", Some('D')),
            (r"so \boxed{B) Berlin}", Some('B')),
            (r"so \boxed{A car}", None),
            (r"so \boxed{12}", None),
            (r"(A) is wrong, so \boxed{B}.", Some('B')),
            ("Not (A) but (C)", Some('C')),
            ("B", Some('B')),
            ("(b)", None),
            ("A car drives off.", None),
            ("The answer is Berlin", None),
            ("", None),
        ] {
            assert_eq!(choice(response), letter, "{response}");
        }
    }

    #[test]
    fn the_truth_may_stand_in_parentheses_or_before_its_text() {
        assert_eq!(score("The answer is B", "(B) Berlin"), 1.0);
        assert_eq!(score("The answer is B", "A"), 0.0);
        assert_eq!(score("no idea", ""), 0.0);
    }
}
