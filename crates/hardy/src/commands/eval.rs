//! `hardy eval`: what a model loses under noise, on the same problems at every level.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use hardy_lab::{
    EvalRecord, RobustnessTable, Setting,
    evaluate::{EVAL_DATA_SEED, Evaluation, Level},
    nll::{NllLevel, nll},
    receipt::without_effect,
    run::Crew,
    text_table::{Align, TextTable},
};
use hardy_model::files::write_json;
use hardy_numerics::Precision;
use hardy_ops::{Phase, Plan, Receipt};
use hardy_train::{
    admission::{Admitted, Asking},
    config::{Overlong, RewardSection, graders_of},
    data::{self, Answers, Source, Split, answers_for, check_truths},
    error::Error,
    plan_file::{PlanFile, VARIABLE, read_plan},
    reward::Judge,
};
use serde::Serialize;

use crate::{
    build_info,
    crew::{self, CrewArgs},
    device::{Engine, on_device},
    failure::Failure,
    model_source::ModelArgs,
    noise_args,
    number_args::{explained, number, whole},
    output::{Output, note},
    progress::Progress,
};

mod asked;

use asked::Asked;

const EXAMPLE: &str = "\
Level 0 is the clean model; every other level is held against it on the same problems. With --plan alone the levels \
are the clean model and the plan. HARDY_NOISE adds rules to every level. Of a run's checkpoint, wording, token limit, \
metric, data and number of problems are those of the run where they are not given. With --draws the error of every level is \
drawn anew so many times, and intervals doubt the draws as they doubt the problems. With --samples and --temperature \
every problem is answered several times: the mean counts (avg@K), and pass@k is told.

A metric is `strict` or `flexible` (GSM8K), `math` (the last \\boxed{}), `multiple_choice`, `nll` (the mean negative \
log-likelihood of the worked answers), `reward` (the weighted sum of the [[reward]]s of the checkpoint's run or of \
--rewards), or the name of one of these.

Examples:
  hardy eval --model builtin:tiny --data builtin:arith --n 200
  hardy eval --model runs/e5b/checkpoints/step-000080 --draws 5
  hardy eval --model DIR --data test.parquet --samples 8 --temperature 0.6 --metric math
  hardy eval --model DIR --data test.jsonl --noise 0,0.02,0.05,0.1 --metric nll --json
  torchrun --no-python --nproc-per-node 2 hardy eval --model DIR --data test.jsonl   (the problems shared out)";

/// The metric that stands for what the checkpoint's run, or --rewards, rewards.
const AS_REWARDED: &str = "accuracy";
/// The metric that is no judgement of answers.
const NLL: &str = "nll";

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
    /// The problems: `builtin:arith`, or JSON lines or Parquet in GSM8K's or verl's layout [default: those of the
    /// checkpoint's run]
    #[arg(long, value_name = "FILE")]
    data: Option<String>,
    /// The column of the question [default: as the checkpoint's run, else question or prompt]
    #[arg(long, value_name = "COLUMN")]
    question: Option<String>,
    /// The column of the answer [default: as the checkpoint's run, else answer or reward_model.ground_truth]
    #[arg(long, value_name = "COLUMN")]
    answer: Option<String>,
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
        help = explained("Problems: the first N [default: as many as the checkpoint's run, else 200]", "eval.n"),
        value_name = "N",
        value_parser = whole::<usize>("eval.n")
    )]
    n: Option<usize>,
    #[arg(
        long,
        help = explained(
            "Independent draws of the error at every level that has one [default: as the checkpoint's run, else 1]",
            "eval.draws"
        ),
        value_name = "K",
        value_parser = whole::<usize>("eval.draws")
    )]
    draws: Option<usize>,
    #[arg(
        long,
        help = explained("Answers to every problem [default: as the checkpoint's run, else 1]", "eval.samples"),
        value_name = "K",
        value_parser = whole::<usize>("eval.samples")
    )]
    samples: Option<usize>,
    #[arg(
        long,
        help = explained("Sampling temperature [default: as the checkpoint's run, else 0: greedy]", "eval.temperature"),
        value_name = "T",
        value_parser = number("eval.temperature")
    )]
    temperature: Option<f64>,
    #[arg(
        long,
        help = explained("Nucleus [default: as the checkpoint's run, else 1]", "eval.top_p"),
        value_name = "P",
        value_parser = number("eval.top_p")
    )]
    top_p: Option<f64>,
    /// What is measured: strict, flexible, math, multiple_choice, nll, reward, or a [[reward]]'s name [default: as the
    /// checkpoint's run or --rewards rewards, else strict]
    #[arg(long, value_name = "METRIC", default_value = AS_REWARDED, hide_default_value = true)]
    metric: String,
    /// What answers are rewarded for: a TOML file with `[[reward]]` tables [default: as the checkpoint's run]
    #[arg(long, value_name = "FILE")]
    rewards: Option<PathBuf>,
    /// The seed of the noise [default: the plan's, else 0]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    #[arg(
        long,
        help = explained("Tokens after which an answer is cut off [default: as the checkpoint's run, else 256]", "eval.max_new_tokens"),
        value_name = "N",
        value_parser = whole::<usize>("eval.max_new_tokens")
    )]
    max_new_tokens: Option<usize>,
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
    /// How a problem is asked, with `{question}` in it [default: as the checkpoint's run, else the question]
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// The system's message [default: as the checkpoint's run]
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    crew: CrewArgs,
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
    precision: Precision,
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
    on_device!(args.model.device.device, run_on(args, output))
}

fn run_on<B: Engine>(args: &Arguments, output: Output) -> Result<(), Failure> {
    let (seed, levels) = args.levels()?;
    let asked = args.asked()?;
    let judge = Judge::new(&graders_of(&asked.rewards, asked.metric.name())?)?;
    let policy = args.model.policy_as_stored::<B>()?.with_system(asked.system.clone());
    for level in &levels {
        noise_args::bind(&level.plan, &policy.decoder.blueprint, Phase::Eval)?;
    }
    let split = match args.split {
        Which::Eval => Split::Eval,
        Which::Train => Split::Train,
    };
    let is_nll = args.metric == NLL;
    let answers = if is_nll { Answers::Text } else { answers_for(judge.rewards()) };
    let source = Source { spec: &asked.data, columns: asked.columns.clone(), answers };
    let problems = data::load(&source, split, EVAL_DATA_SEED, Some(asked.n)).map_err(Error::from)?;
    let crew = args.crew.launched(args.model.device.device)?;
    let setting = Setting { policy: &policy, problems: &problems, wording: &asked.wording };
    if crew.workers.is_first() && !is_nll {
        args.refuse_unanswerable(&setting, &asked, judge.rewards())?;
    }
    let lines = format!("--metric {}\n{}", args.metric, asked.lines(seed, &levels));
    crew::ended(&crew, crew.agree(Some(&build_info::table()), &lines, &policy, problems.iter()))?;
    if is_nll {
        return args.likelihood(&crew, &setting, &asked, (seed, &levels), output);
    }
    let evaluation = Evaluation {
        setting,
        model: &args.model.spec,
        data: &asked.data,
        step: None,
        seed,
        max_new_tokens: asked.max_new_tokens,
        batch: args.batch,
        draws: asked.draws,
        metric: &asked.metric,
        judge: &judge,
        sampling: asked.sampling,
        workers: &crew.workers,
    };
    args.accuracy(&crew, &evaluation, &levels, output)
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
            levels = levels.into_iter().map(|level| on_environment(level, &environment)).collect();
        }
        Ok((seed, levels))
    }

    /// Refuses problems that the policy can not be given or that no answer can match, and warns where some can not.
    fn refuse_unanswerable<B: Engine>(
        &self,
        setting: &Setting<'_, B>,
        asked: &Asked,
        graders: &[RewardSection],
    ) -> Result<(), Failure> {
        let Setting { policy, problems, wording } = setting;
        let odd = check_truths(&asked.data, problems, graders).map_err(Error::from)?;
        let asking = Asking {
            source: &asked.data,
            wording,
            max_prompt_tokens: None,
            overlong: Overlong::Refuse,
            new_tokens: asked.max_new_tokens,
        };
        let Admitted { longest, warnings, .. } = policy.admit(problems.to_vec(), &asking)?;
        let answers = self.batch.min(problems.len() * asked.sampling.samples);
        policy.refuse_large_cache(answers, longest, (answers, asked.max_new_tokens))?;
        odd.iter().chain(&warnings).for_each(|warning| note(&format!("warning: {warning}")));
        Ok(())
    }

    fn accuracy<B: Engine>(
        &self,
        crew: &Crew,
        evaluation: &Evaluation<'_, B>,
        levels: &[Level],
        output: Output,
    ) -> Result<(), Failure> {
        let (mut progress, speaks): (Option<Progress>, bool) = (None, crew.workers.is_first());
        let made = evaluation.run(levels, |level, done| {
            if !speaks {
                return;
            }
            let begun = progress.take().filter(|progress| progress.label() == level.label);
            let current = begun.unwrap_or_else(|| Progress::new(&level.label, evaluation.answers(level)));
            progress.insert(current).at(done);
        });
        drop(progress);
        let record = crew::ended(crew, made)?;
        if !speaks {
            return Ok(());
        }
        for level in &record.levels {
            let draws = level.draws.iter().map(|draw| &draw.receipts);
            tell_idle(&level.label, std::iter::once(&level.receipts).chain(draws));
        }
        let table = RobustnessTable::from_record(&record)?;
        if let Some(path) = &self.out {
            record.write(path)?;
        }
        output.show(&Judged { record, table: table.clone() }, |width| table.render(width))
    }

    fn likelihood<B: Engine>(
        &self,
        crew: &Crew,
        setting: &Setting<'_, B>,
        asked: &Asked,
        (seed, levels): (u64, &[Level]),
        output: Output,
    ) -> Result<(), Failure> {
        let levels = crew::ended(crew, nll(setting, levels, asked.draws, crew))?;
        if !crew.workers.is_first() {
            return Ok(());
        }
        levels.iter().for_each(|level| tell_idle(&level.label, &level.receipts));
        let n = setting.problems.len();
        let result = Likelihoods {
            metric: "nll",
            model: &self.model.spec,
            precision: setting.policy.decoder.blueprint.precision,
            data: &asked.data,
            n,
            seed,
            levels,
        };
        if let Some(path) = &self.out {
            let value = serde_json::to_value(&result).map_err(|error| Failure::run(error.to_string()))?;
            write_json(path, &value)?;
        }
        output.show(&result, |_| likelihood_text(&result))
    }
}

/// Says which rules of a level changed nothing, in no draw.
fn tell_idle<'a>(label: &str, draws: impl IntoIterator<Item = &'a Vec<Receipt>>) {
    let all: Vec<Receipt> = draws.into_iter().flatten().cloned().collect();
    without_effect(&all).iter().for_each(|told| note(&format!("warning: level {label}: {told}")));
}

fn plan_level(path: &Path, file: PlanFile, seed: u64) -> Level {
    let label = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    Level::plan(label, Plan { rules: file.noise, seed, streams: file.streams.unwrap_or_default() })
}

/// The rules of the environment stand under every level.
fn on_environment(level: Level, environment: &PlanFile) -> Level {
    level.on(&environment.noise, VARIABLE)
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
    let broken = result.levels.iter().filter(|level| level.non_finite > 0).map(|level| {
        let of = level.draws.iter().map(Vec::len).sum::<usize>();
        format!(
            "{}: {} of {of} answers have no finite likelihood and count as 103.3 nats a token\n",
            level.label, level.non_finite
        )
    });
    format!(
        "{model} on {data}: mean negative log-likelihood of a token of the worked answers, in nats, {n} problems\n\n{}{}",
        table.render(),
        broken.collect::<String>()
    )
}
