//! Perturbations: what is done to a value x to give its image x̃. Random ones take their noise from the address of the
//! value; all work in place and return the energy of the error they made.
//!
//! | kind | image |
//! |---|---|
//! | `relative_gaussian` | x + ε·\|x\|·s, ε standard normal |
//! | `absolute_gaussian` | x + ε·s |
//! | `systematic_bias` | x + sign(x)·s, or relative: x + sign(x)·\|x\|·s; sign(0) = 0 |
//! | `truncation` | the multiple of s next to x toward zero |
//!
//! A scale of 0 leaves every value as it is. A value that is not finite stays not finite.

use crate::address::{NoiseKey, Row};
use crate::energy::{ErrorEnergy, Lanes};
use crate::gaussian::{CHUNK, gaussian_chunk};
use crate::simd::dispatch;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Elements that one task of the thread pool perturbs. It is fixed, so that sums do not depend on the thread count.
const TASK: usize = 16 * 1024;
/// Up to so many elements the calling thread does the work alone.
const ALONE: usize = 2 * TASK;

/// One kind of error with its scale s.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Perturbation {
    /// Gaussian noise whose standard deviation is `scale` times the magnitude of the value.
    RelativeGaussian {
        /// Standard deviation over magnitude; 0.05 is 5 %.
        scale: f64,
    },
    /// Gaussian noise of standard deviation `scale`.
    AbsoluteGaussian {
        /// Standard deviation, in units of the value.
        scale: f64,
    },
    /// A step away from zero.
    SystematicBias {
        /// The step, in units of the value, or over its magnitude where `relative`.
        scale: f64,
        /// Whether the step grows with the magnitude of the value.
        #[serde(default)]
        relative: bool,
    },
    /// Truncation toward zero to a multiple of a step.
    Truncation {
        /// The step, in units of the value; 0 is no truncation.
        #[serde(alias = "step")]
        scale: f64,
    },
}

impl Perturbation {
    /// The names of all kinds, as configuration files and [`Perturbation::from_name`] spell them.
    pub const NAMES: &[&str] = &["relative_gaussian", "absolute_gaussian", "systematic_bias", "truncation"];

    /// The perturbation of a kind and a scale; `None` for an unknown kind. Only `systematic_bias` looks at `relative`.
    pub fn from_name(kind: &str, scale: f64, relative: bool) -> Option<Self> {
        Some(match kind {
            "relative_gaussian" => Self::RelativeGaussian { scale },
            "absolute_gaussian" => Self::AbsoluteGaussian { scale },
            "systematic_bias" => Self::SystematicBias { scale, relative },
            "truncation" => Self::Truncation { scale },
            _ => return None,
        })
    }

    /// The name of the kind, one of [`Perturbation::NAMES`].
    pub fn kind_name(&self) -> &'static str {
        match self {
            Self::RelativeGaussian { .. } => "relative_gaussian",
            Self::AbsoluteGaussian { .. } => "absolute_gaussian",
            Self::SystematicBias { .. } => "systematic_bias",
            Self::Truncation { .. } => "truncation",
        }
    }

    /// The scale; of a truncation the step.
    pub fn scale(&self) -> f64 {
        match *self {
            Self::RelativeGaussian { scale }
            | Self::AbsoluteGaussian { scale }
            | Self::SystematicBias { scale, .. }
            | Self::Truncation { scale } => scale,
        }
    }

    /// The same kind with another scale.
    pub fn with_scale(self, scale: f64) -> Self {
        match self {
            Self::RelativeGaussian { .. } => Self::RelativeGaussian { scale },
            Self::AbsoluteGaussian { .. } => Self::AbsoluteGaussian { scale },
            Self::SystematicBias { relative, .. } => Self::SystematicBias { scale, relative },
            Self::Truncation { .. } => Self::Truncation { scale },
        }
    }

    /// Whether the image depends on the address.
    pub fn is_random(&self) -> bool {
        matches!(self, Self::RelativeGaussian { .. } | Self::AbsoluteGaussian { .. })
    }

    /// Checks the scale, which must be finite (in f32 too) and not negative.
    ///
    /// # Errors
    ///
    /// One sentence that says what the scale is and what it must be.
    pub fn validate(&self) -> Result<(), String> {
        let scale = self.scale();
        if scale >= 0.0 && (scale as f32).is_finite() {
            return Ok(());
        }
        Err(format!("scale is {scale:?}, but must be a finite number ≥ 0"))
    }

    /// Perturbs `x` in place: the values of elements `first_element ..` of one row. Returns the energy of the error.
    ///
    /// `key` and `row` matter only where [`Perturbation::is_random`]. The image of a value depends on its own address
    /// and on nothing else, so a row may be split anywhere; the energies then agree up to rounding in f64.
    pub fn apply(&self, key: NoiseKey, row: Row, first_element: u64, x: &mut [f32]) -> ErrorEnergy {
        dispatch(
            #[inline(always)]
            || self.kernel(std::iter::once((key, row, first_element, x))),
        )
    }

    /// Perturbs the rows of `x` [rows.len(), width] in place, each as [`Perturbation::apply`] does.
    ///
    /// # Panics
    ///
    /// Where the length of `x` is not `rows.len() * width`.
    pub fn apply_rows(
        &self,
        key: NoiseKey,
        rows: &[Row],
        first_element: u64,
        width: usize,
        x: &mut [f32],
    ) -> ErrorEnergy {
        assert_eq!(x.len(), rows.len() * width, "x must be [{}, {width}]", rows.len());
        if x.is_empty() {
            return ErrorEnergy::default();
        }
        let rows_per_task = (TASK / width).max(1);
        let task = |(rows, x): (&[Row], &mut [f32])| {
            dispatch(
                #[inline(always)]
                || {
                    let rows = rows.iter().zip(x.chunks_exact_mut(width));
                    self.kernel(rows.map(
                        #[inline(always)]
                        |(&row, x)| (key, row, first_element, x),
                    ))
                },
            )
        };
        if x.len() <= ALONE {
            return rows.chunks(rows_per_task).zip(x.chunks_mut(rows_per_task * width)).map(task).sum();
        }
        let tasks = rows.par_chunks(rows_per_task).zip(x.par_chunks_mut(rows_per_task * width));
        tasks.map(task).collect::<Vec<_>>().into_iter().sum()
    }

    /// Perturbs weights, or gradients of weights, in place: `x` of any shape, flat, at [`Row::WEIGHT`] from element 0.
    pub fn apply_flat(&self, key: NoiseKey, x: &mut [f32]) -> ErrorEnergy {
        let task = |(i, x): (usize, &mut [f32])| self.apply(key, Row::WEIGHT, (i * TASK) as u64, x);
        if x.len() <= ALONE {
            return x.chunks_mut(TASK).enumerate().map(task).sum();
        }
        x.par_chunks_mut(TASK).enumerate().map(task).collect::<Vec<_>>().into_iter().sum()
    }

    /// Perturbs pieces of rows, one after the other, and adds up their energies.
    #[inline(always)]
    fn kernel<'a>(&self, pieces: impl Iterator<Item = Piece<'a>>) -> ErrorEnergy {
        let scale = self.scale() as f32;
        if scale == 0.0 {
            return each(
                pieces,
                #[inline(always)]
                |x| x,
            );
        }
        match self {
            Self::RelativeGaussian { .. } => each_with_noise(
                pieces,
                #[inline(always)]
                |x, noise| x + (noise * scale) * x.abs(),
            ),
            Self::AbsoluteGaussian { .. } => each_with_noise(
                pieces,
                #[inline(always)]
                |x, noise| x + noise * scale,
            ),
            Self::SystematicBias { relative: false, .. } => each(
                pieces,
                #[inline(always)]
                |x| if x == 0.0 { x } else { x + scale.copysign(x) },
            ),
            Self::SystematicBias { relative: true, .. } => each(
                pieces,
                #[inline(always)]
                |x| x + x * scale,
            ),
            Self::Truncation { .. } => each(
                pieces,
                #[inline(always)]
                |x| truncate(x, scale),
            ),
        }
    }
}

/// Neighbouring values of a row: key, row, element of the first value, values.
type Piece<'a> = (NoiseKey, Row, u64, &'a mut [f32]);

/// Replaces every value by `image` of it.
#[inline(always)]
fn each<'a>(pieces: impl Iterator<Item = Piece<'a>>, image: impl Fn(f32) -> f32) -> ErrorEnergy {
    let mut lanes = Lanes::new();
    for (_, _, _, x) in pieces {
        lanes.replace(
            0,
            x,
            #[inline(always)]
            |_, x| image(x),
        );
    }
    lanes.sum()
}

/// Replaces every value by `image` of it and of the Gaussian value at its address.
#[inline(always)]
fn each_with_noise<'a>(
    pieces: impl Iterator<Item = Piece<'a>>,
    image: impl Fn(f32, f32) -> f32,
) -> ErrorEnergy {
    let mut lanes = Lanes::new();
    for (key, row, first_element, mut rest) in pieces {
        let mut block = first_element / 4;
        let mut skip = (first_element % 4) as usize;
        while !rest.is_empty() {
            let part = rest.split_off_mut(..rest.len().min(CHUNK - skip)).unwrap_or_default();
            let noise = gaussian_chunk(key, row, block);
            lanes.replace(
                skip,
                part,
                #[inline(always)]
                |i, x| image(x, noise[skip + i]),
            );
            block = block.wrapping_add(CHUNK as u64 / 4);
            skip = 0;
        }
    }
    lanes.sum()
}

/// The largest multiple of `step`, each rounded to f32, that is not larger in magnitude than `x`, with its sign.
///
/// The quotient alone may round past an integer, so its neighbours are tried too: that makes truncation idempotent and
/// never lets it go away from zero. Where the spacing of f32 at `x` is at least about the step, `x` stays.
#[inline(always)]
fn truncate(x: f32, step: f32) -> f32 {
    /// From here on quotients have no fraction.
    const WHOLE: f32 = 8_388_608.0;
    let magnitude = x.abs();
    let quotient = magnitude / step;
    let whole = quotient.trunc();
    let below = (whole - 1.0) * step;
    let near = whole * step;
    let above = (whole + 1.0) * step;
    let image = if near <= magnitude { near } else { below };
    let image = if above <= magnitude { above } else { image };
    if quotient < WHOLE { image.copysign(x) } else { x }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: NoiseKey = NoiseKey([11, 12]);
    const ROW: Row = Row { sequence: 13, position: 14 };

    fn ramp(n: usize) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * 0.37).sin() * 3.0).collect()
    }

    fn all(scale: f64) -> Vec<Perturbation> {
        let mut all: Vec<_> =
            Perturbation::NAMES.iter().map(|n| Perturbation::from_name(n, scale, false).unwrap()).collect();
        all.push(Perturbation::SystematicBias { scale, relative: true });
        all
    }

    /// The definition of each kind, one value at a time.
    fn reference(perturbation: Perturbation, row: Row, element: u64, x: f32) -> f32 {
        let noise = KEY.gaussian(row, element);
        let s = perturbation.scale() as f32;
        match perturbation {
            Perturbation::RelativeGaussian { .. } => x + (noise * s) * x.abs(),
            Perturbation::AbsoluteGaussian { .. } => x + noise * s,
            Perturbation::SystematicBias { .. } if x == 0.0 => x,
            Perturbation::SystematicBias { relative: false, .. } => x + x.signum() * s,
            Perturbation::SystematicBias { relative: true, .. } => x + x.signum() * (x.abs() * s),
            Perturbation::Truncation { .. } => truncate(x, s),
        }
    }

    proptest! {
        #[test]
        fn images_are_those_of_the_definition(first in 0..200_u64, length in 0..300_usize, scale in 0.001..0.5_f64) {
            for perturbation in all(scale) {
                let x = ramp(length);
                let mut image = x.clone();
                let energy = perturbation.apply(KEY, ROW, first, &mut image);
                let (mut error, mut signal) = (0.0, 0.0);
                for (i, (&x, &image)) in x.iter().zip(&image).enumerate() {
                    let expected = reference(perturbation, ROW, first + i as u64, x);
                    prop_assert_eq!(image.to_bits(), expected.to_bits(), "{:?} element {}", perturbation, i);
                    error += f64::from(image - x).powi(2);
                    signal += f64::from(x).powi(2);
                }
                prop_assert!((energy.error - error).abs() <= 1e-12 * error);
                prop_assert!((energy.signal - signal).abs() <= 1e-12 * signal);
            }
        }

        #[test]
        fn images_do_not_depend_on_how_a_row_is_split(length in 1..400_usize, at in 0..400_usize) {
            let at = at.min(length);
            for perturbation in all(0.05) {
                let mut whole = ramp(length);
                let mut parts = whole.clone();
                perturbation.apply(KEY, ROW, 0, &mut whole);
                perturbation.apply(KEY, ROW, 0, &mut parts[..at]);
                perturbation.apply(KEY, ROW, at as u64, &mut parts[at..]);
                prop_assert_eq!(&whole, &parts);
            }
        }

        #[test]
        fn truncation_goes_toward_zero_by_less_than_a_step_and_is_idempotent(
            x in -1e4_f32..1e4, step in 1e-3_f32..10.0,
        ) {
            let image = truncate(x, step);
            prop_assert!(image.abs() <= x.abs());
            prop_assert!(f64::from(x.abs()) - f64::from(image.abs()) < f64::from(step) + f64::from(x.abs()) * 1e-7);
            prop_assert_eq!(truncate(image, step), image);
            prop_assert_eq!((image / step).round() * step, image);
        }
    }

    #[test]
    fn truncation_keeps_multiples_of_the_step_and_signs() {
        for step in [0.1_f32, 0.3, 0.05, 1e-3, 0.25] {
            for n in -2000..2000 {
                let x = n as f32 * step;
                assert_eq!(truncate(x, step), x, "{n} · {step}");
            }
        }
        assert_eq!(truncate(-0.79, 0.25), -0.75);
        assert!(truncate(-0.1, 0.25).is_sign_negative());
        assert_eq!(truncate(1e30, 0.25), 1e30);
        assert_eq!(truncate(f32::NEG_INFINITY, 0.25), f32::NEG_INFINITY);
        assert!(truncate(f32::NAN, 0.25).is_nan());
    }

    #[test]
    fn rows_are_perturbed_each_at_its_own_address_whatever_the_batch() {
        for (count, width) in [(1, 1), (3, 5), (40, 128), (700, 96), (3, 40_000)] {
            let rows: Vec<Row> =
                (0..count).map(|i| Row { sequence: i / 7, position: (i % 7) as u32 }).collect();
            for perturbation in all(0.05) {
                let x = ramp(rows.len() * width);
                let mut together = x.clone();
                let energy = perturbation.apply_rows(KEY, &rows, 6, width, &mut together);
                let mut alone = x;
                let mut sum = ErrorEnergy::default();
                for (&row, x) in rows.iter().zip(alone.chunks_mut(width)) {
                    sum += perturbation.apply(KEY, row, 6, x);
                }
                assert_eq!(together, alone);
                assert!((energy.error - sum.error).abs() <= 1e-12 * sum.error);
                assert!((energy.signal - sum.signal).abs() <= 1e-12 * sum.signal);
            }
        }
    }

    #[test]
    fn images_and_energies_do_not_depend_on_the_thread_count() {
        let rows: Vec<Row> = (0..1500).map(|i| Row { sequence: i, position: 3 }).collect();
        for perturbation in all(0.05) {
            let run = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| {
                    let (mut flat, mut in_rows) = (ramp(150_001), ramp(rows.len() * 100));
                    let energies = [
                        perturbation.apply_flat(KEY, &mut flat),
                        perturbation.apply_rows(KEY, &rows, 0, 100, &mut in_rows),
                    ];
                    (flat, in_rows, energies)
                })
            };
            assert_eq!(run(1), run(3));
        }
    }

    #[test]
    fn results_are_the_same_at_every_simd_level() {
        for perturbation in all(0.05) {
            let (mut best, mut baseline) = (ramp(10_000), ramp(10_000));
            let a = perturbation.apply(KEY, ROW, 4, &mut best);
            let b = perturbation.kernel(std::iter::once((KEY, ROW, 4, &mut baseline[..])));
            assert_eq!((best, a), (baseline, b));
        }
    }

    #[test]
    fn flat_weights_are_one_row_without_sequence_or_position() {
        for length in [0, 7, 16 * 1024 + 3, 100_001] {
            for perturbation in all(0.05) {
                let (mut flat, mut row) = (ramp(length), ramp(length));
                perturbation.apply_flat(KEY, &mut flat);
                perturbation.apply(KEY, Row::WEIGHT, 0, &mut row);
                assert_eq!(flat, row);
            }
        }
    }

    #[test]
    fn measured_relative_error_is_the_one_asked_for() {
        for scale in [0.01, 0.05, 0.1] {
            let mut x = ramp(1 << 18);
            let energy = Perturbation::RelativeGaussian { scale }.apply_flat(KEY, &mut x);
            assert!((energy.relative() / scale - 1.0).abs() < 0.01, "{scale}: {}", energy.relative());
        }
    }

    #[test]
    fn zero_scale_changes_nothing_but_measures_the_signal() {
        for perturbation in all(0.0) {
            let x = [1.5, -0.0, 0.0, -2.0];
            let mut image = x;
            let energy = perturbation.apply(KEY, ROW, 0, &mut image);
            assert_eq!(image.map(f32::to_bits), x.map(f32::to_bits));
            assert_eq!(energy, ErrorEnergy { error: 0.0, signal: 6.25 });
        }
    }

    #[test]
    fn values_that_are_not_finite_stay_not_finite() {
        for perturbation in all(0.05) {
            let mut x = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
            perturbation.apply(KEY, ROW, 0, &mut x);
            assert!(x.iter().all(|x| !x.is_finite()), "{perturbation:?}: {x:?}");
        }
    }

    #[test]
    fn bias_leaves_zero_alone_and_steps_away_from_it_elsewhere() {
        let mut x = [0.0, 2.0, -2.0];
        Perturbation::SystematicBias { scale: 0.5, relative: false }.apply(KEY, ROW, 0, &mut x);
        assert_eq!(x, [0.0, 2.5, -2.5]);
        Perturbation::SystematicBias { scale: 0.5, relative: true }.apply(KEY, ROW, 0, &mut x);
        assert_eq!(x, [0.0, 3.75, -3.75]);
    }

    #[test]
    fn names_scales_and_kinds_agree() {
        for perturbation in all(0.25) {
            let name = perturbation.kind_name();
            assert!(Perturbation::NAMES.contains(&name));
            let relative = matches!(perturbation, Perturbation::SystematicBias { relative: true, .. });
            assert_eq!(Perturbation::from_name(name, 0.25, relative), Some(perturbation));
            assert_eq!(perturbation.with_scale(0.5).scale(), 0.5);
            assert_eq!(perturbation.with_scale(0.25), perturbation);
            assert_eq!(perturbation.is_random(), name.ends_with("gaussian"));
        }
        assert_eq!(Perturbation::from_name("gaussian", 0.1, false), None);
    }

    #[test]
    fn scales_that_are_negative_or_not_finite_are_refused_in_one_sentence() {
        for perturbation in all(-0.05) {
            let message = perturbation.validate().unwrap_err();
            assert_eq!(message, "scale is -0.05, but must be a finite number ≥ 0");
        }
        for scale in [f64::NAN, f64::INFINITY, 1e39] {
            assert!(all(scale).iter().all(|p| p.validate().is_err()), "{scale}");
        }
        assert!(all(0.0).iter().chain(&all(0.05)).all(|p| p.validate().is_ok()));
    }

    #[test]
    fn configuration_reads_back_what_it_wrote_and_refuses_unknown_keys() {
        for perturbation in all(0.05) {
            let text = toml::to_string(&perturbation).unwrap();
            assert_eq!(toml::from_str::<Perturbation>(&text).unwrap(), perturbation);
            let json = serde_json::to_string(&perturbation).unwrap();
            assert_eq!(serde_json::from_str::<Perturbation>(&json).unwrap(), perturbation);
        }
        let read = toml::from_str::<Perturbation>;
        assert_eq!(read("kind = 'truncation'\nstep = 0.5"), Ok(Perturbation::Truncation { scale: 0.5 }));
        assert_eq!(
            read("kind = 'systematic_bias'\nscale = 1"),
            Ok(Perturbation::SystematicBias { scale: 1.0, relative: false })
        );
        assert!(read("kind = 'relative_gaussian'\nscale = 0.05\nsigma = 1.0").is_err());
        assert!(read("kind = 'gauss'\nscale = 0.05").is_err());
        assert!(read("kind = 'relative_gaussian'").is_err());
    }
}
