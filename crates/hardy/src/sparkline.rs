//! A curve in one line of text.

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// `values` in at most `width` characters, on a logarithmic scale; what is not above 0 is a blank.
pub fn logarithmic(values: &[f64], width: usize) -> String {
    let width = width.min(values.len());
    let positive = values.iter().copied().filter(|&value| value > 0.0).map(f64::ln);
    let (low, high) =
        positive.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
    let bar = |value: f64| {
        if value <= 0.0 {
            return ' ';
        }
        let height = if high > low { (value.ln() - low) / (high - low) } else { 1.0 };
        BARS[((height * BARS.len() as f64) as usize).min(BARS.len() - 1)]
    };
    (0..width).map(|column| bar(values[column * values.len() / width])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparkline_is_as_wide_as_asked_and_shows_silence() {
        assert_eq!(logarithmic(&[0.0, 1.0, 0.1, 0.01], 80), " █▅▁");
        assert_eq!(logarithmic(&[0.5; 100], 10).chars().count(), 10);
        assert_eq!(logarithmic(&[], 10), "");
    }
}
