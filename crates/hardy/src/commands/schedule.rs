//! `hardy schedule`: the scale of adaptive quantisation noise at every step.

use clap::{Args, ValueEnum};
use hardy_lab::{
    format,
    text_table::{Align, TextTable},
};
use hardy_train::schedule::Schedule;
use serde_json::json;

use crate::{failure::Failure, output::Output, sparkline};

/// More steps than any run has.
const MOST_STEPS: usize = 10_000_000;

const EXAMPLE: &str = "\
Examples:
  hardy schedule --kind staged --sigma-start 0.05 --sigma-end 0.0005 --stages 10 \\
      --total-steps 116
  hardy schedule --kind epoch_aware --sigma-start 0.05 --sigma-end 0.0005 --epochs 2 \\
      --steps-per-epoch 58 --stages-per-epoch 5
  hardy schedule --kind constant --sigma 0.01 --json";

/// The kinds of schedule.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Kind {
    /// The same sigma at every step
    Constant,
    /// Falling geometrically in stages, the first without noise (QeRL, arXiv:2510.11696)
    Staged,
    /// Falling geometrically over the epochs, in stages in each
    EpochAware,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Staged => "staged",
            Self::EpochAware => "epoch_aware",
        }
    }
}

/// Arguments of `hardy schedule`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Arguments {
    /// How sigma changes
    #[arg(long, value_enum)]
    kind: Kind,
    /// Sigma of a constant schedule
    #[arg(long, allow_negative_numbers = true)]
    sigma: Option<f64>,
    /// Sigma at the start
    #[arg(long, allow_negative_numbers = true)]
    sigma_start: Option<f64>,
    /// Sigma at the end
    #[arg(long, allow_negative_numbers = true)]
    sigma_end: Option<f64>,
    /// Stages of a staged schedule, the first without noise
    #[arg(long)]
    stages: Option<usize>,
    /// Steps of a staged schedule (of a constant one, 1 if left out)
    #[arg(long)]
    total_steps: Option<usize>,
    /// Epochs of an epoch-aware schedule
    #[arg(long)]
    epochs: Option<usize>,
    /// Steps of each
    #[arg(long)]
    steps_per_epoch: Option<usize>,
    /// Stages with noise in each
    #[arg(long)]
    stages_per_epoch: Option<usize>,
}

/// Prints sigma for every step from 0.
///
/// # Errors
/// Numbers that make no schedule.
pub fn run(args: &Arguments, output: Output) -> Result<(), Failure> {
    let schedule = args.schedule()?;
    schedule.validate().map_err(|error| Failure::input(error.to_string()))?;
    let sigma = schedule.sigmas();
    output.show(&json!({ "sigma": sigma }), |width| text(&sigma, width))
}

impl Arguments {
    fn schedule(&self) -> Result<Schedule, Failure> {
        self.refuse_what_means_nothing()?;
        let kind = self.kind.name();
        let number = |value: Option<f64>, flag| value.ok_or_else(|| missing(kind, flag));
        let count = |value: Option<usize>, flag| value.ok_or_else(|| missing(kind, flag));
        let ends = || {
            Ok::<_, Failure>((
                number(self.sigma_start, "--sigma-start")?,
                number(self.sigma_end, "--sigma-end")?,
            ))
        };
        let schedule = match self.kind {
            Kind::Constant => {
                let total_steps = self.total_steps.unwrap_or(1);
                Schedule::Constant { sigma: number(self.sigma, "--sigma")?, total_steps }
            }
            Kind::Staged => {
                let (sigma_start, sigma_end) = ends()?;
                let stages = count(self.stages, "--stages")?;
                let total_steps = count(self.total_steps, "--total-steps")?;
                Schedule::Staged { sigma_start, sigma_end, stages, total_steps }
            }
            Kind::EpochAware => {
                let (sigma_start, sigma_end) = ends()?;
                let epochs = count(self.epochs, "--epochs")?;
                let steps_per_epoch = count(self.steps_per_epoch, "--steps-per-epoch")?;
                let stages_per_epoch = count(self.stages_per_epoch, "--stages-per-epoch")?;
                Schedule::EpochAware { sigma_start, sigma_end, epochs, steps_per_epoch, stages_per_epoch }
            }
        };
        refuse_endless(&schedule)?;
        Ok(schedule)
    }

    /// A flag of another kind would be ignored, which its author did not mean.
    fn refuse_what_means_nothing(&self) -> Result<(), Failure> {
        use Kind::{Constant, EpochAware, Staged};
        let flags: [(&str, bool, &[Kind]); 8] = [
            ("--sigma", self.sigma.is_some(), &[Constant]),
            ("--sigma-start", self.sigma_start.is_some(), &[Staged, EpochAware]),
            ("--sigma-end", self.sigma_end.is_some(), &[Staged, EpochAware]),
            ("--stages", self.stages.is_some(), &[Staged]),
            ("--total-steps", self.total_steps.is_some(), &[Constant, Staged]),
            ("--epochs", self.epochs.is_some(), &[EpochAware]),
            ("--steps-per-epoch", self.steps_per_epoch.is_some(), &[EpochAware]),
            ("--stages-per-epoch", self.stages_per_epoch.is_some(), &[EpochAware]),
        ];
        let kind = self.kind.name();
        let belongs = |kinds: &[Kind]| kinds.iter().any(|other| other.name() == kind);
        match flags.iter().find(|(_, given, kinds)| *given && !belongs(kinds)) {
            Some((flag, ..)) => Err(Failure::input(format!("{flag} means nothing with --kind {kind}"))),
            None => Ok(()),
        }
    }
}

fn missing(kind: &str, flag: &str) -> Failure {
    Failure::input(format!("--kind {kind} needs {flag}"))
}

fn refuse_endless(schedule: &Schedule) -> Result<(), Failure> {
    let steps = match *schedule {
        Schedule::Constant { total_steps, .. } | Schedule::Staged { total_steps, .. } => Some(total_steps),
        Schedule::EpochAware { epochs, steps_per_epoch, .. } => epochs.checked_mul(steps_per_epoch),
    };
    if steps.is_some_and(|steps| steps <= MOST_STEPS) {
        return Ok(());
    }
    Err(Failure::input(format!("the schedule has more than {} steps", format::count(MOST_STEPS as u64))))
}

/// The steps that share a sigma, a row each, and a curve.
fn text(sigma: &[f64], width: usize) -> String {
    let mut table = TextTable::new(&[("steps", Align::Right), ("sigma", Align::Left)]);
    let mut first = 0;
    for run in sigma.chunk_by(|a, b| a == b) {
        let last = first + run.len() - 1;
        let steps = if first == last { first.to_string() } else { format!("{first} to {last}") };
        table.row([steps, format::significant(run[0], 6)]);
        first = last + 1;
    }
    let curve = sparkline::logarithmic(sigma, width.saturating_sub(2).min(100));
    format!("{}\n{curve}  (logarithmic; blank is no noise)\n", table.render())
}
