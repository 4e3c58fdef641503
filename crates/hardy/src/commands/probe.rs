//! `hardy probe`: which layers and operators an error hurts, or what errors would leave of activations and gradients.

mod heat;

use clap::Args;
use hardy_lab::{
    Setting,
    evaluate::EVAL_DATA_SEED,
    format::significant,
    probe::{Magnitude, magnitudes},
    sensitivity::sensitivities,
    text_table::{Align, TextTable},
};
use hardy_ops::{Ops, Pass, Rule};
use hardy_train::{
    data::{self, Source, Split},
    error::Error,
};

use crate::{
    device::{Engine, on_device},
    failure::Failure,
    model_source::ModelArgs,
    noise_args::NoiseArgs,
    number_args::{explained, whole},
    output::Output,
    progress::Progress,
};

const EXAMPLE: &str = "\
By default one error at a time enters at one operator of one layer, and the table shows what that alone does to the mean \
negative log-likelihood of the worked answers' tokens, in nats. The error is that of the plan's first rule, at every place \
that the rule selects; without a plan 5 % relative error on the output of every operator.

With --magnitudes: what every rule of the plan leaves of activations and gradients; without a plan 5 % relative error on the \
outputs of linear layers and matmuls and, backward, on their gradients.

Examples: who is to blame; and a look before hours are spent
  hardy probe --model builtin:tiny --data builtin:arith
  hardy probe --magnitudes --model builtin:tiny --data builtin:arith";

/// Arguments of `hardy probe`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    /// The problems whose worked answers are read: `builtin:arith`, or a GSM8K-style .jsonl file
    #[arg(long, value_name = "FILE")]
    data: String,
    /// Activation and gradient magnitudes, and the signal-to-noise that each rule leaves
    #[arg(long)]
    magnitudes: bool,
    #[command(flatten)]
    noise: NoiseArgs,
    #[arg(
        long,
        help = explained("Problems: the first N", "eval.n"),
        value_name = "N",
        default_value_t = 16,
        value_parser = whole::<usize>("eval.n")
    )]
    n: usize,
    /// How a problem is asked, with `{question}` in it
    #[arg(long, value_name = "TEXT", default_value = "{question}")]
    prompt: String,
}

/// Probes.
///
/// # Errors
/// A model, plan or data that can not be used.
pub fn run(args: &Arguments, output: Output) -> Result<(), Failure> {
    on_device!(args.model.device.device, run_on(args, output))
}

fn run_on<B: Engine>(args: &Arguments, output: Output) -> Result<(), Failure> {
    let mut plan = args.noise.plan()?;
    if plan.rules.is_empty() && !args.magnitudes {
        plan.rules.push(Rule { ops: Ops::All, ..Rule::noise(0.05) });
    } else if plan.rules.is_empty() {
        plan.rules.push(Rule { pass: vec![Pass::Forward, Pass::Backward], ..Rule::noise(0.05) });
    }
    let policy = args.model.policy::<B>()?;
    let problems = data::load(&Source::texts(&args.data), Split::Train, EVAL_DATA_SEED, Some(args.n));
    let problems = problems.map_err(Error::from)?;
    let setting = Setting { policy: &policy, problems: &problems, wording: &args.prompt };
    if args.magnitudes {
        let found = magnitudes(&setting, &plan)?;
        return output.show(&found, |_| text(&found));
    }
    let mut bar: Option<Progress> = None;
    let mut progress = |done, of| bar.get_or_insert_with(|| Progress::new("probe", of)).at(done);
    let found = sensitivities(&setting, &plan.rules[0], plan.seed, &mut progress)?;
    drop(bar);
    output.show(&found, |_| heat::table(&found))
}

fn text(found: &[Magnitude]) -> String {
    use Align::{Left, Right};
    let columns = [
        ("layer", Right),
        ("operator", Left),
        ("point", Left),
        ("rule", Right),
        ("magnitude", Right),
        ("error", Right),
        ("signal to noise", Right),
    ];
    let mut table = TextTable::new(&columns);
    for row in found {
        let db = row.signal_to_noise_db.map_or_else(|| "–".to_owned(), |db| format!("{db:.1} dB"));
        table.row([
            row.layer.map_or_else(|| "–".to_owned(), |layer| layer.to_string()),
            row.op.name().to_owned(),
            row.point.name().to_owned(),
            row.rule.to_string(),
            significant(row.magnitude, 3),
            significant(row.error, 3),
            db,
        ]);
    }
    table.render()
}
