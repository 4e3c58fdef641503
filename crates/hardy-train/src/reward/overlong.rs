//! DAPO's soft penalty for overlong responses (arXiv:2503.14476 eq. 13).

/// 0 up to `max − buffer` tokens, then falling linearly by `factor` over `buffer` tokens.
pub fn overlong_penalty(length: usize, max: usize, buffer: usize, factor: f32) -> f32 {
    let exceeded = length as f64 - (max as f64 - buffer as f64);
    (-exceeded / buffer as f64 * f64::from(factor)).min(0.0) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlong_penalty_falls_from_zero_over_the_buffer() {
        assert_eq!(overlong_penalty(48, 64, 16, 1.0), 0.0);
        assert_eq!(overlong_penalty(56, 64, 16, 1.0), -0.5);
        assert_eq!(overlong_penalty(64, 64, 16, 2.0), -2.0);
    }
}
