//! Numbers as readers expect them: accuracies in per cent, differences in points, p-values to two digits, counts with
//! separators. Text for terminals and the report page comes from here, so that both say the same.

use crate::statistics::{Claim, Interval};

/// A fraction as per cent: `0.715` → `71.5 %`.
#[must_use]
pub fn percent(fraction: f64) -> String {
    format!("{:.1} %", 100.0 * fraction)
}

/// A fraction with its interval: `71.5 % [64.9, 77.3]`.
#[must_use]
pub fn percent_with_interval(fraction: f64, interval: Interval) -> String {
    format!("{} [{:.1}, {:.1}]", percent(fraction), 100.0 * interval.low, 100.0 * interval.high)
}

/// A signed difference in points: `+4.0`, `−3.5`, `0.0`.
#[must_use]
pub fn points(difference: f64) -> String {
    let magnitude = format!("{:.1}", difference.abs());
    match () {
        () if magnitude == "0.0" => magnitude,
        () if difference < 0.0 => format!("−{magnitude}"),
        () => format!("+{magnitude}"),
    }
}

/// A signed difference with its interval, in points: `−3.5 [−8.1, +1.0]`.
#[must_use]
pub fn points_with_interval(difference: f64, interval: Interval) -> String {
    format!("{} [{}, {}]", points(difference), points(interval.low), points(interval.high))
}

/// A p-value to two digits, `<0.001` below that; never rounded onto 0.05.
#[must_use]
pub fn p_value(p: f64) -> String {
    if p < 0.001 {
        return "<0.001".into();
    }
    let rounded = if p < 0.1 { significant(p, 2) } else { trim(format!("{p:.2}")) };
    if rounded == "0.05" && p != 0.05 { trim(format!("{p:.4}")) } else { rounded }
}

/// A p-value as a clause: `p = 0.03`, `p < 0.001`.
#[must_use]
pub fn p_clause(p: f64) -> String {
    let value = p_value(p);
    value.strip_prefix('<').map_or_else(|| format!("p = {value}"), |bound| format!("p < {bound}"))
}

/// A claim's p-value as a clause, with Holm's where that is another: `p = 0.004, with Holm 0.012`.
#[must_use]
pub fn claim_clause(claim: &Claim) -> String {
    let (raw, holm) = (p_clause(claim.p), p_value(claim.p_holm));
    if p_value(claim.p) == holm { raw } else { format!("{raw}, with Holm {holm}") }
}

/// A count with thousands separated: `1,377`.
#[must_use]
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A count in few characters: `950`, `12.3 k`, `4.1 M`.
#[must_use]
pub fn short_count(value: f64) -> String {
    let units = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let unit = units.iter().find(|(size, _)| value >= *size);
    unit.map_or_else(
        || trim(format!("{value:.1}")),
        |(size, name)| format!("{} {name}", significant(value / size, 3)),
    )
}

/// `value` with `digits` significant digits, without trailing zeros; powers of ten where plain digits are too many.
#[must_use]
pub fn significant(value: f64, digits: usize) -> String {
    if value == 0.0 || !value.is_finite() {
        return format!("{value}");
    }
    let magnitude = value.abs().log10().floor() as i32;
    if !(-4..6).contains(&magnitude) {
        let text = format!("{value:.*e}", digits.saturating_sub(1));
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        return format!("{}e{exponent}", trim(mantissa.into()));
    }
    let decimals = (digits as i32 - 1 - magnitude).max(0) as usize;
    trim(format!("{value:.decimals$}"))
}

/// A time in seconds as people say it: `12 s`, `5 min`, `2 h 2 min`, `2 d 7 h`.
#[must_use]
pub fn duration(seconds: f64) -> String {
    let minutes = (seconds / 60.0).round() as u64;
    match minutes {
        0 => format!("{seconds:.0} s"),
        1..120 => format!("{minutes} min"),
        120..2880 => format!("{} h {} min", minutes / 60, minutes % 60),
        _ => format!("{} d {} h", minutes / 1440, minutes % 1440 / 60),
    }
}

/// Drops trailing zeros after a decimal point, and the point if nothing is left behind it.
fn trim(text: String) -> String {
    if !text.contains('.') {
        return text;
    }
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_in_the_unit_that_fits_them() {
        let said = [12.0, 61.0, 7000.0, 7300.0, 200_000.0].map(duration);
        assert_eq!(said, ["12 s", "1 min", "117 min", "2 h 2 min", "2 d 7 h"]);
    }

    #[test]
    fn accuracies_are_printed_in_per_cent_with_their_interval() {
        let interval = Interval { low: 0.6491, high: 0.7731 };
        assert_eq!(percent_with_interval(0.715, interval), "71.5 % [64.9, 77.3]");
    }

    #[test]
    fn differences_carry_their_sign_and_zero_has_none() {
        assert_eq!(points_with_interval(-3.5, Interval { low: -8.06, high: 0.96 }), "−3.5 [−8.1, +1.0]");
        assert_eq!(points(-0.01), "0.0");
    }

    #[test]
    fn p_values_never_round_across_five_per_cent() {
        let printed = [0.0302, 0.0499, 0.0501, 0.6353, 1.0, 0.00012, 0.0079, 0.05].map(p_value);
        assert_eq!(printed, ["0.03", "0.0499", "0.0501", "0.64", "1", "<0.001", "0.0079", "0.05"]);
        assert_eq!((p_clause(0.0302), p_clause(1e-9)), ("p = 0.03".into(), "p < 0.001".into()));
    }

    #[test]
    fn counts_are_separated_by_thousands() {
        assert_eq!([0, 999, 1377, 1_234_567].map(count), ["0", "999", "1,377", "1,234,567"]);
        assert_eq!([950.0, 12_345.0, 4_100_000.0].map(short_count), ["950", "12.3 k", "4.1 M"]);
    }

    #[test]
    fn small_and_large_numbers_keep_their_digits() {
        let printed = [0.05, 5e-7, 1234.5, 0.000123, 2.0, 0.0].map(|x| significant(x, 3));
        assert_eq!(printed, ["0.05", "5e-7", "1234", "0.000123", "2", "0"]);
    }
}
