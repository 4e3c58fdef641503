//! A run from start to end: train step by step, evaluate at step 0, every so often and at the last step, keep
//! checkpoints, and write everything into a run directory that is never overwritten.

mod crew;
mod keeper;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    time::SystemTime,
};

use hardy_model::files::{write_atomically, write_json};
use hardy_ops::{NoisyBackend, Phase};
use hardy_train::{
    admission::Asking,
    builtin, checkpoint,
    config::{CheckpointSection, EvalSection, RunConfig, graders_of, refuse_existing},
    data::{self, Problem, Split, answers_for, check_truths},
    early_word::EarlyWord,
    error::Error,
    policy::Policy,
    reward::Judge as Graders,
    scan_file::ScanFile,
    step_record::StepRecord,
    trainer::{Trainer, step_counts, training_problems},
    workers::Workers,
};

pub use crew::Crew;
use keeper::Keeper;

use crate::{
    error::LabError,
    evaluate::{EVAL_DATA_SEED, Evaluation, Level, Sampling},
    forecast::Forecast,
    lock::Lock,
    receipt::without_effect,
    record::{EvalRecord, Metric},
    report, run_records, scan,
    setting::Setting,
    tensorboard::TensorBoardWriter,
};

/// What a run tells while it goes on.
#[derive(Debug)]
pub enum Event<'a> {
    /// Something that may not be meant, or that the result will not say by itself.
    Warning(&'a str),
    /// It begins, or goes on after so many steps of so many.
    Started {
        /// The run's name.
        name: &'a str,
        /// Its directory.
        directory: &'a Path,
        /// Steps already made.
        from: u64,
        /// Steps in all.
        total: u64,
    },
    /// Responses of the step's rollouts that are finished, of so many.
    Rollout(usize, usize),
    /// A step was made, of so many.
    Step(&'a StepRecord, u64),
    /// Answers at a level that are finished, of so many.
    Evaluating(&'a str, usize, usize),
    /// An evaluation is finished.
    Evaluated(&'a EvalRecord),
    /// A checkpoint was written.
    Checkpoint(&'a Path),
}

/// The file of a run that holds the hashes of every step's tensors, one line a step.
pub(crate) const HASHES: &str = "hashes.jsonl";
/// The file of a run that holds what it was asked for.
const CONFIG: &str = "config.toml";
/// The file of a run, of a directory of arms or of a warm-up that is locked while somebody is at work there.
pub const LOCK: &str = "run.lock";

/// What was read and bound before anything is written: a run that can start.
pub(crate) struct Prepared<B: NoisyBackend> {
    pub(crate) trainer: Trainer<B>,
    eval_problems: Vec<Problem>,
    levels: Vec<Level>,
    scan: Option<ScanFile>,
    warnings: Vec<String>,
}

/// What a run would do.
#[derive(Clone, Debug)]
pub struct DryRun {
    /// What it will take.
    pub forecast: Forecast,
    /// What may not be meant.
    pub warnings: Vec<String>,
}

/// Checks a configuration as far as can be without writing: its model, data and plan. Gives its steps.
///
/// # Errors
/// What would stop the run from starting.
pub fn check<B: NoisyBackend>(config: &RunConfig, device: &B::Device) -> Result<u64, LabError> {
    Ok(prepare::<B>(config, device)?.trainer.total_steps)
}

/// Checks a configuration as far as can be without writing, its model, data and plan, and forecasts what it will take.
///
/// # Errors
/// What would stop the run from starting.
pub fn dry_run<B: NoisyBackend>(config: &RunConfig, device: &B::Device) -> Result<DryRun, LabError> {
    let Prepared { trainer, eval_problems, levels, warnings, .. } = prepare::<B>(config, device)?;
    let forecast = Forecast::new(config, &trainer, &levels, eval_problems.len())?;
    Ok(DryRun { forecast, warnings })
}

pub(crate) fn prepare<B: NoisyBackend>(
    config: &RunConfig,
    device: &B::Device,
) -> Result<Prepared<B>, LabError> {
    sampling(config).check()?;
    let problems = training_problems(config)?;
    let judged_by = graders_of(&config.rewards(), &config.metric())?;
    let source = config.data.source(&config.data.eval, answers_for(&judged_by));
    let eval_problems =
        data::load(&source, Split::Eval, EVAL_DATA_SEED, Some(config.eval.n)).map_err(Error::from)?;
    let policy = Policy::<B>::from_dir(&builtin::resolve(&config.model.path)?, device)?;
    let policy =
        policy.with_max_positions(config.model.max_positions).with_system(config.data.system.clone());
    let policy = policy.in_precision(config.precision);
    let ([problems, eval_problems], mut warnings) = admit(config, &policy, [problems, eval_problems])?;
    let (total, per_epoch) = step_counts(config, problems.len())?;
    warnings.extend(config.train.learning_rate(total).never_reached());
    let scan = scan::for_run(config, &policy, &problems)?;
    let policy = with_adapters(config, policy)?;
    let layers = policy.decoder.blueprint.config.layers;
    let plan = config.plan(total, per_epoch, layers, scan.as_ref())?;
    let plan = policy.decoder.blueprint.bind(&plan, &[Phase::Rollout, Phase::Train]).map_err(Error::from)?;
    let level = |&scale: &f64| Level::noise(scale, config.seed).under(&config.noise);
    let levels = config.eval.noise_levels.iter().map(level).collect();
    Ok(Prepared {
        trainer: Trainer::new(config, policy, plan, problems)?,
        eval_problems,
        levels,
        scan,
        warnings,
    })
}

/// The problems to learn from and to be judged by that the policy can be given, and what should be said about the others.
fn admit<B: NoisyBackend>(
    config: &RunConfig,
    policy: &Policy<B>,
    [train, eval]: [Vec<Problem>; 2],
) -> Result<([Vec<Problem>; 2], Vec<String>), LabError> {
    let (data, RunConfig { train: how, eval: judged, .. }) = (&config.data, config);
    let mut warnings = Vec::new();
    let rewards = config.rewards();
    let judged_by = graders_of(&rewards, &config.metric())?;
    for (source, problems, graders) in [(&data.train, &train, &rewards), (&data.eval, &eval, &judged_by)] {
        warnings.extend(check_truths(source, problems, graders).map_err(Error::from)?);
    }
    let answer = config.eval_max_new_tokens();
    let train = policy.admit(train, &Asking::new(data, &data.train, how.max_new_tokens))?;
    let eval = policy.admit(eval, &Asking::new(data, &data.eval, answer))?;
    let responses = (how.prompts_per_step * how.samples_per_prompt).min(how.rollout_batch);
    policy.refuse_large_cache(how.prompts_per_step, train.longest, (responses, how.max_new_tokens))?;
    let answers = judged.batch.min(eval.problems.len() * judged.samples);
    policy.refuse_large_cache(answers, eval.longest, (answers, answer))?;
    warnings.extend([train.warnings, eval.warnings].into_iter().flatten());
    let (held, wanted) = (train.problems.len(), how.prompts_per_step);
    if held < wanted {
        let source = &data.train;
        warnings.push(format!("{source}: holds {held} problems, and so many are a step's, not `train.prompts_per_step`, {wanted}"));
    }
    Ok(([train.problems, eval.problems], warnings))
}

/// How the answers of evaluations are drawn.
fn sampling(config: &RunConfig) -> Sampling {
    let EvalSection { samples, temperature, top_p, .. } = config.eval;
    Sampling { samples, temperature, top_p }
}

/// The policy with the adapters that the configuration asks for.
fn with_adapters<B: NoisyBackend>(config: &RunConfig, policy: Policy<B>) -> Result<Policy<B>, LabError> {
    let Some(lora) = &config.lora else { return Ok(policy) };
    let decoder = policy.decoder.with_lora(lora, &config.model.path, config.seed).map_err(Error::from)?;
    Ok(Policy { decoder, ..policy })
}

/// Runs `config` in `directory`; gives the last evaluation.
///
/// # Errors
/// Input that can not be used, a directory that exists (unless `resume`), or a run that fails.
pub fn run<B: NoisyBackend>(
    config: &RunConfig,
    directory: &Path,
    resume: bool,
    device: &B::Device,
    tell: &mut (dyn FnMut(Event<'_>) + Send),
) -> Result<EvalRecord, LabError> {
    run_on::<B>(&Crew::default(), config, directory, resume, device, tell)
}

/// The same as one of several workers, all of which call this. The first alone writes and tells; all give the same.
///
/// # Errors
/// As [`run`]; workers that differ in what they run, or are gone.
///
/// # Panics
/// Never: the last step is always evaluated.
pub fn run_on<B: NoisyBackend>(
    crew: &Crew,
    config: &RunConfig,
    directory: &Path,
    resume: bool,
    device: &B::Device,
    tell: &mut (dyn FnMut(Event<'_>) + Send),
) -> Result<EvalRecord, LabError> {
    let (workers, mut nobody) = (&crew.workers, |_: Event<'_>| {});
    let tell = if workers.is_first() { tell } else { &mut nobody };
    let lock = if workers.is_first() { enter(directory, resume, tell)? } else { None };
    let Prepared { mut trainer, eval_problems, levels, scan, warnings } = prepare::<B>(config, device)?;
    (trainer.workers, trainer.return_freed_memory) = (workers.clone(), crew.return_freed_memory);
    let lines = RunConfig { build: None, ..config.clone() }.to_toml();
    let problems = trainer.problems().iter().chain(&eval_problems);
    crew.agree(config.build.as_ref(), &lines, &trainer.policy, problems)?;
    warnings.iter().for_each(|warning| tell(Event::Warning(warning)));
    let text = config.to_toml();
    let _lock = match lock {
        None if workers.is_first() => Some(begin(directory, resume, tell)?),
        lock => lock,
    };
    if resume && directory.join(CONFIG).exists() && workers.is_first() {
        check_same_config(directory, config)?;
        if let Some(note) = go_back(&mut trainer, directory)? {
            tell(Event::Warning(&note));
        }
    } else if workers.is_first() {
        fs::create_dir_all(directory.join("eval")).map_err(Error::file(directory))?;
        if let Some(scan) = &scan {
            let scan = serde_json::to_value(scan).unwrap_or_default();
            write_json(&directory.join("scan.json"), &scan).map_err(Error::from)?;
        }
        write_atomically(&directory.join(CONFIG), text.as_bytes()).map_err(Error::from)?;
    }
    trainer.follow_first()?;
    if crew.shard_optimizer {
        trainer.shard_optimizer();
    }
    let (from, total) = (trainer.steps, trainer.total_steps);
    if from > total {
        let directory = directory.display();
        return Err(
            Error::config(format!("{directory}: {from} steps were made, {total} are asked for")).into()
        );
    }
    tell(Event::Started { name: &config.name, directory, from, total });
    let mut log = if workers.is_first() { Some(Log::open(directory, from)?) } else { None };
    let (metric, graders) = (Metric::from(config.metric()), trainer.judge.by_metric(&config.metric())?);
    let judge = Judge { metric, graders, config, directory, problems: &eval_problems, levels: &levels };
    let mut keeper = Keeper::new(directory, &config.checkpoint, from, |step| judge.read(step));
    let mut last = if from > 0 { judge.existing(from, workers)? } else { None };
    if last.is_none() && judge.is_due(from, total) {
        let record = judge.evaluate_and_keep(&trainer, &mut log, tell)?;
        trainer.phase_ended();
        keeper.keep(&mut trainer, Some(&record), tell)?;
        last = Some(record);
    }
    let (mut learned_nothing, mut early) = (false, EarlyWord::after(&made(directory, from), config));
    while trainer.steps < total {
        let mut record = trainer
            .step(|done, of| tell(Event::Rollout(done, of)))
            .map_err(|error| name_last_good(error, directory))?;
        record.warnings = early.of(&record, config);
        if let Some(log) = &mut log {
            log.write(&record)?;
        }
        tell(Event::Step(&record, total));
        record.warnings.iter().for_each(|warning| tell(Event::Warning(warning)));
        if record.updates + record.skipped_updates == 0 && !learned_nothing {
            learned_nothing = true;
            tell(Event::Warning(&nothing_to_learn(&record)));
        }
        // Noise that was silent in a whole step with gradients would be in all: hours too late to be told at the end.
        if record.grad_norm > 0.0 && workers.is_first() {
            refuse_silent_noise(&trainer)?;
        }
        let evaluation = judge.is_due(trainer.steps, total);
        let evaluation = evaluation.then(|| judge.evaluate_and_keep(&trainer, &mut log, tell)).transpose()?;
        trainer.phase_ended();
        keeper.keep(&mut trainer, evaluation.as_ref(), tell)?;
        last = evaluation.or(last);
    }
    refuse_no_update(&trainer)?;
    if workers.is_first() {
        refuse_silent_noise(&trainer)?;
        without_effect(&trainer.plan.receipts()).iter().for_each(|told| tell(Event::Warning(told)));
        report::write(&[run_records::read_run(directory)?], &directory.join("report.html"))?;
    }
    Ok(last.expect("the last step is evaluated"))
}

/// Before a run reads anything: refuses a directory that it would overwrite, or locks that of the run that goes on. A
/// directory that is to be made is locked once all is read, since nothing is written for what can not be used.
fn enter(
    directory: &Path,
    resume: bool,
    tell: &mut (dyn FnMut(Event<'_>) + Send),
) -> Result<Option<Lock>, LabError> {
    if !resume {
        refuse_existing(directory)?;
    }
    directory.join(CONFIG).exists().then(|| take(directory, tell)).transpose()
}

/// Keeps other runs out of a directory.
fn take(directory: &Path, tell: &mut (dyn FnMut(Event<'_>) + Send)) -> Result<Lock, LabError> {
    Lock::take(directory, LOCK, &mut |warning| tell(Event::Warning(warning)))
}

/// Locks a directory that is to be made; refuses it where somebody else has begun a run there since.
fn begin(directory: &Path, resume: bool, tell: &mut (dyn FnMut(Event<'_>) + Send)) -> Result<Lock, LabError> {
    let lock = take(directory, tell)?;
    if !resume && directory.join(CONFIG).exists() {
        return Err(Error::Exists(directory.to_owned()).into());
    }
    Ok(lock)
}

/// Sets a trainer back to the last checkpoint of its run that it can go on from; gives what should be said of it, if
/// anything. Where there is none it begins again.
fn go_back<B: NoisyBackend>(trainer: &mut Trainer<B>, directory: &Path) -> Result<Option<String>, LabError> {
    if let Some((_, path)) = checkpoint::resumable(directory) {
        return Ok(trainer.restore(&path)?);
    }
    let made = checkpoint::latest(directory).filter(|(step, _)| *step > 0);
    Ok(made.map(|(_, path)| {
        format!("{}: holds no optimizer state, nor does any other; the run begins again", path.display())
    }))
}

/// What to say of a step whose groups were all dropped.
fn nothing_to_learn(record: &StepRecord) -> String {
    format!(
        "step {}: no group of responses differed in score, in {} groups sampled, so there was no update",
        record.step, record.groups_sampled
    )
}

/// Refuses a run that ends as it began.
fn refuse_no_update<B: NoisyBackend>(trainer: &Trainer<B>) -> Result<(), LabError> {
    if trainer.optimizer.steps > 0 {
        return Ok(());
    }
    let reason = match trainer.nonfinite_in_row {
        0 => "in none did the answers of a group differ in score, so dynamic sampling kept no group; take problems that \
              the model solves now and then, more `train.samples_per_prompt` or `train.generation_rounds`, \
              `train.reward` = \"flexible\", or `train.dynamic_sampling` = false"
            .to_owned(),
        n => format!("all {n} that there would have been were left out because they were not finite; take weaker errors"),
    };
    Err(Error::NoUpdate { steps: trainer.steps, reason }.into())
}

fn refuse_silent_noise<B: NoisyBackend>(trainer: &Trainer<B>) -> Result<(), LabError> {
    trainer.plan.unfired().into_iter().next().map_or(Ok(()), |silent| Err(Error::Unfired(silent).into()))
}

/// Runs every arm of `config`, each in its own directory under `directory`; gives their names, directories and last
/// evaluations.
///
/// # Errors
/// As [`run`]; arms that were finished before stay.
pub fn run_arms<B: NoisyBackend>(
    crew: &Crew,
    config: &RunConfig,
    directory: &Path,
    resume: bool,
    device: &B::Device,
    tell: &mut (dyn FnMut(Event<'_>) + Send),
) -> Result<Vec<(String, PathBuf, EvalRecord)>, LabError> {
    let arms = config.arms()?;
    if config.arm.is_empty() {
        let record = run_on::<B>(crew, config, directory, resume, device, tell)?;
        return Ok(vec![(config.name.clone(), directory.to_owned(), record)]);
    }
    if !resume && crew.workers.is_first() {
        refuse_existing(directory)?;
    }
    // What is wrong with a later arm should be known before the first one has run for hours.
    for arm in &arms {
        check::<B>(arm, device)?;
    }
    let _lock = crew.workers.is_first().then(|| take(directory, tell)).transpose()?;
    let mut outcomes = Vec::new();
    for arm in &arms {
        let own = directory.join(&arm.name);
        let record = run_on::<B>(crew, arm, &own, resume, device, tell)?;
        outcomes.push((arm.name.clone(), own, record));
    }
    if !crew.workers.is_first() {
        return Ok(outcomes);
    }
    let runs =
        outcomes.iter().map(|(_, own, _)| run_records::read_run(own)).collect::<Result<Vec<_>, _>>()?;
    report::write(&runs, &directory.join("report.html"))?;
    Ok(outcomes)
}

/// Evaluates a trainer and keeps the record.
struct Judge<'a> {
    metric: Metric,
    graders: Graders,
    config: &'a RunConfig,
    directory: &'a Path,
    problems: &'a [Problem],
    levels: &'a [Level],
}

impl Judge<'_> {
    fn path(&self, step: u64) -> PathBuf {
        self.directory.join("eval").join(format!("step-{step:06}.json"))
    }

    fn read(&self, step: u64) -> Option<EvalRecord> {
        EvalRecord::read(&self.path(step)).ok()
    }

    /// What the first worker finds of an evaluation.
    fn existing(&self, step: u64, workers: &Workers) -> Result<Option<EvalRecord>, LabError> {
        let own = if workers.is_first() { self.read(step) } else { None };
        let found = workers.of_first(own.is_some())?;
        // Only the first worker's record is shown.
        Ok(own.or_else(|| found.then(EvalRecord::unread)))
    }

    /// Whether the policy is evaluated after `step` of `total` steps.
    fn is_due(&self, step: u64, total: u64) -> bool {
        let every = self.config.eval.every as u64;
        step == 0 || step == total || (every > 0 && step.is_multiple_of(every))
    }

    fn evaluate_and_keep<B: NoisyBackend>(
        &self,
        trainer: &Trainer<B>,
        log: &mut Option<Log>,
        tell: &mut (dyn FnMut(Event<'_>) + Send),
    ) -> Result<EvalRecord, LabError> {
        let config = self.config;
        let policy = trainer.policy.stored_as(config.checkpoint.dtype);
        let evaluation = Evaluation {
            setting: Setting { policy: &policy, problems: self.problems, wording: &config.data.prompt },
            model: &config.model.path,
            data: &config.data.eval,
            step: Some(trainer.steps),
            seed: config.seed,
            max_new_tokens: config.eval_max_new_tokens(),
            batch: config.eval.batch,
            draws: config.eval.draws,
            metric: &self.metric,
            judge: &self.graders,
            sampling: sampling(config),
            workers: &trainer.workers,
        };
        let record = evaluation.run(self.levels, |level, done| {
            tell(Event::Evaluating(&level.label, done, evaluation.answers(level)));
        })?;
        trainer.gather_receipts()?;
        let Some(log) = log else { return Ok(record) };
        record.write(&self.path(trainer.steps))?;
        log.evaluated(&record)?;
        let receipts = serde_json::to_value(trainer.plan.receipts()).unwrap_or_default();
        write_json(&self.directory.join("receipts.json"), &receipts).map_err(Error::from)?;
        tell(Event::Evaluated(&record));
        Ok(record)
    }
}

/// Opens a file of one line a step after `steps` steps, to add to it; lines of later steps are dropped.
fn open_lines(path: &Path, steps: u64) -> Result<fs::File, LabError> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let kept: String = text.lines().take(steps as usize).map(|line| format!("{line}\n")).collect();
    if kept != text {
        write_atomically(path, kept.as_bytes()).map_err(Error::from)?;
    }
    fs::OpenOptions::new().create(true).append(true).open(path).map_err(LabError::file(path))
}

/// The records of the first `steps` steps of a run that goes on, as far as they can be read.
fn made(directory: &Path, steps: u64) -> Vec<StepRecord> {
    let text = fs::read_to_string(directory.join("metrics.jsonl")).unwrap_or_default();
    text.lines().take(steps as usize).map_while(|line| serde_json::from_str(line).ok()).collect()
}

/// `metrics.jsonl`, `hashes.jsonl` and the TensorBoard events of a run.
struct Log {
    path: PathBuf,
    lines: fs::File,
    hashes: fs::File,
    board: TensorBoardWriter,
}

impl Log {
    /// Opens the log after `steps` steps; lines of later steps, from a run that was cut off, are dropped.
    fn open(directory: &Path, steps: u64) -> Result<Self, LabError> {
        let path = directory.join("metrics.jsonl");
        let lines = open_lines(&path, steps)?;
        let hashes = open_lines(&directory.join(HASHES), steps)?;
        let board = directory.join("tensorboard");
        let board = TensorBoardWriter::create(&board)?;
        Ok(Self { path, lines, hashes, board })
    }

    fn write(&mut self, record: &StepRecord) -> Result<(), LabError> {
        let value = serde_json::to_value(record).unwrap_or_default();
        self.lines.write_all(format!("{value}\n").as_bytes()).map_err(LabError::file(&self.path))?;
        let hashes = serde_json::to_string(&record.tensor_hashes).unwrap_or_default();
        self.hashes.write_all(format!("{hashes}\n").as_bytes()).map_err(LabError::file(&self.path))?;
        let now = SystemTime::now();
        let scalars = value.as_object().into_iter().flatten();
        for (key, value) in scalars.filter(|(key, _)| *key != "step") {
            if let Some(value) = value.as_f64() {
                self.board.scalar(key, record.step, value as f32, now)?;
            }
        }
        // No checkpoint may outlive the lines of its steps.
        for file in [&self.lines, &self.hashes] {
            file.sync_data().map_err(LabError::file(&self.path))?;
        }
        self.board.flush()
    }
}

impl Log {
    /// Both accuracies, and the score where there is one, of every level as scalars `eval/METRIC/LEVEL`; of several answers
    /// to a problem the chances `eval/pass@K/LEVEL`.
    fn evaluated(&mut self, record: &EvalRecord) -> Result<(), LabError> {
        for (tag, value) in record.scalars() {
            let step = record.step.unwrap_or_default();
            self.board.scalar(&format!("eval/{tag}"), step, value as f32, SystemTime::now())?;
        }
        self.board.flush()
    }
}

/// Whether a run of `config` in `directory` is finished; its report is the last thing that it writes.
///
/// # Errors
/// The directory holds a run of another configuration.
pub fn is_finished(directory: &Path, config: &RunConfig) -> Result<bool, LabError> {
    if directory.join(CONFIG).exists() {
        check_same_config(directory, config)?;
    }
    Ok(directory.join("report.html").exists())
}

/// Makes a run of `config`, and each of its arms, longer: `train.steps` or `train.epochs` of what it was started with become
/// those of `config`, as if they had been so from the first; resumed, it goes on to there. What depends on how many steps
/// there are, a decaying learning rate and the stages of adaptive quantisation noise, is from then on that of the longer run.
///
/// # Errors
/// A run that was not started, that differs in anything else, or that is going on.
pub fn extend(config: &RunConfig, directory: &Path) -> Result<(), LabError> {
    let mut longer = Vec::new();
    for arm in config.arms()? {
        let own = if config.arm.is_empty() { directory.to_owned() } else { directory.join(&arm.name) };
        let before = started_with(&own)?;
        let lock = take(&own, &mut |_| {})?;
        let mut after = before.clone();
        (after.train.steps, after.train.epochs) = (arm.train.steps, arm.train.epochs);
        refuse_difference(&own, after.clone(), &arm)?;
        refuse_shorter(&own, &before, &after)?;
        longer.push((own.join(CONFIG), after, lock));
    }
    // Nothing is written before all were looked at.
    for (path, after, _) in &longer {
        write_atomically(path, after.to_toml().as_bytes()).map_err(Error::from)?;
    }
    Ok(())
}

/// Refuses to make a run shorter.
fn refuse_shorter(directory: &Path, before: &RunConfig, now: &RunConfig) -> Result<(), Error> {
    let problems = training_problems(now)?.len();
    let [(steps, _), (now_steps, _)] = [step_counts(before, problems)?, step_counts(now, problems)?];
    if now_steps >= steps {
        return Ok(());
    }
    let said = |config: &RunConfig, steps| match (config.train.steps, config.train.epochs) {
        (Some(steps), _) => format!("train.steps = {steps}"),
        (None, epochs) => format!("train.epochs = {} ({steps} steps)", epochs.unwrap_or(1)),
    };
    let (before, now) = (said(before, steps), said(now, now_steps));
    Err(Error::config(format!(
        "{}: the run was started with {before}, and --extend goes on to more, not to {now}",
        directory.join(CONFIG).display()
    )))
}

/// The configuration that a run was started with.
fn started_with(directory: &Path) -> Result<RunConfig, LabError> {
    let path = directory.join(CONFIG);
    let text = fs::read_to_string(&path).map_err(Error::file(&path))?;
    Ok(hardy_train::toml_errors::parse(&text, &path.display().to_string()).map_err(Error::from)?)
}

/// A resumed run must be the run that was started.
fn check_same_config(directory: &Path, config: &RunConfig) -> Result<(), LabError> {
    refuse_difference(directory, started_with(directory)?, config)
}

fn refuse_difference(directory: &Path, mut before: RunConfig, config: &RunConfig) -> Result<(), LabError> {
    before.build.clone_from(&config.build);
    // How often it is saved and what is kept changes no number.
    before.checkpoint = CheckpointSection { dtype: before.checkpoint.dtype, ..config.checkpoint.clone() };
    if before.resolved() != config.resolved() {
        let what = first_difference(&before, config);
        return Err(Error::config(format!(
            "{}: was started with another configuration ({what}); --resume goes on with the same one",
            directory.join(CONFIG).display()
        ))
        .into());
    }
    Ok(())
}

/// The first line in which two configurations differ.
fn first_difference(before: &RunConfig, now: &RunConfig) -> String {
    let (before, now) = (before.to_toml(), now.to_toml());
    let differs = before.lines().zip(now.lines()).find(|(a, b)| a != b);
    differs.map_or_else(|| "keys added or removed".to_owned(), |(a, b)| format!("`{a}` then, `{b}` now"))
}

/// Names the last good checkpoint in the error of a step that failed.
fn name_last_good(error: Error, directory: &Path) -> Error {
    match (error, checkpoint::latest(directory)) {
        (Error::NotFinite { step, what, site, magnitude, .. }, Some((_, path))) => {
            let last_good = format!("the last good checkpoint is {}", path.display());
            Error::NotFinite { step, what, site, magnitude, last_good }
        }
        (error, _) => error,
    }
}
