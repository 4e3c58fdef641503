//! How large an injected error was: the sums from which ‖error‖/‖signal‖ follows, which add up over calls. Elements that
//! are not finite, before or after, are counted apart, so that the sums stay finite and one ∞ does not hide the rest.

use crate::simd::dispatch;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::iter::Sum;
use std::ops::{Add, AddAssign};

/// The energy of an error beside that of the signal it was added to, over the elements at which x̃ − x is finite in f32.
/// Where x or x̃ is not finite, it is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ErrorEnergy {
    /// Σ(x̃ − x)².
    pub error: f64,
    /// Σx², of the values before the perturbation.
    pub signal: f64,
    /// Elements that are left out of both sums, because x̃ − x is not finite.
    pub non_finite: u64,
}

impl ErrorEnergy {
    /// ‖x̃ − x‖₂ / ‖x‖₂; 0 where there is no error, ∞ for an error on a signal of zeros.
    pub fn relative(&self) -> f64 {
        if self.error == 0.0 { 0.0 } else { (self.error / self.signal).sqrt() }
    }

    /// The energy of `image` against `signal`, slices of one length.
    ///
    /// # Panics
    ///
    /// Where the lengths differ.
    pub fn between(signal: &[f32], image: &[f32]) -> Self {
        assert_eq!(signal.len(), image.len(), "signal and image must have the same length");
        let part = |(signal, image): (&[f32], &[f32])| {
            dispatch(
                #[inline(always)]
                || {
                    let mut lanes = Lanes::new();
                    lanes.compare(signal, image);
                    lanes.sum()
                },
            )
        };
        if signal.len() <= 2 * TASK {
            return signal.chunks(TASK).zip(image.chunks(TASK)).map(part).sum();
        }
        let parts = signal.par_chunks(TASK).zip(image.par_chunks(TASK)).map(part);
        parts.collect::<Vec<_>>().into_iter().sum()
    }
}

impl Add for ErrorEnergy {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            error: self.error + other.error,
            signal: self.signal + other.signal,
            non_finite: self.non_finite + other.non_finite,
        }
    }
}

impl AddAssign for ErrorEnergy {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for ErrorEnergy {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), Add::add)
    }
}

/// Lanes of a sum: so many that those of errors and of signals fit the registers of AVX2.
const LANES: usize = 16;
/// Elements that one task measures. It is fixed, so that sums do not depend on the thread count.
const TASK: usize = 16 * 1024;
/// Elements that are measured at a time, while they are in the nearest cache.
const PART: usize = 512;

/// Sums of squares in lanes of f64, so that their order, and with it the result, is the same at every SIMD level.
#[derive(Clone, Copy)]
pub(crate) struct Lanes {
    error: [f64; LANES],
    signal: [f64; LANES],
    non_finite: u64,
}

impl Lanes {
    #[inline(always)]
    pub fn new() -> Self {
        Self { error: [0.0; LANES], signal: [0.0; LANES], non_finite: 0 }
    }

    /// Replaces every `x[i]` by `f(i, x[i])` and counts the difference in lane `i % 16`.
    #[inline(always)]
    pub fn replace(&mut self, x: &mut [f32], f: impl Fn(usize, f32) -> f32) {
        let mut images = [0.0; PART];
        for (part, x) in x.chunks_mut(PART).enumerate() {
            let images = &mut images[..x.len()];
            for (i, (image, &x)) in images.iter_mut().zip(&*x).enumerate() {
                *image = f(PART * part + i, x);
            }
            self.compare(x, images);
            x.copy_from_slice(images);
        }
    }

    /// Replaces every `x[i]` by `f(x[i], y[i])` and counts the difference in lane `i % 16`; `y` becomes what `x` was.
    /// That an error is not finite shows in the sums, so that it costs nothing to look for one; these are then taken
    /// anew.
    #[inline(always)]
    pub fn replace_with(&mut self, x: &mut [f32], y: &mut [f32], f: impl Fn(f32, f32) -> f32) {
        let (x_groups, x_rest) = x.as_chunks_mut::<LANES>();
        let (y_groups, y_rest) = y.as_chunks_mut::<LANES>();
        let (mut errors, mut signals) = (self.error, self.signal);
        for (x, y) in x_groups.iter_mut().zip(y_groups) {
            let (before, mut after, mut error) = (*x, *y, [0.0; LANES]);
            for lane in 0..LANES {
                after[lane] = f(before[lane], after[lane]);
            }
            for lane in 0..LANES {
                error[lane] = after[lane] - before[lane];
            }
            (*x, *y) = (after, before);
            for lane in 0..LANES {
                add_square(&mut errors[lane], error[lane]);
            }
            for lane in 0..LANES {
                add_square(&mut signals[lane], before[lane]);
            }
        }
        for (lane, (x, y)) in x_rest.iter_mut().zip(y_rest).enumerate() {
            (*x, *y) = (f(*x, *y), *x);
            add_square(&mut errors[lane], *x - *y);
            add_square(&mut signals[lane], *y);
        }
        if any_not_finite(&errors) {
            self.add_finite(y, x);
        } else {
            (self.error, self.signal) = (errors, signals);
        }
    }

    /// Counts the differences of two slices, in the same way.
    #[inline(always)]
    pub fn compare(&mut self, before: &[f32], after: &[f32]) {
        for (before, after) in before.chunks(PART).zip(after.chunks(PART)) {
            let error = with_squares(self.error, before, after, |before, after| after - before);
            if any_not_finite(&error) {
                self.add_finite(before, after);
            } else {
                self.error = error;
                self.signal = with_squares(self.signal, before, after, |before, _| before);
            }
        }
    }

    /// Counts those differences of two slices that are finite.
    #[cold]
    #[inline(never)]
    fn add_finite(&mut self, before: &[f32], after: &[f32]) {
        let finite = |before: f32, after: f32| (after - before).is_finite();
        let kept = |x: f32, finite| if finite { x } else { 0.0 };
        self.error = with_squares(self.error, before, after, |before, after| {
            kept(after - before, finite(before, after))
        });
        self.signal =
            with_squares(self.signal, before, after, |before, after| kept(before, finite(before, after)));
        self.non_finite += before.iter().zip(after).filter(|&(&x, &y)| !finite(x, y)).count() as u64;
    }

    #[inline(always)]
    pub fn sum(self) -> ErrorEnergy {
        let Self { error, signal, non_finite } = self;
        ErrorEnergy { error: error.iter().sum(), signal: signal.iter().sum(), non_finite }
    }
}

/// The sums with the squares of `f(x[i], y[i])` added in lane `i % 16`.
#[inline(always)]
fn with_squares(mut sums: [f64; LANES], x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32) -> [f64; LANES] {
    let (x_groups, x_rest) = x.as_chunks::<LANES>();
    let (y_groups, y_rest) = y.as_chunks::<LANES>();
    for (x, y) in x_groups.iter().zip(y_groups) {
        for lane in 0..LANES {
            add_square(&mut sums[lane], f(x[lane], y[lane]));
        }
    }
    for (sum, (&x, &y)) in sums.iter_mut().zip(x_rest.iter().zip(y_rest)) {
        add_square(sum, f(x, y));
    }
    sums
}

#[inline(always)]
fn any_not_finite(sums: &[f64; LANES]) -> bool {
    sums.iter().fold(false, |any, sum| any | !sum.is_finite())
}

/// The square of an f32 is exact in f64, so that fusing changes nothing but the time.
#[inline(always)]
fn add_square(sum: &mut f64, x: f32) {
    let x = f64::from(x);
    *sum = x.mul_add(x, *sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn energy(error: f64, signal: f64, non_finite: u64) -> ErrorEnergy {
        ErrorEnergy { error, signal, non_finite }
    }

    #[test]
    fn energies_add_up() {
        let mut total = energy(1.0, 2.0, 0) + energy(3.0, 4.0, 2);
        total += energy(5.0, 30.0, 1);
        assert_eq!(total, energy(9.0, 36.0, 3));
        assert_eq!(total.relative(), 0.5);
        assert_eq!([total, total].into_iter().sum::<ErrorEnergy>(), energy(18.0, 72.0, 6));
    }

    #[test]
    fn what_is_not_finite_is_counted_apart_and_hides_nothing() {
        let before: Vec<f32> = (0..50_003).map(|i| (i as f32 * 0.37).sin()).collect();
        let after: Vec<f32> = before.iter().map(|x| x * 1.25).collect();
        // In the middle of a group of lanes, all of one, at the ends of tasks, and in the rest.
        let places: Vec<usize> = [5, 17, 16_383, 16_384, 50_001].into_iter().chain(64..96).collect();
        let (mut signal, mut image) = (before.clone(), after.clone());
        for (kind, &place) in places.iter().enumerate() {
            let [x, y] =
                [[1.0, f32::NAN], [f32::NAN, f32::NAN], [f32::INFINITY, 1.0], [f32::MIN, f32::MAX]][kind % 4];
            (signal[place], image[place]) = (x, y);
        }
        let found = ErrorEnergy::between(&signal, &image);
        assert_eq!(found.non_finite, places.len() as u64);
        let (mut signal, mut image) = (before, after);
        for &place in &places {
            (signal[place], image[place]) = (0.0, 0.0);
        }
        assert_eq!(ErrorEnergy { non_finite: 0, ..found }, ErrorEnergy::between(&signal, &image));
    }

    #[test]
    fn an_energy_without_a_count_is_read() {
        let read: ErrorEnergy = serde_json::from_str(r#"{"error":1.0,"signal":4.0}"#).unwrap();
        assert_eq!(read, energy(1.0, 4.0, 0));
    }

    #[test]
    fn the_energy_between_slices_is_that_of_replacing_one_by_the_other() {
        let before: Vec<f32> = (0..50_003).map(|i| (i as f32 * 0.37).sin()).collect();
        let after: Vec<f32> = before.iter().map(|x| x * 1.25).collect();
        let energy = ErrorEnergy::between(&before, &after);
        assert!((energy.relative() - 0.25).abs() < 1e-7);
        let signal: f64 = before.iter().map(|&x| f64::from(x).powi(2)).sum();
        assert!((energy.signal / signal - 1.0).abs() < 1e-12);
    }

    #[test]
    fn relative_error_of_nothing_is_zero() {
        assert_eq!(ErrorEnergy::default().relative(), 0.0);
        assert_eq!(energy(1.0, 0.0, 0).relative(), f64::INFINITY);
    }
}
