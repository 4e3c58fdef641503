//! How far two tensors are apart, in the measures that tools for comparing accelerators use.

use serde::Serialize;

use super::dump::Statistics;

/// Measures of `b` against its reference `a`, with sums in f64. Pairs of which one is not finite are counted apart and enter
/// nothing else; a pair of equal infinities, or of two NaNs, is no difference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Differences {
    /// Elements compared.
    pub elements: u64,
    /// Share of them whose bits differ.
    pub differing: f64,
    /// Pairs of which one is not finite and the other is not the same.
    pub non_finite: u64,
    /// max |b − a|.
    pub max_absolute: f64,
    /// mean |b − a|.
    pub mean_absolute: f64,
    /// ‖b − a‖₂ / ‖a‖₂; 0 without error, ∞ (`null` in JSON) for an error on nothing but zeros.
    pub relative: f64,
    /// Mean absolute percentage error: the mean of |b − a| / |a| over a ≠ 0, as a share.
    pub mape: f64,
    /// Cosine of the angle between both; 1 where both are zero.
    pub cosine: f64,
    /// Pearson's correlation of the elements; 1 where neither varies, 0 where one does not.
    pub correlation: f64,
    /// Share of elements with |b − a| beyond one thousandth of |a|.
    pub beyond_one_thousandth: f64,
    /// The same of five thousandths.
    pub beyond_five_thousandths: f64,
}

impl Differences {
    /// Measures `b` against `a`.
    ///
    /// # Panics
    /// Where the lengths differ.
    pub fn measure(a: &[f32], b: &[f32]) -> Self {
        assert_eq!(a.len(), b.len(), "tensors of one size");
        let mut sums = Sums::default();
        a.iter().zip(b).for_each(|(a, b)| sums.add(*a, *b));
        sums.differences(a.len())
    }

    /// Whether every pair is the same, but for the sign of zeros.
    pub fn is_none(&self) -> bool {
        self.max_absolute == 0.0 && self.non_finite == 0
    }

    /// Whether the relative error exceeds `tolerance`, or something is not finite on one side alone.
    pub fn exceeds(&self, tolerance: f64) -> bool {
        self.non_finite > 0 || self.relative > tolerance
    }
}

#[derive(Default)]
struct Sums {
    finite: f64,
    differing: u64,
    non_finite: u64,
    largest: f64,
    absolute: f64,
    squared: f64,
    percentage: f64,
    nonzero: f64,
    beyond: [u64; 2],
    a: f64,
    b: f64,
    aa: f64,
    bb: f64,
    ab: f64,
}

impl Sums {
    fn add(&mut self, a: f32, b: f32) {
        self.differing += u64::from(a.to_bits() != b.to_bits());
        if !(a.is_finite() && b.is_finite()) {
            self.non_finite += u64::from(!(a == b || a.is_nan() && b.is_nan()));
            return;
        }
        let (a, b) = (f64::from(a), f64::from(b));
        let error = (b - a).abs();
        self.finite += 1.0;
        self.largest = self.largest.max(error);
        self.absolute += error;
        self.squared += error * error;
        if a != 0.0 {
            self.percentage += error / a.abs();
            self.nonzero += 1.0;
        }
        self.beyond[0] += u64::from(error > 1e-3 * a.abs());
        self.beyond[1] += u64::from(error > 5e-3 * a.abs());
        (self.a, self.b) = (self.a + a, self.b + b);
        (self.aa, self.bb, self.ab) = (self.aa + a * a, self.bb + b * b, self.ab + a * b);
    }

    fn differences(&self, elements: usize) -> Differences {
        let n = self.finite.max(1.0);
        let share = |count: u64| count as f64 / elements.max(1) as f64;
        Differences {
            elements: elements as u64,
            differing: share(self.differing),
            non_finite: self.non_finite,
            max_absolute: self.largest,
            mean_absolute: self.absolute / n,
            relative: if self.squared == 0.0 { 0.0 } else { (self.squared / self.aa).sqrt() },
            mape: self.percentage / self.nonzero.max(1.0),
            cosine: self.angle(self.ab, self.aa, self.bb),
            correlation: self.angle(
                self.ab - self.a * self.b / n,
                (self.aa - self.a * self.a / n).max(0.0),
                (self.bb - self.b * self.b / n).max(0.0),
            ),
            beyond_one_thousandth: share(self.beyond[0]),
            beyond_five_thousandths: share(self.beyond[1]),
        }
    }

    fn angle(&self, ab: f64, aa: f64, bb: f64) -> f64 {
        match (aa > 0.0, bb > 0.0) {
            _ if self.squared == 0.0 => 1.0,
            (true, true) => (ab / (aa.sqrt() * bb.sqrt())).clamp(-1.0, 1.0),
            (false, false) => 1.0,
            _ => 0.0,
        }
    }
}

/// How far the statistics of two tensors are apart: the largest difference of max, min, mean and norm, as a share of the
/// larger norm or, without one, of the largest magnitude. `None` where no statistic is known of both.
pub fn statistics_differ(a: &Statistics, b: &Statistics) -> Option<f64> {
    let pairs: Vec<(f64, f64)> = a
        .known()
        .filter_map(|(name, x)| b.known().find(|(other, _)| *other == name).map(|(_, y)| (x, y)))
        .collect();
    let scale =
        pairs.iter().flat_map(|(x, y)| [x.abs(), y.abs()]).filter(|x| x.is_finite()).fold(0.0, f64::max);
    let apart = |(x, y): &(f64, f64)| match (x - y).abs() {
        _ if x == y || x.is_nan() && y.is_nan() => 0.0,
        error if error.is_finite() => error / scale,
        _ => f64::INFINITY,
    };
    pairs.iter().map(apart).reduce(f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_of_a_worked_example() {
        let d = Differences::measure(&[4.0, -8.0, 0.0, 2.0], &[4.0, -8.0625, 0.0, 2.003]);
        let [first, second] = [0.0625, f64::from(2.003_f32) - 2.0];
        assert_eq!((d.elements, d.differing, d.max_absolute), (4, 0.5, first));
        assert!((d.mean_absolute - (first + second) / 4.0).abs() < 1e-15);
        assert!((d.relative - ((first * first + second * second) / 84.0).sqrt()).abs() < 1e-15);
        assert!((d.mape - (first / 8.0 + second / 2.0) / 3.0).abs() < 1e-15);
        assert_eq!((d.beyond_one_thousandth, d.beyond_five_thousandths), (0.5, 0.25));
        assert!(d.cosine > 0.999 && d.cosine < 1.0 && d.correlation > 0.999);
    }

    #[test]
    fn what_is_not_finite_is_counted_apart() {
        let x = [f32::NAN, f32::INFINITY, 1.0, f32::NAN];
        let same = Differences::measure(&x, &x);
        assert!(same.is_none() && !same.exceeds(0.0), "{same:?}");
        let other = Differences::measure(&x, &[f32::NAN, f32::NEG_INFINITY, 1.0, 2.0]);
        assert_eq!((other.non_finite, other.relative), (2, 0.0));
        assert!(other.exceeds(1.0));
    }

    #[test]
    fn directions_are_told_from_sizes() {
        let x = [1.0, 2.0, 3.0, 5.0];
        let twice = Differences::measure(&x, &x.map(|x| 2.0 * x));
        assert!((twice.cosine - 1.0).abs() < 1e-12 && (twice.relative - 1.0).abs() < 1e-12);
        let shifted = Differences::measure(&x, &x.map(|x| x + 10.0));
        assert!((shifted.correlation - 1.0).abs() < 1e-9 && shifted.cosine < 1.0);
        let against = Differences::measure(&x, &x.map(|x| -x));
        assert!((against.cosine + 1.0).abs() < 1e-12);
        assert_eq!(Differences::measure(&[0.0; 3], &[0.0; 3]).cosine, 1.0);
        assert_eq!(Differences::measure(&[0.0; 2], &[1.0; 2]).relative, f64::INFINITY);
    }

    #[test]
    fn statistics_differ_by_a_share_of_their_scale() {
        let of = |max: f64, norm| Statistics { max: Some(max), norm, ..Statistics::default() };
        assert_eq!(statistics_differ(&of(1.0, Some(10.0)), &of(1.5, Some(10.0))), Some(0.05));
        assert_eq!(statistics_differ(&of(2.0, None), &of(1.0, Some(3.0))), Some(0.5));
        assert_eq!(statistics_differ(&Statistics::default(), &of(1.0, None)), None);
        assert_eq!(statistics_differ(&of(f64::NAN, None), &of(1.0, None)), Some(f64::INFINITY));
    }
}
