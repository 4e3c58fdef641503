//! `hardy eval`: what a model loses under noise, on the same problems at every level.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use hardy_lab::{
    EvalRecord, RobustnessTable,
    evaluate::{EVAL_DATA_SEED, Evaluation, Level},
    nll::{NllLevel, nll},
    text_table::{Align, TextTable},
};
use hardy_model::files::write_json;
use hardy_ops::{Phase, Plan};
use hardy_train::{
    admission::Asking,
    config::Overlong,
    data::{self, Problem, Split, check_truths},
    error::Error,
    plan_file::{PlanFile, VARIABLE, read_plan},
    policy::Policy,
};
use serde::Serialize;

use crate::{
    device::Backend,
    failure::Failure,
    model_source::ModelArgs,
    noise_args,
    number_args::{explained, whole},
    output::{Output, note},
    progress::Progress,
};

const EXAMPLE: &str = "\
Level 0 is the clean model; every other level is held against it on the same problems. With --plan alone the levels \
are the clean model and the plan. HARDY_NOISE adds rules to every level.

Examples:
  hardy eval --model builtin:tiny --data builtin:arith --n 200
  hardy eval --model DIR --data test.jsonl --noise 0,0.02,0.05,0.1 --metric nll --json";

/// What is measured.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Metric {
    /// Right answers
    Accuracy,
    /// The mean negative log-likelihood of the worked answers
    Nll,
}

/// Which problems of a generated source.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Which {
    /// Those that are held out
    Eval,
    /// Those that training learns from
    Train,
}

/// Arguments of `hardy eval`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    /// The problems: `builtin:arith`, or a GSM8K-style .jsonl file
    #[arg(long, value_name = "FILE")]
    data: String,
    /// Scales of relative Gaussian error on linear layers and matmuls, one level each [default: 0,0.05,0.1]
    #[arg(
        long,
        value_name = "SCALES",
        value_delimiter = ',',
        value_parser = noise_args::scale,
        allow_negative_numbers = true
    )]
    noise: Vec<f64>,
    /// One more level: a TOML file with `[[noise]]` rules
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    #[arg(
        long,
        help = explained("Problems: the first N", "eval.n"),
        value_name = "N",
        default_value_t = 200,
        value_parser = whole::<usize>("eval.n")
    )]
    n: usize,
    /// What is measured
    #[arg(long, value_enum, default_value = "accuracy")]
    metric: Metric,
    /// The seed of the noise [default: the plan's, else 0]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    #[arg(
        long,
        help = explained("Tokens after which an answer is cut off", "eval.max_new_tokens"),
        value_name = "N",
        default_value_t = 256,
        value_parser = whole::<usize>("eval.max_new_tokens")
    )]
    max_new_tokens: usize,
    #[arg(
        long,
        help = explained("Sequences that are computed at once", "eval.batch"),
        value_name = "N",
        default_value_t = 256,
        value_parser = whole::<usize>("eval.batch")
    )]
    batch: usize,
    /// Which problems of a generated source
    #[arg(long, value_enum, default_value = "eval")]
    split: Which,
    /// How a problem is asked, with `{question}` in it
    #[arg(long, value_name = "TEXT", default_value = "{question}")]
    prompt: String,
    /// Keep the record, with every answer, in a file
    #[arg(long, value_name = "FILE.json")]
    out: Option<PathBuf>,
}

/// A record and what follows from it.
#[derive(Serialize)]
struct Judged {
    #[serde(flatten)]
    record: EvalRecord,
    table: RobustnessTable,
}

/// The likelihoods and what they were measured on.
#[derive(Serialize)]
struct Likelihoods<'a> {
    metric: &'static str,
    model: &'a str,
    data: &'a str,
    n: usize,
    seed: u64,
    levels: Vec<NllLevel>,
}

/// Evaluates.
///
/// # Errors
/// A model, data or plan that can not be used; noise that was asked for and never fired.
pub fn run(args: &Arguments, output: Output) -> Result<(), Failure> {
    let (seed, levels) = args.levels()?;
    let policy = args.model.policy()?;
    for level in &levels {
        noise_args::bind(&level.plan, &policy.decoder.blueprint, Phase::Eval)?;
    }
    let split = match args.split {
        Which::Eval => Split::Eval,
        Which::Train => Split::Train,
    };
    let problems = data::load(&args.data, split, EVAL_DATA_SEED, Some(args.n)).map_err(Error::from)?;
    if let Metric::Accuracy = args.metric {
        args.refuse_unanswerable(&policy, &problems)?;
    }
    let evaluation = Evaluation {
        policy: &policy,
        problems: &problems,
        wording: &args.prompt,
        model: &args.model.spec,
        data: &args.data,
        step: None,
        seed,
        max_new_tokens: args.max_new_tokens,
        batch: args.batch,
    };
    match args.metric {
        Metric::Accuracy => args.accuracy(&evaluation, &levels, output),
        Metric::Nll => args.likelihood(&evaluation, &levels, output),
    }
}

impl Arguments {
    /// The seed and the levels, with the rules of `HARDY_NOISE` in each.
    fn levels(&self) -> Result<(u64, Vec<Level>), Failure> {
        let plan = self.plan.as_deref().map(|path| Ok::<_, Failure>((path, read_plan(path)?))).transpose()?;
        let environment = noise_args::environment()?;
        let of_plan = plan.as_ref().and_then(|(_, file)| file.seed);
        let of_environment = environment.as_ref().and_then(|file| file.seed);
        let seed = self.seed.or(of_plan).or(of_environment).unwrap_or_default();
        let scales = match (&self.noise[..], &plan) {
            ([], Some(_)) => &[0.0][..],
            ([], None) => &[0.0, 0.05, 0.1],
            (given, _) => given,
        };
        let mut levels: Vec<Level> = scales.iter().map(|&scale| Level::noise(scale, seed)).collect();
        levels.extend(plan.map(|(path, file)| plan_level(path, file, seed)));
        if let Some(environment) = environment {
            levels.iter_mut().for_each(|level| add_environment(level, &environment));
        }
        Ok((seed, levels))
    }

    /// Refuses problems that the policy can not be given or that no answer can match, and warns where some can not.
    fn refuse_unanswerable(&self, policy: &Policy<Backend>, problems: &[Problem]) -> Result<(), Failure> {
        let warning = check_truths(&self.data, problems).map_err(Error::from)?;
        let asking = Asking {
            source: &self.data,
            wording: &self.prompt,
            max_prompt_tokens: None,
            overlong: Overlong::Refuse,
            new_tokens: self.max_new_tokens,
        };
        let longest = policy.admit(problems.to_vec(), &asking)?.longest;
        let answers = self.batch.min(problems.len());
        policy.refuse_large_cache(answers, longest, (answers, self.max_new_tokens))?;
        warning.iter().for_each(|warning| note(&format!("warning: {warning}")));
        Ok(())
    }

    fn accuracy(
        &self,
        evaluation: &Evaluation<'_, Backend>,
        levels: &[Level],
        output: Output,
    ) -> Result<(), Failure> {
        let mut progress: Option<Progress> = None;
        let record = evaluation.run(levels, |level, done| {
            let begun = progress.take().filter(|progress| progress.label() == level.label);
            let current = begun.unwrap_or_else(|| Progress::new(&level.label, evaluation.problems.len()));
            progress.insert(current).at(done);
        })?;
        drop(progress);
        let table = RobustnessTable::from_record(&record)?;
        if let Some(path) = &self.out {
            record.write(path)?;
        }
        output.show(&Judged { record, table: table.clone() }, |width| table.render(width))
    }

    fn likelihood(
        &self,
        evaluation: &Evaluation<'_, Backend>,
        levels: &[Level],
        output: Output,
    ) -> Result<(), Failure> {
        let levels = nll(evaluation, levels)?;
        let (n, seed) = (evaluation.problems.len(), evaluation.seed);
        let result =
            Likelihoods { metric: "nll", model: &self.model.spec, data: &self.data, n, seed, levels };
        if let Some(path) = &self.out {
            let value = serde_json::to_value(&result).map_err(|error| Failure::run(error.to_string()))?;
            write_json(path, &value)?;
        }
        output.show(&result, |_| likelihood_text(&result))
    }
}

fn plan_level(path: &Path, file: PlanFile, seed: u64) -> Level {
    let label = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let plan = Plan { rules: file.noise, seed, streams: file.streams.unwrap_or_default() };
    Level { label, noise: None, plan }
}

fn add_environment(level: &mut Level, environment: &PlanFile) {
    if environment.noise.is_empty() {
        return;
    }
    level.label = format!("{} + {VARIABLE}", level.label);
    level.noise = None;
    level.plan.rules.extend_from_slice(&environment.noise);
}

fn likelihood_text(result: &Likelihoods<'_>) -> String {
    use Align::{Left, Right};
    let columns =
        [("level", Left), ("nll", Right), ("95 % interval", Left), ("lost", Right), ("95 % interval", Left)];
    let mut table = TextTable::new(&columns);
    let interval = |low: f64, high: f64| format!("[{low:.4}, {high:.4}]");
    for level in &result.levels {
        let (lost, of_lost) = level.degradation.map_or_else(
            || ("–".to_owned(), String::new()),
            |(lost, of)| (format!("{lost:+.4}"), interval(of.low, of.high)),
        );
        let of_nll = interval(level.interval.low, level.interval.high);
        table.row([level.label.clone(), format!("{:.4}", level.nll), of_nll, lost, of_lost]);
    }
    let Likelihoods { model, data, n, .. } = result;
    format!(
        "{model} on {data}: mean negative log-likelihood of a token of the worked answers, in nats, {n} problems\n\n{}",
        table.render()
    )
}
