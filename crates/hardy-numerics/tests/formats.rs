//! The number formats against images computed by other programs, and what theory promises of them.

use hardy_numerics::{Format, NoiseKey, Row};
use proptest::prelude::*;
use safetensors::SafeTensors;
use std::path::PathBuf;

fn golden_directory() -> Option<PathBuf> {
    let named = std::env::var_os("HARDY_GOLDEN").unwrap_or_else(|| "../shared/golden".into());
    let directory = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(named);
    if directory.join("formats.safetensors").exists() {
        return Some(directory);
    }
    println!("skipped: {} holds no formats.safetensors", directory.display());
    None
}

fn values(tensors: &SafeTensors, name: &str) -> Option<(Vec<f32>, usize)> {
    let tensor = tensors.tensor(name).ok()?;
    let width = *tensor.shape().last()?;
    let values = tensor.data().as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    Some((values, width))
}

/// Formats that divide in f32, in an order of their own: one value in 10,000 may be the next one.
fn may_differ(format: Format) -> bool {
    ["nvfp4", "fp8", "int"].iter().any(|family| format.name().starts_with(family))
}

#[test]
fn golden_images_are_equal() {
    let Some(directory) = golden_directory() else { return };
    let bytes =
        std::fs::read(directory.join("formats.safetensors")).expect("formats.safetensors is readable");
    let tensors = SafeTensors::deserialize(&bytes).expect("formats.safetensors is valid");
    let names = tensors.names();
    let cases: Vec<&str> = names.iter().filter_map(|name| name.strip_prefix("x/")).collect();
    for &format in Format::ALL {
        let (mut compared, mut different) = (0, 0);
        for case in &cases {
            let (mut x, width) = values(&tensors, &format!("x/{case}")).expect("x is there");
            let name = format!("{}/{case}", format.name());
            let Some((expected, _)) = values(&tensors, &name) else { continue };
            format.fake_quantize(&mut x, width);
            compared += x.len();
            for (i, (&image, &expected)) in x.iter().zip(&expected).enumerate() {
                if image.to_bits() == expected.to_bits() {
                    continue;
                }
                different += 1;
                let near = (image - expected).abs() <= image.abs().max(expected.abs());
                assert!(may_differ(format) && near, "{name}[{i}] is {image:e}, expected {expected:e}");
            }
        }
        println!("{}: {different} of {compared} differ", format.name());
        assert!(different * 10_000 <= compared, "{}: {different} of {compared} differ", format.name());
    }
}

/// A value of any magnitude that leaves room for scaling, with ties and zeros among them.
fn value() -> impl Strategy<Value = f32> {
    let magnitude = (0_u32..1 << 23, 107_u32..147).prop_map(|(m, e)| f32::from_bits(e << 23 | m));
    let digits = (-64_i32..=64).prop_map(|n| n as f32 / 16.0);
    prop_oneof![4 => (magnitude, any::<bool>()).prop_map(|(a, minus)| if minus { -a } else { a }), 2 => digits]
}

fn any_format() -> impl Strategy<Value = Format> {
    proptest::sample::select(Format::ALL)
}

fn is_mx(format: Format) -> bool {
    format.name().starts_with("mx")
}

fn image(format: Format, x: &[f32], width: usize) -> Vec<f32> {
    let mut x = x.to_vec();
    format.fake_quantize(&mut x, width);
    x
}

proptest! {
    #[test]
    fn quantising_twice_is_quantising_once(x in prop::collection::vec(value(), 1..200), format in any_format()) {
        prop_assume!(is_mx(format) || ["bf16", "fp16", "tf32"].contains(&format.name()));
        let once = image(format, &x, x.len());
        prop_assert_eq!(image(format, &once, x.len()), once);
    }

    #[test]
    fn images_are_odd(x in prop::collection::vec(value(), 1..200), format in any_format()) {
        let minus: Vec<f32> = x.iter().map(|v| -v).collect();
        let image_of_minus = image(format, &minus, x.len());
        let minus_image: Vec<f32> = image(format, &x, x.len()).iter().map(|v| -v).collect();
        prop_assert_eq!(image_of_minus, minus_image);
    }

    #[test]
    fn images_within_a_block_are_in_the_order_of_the_values(
        mut x in prop::collection::vec(value(), 4..=16),
        format in any_format(),
    ) {
        if format == Format::Hif4 {
            x.truncate(4);
        }
        x.sort_by(f32::total_cmp);
        prop_assert!(image(format, &x, x.len()).is_sorted());
    }

    #[test]
    fn scaling_by_a_power_of_two_commutes_with_mx(
        x in prop::collection::vec(value(), 1..100),
        format in any_format(),
        power in -60_i32..60,
    ) {
        prop_assume!(is_mx(format));
        let factor = 2.0_f32.powi(power);
        let scaled: Vec<f32> = x.iter().map(|v| v * factor).collect();
        let expected: Vec<f32> = image(format, &x, x.len()).iter().map(|v| v * factor).collect();
        prop_assert_eq!(image(format, &scaled, x.len()), expected);
    }

    #[test]
    fn a_short_last_block_behaves_as_if_padded_with_zeros(
        x in prop::collection::vec(value(), 1..200),
        format in any_format(),
    ) {
        let mut padded = x.clone();
        padded.resize(x.len().next_multiple_of(64), 0.0);
        prop_assert_eq!(&image(format, &padded, padded.len())[..x.len()], &image(format, &x, x.len())[..]);
    }

    #[test]
    fn any_bits_are_quantised_and_nan_stays_in_its_place(
        bits in prop::collection::vec(any::<u32>(), 1..200),
        format in any_format(),
    ) {
        let x: Vec<f32> = bits.iter().map(|&b| f32::from_bits(b)).collect();
        for (v, image) in x.iter().zip(image(format, &x, x.len())) {
            prop_assert_eq!(v.is_nan(), image.is_nan());
        }
    }

    #[test]
    fn decoding_what_was_encoded_gives_the_quantised_values_to_the_bit(
        mut x in prop::collection::vec(prop_oneof![9 => value(), 1 => any::<f32>()], 1..300),
        format in any_format(),
        rows in 1_usize..4,
    ) {
        prop_assume!(format.block() > 1);
        x.iter_mut().filter(|v| v.is_nan()).for_each(|v| *v = -0.0);
        x.resize(x.len().next_multiple_of(rows), 0.0);
        let width = x.len() / rows;
        let bytes = format.encode(&x, width).expect("no value is NaN");
        prop_assert_eq!(Some(bytes.len()), format.packed_len(rows, width));
        let decoded = format.decode(&bytes, rows, width).expect("the length is right");
        for (i, (decoded, image)) in decoded.iter().zip(image(format, &x, width)).enumerate() {
            prop_assert_eq!(decoded.to_bits(), image.to_bits(), "{}: {} {}", i, decoded, image);
        }
    }

    #[test]
    fn decoders_take_any_bytes(
        mut bytes in prop::collection::vec(any::<u8>(), 0..400),
        format in any_format(),
        rows in prop_oneof![9 => 0_usize..4, 1 => Just(usize::MAX)],
        width in prop_oneof![9 => 0_usize..300, 1 => Just(usize::MAX)],
        fits: bool,
    ) {
        if let Some(length) = format.packed_len(rows, width).filter(|&length| fits && length < 10_000) {
            bytes.resize(length, 0xA5);
        }
        if let Ok(x) = format.decode(&bytes, rows, width) {
            prop_assert_eq!(x.len(), rows * width);
        }
    }

    #[test]
    fn a_weight_and_its_transpose_have_the_same_image_in_square_blocks(
        x in prop::collection::vec(value(), 40 * 70),
        format in any_format(),
    ) {
        prop_assume!(format.side_2d().is_some());
        let transpose = |x: &[f32], rows: usize, width: usize| -> Vec<f32> {
            (0..x.len()).map(|i| x[i % rows * width + i / rows]).collect()
        };
        let mut transposed = transpose(&x, 40, 70);
        format.fake_quantize_2d(&mut transposed, 40);
        let mut straight = x;
        format.fake_quantize_2d(&mut straight, 70);
        prop_assert_eq!(transpose(&straight, 40, 70), transposed);
    }

    #[test]
    fn a_nan_does_not_change_its_neighbours(
        mut x in prop::collection::vec(value(), 2..100),
        at in any::<prop::sample::Index>(),
        format in any_format(),
    ) {
        let at = at.index(x.len());
        x[at] = 0.0;
        let mut expected = image(format, &x, x.len());
        x[at] = f32::NAN;
        let mut image = image(format, &x, x.len());
        prop_assert!(image[at].is_nan());
        (image[at], expected[at]) = (0.0, 0.0);
        prop_assert_eq!(image, expected);
    }

    #[test]
    fn stochastic_images_lie_on_the_grid_and_depend_on_the_address_alone(
        x in prop::collection::vec(value(), 64..=64),
        format in any_format(),
    ) {
        let key = NoiseKey([1, 2]);
        let rows = [Row { sequence: 1, position: 2 }, Row { sequence: 3, position: 4 }];
        let mut both = [&x[..], &x[..]].concat();
        format.fake_quantize_stochastic(key, &rows, &mut both, 64);
        let mut second = x.clone();
        format.fake_quantize_stochastic(key, &rows[1..], &mut second, 64);
        prop_assert_eq!(&both[64..], &second[..]);
        if is_mx(format) {
            prop_assert_eq!(image(format, &second, 64), second, "every image is on the grid");
        }
    }
}

#[test]
fn the_mean_of_stochastic_images_is_the_value() {
    for &format in Format::ALL {
        let rows: Vec<Row> = (0..4000).map(|sequence| Row { sequence, position: 0 }).collect();
        let x: [f32; 8] = [1.0, 0.5001, 0.7, -0.3, 0.123, 0.9, -0.61, 0.05];
        let mut images = x.repeat(rows.len());
        format.fake_quantize_stochastic(NoiseKey([5, 6]), &rows, &mut images, x.len());
        for (i, v) in x.iter().enumerate().skip(1) {
            let mean: f64 = images.iter().skip(i).step_by(8).map(|&v| f64::from(v)).sum::<f64>() / 4000.0;
            assert!((mean - f64::from(*v)).abs() < 0.012, "{}: {v} has mean {mean}", format.name());
        }
    }
}

#[test]
fn images_do_not_depend_on_how_the_tensor_is_cut_into_tasks() {
    let x: Vec<f32> = (0..300_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) as i32) as f32).collect();
    for &format in Format::ALL {
        let whole = image(format, &x, 3000);
        if ["nvfp4", "fp8_e4m3", "fp8_e5m2"].contains(&format.name()) {
            continue;
        }
        for (row, expected) in x.chunks(3000).zip(whole.chunks(3000)) {
            assert_eq!(image(format, row, 3000), expected, "{}", format.name());
        }
    }
}

#[test]
fn names_lead_back_to_their_formats() {
    for (&format, &name) in Format::ALL.iter().zip(Format::NAMES) {
        assert_eq!(format.name(), name);
        assert_eq!(Format::from_name(name), Some(format));
        assert_eq!(serde_json::to_string(&format).expect("a format is JSON"), format!("\"{name}\""));
    }
    assert_eq!(Format::from_name("mxfp5"), None);
}

#[test]
fn gradients_are_clipped_where_a_value_saturates_and_nowhere_else() {
    let uniform = |i: u32| (i.wrapping_mul(2_654_435_761) as i32) as f32 * 1e-9;
    let x: Vec<f32> = (0..40 * 128).map(|i| uniform(i) * (1.0 + (i / 16 % 7) as f32 * 0.14)).collect();
    for &format in Format::ALL {
        let (mut grad, image) = (vec![1.0; x.len()], image(format, &x, 128));
        format.clip_saturated(&x, 128, &mut grad);
        let clipped = grad.iter().filter(|&&g| g == 0.0).count();
        let rounds_its_scale = is_mx(format) && format != Format::Mxfp4Rceil
            || [Format::Nvfp4, Format::Nvfp4Block, Format::Hif4].contains(&format);
        assert_eq!(clipped > 0, rounds_its_scale, "{}: {clipped}", format.name());
        for ((x, image), _) in x.iter().zip(&image).zip(&grad).filter(|(_, grad)| **grad == 0.0) {
            assert!(x.abs() > image.abs(), "{}: {x} became {image}", format.name());
        }
    }
    for (x, saturates) in [(65504.0, false), (65505.0, true), (f32::NAN, false)] {
        let mut grad = [1.0];
        Format::Fp16.clip_saturated(&[x], 1, &mut grad);
        assert_eq!(grad[0] == 0.0, saturates, "{x}");
    }
}

#[test]
fn mxfp4_saturates_above_six_times_its_scale() {
    // The largest magnitude 7 has the exponent 2, and so the block the scale 1.
    let x = [7.0, 6.0, -6.5, 5.0, 0.0];
    let mut grad = [1.0; 5];
    Format::Mxfp4.clip_saturated(&x, 5, &mut grad);
    assert_eq!(grad, [0.0, 1.0, 0.0, 1.0, 1.0]);
    let mut square = [1.0; 5];
    Format::Mxfp4.clip_saturated_2d(&x, 1, &mut square);
    assert_eq!(square, grad);
}
