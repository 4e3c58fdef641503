//! The quantiles of Student's t distribution (Student 1908, Biometrika 6: 1–25).

use std::f64::consts::FRAC_PI_2;

use super::normal_quantile;

/// From so many degrees of freedom on it is the normal distribution to five digits.
const NORMAL_FROM: f64 = 1e5;

/// The value that is exceeded on both sides together with chance `tail`, in (0, 1); `degrees` is whole.
pub(crate) fn two_sided_quantile(tail: f64, degrees: f64) -> f64 {
    match degrees {
        1.0 => 1.0 / (FRAC_PI_2 * tail).tan(),
        2.0 => (2.0 / (tail * (2.0 - tail)) - 2.0).sqrt(),
        many if many >= NORMAL_FROM => -normal_quantile(tail / 2.0),
        some => hill(tail, some),
    }
}

/// Hill's approximation, to six digits (Hill 1970, algorithm 396, Communications of the ACM 13: 619–620).
fn hill(tail: f64, n: f64) -> f64 {
    let a = 1.0 / (n - 0.5);
    let b = 48.0 / (a * a);
    let c = ((20_700.0 * a / b - 98.0) * a - 16.0) * a + 96.36;
    let d = ((94.5 / (b + c) - 3.0) / b + 1.0) * (a * FRAC_PI_2).sqrt() * n;
    let y = (d * tail).powf(2.0 / n);
    let y = if y > a + 0.05 {
        let x = normal_quantile(tail / 2.0);
        let c = if n < 5.0 { c + 0.3 * (n - 4.5) * (x + 0.6) } else { c };
        let c = (((0.05 * d * x - 5.0) * x - 7.0) * x - 2.0) * x + b + c;
        let y = x * x;
        let y = (((((0.4 * y + 6.3) * y + 36.0) * y + 94.5) / c - y - 3.0) / b + 1.0) * x;
        (a * y * y).exp_m1()
    } else {
        let tail = 1.0 / (((n + 6.0) / (n * y) - 0.089 * d - 0.822) * (n + 2.0) * 3.0) + 0.5 / (n + 4.0);
        (tail * y - 1.0) * (n + 1.0) / (n + 2.0) + 1.0 / y
    };
    (n * y).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_quantiles_of_the_tables() {
        let cases = [
            (0.05, 1.0, 12.706_205),
            (0.05, 2.0, 4.302_653),
            (0.01, 4.0, 4.604_095),
            (0.001, 3.0, 12.923_979),
            (0.05, 14.0, 2.144_787),
            (0.05, 399.0, 1.965_927),
            (0.05, 1e9, 1.959_964),
        ];
        for (tail, degrees, right) in cases {
            let found = two_sided_quantile(tail, degrees);
            assert!((found - right).abs() < 1e-5, "{degrees}: {found}");
        }
    }
}
