//! What every kind of error does, and what it does not depend on.

use super::apply::Piece;
use super::noise::truncate;
use super::*;
use crate::address::{Keys, NoiseKey, Row};
use crate::energy::ErrorEnergy;
use proptest::prelude::*;

const KEY: NoiseKey = NoiseKey([11, 12]);
const ROW: Row = Row { sequence: 13, position: 14 };

/// For comparing what may be NaN.
fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

fn ramp(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i as f32 * 0.37).sin() * 3.0).collect()
}

fn options(kind: &str) -> Options {
    Options { kind: kind.to_owned(), ..Options::default() }
}

/// Noise, bias and truncation.
fn all(scale: f64) -> Vec<Perturbation> {
    vec![
        Perturbation::RelativeGaussian { scale },
        Perturbation::AbsoluteGaussian { scale },
        Perturbation::SystematicBias { scale, relative: false },
        Perturbation::Truncation { scale },
        Perturbation::SystematicBias { scale, relative: true },
    ]
}

/// The faults, in some or in all channels.
fn faults(sparsity: f64) -> Vec<Perturbation> {
    let (bits, image) = (Bits::All, Image::F32);
    [
        Fault::DeadZone { scale: 0.5 },
        Fault::Saturation { scale: 1.5 },
        Fault::Spike { scale: 8.0, rate: 0.1 },
        Fault::Bias { scale: 0.25 },
        Fault::Stuck { value: -0.75 },
        Fault::BitFlip { rate: 0.05, bits, image },
        Fault::BitFlip { rate: 0.02, bits: Bits::Range(3, 9), image: Image::Bf16 },
        Fault::BurstFlip { rate: 0.9, period: 8, burst: 3, bits, image },
    ]
    .map(|fault| Perturbation::Fault { fault, sparsity })
    .to_vec()
}

/// Every format, to nearest and stochastically.
fn formats() -> Vec<Perturbation> {
    let with = |format: Format, rounding| Quantization { rounding, ..format.into() };
    [Rounding::Nearest, Rounding::Stochastic]
        .into_iter()
        .flat_map(|rounding| Format::ALL.iter().map(move |&f| Perturbation::Quantization(with(f, rounding))))
        .collect()
}

/// Everything that is done to values.
fn every() -> Vec<Perturbation> {
    [all(0.05), faults(1.0), faults(0.3), formats()].concat()
}

/// Keys whose channels have one of their own.
const KEYS: Keys = Keys { noise: KEY, channels: NoiseKey([21, 22]) };

/// The definition of each kind, one value at a time.
fn reference(perturbation: Perturbation, row: Row, element: u64, x: f32) -> f32 {
    let noise = KEY.gaussian(row, element);
    let s = perturbation.scale().unwrap_or_default() as f32;
    match perturbation {
        Perturbation::RelativeGaussian { .. } => x + (noise * s) * x.abs(),
        Perturbation::AbsoluteGaussian { .. } => x + noise * s,
        Perturbation::SystematicBias { .. } if x == 0.0 => x,
        Perturbation::SystematicBias { relative: false, .. } => x + x.signum() * s,
        Perturbation::SystematicBias { relative: true, .. } => x + x.signum() * (x.abs() * s),
        Perturbation::Truncation { .. } => truncate(x, s),
        other => unreachable!("{other:?} has a definition of its own"),
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
        for perturbation in [all(0.05), faults(1.0), faults(0.3)].concat() {
            let mut whole = ramp(length);
            let mut parts = whole.clone();
            perturbation.apply(KEYS, ROW, 0, &mut whole);
            perturbation.apply(KEYS, ROW, 0, &mut parts[..at]);
            perturbation.apply(KEYS, ROW, at as u64, &mut parts[at..]);
            prop_assert_eq!(bits(&whole), bits(&parts), "{:?}", perturbation);
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
        let rows: Vec<Row> = (0..count).map(|i| Row { sequence: i / 7, position: (i % 7) as u32 }).collect();
        for perturbation in every() {
            let x = ramp(rows.len() * width);
            let mut together = x.clone();
            let energy = perturbation.apply_rows(KEYS, &rows, 6, width, &mut together);
            let mut alone = x;
            let mut sum = ErrorEnergy::default();
            for (&row, x) in rows.iter().zip(alone.chunks_mut(width)) {
                sum += perturbation.apply(KEYS, row, 6, x);
            }
            assert_eq!(bits(&together), bits(&alone), "{perturbation:?}");
            let near = (energy.error - sum.error).abs() <= 1e-12 * sum.error;
            assert!(near || !sum.error.is_finite(), "{perturbation:?}");
            assert!((energy.signal - sum.signal).abs() <= 1e-12 * sum.signal);
        }
    }
}

#[test]
fn parts_together_are_what_they_are_one_by_one() {
    let parts = [(0, 1), (3, 130), (1 << 20, 64), (7, 0), (2, 700), (0, 512), (5, 33), (1 << 34, 1100)];
    let address = |i: usize| Row { position: i as u32, ..ROW };
    for perturbation in every() {
        let mut single: Vec<Vec<f32>> = parts.iter().map(|&(_, length)| ramp(length)).collect();
        let mut together = single.clone();
        let one = |(i, x): (usize, &mut Vec<f32>)| perturbation.apply(KEY, address(i), parts[i].0, x);
        let expected: ErrorEnergy = single.iter_mut().enumerate().map(one).sum();
        let all = together.iter_mut().enumerate().map(|(i, x)| (address(i), parts[i].0, &mut x[..]));
        let energy = perturbation.apply_parts(KEY, all);
        assert!(single.iter().zip(&together).all(|(a, b)| bits(a) == bits(b)), "{perturbation:?}");
        // Flipped bits may make an error without bounds.
        let near = |a: f64, b: f64| (a - b).abs() <= 1e-12 * b || !a.is_finite() && !b.is_finite();
        assert!(near(energy.error, expected.error), "{perturbation:?}: {energy:?}, not {expected:?}");
        assert!(near(energy.signal, expected.signal), "{perturbation:?}: {energy:?}, not {expected:?}");
    }
}

#[test]
fn images_and_energies_do_not_depend_on_the_thread_count() {
    let rows: Vec<Row> = (0..1500).map(|i| Row { sequence: i, position: 3 }).collect();
    for perturbation in every() {
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let (mut flat, mut in_rows) = (ramp(150_000), ramp(rows.len() * 100));
                let energies = [
                    perturbation.apply_flat(KEYS, 50_000, &mut flat),
                    perturbation.apply_rows(KEYS, &rows, 0, 100, &mut in_rows),
                ];
                (bits(&flat), bits(&in_rows), energies.map(|e| [e.error.to_bits(), e.signal.to_bits()]))
            })
        };
        assert_eq!(run(1), run(3));
    }
}

#[test]
fn results_are_the_same_at_every_simd_level() {
    for perturbation in [all(0.05), faults(1.0), faults(0.3)].concat() {
        let (mut best, mut baseline) = (ramp(10_000), ramp(10_000));
        let a = perturbation.apply(KEYS, ROW, 4, &mut best);
        let piece = Piece { keys: KEYS, row: ROW, element: 4, channel: 4, x: &mut baseline };
        let b = perturbation.kernel(std::iter::once(piece));
        assert_eq!(bits(&best), bits(&baseline));
        // The sign of a NaN is nobody's promise.
        assert!(a.error == b.error || a.error.is_nan() && b.error.is_nan(), "{} {}", a.error, b.error);
    }
}

#[test]
fn flat_weights_are_one_row_without_sequence_or_position() {
    for length in [0, 7, 16 * 1024 + 3, 100_001] {
        for perturbation in all(0.05) {
            let (mut flat, mut row) = (ramp(length), ramp(length));
            perturbation.apply_flat(KEY, length.max(1), &mut flat);
            perturbation.apply(KEY, Row::WEIGHT, 0, &mut row);
            assert_eq!(flat, row);
        }
    }
}

#[test]
fn measured_relative_error_is_the_one_asked_for() {
    for scale in [0.01, 0.05, 0.1] {
        let mut x = ramp(1 << 18);
        let energy = Perturbation::RelativeGaussian { scale }.apply_flat(KEY, 1 << 9, &mut x);
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
        assert_eq!(energy, ErrorEnergy { error: 0.0, signal: 6.25, non_finite: 0 });
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
    for &name in Perturbation::NAMES {
        let takes = Options::taken_by(name).unwrap();
        let some = |option: &str| takes.contains(&option).then_some(0.25);
        let spelled = Options {
            scale: some("scale").filter(|_| name != "stuck"),
            rate: some("rate"),
            value: some("value"),
            sparsity: some("sparsity"),
            chunk: takes.contains(&"chunk").then_some(64),
            ..options(name)
        };
        let perturbation = spelled.perturbation().unwrap();
        assert_eq!(perturbation.kind_name(), name);
        assert_eq!(Options::from(perturbation).perturbation(), Ok(perturbation));
        assert!(perturbation.validate().is_ok() && !perturbation.is_off());
        let scaled = perturbation.scale().is_some();
        assert_eq!(scaled, spelled.scale.is_some(), "{name}");
        assert_eq!(perturbation.with_scale(0.5).scale(), scaled.then_some(0.5));
        assert_eq!(perturbation.with_scale(0.25), perturbation);
    }
    let unknown = options("gaussian").perturbation();
    assert_eq!(unknown, Err(OptionError::UnknownKind("gaussian".to_owned())));
    assert!(all(0.1).iter().all(|p| p.is_random() == p.kind_name().ends_with("gaussian")));
}

#[test]
fn options_that_are_missing_or_mean_nothing_are_named() {
    let says = |options: Options| options.perturbation().unwrap_err().to_string();
    assert_eq!(says(options("dead_zone")), "missing field `scale`");
    assert_eq!(says(options("stuck")), "missing field `value`");
    assert_eq!(says(options("accumulate_fp16")), "missing field `chunk`");
    assert_eq!(says(Options { scale: Some(1.0), ..options("spike") }), "missing field `rate`");
    assert_eq!(
        says(Options { scale: Some(1.0), ..options("mxfp4") }),
        "`scale` means nothing with kind \"mxfp4\", which takes rounding, blocks, clip_gradient"
    );
}

#[test]
fn what_is_out_of_range_is_refused_in_one_sentence() {
    for perturbation in all(-0.05) {
        let message = perturbation.validate().unwrap_err();
        assert_eq!(message, "scale is -0.05, but must be a finite number ≥ 0");
    }
    for scale in [f64::NAN, f64::INFINITY, 1e39] {
        assert!(all(scale).iter().all(|p| p.validate().is_err()), "{scale}");
    }
    assert!(every().iter().chain(&all(0.0)).all(|p| p.validate().is_ok()));
    let fault = |fault, sparsity| Perturbation::Fault { fault, sparsity }.validate().unwrap_err();
    assert_eq!(fault(Fault::Bias { scale: 1.0 }, 1.5), "sparsity is 1.5, but must lie in 0..=1");
    assert_eq!(fault(Fault::Spike { scale: 1.0, rate: -0.5 }, 1.0), "rate is -0.5, but must lie in 0..=1");
    assert_eq!(fault(Fault::Stuck { value: f64::NAN }, 1.0), "value is NaN, but must be finite");
    let rare = fault(Fault::Spike { scale: 1.0, rate: 1e-20 }, 1.0);
    assert!(
        rare.starts_with("rate is 1e-20, so rare that nothing would be struck; the smallest is 1.08"),
        "{rare}"
    );
    assert!(fault(Fault::Bias { scale: 1.0 }, 1e-19).starts_with("sparsity is 1e-19"));
    let small = Perturbation::RelativeGaussian { scale: 1e-46 }.validate().unwrap_err();
    assert_eq!(small, "scale is 1e-46, which f32 does not tell from 0; the smallest is 1e-45");
    let bits =
        |first, last, image| fault(Fault::BitFlip { rate: 0.1, bits: Bits::Range(first, last), image }, 1.0);
    assert_eq!(bits(9, 16, Image::Bf16), "bits are [9, 16], but must be [first, last] within [0, 15]");
    assert_eq!(bits(9, 8, Image::F32), "bits are [9, 8], but must be [first, last] within [0, 31]");
    let square = |format: Format| Quantization { blocks: Blocks::TwoD, ..format.into() }.validate();
    assert!(square(Format::Mxfp4).is_ok() && square(Format::Nvfp4Block).is_ok());
    assert!(square(Format::Hif4).unwrap_err().contains("hif4 has no square blocks; only mxfp4, "));
    let none = Accumulation { partial: Partial::Bf16, chunk: 0 };
    assert_eq!(none.validate().unwrap_err(), "chunk is 0, but must be at least 1");
}

#[test]
fn configuration_reads_back_what_it_wrote_and_refuses_unknown_keys() {
    for perturbation in every() {
        let text = toml::to_string(&perturbation).unwrap();
        assert_eq!(toml::from_str::<Perturbation>(&text).unwrap(), perturbation, "{text}");
        let json = serde_json::to_string(&perturbation).unwrap();
        assert_eq!(serde_json::from_str::<Perturbation>(&json).unwrap(), perturbation);
    }
    let read = |text: &str| toml::from_str::<Perturbation>(text);
    assert_eq!(read("kind = 'truncation'\nstep = 0.5"), Ok(Perturbation::Truncation { scale: 0.5 }));
    assert_eq!(
        read("kind = 'systematic_bias'\nscale = 1"),
        Ok(Perturbation::SystematicBias { scale: 1.0, relative: false })
    );
    let flips = |bits| Fault::BitFlip { rate: 0.5, bits, image: Image::Bf16 };
    let bits = "kind = 'bit_flip'\nrate = 0.5\nimage = 'bf16'\nbits = ";
    for (text, bits_read) in [("'sign'", Bits::Sign), ("[7, 15]", Bits::Range(7, 15))] {
        let fault = flips(bits_read);
        assert_eq!(read(&format!("{bits}{text}")), Ok(Perturbation::Fault { fault, sparsity: 1.0 }));
    }
    assert!(read(&format!("{bits}'signs'")).unwrap_err().to_string().contains("but is \"signs\""));
    let two = "kind = 'mxfp4'\nblocks = '2d'\nrounding = 'stochastic'\nclip_gradient = true";
    let (rounding, blocks) = (Rounding::Stochastic, Blocks::TwoD);
    let quantization = Quantization { format: Format::Mxfp4, rounding, blocks, clip_gradient: true };
    assert_eq!(read(two), Ok(Perturbation::Quantization(quantization)));
    assert!(read("kind = 'relative_gaussian'\nscale = 0.05\nsigma = 1.0").is_err());
    assert!(read("kind = 'gauss'\nscale = 0.05").is_err());
    assert!(read("kind = 'relative_gaussian'").is_err());
}

#[test]
fn faults_do_what_they_are_called() {
    let strike = |fault, x: &[f32]| {
        let mut x = x.to_vec();
        Perturbation::Fault { fault, sparsity: 1.0 }.apply(KEYS, ROW, 0, &mut x);
        x
    };
    let x = [0.4, -0.4, 0.5, -3.0, 0.0];
    assert_eq!(strike(Fault::DeadZone { scale: 0.5 }, &x), [0.0, 0.0, 0.5, -3.0, 0.0]);
    assert_eq!(strike(Fault::Saturation { scale: 0.45 }, &x), [0.4, -0.4, 0.45, -0.45, 0.0]);
    assert_eq!(strike(Fault::Bias { scale: 1.0 }, &x), [1.4, 0.6, 1.5, -2.0, 1.0]);
    assert_eq!(strike(Fault::Stuck { value: 0.0 }, &x), [0.0; 5]);
    let flip = |bits, image, x: &[f32]| strike(Fault::BitFlip { rate: 1.0, bits, image }, x);
    assert_eq!(flip(Bits::Sign, Image::F32, &x), [-0.4, 0.4, -0.5, 3.0, 0.0]);
    assert_eq!(
        flip(Bits::Range(30, 30), Image::F32, &[0.75])[0],
        f32::from_bits(0.75_f32.to_bits() ^ 1 << 30)
    );
    assert_eq!(flip(Bits::All, Image::F32, &[1.0])[0].to_bits(), !1.0_f32.to_bits());
    assert_eq!(flip(Bits::Mantissa, Image::Bf16, &[1.001])[0], 2.0 - 1.0 / 128.0);
    for fault in faults(1.0) {
        let mut x = [f32::NAN];
        fault.apply(KEYS, ROW, 0, &mut x);
        assert!(x[0].is_nan(), "{fault:?}");
    }
}

#[test]
fn spikes_and_flips_come_as_often_as_asked_and_with_both_signs() {
    let n = 1 << 18;
    let mut x = vec![0.0; n];
    let fault = Fault::Spike { scale: 2.0, rate: 0.03 };
    Perturbation::Fault { fault, sparsity: 1.0 }.apply_flat(KEYS, 512, &mut x);
    let share = |value: f32| x.iter().filter(|&&x| x == value).count() as f64 / n as f64;
    assert!((share(2.0) - 0.015).abs() < 0.001 && (share(-2.0) - 0.015).abs() < 0.001);
    assert!((share(0.0) - 0.97).abs() < 0.002);
    for rate in [0.004, 0.3] {
        let mut x = vec![1.0_f32; n];
        let fault = Fault::BitFlip { rate, bits: Bits::Range(4, 11), image: Image::F32 };
        Perturbation::Fault { fault, sparsity: 1.0 }.apply_flat(KEYS, 512, &mut x);
        let mut flips = [0_u32; 32];
        for x in &x {
            let flipped = x.to_bits() ^ 1.0_f32.to_bits();
            (0..32).for_each(|bit| flips[bit] += flipped >> bit & 1);
        }
        for (bit, flips) in flips.into_iter().enumerate() {
            let expected = if (4..=11).contains(&bit) { rate } else { 0.0 };
            let share = f64::from(flips) / n as f64;
            assert!((share - expected).abs() <= 6.0 * (expected / n as f64).sqrt(), "bit {bit}: {share}");
        }
    }
}

#[test]
fn what_can_not_change_a_value_says_why() {
    let fault = |fault, sparsity| Perturbation::Fault { fault, sparsity }.off();
    assert!(all(0.0).iter().all(|p| p.off() == Some("scale")));
    assert_eq!(fault(Fault::Spike { scale: 1.0, rate: 0.0 }, 1.0), Some("rate"));
    assert_eq!(fault(Fault::Stuck { value: 0.0 }, 0.0), Some("sparsity"));
    assert!(every().iter().all(|p| p.off().is_none()));
}

#[test]
fn faulty_channels_are_the_same_in_every_row_and_step_and_as_many_as_asked() {
    let (width, fault) = (4096, Fault::Stuck { value: 7.0 });
    let struck = |keys, row, first| {
        let mut x = vec![0.0; width];
        Perturbation::Fault { fault, sparsity: 0.25 }.apply(keys, row, first, &mut x);
        x
    };
    let first = struck(KEYS, ROW, 0);
    let share = first.iter().filter(|&&x| x == 7.0).count() as f64 / width as f64;
    assert!((share - 0.25).abs() < 0.025, "{share}");
    assert_eq!(first, struck(Keys { noise: NoiseKey([8, 9]), ..KEYS }, Row { sequence: 5, position: 2 }, 0));
    assert_ne!(first, struck(Keys { channels: NoiseKey([8, 9]), ..KEYS }, ROW, 0));
    assert_eq!(first[1000..], struck(KEYS, ROW, 1000)[..width - 1000]);
    let mut weight = vec![0.0; 3 * width];
    Perturbation::Fault { fault, sparsity: 0.25 }.apply_flat(KEYS, width, &mut weight);
    assert!(weight.chunks(width).all(|row| row == first), "the channels of a weight are its columns");
}

#[test]
fn a_row_is_a_tensor_by_itself_and_a_weight_is_one_as_a_whole() {
    let x: Vec<f32> = (0..4 * 96).map(|i| (i as f32 * 0.7).sin() * (1.0 + (i / 96) as f32 * 50.0)).collect();
    let rows: Vec<Row> = (0..4).map(|i| Row { sequence: 1, position: i }).collect();
    for &format in Format::ALL {
        let (mut in_rows, mut weight) = (x.clone(), x.clone());
        let perturbation = Perturbation::from(format);
        perturbation.apply_rows(KEYS, &rows, 0, 96, &mut in_rows);
        let energy = perturbation.apply_flat(KEYS, 96, &mut weight);
        let (mut expected_rows, mut expected) = (x.clone(), x.clone());
        expected_rows.chunks_mut(96).for_each(|row| format.fake_quantize(row, 96));
        format.fake_quantize(&mut expected, 96);
        assert_eq!((in_rows, &weight), (expected_rows, &expected), "{}", format.name());
        assert_eq!(energy, ErrorEnergy::between(&x, &weight));
        assert!(energy.error > 0.0);
    }
}

#[test]
fn square_blocks_round_stochastically_onto_their_own_grid() {
    let x = ramp(40 * 70);
    for format in Format::ALL.iter().copied().filter(|format| format.side_2d().is_some()) {
        let quantization =
            Quantization { blocks: Blocks::TwoD, rounding: Rounding::Stochastic, ..format.into() };
        let image = |key: NoiseKey| {
            let mut x = x.clone();
            Perturbation::Quantization(quantization).apply_flat(key, 70, &mut x);
            x
        };
        let one = image(KEY);
        assert_eq!(one, image(KEY));
        assert_ne!(one, image(NoiseKey([1, 2])), "{}", format.name());
        let mut again = one.clone();
        format.fake_quantize_2d(&mut again, 70);
        assert!(format.name().starts_with("nvfp4") || again == one, "{}", format.name());
    }
}

#[test]
fn partial_sums_are_rounded_to_nearest_even() {
    for (partial, format) in [(Partial::Bf16, Format::Bf16), (Partial::Fp16, Format::Fp16)] {
        let (mut sums, mut expected) = (ramp(1000), ramp(1000));
        Accumulation { partial, chunk: 8 }.round(&mut sums);
        format.fake_quantize(&mut expected, 1000);
        assert_eq!(sums, expected);
    }
}
