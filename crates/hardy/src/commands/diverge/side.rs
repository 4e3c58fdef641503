//! A side of a comparison that is made here: a device, and what is different there.

use hardy_lab::diverge::{Dump, record, record::Wanted};
use hardy_ops::{Phase, Plan, Rule};
use hardy_train::plan_file::{PlanFile, parse_plan, read_plan};
use rayon::ThreadPoolBuilder;

use crate::{
    commands::dump,
    device::{DeviceArgs, Engine, on_device},
    failure::Failure,
    model_source::ModelArgs,
    noise_args::{self, scale},
    number_args::whole,
    progress::Progress,
    token_args::TokenArgs,
};

/// The keys of a side.
const KEYS: [&str; 7] = ["threads", "precision", "plan", "noise", "format", "seed", "model"];

/// A side.
#[derive(Debug)]
pub struct Side {
    /// As it was written.
    text: String,
    model: ModelArgs,
    threads: Option<usize>,
    plan: Plan,
}

impl Side {
    /// Reads `DEVICE[,KEY=VALUE]...`; the model is `model` unless it names another.
    ///
    /// # Errors
    /// One sentence that says what is wrong.
    pub fn parse(text: &str, model: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let name = parts.next().unwrap_or_default();
        let device = DeviceArgs::named(name).map_err(|reason| format!("`{text}`: {name}: {reason}"))?;
        let model = ModelArgs { spec: model.to_owned(), max_positions: None, precision: None, device };
        let (mut side, mut file) = (
            Self { text: text.to_owned(), model, threads: None, plan: Plan::default() },
            PlanFile::default(),
        );
        for part in parts {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            side.set(key, value, &mut file).map_err(|reason| format!("`{text}`: {reason}"))?;
        }
        side.plan = Plan {
            rules: file.noise,
            seed: file.seed.unwrap_or_default(),
            streams: file.streams.unwrap_or_default(),
        };
        Ok(side)
    }

    fn set(&mut self, key: &str, value: &str, file: &mut PlanFile) -> Result<(), String> {
        let at = |reason: String| format!("{key} {reason}");
        match key {
            "threads" => self.threads = Some(whole::<usize>("--threads")(value).map_err(at)?),
            "precision" => self.model.precision = Some(value.parse()?),
            "plan" => file.append(read_plan(value.as_ref()).map_err(|error| error.to_string())?),
            "noise" => file.noise.push(Rule::noise(scale(value).map_err(at)?)),
            "format" => file.append(in_format(value)?),
            "seed" => file.seed = Some(value.parse().map_err(|_| at("must be a whole number".to_owned()))?),
            "model" => value.clone_into(&mut self.model.spec),
            _ => return Err(format!("unknown key `{key}`; the keys are {}", KEYS.join(", "))),
        }
        Ok(())
    }
}

/// Weights and inputs of linear layers in a number format; the head stays as it is.
fn in_format(name: &str) -> Result<PlanFile, String> {
    let rule = |at: &str| {
        format!(
            "[[noise]]\nops = [\"linear\"]\nat = \"{at}\"\nexclude = [\"lm_head\"]\nerror = {{ kind = \"{name}\" }}\n"
        )
    };
    parse_plan(&(rule("weight") + &rule("input")), "format").map_err(|error| error.to_string())
}

/// What is recorded of every side.
#[derive(Debug)]
pub struct Recorder<'a> {
    /// The tokens.
    pub tokens: &'a TokenArgs,
    /// Globs on sites.
    pub sites: &'a [String],
    /// Gradients too.
    pub gradients: bool,
}

impl Recorder<'_> {
    /// Makes a side.
    ///
    /// # Errors
    /// A model, batch or plan that can not be used.
    pub fn record(&self, side: &Side) -> Result<Dump, Failure> {
        match side.threads {
            None => on_device!(side.model.device.device, make(self, side)),
            Some(threads) => {
                let pool = ThreadPoolBuilder::new().num_threads(threads).build();
                let pool = pool.map_err(|error| Failure::input(format!("threads={threads}: {error}")))?;
                pool.install(|| on_device!(side.model.device.device, make(self, side)))
            }
        }
    }
}

/// Makes a side on the backend of its device.
fn make<B: Engine>(recorder: &Recorder, side: &Side) -> Result<Dump, Failure> {
    let plan = match recorder.gradients {
        true => side.plan.clone(),
        false => noise_args::forward_only(side.plan.clone(), "give --grads")?,
    };
    let (decoder, tokens) = recorder.tokens.read::<B>(&side.model)?;
    let bound = noise_args::bind(&plan, &decoder.blueprint, Phase::Train)?;
    let wanted = Wanted { sites: recorder.sites, gradients: recorder.gradients };
    let mut bar: Option<Progress> = None;
    let mut progress = |done, of| bar.get_or_insert_with(|| Progress::new(&side.text, of)).at(done);
    let mut dump = record(&decoder, &tokens, (&bound, 0), &wanted, &mut progress)?;
    dump::describe(&mut dump, &side.model);
    dump.source.clone_from(&side.text);
    Ok(dump)
}
