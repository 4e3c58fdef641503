//! `hardy generate`: continuing prompts, in the rollout phase.

use std::path::{Path, PathBuf};

use clap::{Args, value_parser};
use hardy_model::{ChatTemplate, Decoder, Generation, Message, Prompt, Sample, Sampler, Tokenizer, generate};
use hardy_ops::{Phase, Receipt, Rule};
use hardy_train::encode::{prompt_sequence, sample_sequence};
use serde::Serialize;

use crate::{
    batch_file::read_prompts,
    device::Backend,
    failure::Failure,
    model_source::ModelArgs,
    noise_args::{self, NoiseArgs},
    output::{Output, note},
    progress::Progress,
    receipt_table,
};

/// Sequences that are computed at once.
const AT_ONCE: usize = 256;

const EXAMPLE: &str = "\
A --prompt's continuation ends at the end-of-sequence token (unless --ignore-eos); those of --batch, which holds \
`prompt_ids` [B,P] without padding, go on to the last new token (unless --stop-at-eos). HARDY_NOISE adds rules to the \
plan.

Examples:
  hardy generate --model builtin:tiny --chat --max-new-tokens 64 \\
      --prompt 'Tom has 3 apples and buys 4. How many has he?'
  hardy generate --model DIR --batch prompts.safetensors --max-new-tokens 24 --noise 0.05 --json";

/// Arguments of `hardy generate`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompts: Prompts,
    /// Put the prompt into the model's chat template, as the user's turn
    #[arg(long, requires = "prompt")]
    chat: bool,
    /// Tokens after which a sequence is cut off
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    max_new_tokens: u32,
    /// Sampling temperature; 0 always takes the most probable token
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = temperature, allow_negative_numbers = true)]
    temperature: f32,
    /// Sample among the most probable tokens whose probabilities reach this sum
    #[arg(long, value_name = "P", default_value_t = 1.0, value_parser = top_p, allow_negative_numbers = true)]
    top_p: f32,
    /// Sample among this many of the most probable tokens; 0 is all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Samples of every prompt
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u16).range(1..))]
    samples: u16,
    /// Do not stop at the end-of-sequence token
    #[arg(long, conflicts_with = "stop_at_eos")]
    ignore_eos: bool,
    /// Stop at the end-of-sequence token with --batch too
    #[arg(long)]
    stop_at_eos: bool,
    #[command(flatten)]
    noise: NoiseArgs,
}

/// What to continue.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Prompts {
    /// A text to continue
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Tokens to continue, `prompt_ids` [B,P]
    #[arg(long, value_name = "IN.safetensors")]
    batch: Option<PathBuf>,
}

fn temperature(text: &str) -> Result<f32, String> {
    let value: f32 = text.parse().map_err(|_| "the temperature must be a number".to_owned())?;
    let right = value >= 0.0 && value.is_finite();
    right.then_some(value).ok_or_else(|| "the temperature must be a finite number, 0 or more".to_owned())
}

fn top_p(text: &str) -> Result<f32, String> {
    let value: f32 = text.parse().map_err(|_| "top-p must be a number".to_owned())?;
    let right = value > 0.0 && value <= 1.0;
    right.then_some(value).ok_or_else(|| "top-p must be above 0 and at most 1".to_owned())
}

/// What was generated, and under what.
#[derive(Serialize)]
struct Outcome<'a> {
    sequences: Vec<Sequence>,
    seed: u64,
    step: u64,
    noise: &'a [Rule],
    receipts: Vec<Receipt>,
}

/// One generated sequence.
#[derive(Serialize)]
struct Sequence {
    /// The index of its prompt.
    prompt: usize,
    /// Its index among the prompt's samples.
    sample: usize,
    /// Its new tokens.
    ids: Vec<u32>,
    /// Their text without special tokens; `null` for a model without a tokenizer.
    text: Option<String>,
    /// The log-probability of each token under the distribution it was drawn from.
    log_probs: Vec<f32>,
    /// Whether the end-of-sequence token ended it.
    stopped: bool,
}

/// Generates.
///
/// # Errors
/// A model, prompt or plan that can not be used; noise that was asked for and never fired.
pub fn run(args: &Arguments, output: Output) -> Result<(), Failure> {
    let plan = noise_args::forward_only(args.noise.plan()?, "generation has no backward pass")?;
    let directory = args.model.directory()?;
    let decoder = args.model.decoder()?;
    let tokenizer = args.tokenizer(&directory)?;
    let prompts = args.prompts(&directory, &decoder, tokenizer.as_ref())?;
    let bound = noise_args::bind(&plan, &decoder.blueprint, Phase::Rollout)?;
    let how = args.how(&decoder, tokenizer.as_ref(), plan.seed);
    let noise = bound.noise(Phase::Rollout, args.noise.step);
    let mut progress = Progress::new("generate", prompts.len() * usize::from(args.samples));
    let samples = generate(&decoder, &prompts, &how, &noise, |done| progress.at(done));
    drop(progress);
    noise_args::check_fired(&bound)?;
    let sequences = sequences(samples, tokenizer.as_ref())?;
    let receipts = bound.receipts();
    let outcome = Outcome { sequences, seed: plan.seed, step: args.noise.step, noise: &plan.rules, receipts };
    output.show(&outcome, |_| text(&outcome))
}

impl Arguments {
    /// The tokenizer, which prompts of tokens can do without.
    fn tokenizer(&self, directory: &Path) -> Result<Option<Tokenizer>, Failure> {
        let needed = self.prompts.prompt.is_some() || directory.join("tokenizer.json").exists();
        Ok(needed.then(|| Tokenizer::from_dir(directory)).transpose()?)
    }

    fn prompts(
        &self,
        directory: &Path,
        decoder: &Decoder<Backend>,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<Vec<Prompt>, Failure> {
        let config = &decoder.blueprint.config;
        let ids = match (&self.prompts.prompt, &self.prompts.batch, tokenizer) {
            (_, Some(path), _) => read_prompts(path, config.vocab_size)?.rows,
            (Some(text), _, Some(tokenizer)) => {
                vec![self.encode(text, directory, tokenizer, config.vocab_size)?]
            }
            _ => Vec::new(),
        };
        let longest = ids.iter().map(Vec::len).max().unwrap_or(0) + self.max_new_tokens as usize;
        if longest > config.max_positions {
            let known = config.max_positions;
            note(&format!("warning: sequences of {longest} tokens; the model was made for {known}"));
        }
        let samples = usize::from(self.samples);
        let prompt = |(index, ids): (usize, Vec<u32>)| Prompt {
            ids,
            sequence: prompt_sequence(index as u64),
            samples: (0..samples).map(|sample| sample_sequence(index as u64, sample)).collect(),
        };
        Ok(ids.into_iter().enumerate().map(prompt).collect())
    }

    fn encode(
        &self,
        text: &str,
        directory: &Path,
        tokenizer: &Tokenizer,
        vocab: usize,
    ) -> Result<Vec<u32>, Failure> {
        let text = match (self.chat, ChatTemplate::from_dir(directory)?) {
            (false, _) => text.to_owned(),
            (true, Some(template)) => template.render(&[Message::user(text)], true)?,
            (true, None) => {
                let spec = &self.model.spec;
                return Err(Failure::input(format!("{spec}: has no chat template; leave --chat out")));
            }
        };
        let ids = tokenizer.encode(&text)?;
        if ids.is_empty() {
            return Err(Failure::input("--prompt is empty; give at least one token"));
        }
        match ids.iter().find(|&&id| id as usize >= vocab) {
            Some(id) => Err(Failure::input(format!(
                "{}: the tokenizer gives token {id}, but the model has {vocab}",
                self.model.spec
            ))),
            None => Ok(ids),
        }
    }

    fn how(&self, decoder: &Decoder<Backend>, tokenizer: Option<&Tokenizer>, seed: u64) -> Generation {
        let mut stop = Vec::new();
        if self.stop_at_eos || (self.prompts.prompt.is_some() && !self.ignore_eos) {
            stop.clone_from(&decoder.blueprint.config.eos_token_ids);
            stop.extend(tokenizer.and_then(Tokenizer::eos).filter(|eos| !stop.contains(eos)));
        }
        Generation {
            max_new_tokens: self.max_new_tokens as usize,
            stop,
            sampler: Sampler { temperature: self.temperature, top_p: self.top_p, top_k: self.top_k },
            batch: AT_ONCE,
            key: Generation::key(seed, Phase::Rollout.name(), self.noise.step),
        }
    }
}

fn sequences(samples: Vec<Vec<Sample>>, tokenizer: Option<&Tokenizer>) -> Result<Vec<Sequence>, Failure> {
    let mut sequences = Vec::new();
    for (prompt, samples) in samples.into_iter().enumerate() {
        for (sample, Sample { ids, log_probs, stopped }) in samples.into_iter().enumerate() {
            let text = tokenizer.map(|tokenizer| tokenizer.decode(&ids, true)).transpose()?;
            sequences.push(Sequence { prompt, sample, ids, text, log_probs, stopped });
        }
    }
    Ok(sequences)
}

fn text(outcome: &Outcome) -> String {
    let content = |sequence: &Sequence| match &sequence.text {
        Some(text) => text.clone(),
        None => format!("{:?}", sequence.ids),
    };
    let mut out = match &outcome.sequences[..] {
        [only] => format!("{}\n", content(only)),
        all => all
            .iter()
            .map(|s| format!("[prompt {}, sample {}] {}\n", s.prompt, s.sample, content(s)))
            .collect(),
    };
    if !outcome.receipts.is_empty() {
        out += &format!("\n{}", receipt_table::render(&outcome.receipts));
    }
    out
}
