//! `hardy scan`: which layers a number format hurts.

use std::{
    io::{IsTerminal, stdout},
    path::PathBuf,
};

use clap::Args;
use hardy_lab::{
    Setting,
    evaluate::EVAL_DATA_SEED,
    format::percent,
    scan::{CALIBRATION, format_named, scan},
    text_table::{Align, TextTable},
};
use hardy_model::files::write_json;
use hardy_train::{
    config::refuse_existing,
    data::{self, Source, Split},
    error::Error,
    scan_file::{ScanFile, ScanRow, Thresholds, What},
};

use crate::{
    build_info,
    crew::{self, CrewArgs},
    device::{Engine, on_device},
    failure::Failure,
    model_source::ModelArgs,
    number_args::{explained, help, number, whole},
    output::Output,
};

const EXAMPLE: &str = "\
Calibration text is the first N problems with their worked answers. A layer is flagged by any of its activations. The \
JSON can guide AQN: [aqn] guide = \"variable\", scan = \"scan.json\".

Examples:
  hardy scan --model builtin:tiny --format mxfp4 --data builtin:arith --out scan.json
  torchrun --no-python --nproc-per-node 4 hardy scan --model DIR --format mxfp4 --data train.jsonl   (the passes shared out)";

/// Arguments of `hardy scan`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    /// The number format, such as mxfp4 or nvfp4
    #[arg(long, value_name = "NAME")]
    format: String,
    /// Calibration text: `builtin:arith`, or a GSM8K-style .jsonl file
    #[arg(long, value_name = "FILE")]
    data: String,
    #[arg(
        long,
        help = explained("Problems read", "eval.n"),
        value_name = "N",
        default_value_t = CALIBRATION,
        value_parser = whole::<usize>("eval.n")
    )]
    n: usize,
    #[arg(
        long,
        help = help("--min-sqnr"),
        value_name = "DB",
        default_value_t = 20.0,
        value_parser = number("--min-sqnr"),
        allow_negative_numbers = true
    )]
    min_sqnr: f64,
    #[arg(
        long,
        help = help("--max-dead-zone"),
        value_name = "SHARE",
        default_value_t = 0.05,
        value_parser = number("--max-dead-zone"),
        allow_negative_numbers = true
    )]
    max_dead_zone: f64,
    #[arg(
        long,
        help = help("--max-saturation"),
        value_name = "SHARE",
        default_value_t = 0.01,
        value_parser = number("--max-saturation"),
        allow_negative_numbers = true
    )]
    max_saturation: f64,
    #[arg(
        long,
        help = help("--max-relative-error"),
        value_name = "SHARE",
        default_value_t = 0.1,
        value_parser = number("--max-relative-error"),
        allow_negative_numbers = true
    )]
    max_relative_error: f64,
    /// How a problem is asked, with `{question}` in it
    #[arg(long, value_name = "TEXT", default_value = "{question}")]
    prompt: String,
    /// Keep the scan in a new file
    #[arg(long, value_name = "FILE.json")]
    out: Option<PathBuf>,
    #[command(flatten)]
    crew: CrewArgs,
}

/// Scans.
///
/// # Errors
/// A model, format or text that can not be used.
pub fn run(args: &Arguments, output: Output) -> Result<(), Failure> {
    on_device!(args.model.device.device, run_on(args, output))
}

fn run_on<B: Engine>(args: &Arguments, output: Output) -> Result<(), Failure> {
    let format = format_named(&args.format)?;
    args.out.as_deref().map_or(Ok(()), refuse_existing)?;
    let policy = args.model.policy::<B>()?;
    let problems = data::load(&Source::texts(&args.data), Split::Train, EVAL_DATA_SEED, Some(args.n));
    let problems = problems.map_err(Error::from)?;
    let setting = Setting { policy: &policy, problems: &problems, wording: &args.prompt };
    let crew = args.crew.launched(args.model.device.device)?;
    let lines = args.lines();
    let agreed = crew.agree(Some(&build_info::table()), &lines, &policy, problems.iter());
    let model = &args.model.spec;
    let found = agreed.and_then(|()| scan(&setting, model, format, args.thresholds(), &crew));
    let found = crew::ended(&crew, found)?;
    if !crew.workers.is_first() {
        return Ok(());
    }
    if let Some(path) = &args.out {
        let json = serde_json::to_value(&found).map_err(|error| Failure::run(error.to_string()))?;
        write_json(path, &json)?;
    }
    output.show(&found, |_| text(&found))
}

impl Arguments {
    /// What workers have to be asked alike, a line each.
    fn lines(&self) -> String {
        let Self { format, data, n, prompt, .. } = self;
        format!("--format {format}\n--data {data}\n--n {n}\n--prompt {prompt:?}\n{:?}\n", self.thresholds())
    }

    fn thresholds(&self) -> Thresholds {
        Thresholds {
            min_sqnr_db: self.min_sqnr,
            max_dead_zone: self.max_dead_zone,
            max_saturation: self.max_saturation,
            max_relative_error: self.max_relative_error,
        }
    }
}

fn text(found: &ScanFile) -> String {
    use Align::{Left, Right};
    let columns = [
        ("module", Left),
        ("what", Left),
        ("SQNR dB", Right),
        ("relative error", Right),
        ("dead zone", Right),
        ("saturation", Right),
        ("flagged for", Left),
    ];
    let mut table = TextTable::new(&columns);
    found.rows.iter().for_each(|row| table.row(cells(row)));
    let lines = table.render();
    let coloured = stdout().is_terminal();
    let body = lines.lines().enumerate().map(|(line, text)| {
        // Two lines of header stand above the rows.
        match line.checked_sub(2).and_then(|row| found.rows.get(row)) {
            Some(row) if coloured => format!("\x1b[38;5;{}m{text}\x1b[0m\n", heat(row)),
            _ => format!("{text}\n"),
        }
    });
    let (model, format, flagged, layers) = (&found.model, &found.format, &found.flagged_layers, found.layers);
    format!(
        "{model} in {format}\n\n{}\nflagged: {} of {layers} layers {flagged:?}\nrecommendation: {}\n",
        body.collect::<String>(),
        flagged.len(),
        found.recommendation.name()
    )
}

fn cells(row: &ScanRow) -> [String; 7] {
    [
        row.module.clone(),
        match row.what {
            What::Activation => "activation",
            What::Weight => "weight",
        }
        .to_owned(),
        row.sqnr_db.map_or_else(|| "∞".to_owned(), |db| format!("{db:.1}")),
        percent(row.relative_error),
        percent(row.dead_zone),
        percent(row.saturation),
        row.reasons.join(", "),
    ]
}

/// From green to red (of the 256 colours of terminals) by the thresholds crossed.
fn heat(row: &ScanRow) -> u8 {
    [34, 220, 208, 202, 196][row.reasons.len().min(4)]
}
