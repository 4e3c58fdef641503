//! Error metrics: how far the image of a slice is from the slice, in the measures used for number formats.

use serde::{Deserialize, Serialize};

/// Measures of an image x̃ against its reference x. Values that are not finite make the measures they enter so too.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ErrorMetrics {
    /// ‖x̃ − x‖₂ / ‖x‖₂: relative root-mean-square error. 0 without error, ∞ for an error on zeros.
    pub relative_rms: f64,
    /// Mean of |x̃ − x| / |x| over x ≠ 0; 0 if there are none.
    pub mean_relative: f64,
    /// Signal to quantisation noise, 10·log₁₀(Σx² / Σ(x̃ − x)²) in dB; +∞ without error (`null` in JSON).
    pub sqnr_db: f64,
    /// Dead zone: the share of x ≠ 0 whose image is 0; 0 if there are none.
    pub dead_zone: f64,
    /// Saturation: the share of all elements whose image has the largest magnitude of the whole image while |x| is
    /// larger than that; 0 if there are none.
    pub saturation: f64,
    /// max |x̃ − x|.
    pub max_error: f64,
}

impl ErrorMetrics {
    /// Measures `image` against `reference`, slices of one length, with sums in f64.
    ///
    /// # Panics
    ///
    /// Where the lengths differ.
    pub fn measure(reference: &[f32], image: &[f32]) -> Self {
        ErrorSums::measure(reference, image).metrics()
    }
}

/// The sums behind [`ErrorMetrics`], which add up over tensors.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct ErrorSums {
    elements: usize,
    error: f64,
    signal: f64,
    relative: f64,
    max_error: f64,
    nonzero: usize,
    dead: usize,
    saturated: usize,
}

impl ErrorSums {
    /// Measures `image` against `reference`, slices of one length.
    ///
    /// # Panics
    ///
    /// Where the lengths differ.
    pub fn measure(reference: &[f32], image: &[f32]) -> Self {
        assert_eq!(reference.len(), image.len(), "reference and image must have the same length");
        let largest = image.iter().fold(0.0_f32, |largest, y| largest.max(y.abs()));
        let mut sums = Self { elements: reference.len(), ..Self::default() };
        for (&x, &y) in reference.iter().zip(image) {
            sums.count(x, y, largest);
        }
        sums
    }

    /// The sums of both, each tensor with the saturation of its own.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let larger = self.max_error > other.max_error || self.max_error.is_nan();
        Self {
            elements: self.elements + other.elements,
            error: self.error + other.error,
            signal: self.signal + other.signal,
            relative: self.relative + other.relative,
            max_error: if larger { self.max_error } else { other.max_error },
            nonzero: self.nonzero + other.nonzero,
            dead: self.dead + other.dead,
            saturated: self.saturated + other.saturated,
        }
    }

    /// Adds those of an image of `reference`, slices of one length.
    ///
    /// # Panics
    ///
    /// Where the lengths differ.
    pub fn add_image(&mut self, reference: &[f32], image: &[f32]) {
        *self = self.plus(Self::measure(reference, image));
    }

    fn count(&mut self, x: f32, y: f32, largest: f32) {
        let error = (f64::from(y) - f64::from(x)).abs();
        self.error += error * error;
        self.signal += f64::from(x) * f64::from(x);
        if error > self.max_error || error.is_nan() {
            self.max_error = error;
        }
        if x != 0.0 {
            self.relative += error / f64::from(x).abs();
            self.nonzero += 1;
            self.dead += usize::from(y == 0.0);
        }
        self.saturated += usize::from(y.abs() == largest && x.abs() > largest);
    }

    /// Σx²: not finite where a value is not.
    pub fn signal(&self) -> f64 {
        self.signal
    }

    /// Elements of all images.
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// What the sums say.
    pub fn metrics(&self) -> ErrorMetrics {
        let share = |count: f64, of: usize| if of == 0 { 0.0 } else { count / of as f64 };
        ErrorMetrics {
            relative_rms: if self.error == 0.0 { 0.0 } else { (self.error / self.signal).sqrt() },
            mean_relative: share(self.relative, self.nonzero),
            sqnr_db: if self.error == 0.0 {
                f64::INFINITY
            } else {
                10.0 * (self.signal / self.error).log10()
            },
            dead_zone: share(self.dead as f64, self.nonzero),
            saturation: share(self.saturated as f64, self.elements),
            max_error: self.max_error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_of_a_worked_example() {
        let metrics = ErrorMetrics::measure(&[4.0, -8.0, 0.0, 0.5, 2.0], &[4.0, -4.0, 0.0, 0.0, 3.0]);
        let error: f64 = 16.0 + 0.25 + 1.0;
        let signal: f64 = 16.0 + 64.0 + 0.25 + 4.0;
        assert_eq!(metrics.relative_rms, (error / signal).sqrt());
        assert_eq!(metrics.mean_relative, (0.5 + 1.0 + 0.5) / 4.0);
        assert_eq!(metrics.sqnr_db, 10.0 * (signal / error).log10());
        assert_eq!(metrics.dead_zone, 0.25);
        // -8 became -4, the largest magnitude; 4 became 4, which is its own.
        assert_eq!(metrics.saturation, 0.2);
        assert_eq!(metrics.max_error, 4.0);
    }

    #[test]
    fn exact_image_has_infinite_sqnr_and_no_error() {
        let x = [1.0, -2.0, 0.0];
        let metrics = ErrorMetrics::measure(&x, &x);
        assert_eq!(metrics.sqnr_db, f64::INFINITY);
        assert_eq!((metrics.relative_rms, metrics.mean_relative, metrics.max_error), (0.0, 0.0, 0.0));
        assert_eq!((metrics.dead_zone, metrics.saturation), (0.0, 0.0));
        let json = serde_json::to_value(metrics).unwrap();
        assert!(json["sqnr_db"].is_null());
    }

    #[test]
    fn metrics_of_zeros_and_of_nothing_are_defined() {
        assert_eq!(ErrorMetrics::measure(&[], &[]), ErrorMetrics::measure(&[0.0], &[0.0]));
        let all_noise = ErrorMetrics::measure(&[0.0], &[1.0]);
        assert_eq!(all_noise.relative_rms, f64::INFINITY);
        assert_eq!(all_noise.sqnr_db, f64::NEG_INFINITY);
    }

    #[test]
    fn sums_of_parts_are_those_of_the_whole() {
        let (x, y) = ([4.0, -8.0, 0.0, 0.5, 2.0, 8.0], [4.0, -4.0, 0.0, 0.0, 3.0, 4.0]);
        let parts = ErrorSums::measure(&x[..3], &y[..3]).plus(ErrorSums::measure(&x[3..], &y[3..]));
        assert_eq!(parts.metrics(), ErrorMetrics::measure(&x, &y));
    }

    #[test]
    fn values_that_are_not_finite_show_in_the_metrics() {
        let metrics = ErrorMetrics::measure(&[1.0, 2.0, 3.0], &[1.0, f32::NAN, 3.5]);
        assert!(metrics.relative_rms.is_nan() && metrics.max_error.is_nan());
    }

    #[test]
    fn metrics_agree_with_the_energy_that_a_perturbation_reports() {
        let x: Vec<f32> = (1..5000).map(|i| (i as f32 * 0.11).cos()).collect();
        let mut image = x.clone();
        let energy = crate::Perturbation::RelativeGaussian { scale: 0.05 }.apply_flat(
            crate::NoiseKey([1, 2]),
            4999,
            &mut image,
        );
        let metrics = ErrorMetrics::measure(&x, &image);
        assert!((metrics.relative_rms - energy.relative()).abs() < 1e-6);
        assert!((metrics.sqnr_db + 20.0 * energy.relative().log10()).abs() < 1e-4);
    }
}
