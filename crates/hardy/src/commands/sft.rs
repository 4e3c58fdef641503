//! `hardy sft`: supervised warm-up of a base model on worked answers.

use std::{
    fs,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use clap::Args;
use hardy_lab::{
    EvalRecord, LabError, Metric, Setting,
    evaluate::{EVAL_DATA_SEED, Evaluation, Level, Sampling},
    format,
    lock::Lock,
    run::{Crew, LOCK},
};
use hardy_model::files::write_atomically;
use hardy_train::{
    admission::{Admitted, Asking},
    checkpoint,
    config::{RewardKind, RewardSection, refuse_existing},
    data::{self, Answers, Split, check_truths},
    error::Error,
    reward::Judge,
    sft::{SftConfig, SftRecord, SftTrainer},
};
use serde::Serialize;

use crate::{
    build_info,
    crew::{self, CrewArgs},
    device::{DeviceArgs, Engine, on_device},
    failure::Failure,
    noise_args,
    output::{Output, note},
    progress::Progress,
};

/// The file that holds what was asked for.
const CONFIG: &str = "sft.toml";
/// Tokens after which an answer of the final evaluation is cut off.
const MAX_NEW_TOKENS: usize = 256;
/// Sequences of the final evaluation that are computed at once.
const AT_ONCE: usize = 256;

const EXAMPLE: &str = "\
CONFIG is a TOML file or the name of a preset: tiny-base. The directory it writes is a Hugging Face directory, with \
the configuration (sft.toml), the metrics of every step (sft.jsonl) and the final evaluation (eval.json) beside the \
model. With `checkpoint.every` there are checkpoints on the way, from which --resume goes on to the bit; with [lora] adapters \
are trained. HARDY_NOISE adds rules to the plan. Workers share the blocks of a step, of which there are `train.gradient_blocks`; \
the weights are the same to the bit on any number of them, and with as many blocks on one.

Examples: make the built-in base model again; adapters, saved every 100 steps; four workers
  hardy sft tiny-base --out tiny
  hardy sft my-sft.toml --set lora.rank=16 --set checkpoint.every=100 --out my-adapters
  hardy sft my-sft.toml --set lora.rank=16 --set checkpoint.every=100 --out my-adapters --resume
  torchrun --no-python --nproc-per-node 4 hardy sft my-sft.toml --set train.gradient_blocks=4";

/// Arguments of `hardy sft`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Arguments {
    /// A TOML file, or a preset's name
    #[arg(value_name = "CONFIG")]
    config: String,
    /// Change a key of the configuration, as in train.steps=10; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The directory to write; must not exist [default: runs/NAME]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on from the last checkpoint in the directory
    #[arg(long)]
    resume: bool,
    /// Check everything and write nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    crew: CrewArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// What came of it.
#[derive(Serialize)]
struct Outcome<'a> {
    out: &'a Path,
    steps: usize,
    parameters: usize,
    last: Option<SftRecord>,
    strict_accuracy: Option<f64>,
    flexible_accuracy: Option<f64>,
    eval_problems: usize,
}

/// Trains, evaluates and writes the model.
///
/// # Errors
/// Input that can not be used, or training that fails.
pub fn run(args: &Arguments, output: Output) -> Result<(), Failure> {
    on_device!(args.device.device, run_on(args, output))
}

fn run_on<B: Engine>(args: &Arguments, output: Output) -> Result<(), Failure> {
    let mut config = SftConfig::load(&args.config, &args.set)?;
    config.noise.extend(noise_args::environment()?.unwrap_or_default().noise);
    let out = args.out.clone().unwrap_or_else(|| Path::new("runs").join(&config.name));
    let device = B::open(args.device.device)?;
    let crew = if args.dry_run { Crew::default() } else { args.crew.launched(args.device.device)? };
    // A run that goes on is locked before anything is read, one that is to be made once all is.
    let begun = !args.dry_run && args.resume && crew.workers.is_first() && out.join(CONFIG).exists();
    let lock = crew::ended(&crew, begun.then(|| take(&out)).transpose())?;
    let mut made = crew::ended(&crew, prepare::<B>(&config, &out, args.resume, &crew, &device))?;
    let parameters = made.trainer.policy.decoder.blueprint.parameters.iter();
    let parameters = parameters.map(|spec| spec.shape.iter().product::<usize>()).sum();
    if crew.workers.is_first() {
        made.warnings.iter().for_each(|warning| note(&format!("warning: {warning}")));
        note(&format!("{}: {} parameters", config.name, format::count(parameters as u64)));
    }
    let steps = if args.dry_run { 0 } else { config.train.steps };
    let mut outcome = Outcome {
        out: &out,
        steps,
        parameters,
        last: None,
        strict_accuracy: None,
        flexible_accuracy: None,
        eval_problems: config.eval_problems,
    };
    if !args.dry_run {
        let _lock = match lock {
            None if crew.workers.is_first() => Some(crew::ended(&crew, take(&out))?),
            lock => lock,
        };
        crew::ended(&crew, train(&config, &mut made, &mut outcome))?;
    }
    if !crew.workers.is_first() {
        return Ok(());
    }
    output.show(&outcome, |_| text(&outcome))
}

/// Keeps others out of a directory.
fn take(out: &Path) -> Result<Lock, LabError> {
    Lock::take(out, LOCK, &mut |warning| note(&format!("warning: {warning}")))
}

/// A run that can begin.
struct Prepared<B: Engine> {
    trainer: SftTrainer<B>,
    /// The problems of the final evaluation, where there is one.
    judged: Option<Admitted>,
    warnings: Vec<String>,
}

/// Reads everything before hours are spent, and sees that the workers of `crew` have the same. The first alone looks at `out`.
fn prepare<B: Engine>(
    config: &SftConfig,
    out: &Path,
    resume: bool,
    crew: &Crew,
    device: &B::Device,
) -> Result<Prepared<B>, LabError> {
    if resume && crew.workers.is_first() {
        refuse_other(config, out)?;
    } else if crew.workers.is_first() {
        refuse_existing(out)?;
    }
    let blocks = config.train.gradient_blocks.min(config.train.batch);
    if blocks < crew.workers.size() {
        let size = crew.workers.size();
        return Err(Error::config(format!(
            "{size} workers can not share {blocks} gradient blocks of a step: set train.gradient_blocks (and train.batch) to \
             {size} or more, which gives the same weights on any number of workers"
        ))
        .into());
    }
    let mut trainer = SftTrainer::<B>::new(config.clone(), device)?;
    trainer.workers = crew.workers.clone();
    let mut warnings = std::mem::take(&mut trainer.warnings);
    let judged = held_out(config, &trainer, &mut warnings)?;
    let held_out = judged.iter().flat_map(|admitted| &admitted.problems);
    let problems = trainer.problems().iter().chain(held_out);
    let text = toml::to_string(config).map_err(|error| Error::config(error.to_string()))?;
    crew.agree(Some(&build_info::table()), &text, &trainer.policy, problems)?;
    Ok(Prepared { trainer, judged, warnings })
}

/// Refuses to go on with a run of another configuration.
fn refuse_other(config: &SftConfig, out: &Path) -> Result<(), LabError> {
    let path = out.join(CONFIG);
    if !path.exists() {
        return Ok(());
    }
    let mut before = SftConfig::load(&path.display().to_string(), &[])?;
    // How often it is saved and what is kept changes no number.
    before.checkpoint = config.checkpoint.clone();
    if before != *config {
        let path = path.display();
        let what =
            format!("{path}: was started with another configuration; --resume goes on with the same one");
        return Err(Error::config(what).into());
    }
    Ok(())
}

/// Makes the directory with its configuration; or, of a run that was begun, goes back to its last checkpoint.
fn begin<B: Engine>(config: &SftConfig, trainer: &mut SftTrainer<B>, out: &Path) -> Result<(), LabError> {
    let path = out.join(CONFIG);
    if !path.exists() {
        fs::create_dir_all(out).map_err(Error::file(out))?;
        let text = toml::to_string(config).map_err(|error| Error::config(error.to_string()))?;
        return Ok(write_atomically(&path, text.as_bytes()).map_err(Error::from)?);
    }
    if let Some((step, path)) = checkpoint::resumable(out) {
        trainer.restore(&path)?;
        note(&format!("going on after step {step}"));
    }
    Ok(())
}

/// The log of steps on the disk, and how far they are on the terminal: the first worker's.
struct Log {
    path: PathBuf,
    lines: BufWriter<fs::File>,
    progress: Progress,
    total: usize,
}

impl Log {
    /// Keeps the lines of the steps before `steps`, to which others are added.
    fn after(directory: &Path, steps: u64, total: usize) -> Result<Self, LabError> {
        let path = directory.join("sft.jsonl");
        let text = fs::read_to_string(&path).unwrap_or_default();
        let kept: String = text.lines().take(steps as usize).map(|line| format!("{line}\n")).collect();
        write_atomically(&path, kept.as_bytes()).map_err(Error::from)?;
        let file = fs::OpenOptions::new().append(true).open(&path).map_err(Error::file(&path))?;
        Ok(Self { path, lines: BufWriter::new(file), progress: Progress::new("sft", total), total })
    }

    fn step(&mut self, record: &SftRecord) -> Result<(), LabError> {
        let line = serde_json::to_string(record).unwrap_or_default();
        writeln!(self.lines, "{line}").map_err(Error::file(&self.path))?;
        let (done, total) = (record.step as usize, self.total);
        self.progress.at(done);
        if done.is_multiple_of(50) || done == total {
            self.progress.line(&format!("step {done}/{total}  loss {:.4}", record.loss));
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), LabError> {
        self.lines.flush().map_err(Error::file(&self.path))?;
        // No checkpoint may outlive the lines of its steps.
        Ok(self.lines.get_ref().sync_data().map_err(Error::file(&self.path))?)
    }
}

/// Trains step by step. The first worker writes everything into the directory.
fn train<B: Engine>(
    config: &SftConfig,
    made: &mut Prepared<B>,
    outcome: &mut Outcome<'_>,
) -> Result<(), LabError> {
    let (directory, how, total) = (outcome.out, config.checkpoint(), config.train.steps);
    let Prepared { trainer, judged, .. } = made;
    let first = trainer.workers.is_first();
    if first {
        begin(config, trainer, directory)?;
    }
    trainer.follow_first()?;
    let mut log = first.then(|| Log::after(directory, trainer.steps, total)).transpose()?;
    while (trainer.steps as usize) < total {
        let record = trainer.step()?;
        log.as_mut().map_or(Ok(()), |log| log.step(&record))?;
        outcome.last = Some(record);
        if trainer.steps < total as u64 && how.is_due(trainer.steps, total as u64, false) {
            trainer.gather_receipts()?;
            let Some(log) = &mut log else { continue };
            log.flush()?;
            checkpoint::save(directory, &trainer.learner(), &how)?;
            checkpoint::prune(directory, &how, None)?;
        }
    }
    trainer.gather_receipts()?;
    if let Some(mut log) = log {
        log.flush()?;
        if let Some(silent) = trainer.plan.unfired().into_iter().next() {
            return Err(Error::Unfired(silent).into());
        }
        trainer.policy.save(directory, config.save_dtype())?;
    }
    if let Some(judged) = judged {
        let record = evaluate(config, trainer, judged)?;
        if first {
            record.write(&directory.join("eval.json"))?;
        }
        outcome.strict_accuracy = record.levels.first().map(|level| level.accuracy);
        outcome.flexible_accuracy = record.levels.first().map(|level| level.flexible_accuracy);
    }
    Ok(())
}

/// The problems of the final evaluation; `None` where there is none. What should be said of them goes to `warnings`.
fn held_out<B: Engine>(
    config: &SftConfig,
    trainer: &SftTrainer<B>,
    warnings: &mut Vec<String>,
) -> Result<Option<Admitted>, LabError> {
    if config.eval_problems == 0 {
        return Ok(None);
    }
    let data = &config.data;
    let source = data.source(&data.eval, Answers::Numbered);
    let problems = data::load(&source, Split::Eval, EVAL_DATA_SEED, Some(config.eval_problems));
    let problems = problems.map_err(Error::from)?;
    let graders = [RewardSection::of(RewardKind::Strict)];
    let odd = check_truths(&data.eval, &problems, &graders).map_err(Error::from)?;
    let mut admitted = trainer.policy.admit(problems, &Asking::new(data, &data.eval, 1))?;
    warnings.extend(odd.into_iter().chain(std::mem::take(&mut admitted.warnings)));
    Ok(Some(admitted))
}

/// Greedy answers without noise, as long as the model has positions for.
fn evaluate<B: Engine>(
    config: &SftConfig,
    trainer: &SftTrainer<B>,
    judged: &Admitted,
) -> Result<EvalRecord, LabError> {
    let (data, problems) = (&config.data, &judged.problems);
    let room = trainer.policy.max_positions - judged.longest;
    let judge = Judge::new(&[])?;
    let evaluation = Evaluation {
        setting: Setting { policy: &trainer.policy, problems, wording: &data.prompt },
        model: &config.name,
        data: &data.eval,
        step: Some(trainer.steps),
        seed: config.seed,
        max_new_tokens: MAX_NEW_TOKENS.min(room),
        batch: AT_ONCE,
        draws: 1,
        metric: &Metric::Strict,
        judge: &judge,
        sampling: Sampling::GREEDY,
        workers: &trainer.workers,
    };
    let mut progress = trainer.workers.is_first().then(|| Progress::new("evaluation", problems.len()));
    let mut tell = |done| progress.iter_mut().for_each(|progress| progress.at(done));
    evaluation.run(&[Level::noise(0.0, config.seed)], |_, done| tell(done))
}

fn text(outcome: &Outcome<'_>) -> String {
    let Outcome { out, steps, last, strict_accuracy, flexible_accuracy, eval_problems, .. } = outcome;
    let Some(last) = last else { return "the configuration can be used; nothing was written\n".to_owned() };
    let mut text = format!("{steps} steps, loss {:.4}, written to {}\n", last.loss, out.display());
    if let (Some(strict), Some(flexible)) = (strict_accuracy, flexible_accuracy) {
        let (strict, flexible) = (format::percent(*strict), format::percent(*flexible));
        text +=
            &format!("greedy on {eval_problems} held-out problems: strict {strict}, flexible {flexible}\n");
    }
    text
}
