//! A reward for length: full up to a number of tokens, then falling to 0 over as many again as are said.

/// 1 up to `target` tokens, falling in a straight line to 0 at `target + falls_over`.
pub fn score(tokens: usize, target: usize, falls_over: usize) -> f32 {
    let beyond = tokens.saturating_sub(target) as f64;
    if beyond == 0.0 { 1.0 } else { (1.0 - beyond / falls_over.max(1) as f64).max(0.0) as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_falls_from_one_to_zero_over_the_stretch() {
        let scores = [0, 100, 125, 150, 1000].map(|tokens| score(tokens, 100, 50));
        assert_eq!(scores, [1.0, 1.0, 0.5, 0.0, 0.0]);
        assert_eq!([score(100, 100, 0), score(101, 100, 0)], [1.0, 0.0]);
    }
}
