//! Thinning and smoothing of long lines: a picture a few hundred pixels wide shows no more, but must still show peaks.

/// The line through the lowest and highest point of each of `most / 2` stretches; all points when there are few.
pub fn extremes(points: &[(f64, f64)], most: usize) -> Vec<(f64, f64)> {
    if points.len() <= most {
        return points.to_vec();
    }
    let stretch = points.len().div_ceil((most / 2).max(1));
    points.chunks(stretch).flat_map(low_and_high).collect()
}

/// The lowest and the highest of `points`, in the order in which they occur.
fn low_and_high(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let (mut low, mut high) = (0, 0);
    for (i, (_, y)) in points.iter().enumerate() {
        if *y < points[low].1 {
            low = i;
        }
        if *y > points[high].1 {
            high = i;
        }
    }
    let mut kept = vec![points[low.min(high)], points[low.max(high)]];
    kept.dedup();
    kept
}

/// The mean of the `window` points (odd) around each; fewer, but as many on either side, at the ends.
pub fn running_mean(points: &[(f64, f64)], window: usize) -> Vec<(f64, f64)> {
    let mut sums = vec![0.0];
    for (_, y) in points {
        sums.push(sums[sums.len() - 1] + y);
    }
    let mean = |i: usize| {
        let reach = (window / 2).min(i).min(points.len() - 1 - i);
        (sums[i + reach + 1] - sums[i - reach]) / (2 * reach + 1) as f64
    };
    points.iter().enumerate().map(|(i, (x, _))| (*x, mean(i))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_peaks() {
        let mut points: Vec<_> = (0..10_000).map(|i| (f64::from(i), 0.0)).collect();
        (points[1234].1, points[8000].1) = (9.0, -4.0);
        let thinned = extremes(&points, 100);
        assert!(thinned.len() <= 100);
        assert!(thinned.contains(&(1234.0, 9.0)) && thinned.contains(&(8000.0, -4.0)));
    }

    #[test]
    fn a_straight_line_is_its_own_mean() {
        let points: Vec<_> = (0..50).map(|i| (f64::from(i), 2.0 * f64::from(i))).collect();
        let mean = running_mean(&points, 9);
        assert!(mean.iter().zip(&points).all(|(a, b)| (a.1 - b.1).abs() < 1e-9));
    }
}
