use super::*;
use crate::testing::*;
use hardy_numerics::{Bits, ErrorEnergy, Fault, Format, Image, Keys, NoiseKey};
use hardy_numerics::{Blocks, Quantization, Rounding};

fn keys() -> Keys {
    Keys { noise: KEY, channels: NoiseKey([11, 12]) }
}

/// Every kind of error of single values, and some of their options.
fn kinds() -> Vec<Perturbation> {
    let fault = |fault, sparsity| Perturbation::Fault { fault, sparsity };
    let flip = |rate, bits, image| Fault::BitFlip { rate, bits, image };
    vec![
        Perturbation::RelativeGaussian { scale: 0.05 },
        Perturbation::AbsoluteGaussian { scale: 0.3 },
        Perturbation::SystematicBias { scale: 0.1, relative: false },
        Perturbation::SystematicBias { scale: 0.1, relative: true },
        Perturbation::Truncation { scale: 0.07 },
        fault(Fault::DeadZone { scale: 0.5 }, 0.3),
        fault(Fault::Saturation { scale: 0.9 }, 1.0),
        fault(Fault::Bias { scale: 0.4 }, 0.5),
        fault(Fault::Stuck { value: -2.5 }, 0.1),
        fault(Fault::Spike { scale: 3.0, rate: 0.02 }, 1.0),
        fault(Fault::Spike { scale: 3.0, rate: 0.5 }, 0.4),
        fault(flip(0.01, Bits::All, Image::F32), 1.0),
        fault(flip(0.2, Bits::Mantissa, Image::Bf16), 0.7),
        fault(flip(1.0, Bits::Range(3, 5), Image::F32), 1.0),
        fault(flip(1e-12, Bits::Exponent, Image::F32), 1.0),
        Perturbation::AbsoluteGaussian { scale: 0.0 },
    ]
}

fn formats() -> impl Iterator<Item = Perturbation> {
    Format::ALL.iter().flat_map(|&format| {
        [Rounding::Nearest, Rounding::Stochastic].map(|rounding| {
            Perturbation::Quantization(Quantization { rounding, ..Quantization::from(format) })
        })
    })
}

/// Numbers of all magnitudes, with zeros, NaN and infinities.
fn values(length: usize) -> Vec<f32> {
    let mut x = numbers(5, length);
    for (i, v) in x.iter_mut().enumerate() {
        match i % 97 {
            0 => *v = 0.0,
            1 => *v = -0.0,
            2 if i % 5 == 0 => *v = f32::NAN,
            3 if i % 7 == 0 => *v = f32::NEG_INFINITY,
            4 => *v *= 1e-20,
            5 => *v *= 1e18,
            _ => {}
        }
    }
    x
}

#[track_caller]
fn assert_energy(got: ErrorEnergy, want: ErrorEnergy, what: &str) {
    let near = |a: f64, b: f64| (a - b).abs() <= 1e-6 * b.abs();
    let same =
        got.non_finite == want.non_finite && near(got.error, want.error) && near(got.signal, want.signal);
    assert!(same, "{what}: {got:?}, not {want:?}");
}

#[test]
fn rows_are_perturbed_as_on_the_cpu_to_the_bit() {
    let client = client();
    let shape @ [rows, width] = [37, 203];
    let (addresses, table) = addresses(rows);
    let table = upload_words(&client, &table);
    for what in kinds().into_iter().chain(formats()) {
        let name = format!("{what:?}");
        let x = values(rows * width);
        let mut wanted = x.clone();
        what.apply_rows(keys(), &addresses, 0, width, &mut wanted);
        let tally = tally::new(&client);
        let error = Error { what, keys: keys() };
        let out = perturb_rows(&client, upload(&client, &x), shape, &table, &error, Some(&tally));
        assert_bits(&download(&client, out, rows * width), &wanted, &name);
        let counted = |i: &usize| i % 3 != 2;
        let energy = (0..rows).filter(counted).map(|i| {
            let row = i * width..(i + 1) * width;
            ErrorEnergy::between(&x[row.clone()], &wanted[row])
        });
        assert_energy(tally::read(&client, tally), energy.sum(), &name);
    }
}

#[test]
fn weights_are_perturbed_as_on_the_cpu_to_the_bit() {
    let client = client();
    let shape @ [rows, width] = [70, 101];
    let squares = Format::ALL.iter().filter(|format| format.side_2d().is_some()).flat_map(|&format| {
        [Rounding::Nearest, Rounding::Stochastic].map(|rounding| {
            let blocks = Blocks::TwoD;
            Perturbation::Quantization(Quantization { rounding, blocks, ..Quantization::from(format) })
        })
    });
    for what in kinds().into_iter().chain(formats()).chain(squares) {
        let name = format!("{what:?}");
        let x = values(rows * width);
        let mut wanted = x.clone();
        let energy = what.apply_flat(keys(), width, &mut wanted);
        let tally = tally::new(&client);
        let error = Error { what, keys: keys() };
        let out = perturb_flat(&client, upload(&client, &x), shape, &error, Some(&tally));
        assert_bits(&download(&client, out, rows * width), &wanted, &name);
        assert_energy(tally::read(&client, tally), energy, &name);
    }
}

#[test]
fn what_someone_else_holds_is_not_changed() {
    let client = client();
    let x = numbers(1, 64);
    let held = upload(&client, &x);
    let error = Error { what: Perturbation::AbsoluteGaussian { scale: 1.0 }, keys: keys() };
    let out = perturb_flat(&client, held.clone(), [1, 64], &error, None);
    assert_bits(&download(&client, held, 64), &x, "the original");
    assert_ne!(download(&client, out, 64), x);
}

#[test]
fn a_value_does_not_depend_on_what_shares_its_pass() {
    let client = client();
    let (_, table) = addresses(20);
    let x = numbers(2, 20 * 50);
    let error = Error { what: Perturbation::RelativeGaussian { scale: 0.1 }, keys: keys() };
    let run = |rows: std::ops::Range<usize>| {
        let table = upload_words(&client, &table[4 * rows.start..4 * rows.end]);
        let x = upload(&client, &x[50 * rows.start..50 * rows.end]);
        let out = perturb_rows(&client, x, [rows.len(), 50], &table, &error, None);
        download(&client, out, 50 * rows.len())
    };
    let parts = [run(0..3), run(3..4), run(4..20)].concat();
    assert_bits(&parts, &run(0..20), "parts");
}
