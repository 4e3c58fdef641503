//! Answers to mathematical problems, as the public graders of MATH compare them (arXiv:2103.03874, `math_equivalence`;
//! verl's `math_reward`): the last `\boxed{…}` of the response, written in one normal form, must be the truth's. Beyond
//! these graders, two plain numbers are equal where their values are: `1,000` and `1000.0`, `2/4` and `\frac12`.

/// 1 where the last boxed answer of `response` equals `truth`, else 0. A truth may itself be a worked solution that
/// boxes its answer.
pub fn score(response: &str, truth: &str) -> f32 {
    let truth = boxed(truth).unwrap_or(truth);
    if boxed(response).is_some_and(|answer| is_equal(answer, truth)) { 1.0 } else { 0.0 }
}

/// What the last `\boxed{…}`, `\fbox{…}` or `\boxed x` of a text holds.
pub fn boxed(text: &str) -> Option<&str> {
    let at = [r"\boxed", r"\fbox"].into_iter().filter_map(|command| text.rfind(command)).max()?;
    let rest = text[at..].strip_prefix(r"\boxed").or_else(|| text[at..].strip_prefix(r"\fbox"))?;
    match rest.strip_prefix('{') {
        Some(inside) => inside.get(..closing_brace(inside)?),
        None => rest.strip_prefix(' ')?.split('$').next().map(str::trim),
    }
}

/// Where the brace closes that was opened before `text`.
fn closing_brace(text: &str) -> Option<usize> {
    let mut depth = 1_usize;
    text.char_indices().find_map(|(at, c)| {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        (depth == 0).then_some(at)
    })
}

/// Whether two answers are the same, in their normal forms or as numbers.
pub fn is_equal(answer: &str, truth: &str) -> bool {
    let [answer, truth] = [answer, truth].map(normalized);
    let values = [&answer, &truth].map(|text| Rational::parse(text));
    answer == truth || matches!(values, [Some(a), Some(b)] if a == b)
}

/// The normal form of an answer: without spacing, dollars, degrees, per cent and units, fractions and roots with braces.
pub fn normalized(answer: &str) -> String {
    let mut text = answer.replace(['\n', '\u{a0}'], " ");
    for (from, to) in REPLACED {
        text = text.replace(from, to);
    }
    let text = without_unit(&text);
    let text = with_leading_zeros(&text);
    let text = right_side(&text);
    let text = with_braces(text, r"\sqrt", 1);
    let text = with_braces(&text.replace(' ', ""), r"\frac", 2);
    slash_as_fraction(&text).unwrap_or(text).trim_end_matches('.').to_owned()
}

/// What is written in several ways, and the one that is kept.
const REPLACED: [(&str, &str); 21] = [
    // Line breaks of matrices stay apart from a space that is written out.
    (r"\\", BREAK),
    (r"\ ", " "),
    (r"\!", ""),
    (r"\,", ""),
    (r"\;", ""),
    (r"\:", ""),
    (BREAK, r"\"),
    ("{,}", ","),
    ("tfrac", "frac"),
    ("dfrac", "frac"),
    ("cfrac", "frac"),
    (r"\left", ""),
    (r"\right", ""),
    (r"^{\circ}", ""),
    (r"^\circ", ""),
    ("°", ""),
    (r"\$", ""),
    ("$", ""),
    (r"\%", ""),
    ("%", ""),
    ("−", "-"),
];

/// What stands for a line break while spaces are replaced.
const BREAK: &str = "\u{1}";

/// Units that are written as words behind a number (Minerva's list, arXiv:2206.14858 §D.1, as far as they are units).
const UNITS: [&str; 20] = [
    "square", "dollars", "mph", "inches", "ft", "hours", "km", "units", "points", "feet", "minutes",
    "digits", "cents", "degrees", "cm", "gm", "pounds", "meters", "edges", "students",
];

/// Of `12 square inches` the `12`.
fn without_words(text: &str) -> &str {
    let mut text = text.trim();
    while let Some((number, unit)) = text.rsplit_once(' ') {
        let counted = number.ends_with(|c: char| c.is_ascii_digit() || c == '}')
            || UNITS.iter().any(|unit| number.ends_with(unit));
        if !UNITS.contains(&unit) || !counted {
            break;
        }
        text = number.trim_end();
    }
    text
}

/// Whether `text` is nothing or a power, as what follows the unit in `\text{ cm}^2`.
fn is_power(text: &str) -> bool {
    let power = text.strip_prefix('^').map(|power| power.trim_matches(['{', '}']));
    text.is_empty() || power.is_some_and(|power| power.parse::<u8>().is_ok())
}

/// The text without a unit at its end, as in `5 \text{ cm}`; text that is all of it, as in `\text{Evelyn}`, is kept.
fn without_unit(text: &str) -> String {
    let text = without_words(text);
    for command in [r"\text{", r"\mbox{", r"\mathrm{"] {
        let Some(at) = text.find(command) else { continue };
        let inside = &text[at + command.len()..];
        let Some(end) = closing_brace(inside) else { continue };
        if at > 0 && is_power(&inside[end + 1..]) {
            return text[..at].trim().to_owned();
        }
        return format!("{}{}{}", &text[..at], inside[..end].trim(), &inside[end + 1..]);
    }
    text.to_owned()
}

/// `.5` as `0.5`, wherever a number begins.
fn with_leading_zeros(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 1);
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        let digit_follows = text[at + c.len_utf8()..].starts_with(|next: char| next.is_ascii_digit());
        if c == '.' && digit_follows && !before.is_ascii_digit() {
            out.push('0');
        }
        out.push(c);
        before = c;
    }
    out
}

/// Of `x = 5` the `5`: what stands behind the only equals sign after at most two characters.
fn right_side(text: &str) -> &str {
    match text.split_once('=') {
        Some((left, right)) if left.trim().len() <= 2 && !right.contains('=') => right.trim(),
        _ => text,
    }
}

/// `\frac12` as `\frac{1}{2}` and `\sqrt3` as `\sqrt{3}`: the arguments of `command`, each in braces.
fn with_braces(text: &str, command: &str, arguments: usize) -> String {
    let mut parts = text.split(command);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out += command;
        let mut rest = part;
        for _ in 0..arguments {
            let (argument, after) = argument(rest);
            out += &argument;
            rest = after;
        }
        out += rest;
    }
    out
}

/// The first argument of a command, in braces, and what follows it.
fn argument(text: &str) -> (String, &str) {
    if let Some(end) = text.strip_prefix('{').and_then(closing_brace) {
        return (text[..end + 2].to_owned(), &text[end + 2..]);
    }
    match text.chars().next() {
        Some(first) if first.is_ascii_alphanumeric() => (format!("{{{first}}}"), &text[first.len_utf8()..]),
        _ => (String::new(), text),
    }
}

/// `a/b` with whole numbers as `\frac{a}{b}`.
fn slash_as_fraction(text: &str) -> Option<String> {
    let (above, below) = text.split_once('/')?;
    let whole = |part: &str| part.parse::<i64>().ok();
    Some(format!(r"\frac{{{}}}{{{}}}", whole(above)?, whole(below)?))
}

/// A plain number as a fraction in lowest terms.
#[derive(Debug, PartialEq, Eq)]
struct Rational {
    above: i128,
    below: i128,
}

impl Rational {
    /// Reads whole numbers and decimals, with commas between thousands or not, and fractions of them; `None` for
    /// anything else, and for what exceeds 128 bits.
    fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix('+').unwrap_or(text);
        let (negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
        let value = match text.strip_prefix(r"\frac{") {
            Some(rest) => {
                let (above, below) = rest.strip_suffix('}')?.split_once("}{")?;
                let (above, below) = (Self::decimal(above)?, Self::decimal(below)?);
                Self::new(above.above.checked_mul(below.below)?, above.below.checked_mul(below.above)?)?
            }
            // Of two signs only a fraction's own second one has a meaning.
            None if text.starts_with('-') => return None,
            None => Self::decimal(text)?,
        };
        Some(if negative { Self { above: -value.above, ..value } } else { value })
    }

    fn decimal(text: &str) -> Option<Self> {
        let (negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        let digits = format!("{}{part}", without_thousands(whole)?);
        if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        let above: i128 = digits.parse().ok()?;
        let below = 10_i128.checked_pow(u32::try_from(part.len()).ok()?)?;
        Self::new(if negative { -above } else { above }, below)
    }

    fn new(above: i128, below: i128) -> Option<Self> {
        if below == 0 {
            return None;
        }
        let divisor = greatest_common_divisor(above.unsigned_abs(), below.unsigned_abs()) as i128;
        let divisor = if below < 0 { -divisor } else { divisor };
        Some(Self { above: above / divisor, below: below / divisor })
    }
}

/// The digits without commas, which may only stand before groups of three.
fn without_thousands(whole: &str) -> Option<String> {
    let mut groups = whole.split(',');
    let first = groups.next()?;
    let grouped = whole.contains(',') && (first.is_empty() || first.len() > 3);
    let threes = groups.clone().all(|group| group.len() == 3);
    (!grouped && threes).then(|| first.to_owned() + &groups.collect::<String>())
}

fn greatest_common_divisor(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a.max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_boxed_answer_counts_with_nested_braces() {
        assert_eq!(boxed(r"first \boxed{1}, then \boxed{\frac{1}{2}}."), Some(r"\frac{1}{2}"));
        assert_eq!(boxed(r"so \fbox{7}"), Some("7"));
        assert_eq!(boxed(r"so $\boxed 7$ it is"), Some("7"));
        for text in ["no box", r"\boxed{open", r"\boxed", ""] {
            assert_eq!(boxed(text), None, "{text}");
        }
    }

    #[test]
    fn equal_answers_are_equal_however_they_are_written() {
        for (answer, truth) in [
            (r"\dfrac{1}{2}", r"\frac12"),
            ("1/2", r"\frac{1}{2}"),
            ("0.5", r"\frac{1}{2}"),
            (".5", "0.50"),
            ("2/4", "1/2"),
            ("1,000", "1000"),
            ("1000.0", "1000"),
            (r"50\%", "50"),
            ("50%", "50"),
            (r"5 \text{ cm}", "5"),
            (r"\$18", "18"),
            (r"x = 3", "3"),
            (r"90^\circ", "90"),
            (r"\sqrt3", r"\sqrt{3}"),
            (r"\left( 3, 4 \right)", "(3,4)"),
            (r"-\frac{3}{4}", "-0.75"),
            (r"\text{Evelyn}", "Evelyn"),
            ("18.", "18"),
        ] {
            assert!(
                is_equal(answer, truth),
                "{answer} ({}) and {truth} ({})",
                normalized(answer),
                normalized(truth)
            );
            assert!(is_equal(truth, answer), "{truth} and {answer}");
        }
    }

    #[test]
    fn different_answers_are_different() {
        for (answer, truth) in [
            ("12", "21"),
            (r"\frac{1}{3}", "0.333"),
            ("(3,4)", "34"),
            ("3,4", "34"),
            ("1/0", "0"),
            (r"\sqrt{3}", "3"),
            ("x=3", "x=4"),
            ("", "0"),
            (r"\text{Evelyn}", "Briana"),
        ] {
            assert!(
                !is_equal(answer, truth),
                "{answer} ({}) and {truth} ({})",
                normalized(answer),
                normalized(truth)
            );
        }
    }

    /// Verdicts of the two public graders, run on these pairs: MATH's own (`math_equivalence`, which verl and the
    /// lm-evaluation-harness have too) and Minerva's (`normalize_final_answer`). What either calls equal is equal here, but for
    /// the last group; what both call different is different, but where the values are the same.
    #[test]
    fn answers_that_are_written_oddly_are_judged_as_the_public_graders_judge_them() {
        for (answer, truth, math, minerva) in [
            (r"\frac{1}{2}", r"\frac12", true, true),
            (r"\dfrac{1}{2}", r"\frac{1}{2}", true, false),
            (r"\tfrac{1}{2}", r"\frac{1}{2}", true, false),
            ("1/2", r"\frac{1}{2}", true, false),
            ("0.5", r"\frac{1}{2}", true, false),
            (r"50\%", "50", true, false),
            (r"\$18", "18", true, true),
            (r"18\text{ dollars}", "18", true, true),
            (r"12\text{ cm}^2", "12", true, true),
            (r"12 \text{ cm}^{3}", "12", true, false),
            ("x=5", "5", true, true),
            ("k = -3", "-3", true, true),
            (r"\sqrt3", r"\sqrt{3}", true, true),
            (r"2\sqrt{3}", r"2\sqrt3", true, true),
            (r"90^\circ", "90", true, true),
            (r"90^{\circ}", "90", true, true),
            (r"\left(1,2\right)", "(1,2)", true, false),
            ("(1, 2)", "(1,2)", true, true),
            ("1,000", "1000", false, true),
            ("1{,}000", "1000", false, true),
            (r"10,\!000", "10000", false, true),
            (".5", "0.5", true, false),
            (r"\frac{-1}{2}", "-1/2", true, false),
            (r"2\pi", r"2 \pi", true, true),
            (r"2\ \pi", r"2\pi", false, true),
            (r"[0,\infty)", r"[0, \infty)", true, true),
            (r"\{1,2\}", r"\left\{1,2\right\}", true, false),
            (r"\frac{a}{b}", r"\frac ab", true, true),
            (r"\text{Evelyn}", "Evelyn", false, true),
            (r"\mbox{even}", r"\text{even}", false, true),
            (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", true, false),
            ("12 inches", "12", false, true),
            ("12 square units", "12", false, true),
            ("3:2", "3:2", true, true),
            // Different for both.
            ("(2, 1)", "(1,2)", false, false),
            (r"\pi", "3.14159", false, false),
            ("0.333", r"\frac{1}{3}", false, false),
            ("", "5", false, false),
            (r"\infty", r"-\infty", false, false),
            ("--5", "5", false, false),
            (r"\frac{1}{0}", "0", false, false),
            ("NaN", "5", false, false),
            ("3 x", "3", false, false),
            (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}12\end{pmatrix}", false, false),
        ] {
            let ours = is_equal(answer, truth);
            assert_eq!(
                ours,
                math || minerva,
                "{answer} ({}) and {truth} ({})",
                normalized(answer),
                normalized(truth)
            );
        }
        // Equal by value, where both graders read letter by letter.
        for (answer, truth) in [
            (r"\frac{3}{4}", "0.75"),
            ("50%", "50"),
            ("5.0", "5"),
            ("+5", "5"),
            ("07", "7"),
            (r"-\frac{1}{2}", r"\frac{-1}{2}"),
            (r"\frac{10}{20}", r"\frac{1}{2}"),
            (r"\$32{,}000.00", "32000"),
        ] {
            assert!(is_equal(answer, truth), "{answer} and {truth}");
        }
        // MATH's own grader takes whatever follows a text for its unit.
        assert!(!is_equal(r"5\text{ or }6", "5"));
    }

    #[test]
    fn a_worked_solution_can_be_the_truth() {
        assert_eq!(score(r"Thus \boxed{\dfrac12}.", r"We see $\boxed{\frac{1}{2}}$."), 1.0);
        assert_eq!(score("Thus 1/2.", "1/2"), 0.0);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_grader_fail(answer in r"[\\{}/.,=%$ a-f0-9ftex√é-]{0,60}", truth in r"[\\{}frac/.,0-9-]{0,30}") {
            is_equal(&answer, &truth);
            prop_assert!(is_equal(&answer, &answer));
            let boxed_answer = format!(r"so \boxed{{{truth}}}");
            score(&boxed_answer, &answer);
        }

        #[test]
        fn decimals_and_fractions_agree_with_whole_numbers(n in -1_000_000_i64..1_000_000, d in 1_i64..1000) {
            let (whole, decimal) = (n.to_string(), format!("{n}.00"));
            let fraction = format!("{}/{d}", n * d);
            let fractions = is_equal(&fraction, &whole);
            prop_assert!(is_equal(&whole, &decimal) && fractions);
        }
    }
}
