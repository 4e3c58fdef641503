//! `hardy formats`: every number format, with what it costs and what it keeps of Gaussian values.

use clap::Args;
use hardy_lab::{
    format,
    text_table::{Align, TextTable},
};
use hardy_numerics::{ErrorMetrics, Format, NoiseKey, Row, fill_gaussian};
use serde::Serialize;

use crate::{failure::Failure, output::Output, tensor_errors::number};

/// Values that are quantised to measure a format, and their width as a tensor.
const SAMPLES: usize = 1 << 18;
const WIDTH: usize = 1024;

const EXAMPLE: &str = "\
The largest magnitude of a format whose scale is f32 is in units of that scale. Errors are measured now, on 262144 values of \
the standard normal distribution in rows of 1024.

Example: what a format costs and keeps
  hardy formats --json";

/// Arguments of `hardy formats`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Arguments {}

/// All formats.
#[derive(Serialize)]
struct Outcome {
    samples: usize,
    formats: Vec<Entry>,
}

/// One format.
#[derive(Serialize)]
struct Entry {
    name: &'static str,
    bits_per_value: f64,
    scale: &'static str,
    block: usize,
    square_blocks: bool,
    largest: f64,
    #[serde(flatten)]
    gaussian: ErrorMetrics,
}

/// Lists the formats.
///
/// # Errors
/// Standard output that can not be written.
pub fn run(_: &Arguments, output: Output) -> Result<(), Failure> {
    let mut x = vec![0.0; SAMPLES];
    fill_gaussian(NoiseKey::new(0, "formats", 0, "gaussian"), Row::WEIGHT, 0, &mut x);
    let outcome =
        Outcome { samples: SAMPLES, formats: Format::ALL.iter().map(|format| entry(*format, &x)).collect() };
    output.show(&outcome, |_| text(&outcome.formats))
}

fn entry(format: Format, x: &[f32]) -> Entry {
    let mut image = x.to_vec();
    format.fake_quantize(&mut image, WIDTH);
    Entry {
        name: format.name(),
        bits_per_value: format.bits_per_value(),
        scale: scale(format),
        block: format.block(),
        square_blocks: format.side_2d().is_some(),
        largest: format.largest(),
        gaussian: ErrorMetrics::measure(x, &image),
    }
}

/// What scales a format has.
fn scale(format: Format) -> &'static str {
    match format {
        Format::Mxfp4
        | Format::Mxfp4Rceil
        | Format::Mxfp6E2m3
        | Format::Mxfp6E3m2
        | Format::Mxfp8E4m3
        | Format::Mxfp8E5m2 => "E8M0 for 32",
        Format::Nvfp4 => "E4M3 for 16, f32 for the tensor",
        Format::Nvfp4Block => "E4M3 for 16",
        Format::Hif4 => "E6M2 for 64, 1 bit for 8 and 4",
        Format::Fp8E4m3 | Format::Fp8E5m2 => "f32 for the tensor",
        Format::Int8 => "f32 for the row",
        Format::Int4G32 => "f32 for 32",
        Format::Bf16 | Format::Fp16 | Format::Tf32 => "none",
    }
}

fn text(formats: &[Entry]) -> String {
    use Align::{Left, Right};
    let columns = [
        ("format", Left),
        ("bits/value", Right),
        ("scale", Left),
        ("largest", Right),
        ("2d", Left),
        ("SQNR dB", Right),
        ("mean relative", Right),
        ("dead zone", Right),
    ];
    let mut table = TextTable::new(&columns);
    for entry in formats {
        table.row([
            entry.name.to_owned(),
            format!("{}", entry.bits_per_value),
            entry.scale.to_owned(),
            format::significant(entry.largest, 5),
            if entry.square_blocks { "yes" } else { "no" }.to_owned(),
            format!("{:.2}", entry.gaussian.sqnr_db),
            number(entry.gaussian.mean_relative),
            number(entry.gaussian.dead_zone),
        ]);
    }
    table.render()
}
