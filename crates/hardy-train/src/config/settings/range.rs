//! What is admissible for a setting, in numbers and in words.

use std::fmt;

/// An end of a range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// The end itself is admissible.
    To(f64),
    /// The end itself is not.
    Short(f64),
}

/// What is admissible.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Range {
    /// A whole number between two, both admissible.
    Whole(u64, u64),
    /// A finite number between two ends.
    Number(Bound, Bound),
    /// One of some words.
    Words(&'static [&'static str]),
    /// `true` or `false`.
    Switch,
    /// Something else, in words.
    Text(&'static str),
}

impl Range {
    /// Whether a number, whole if `whole`, is admissible; what is no range of numbers admits all of them.
    pub fn admits(&self, x: f64, whole: bool) -> bool {
        match *self {
            Self::Whole(least, most) => whole && x >= least as f64 && x <= most as f64,
            Self::Number(low, high) => {
                let from = match low {
                    Bound::To(low) => x >= low,
                    Bound::Short(low) => x > low,
                };
                let to = match high {
                    Bound::To(high) => x <= high,
                    Bound::Short(high) => x < high,
                };
                from && to
            }
            Self::Words(_) | Self::Switch | Self::Text(_) => true,
        }
    }
}

impl fmt::Display for Range {
    /// What stands after "must be".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Whole(least, most) => {
                write!(f, "a whole number from {} to {}", grouped(least), grouped(most))
            }
            Self::Number(low, high) => match (low, high) {
                (Bound::To(low), Bound::To(high)) => write!(f, "from {} to {}", spelled(low), spelled(high)),
                (Bound::Short(low), Bound::To(high)) => {
                    write!(f, "above {} and at most {}", spelled(low), spelled(high))
                }
                (Bound::To(low), Bound::Short(high)) => {
                    write!(f, "at least {} and below {}", spelled(low), spelled(high))
                }
                (Bound::Short(low), Bound::Short(high)) => {
                    write!(f, "above {} and below {}", spelled(low), spelled(high))
                }
            },
            Self::Words(words) => f.write_str(&words.join(", ")),
            Self::Switch => f.write_str("true or false"),
            Self::Text(what) => f.write_str(what),
        }
    }
}

/// A number as TOML writes it, large and small ones with an exponent.
pub(super) fn spelled(x: f64) -> String {
    let magnitude = x.abs();
    match x {
        _ if x.is_nan() => "nan".to_owned(),
        _ if x == 0.0 || (1e-4..1e6).contains(&magnitude) || x.is_infinite() => x.to_string(),
        _ => format!("{x:e}"),
    }
}

/// A whole number with commas between thousands.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let first = digits.len() % 3;
    let mut out = digits[..first].to_owned();
    for group in digits.as_bytes()[first..].chunks(3) {
        if !out.is_empty() {
            out.push(',');
        }
        out.extend(group.iter().map(|&digit| char::from(digit)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_admit_their_ends_as_they_say() {
        let unit = Range::Number(Bound::Short(0.0), Bound::To(1.0));
        assert_eq!(
            [0.0, 1e-9, 1.0, 1.1, f64::NAN].map(|x| unit.admits(x, false)),
            [false, true, true, false, false]
        );
        assert_eq!(unit.to_string(), "above 0 and at most 1");
        let beta = Range::Number(Bound::To(0.0), Bound::Short(1.0));
        assert_eq!(
            [-0.1, 0.0, 1.0, f64::INFINITY].map(|x| beta.admits(x, false)),
            [false, true, false, false]
        );
        assert_eq!(beta.to_string(), "at least 0 and below 1");
        let count = Range::Whole(1, 65_535);
        assert_eq!([0.0, 1.0, 65_535.0, 65_536.0].map(|x| count.admits(x, true)), [false, true, true, false]);
        assert!(!count.admits(1.0, false));
        assert_eq!(count.to_string(), "a whole number from 1 to 65,535");
    }

    #[test]
    fn numbers_are_spelled_as_in_toml() {
        assert_eq!(
            [0.0, -1.0, 0.05, 1e6, 1e-5, 1e300].map(spelled),
            ["0", "-1", "0.05", "1e6", "1e-5", "1e300"]
        );
        assert_eq!([f64::NAN, f64::NEG_INFINITY].map(spelled), ["nan", "-inf"]);
        assert_eq!([0, 999, 1000, 10_000_000].map(grouped), ["0", "999", "1,000", "10,000,000"]);
    }
}
