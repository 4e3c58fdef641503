//! `hardy generate`: continuing prompts, in the rollout phase.

use std::path::{Path, PathBuf};

use clap::Args;
use hardy_model::{ChatTemplate, Decoder, Generation, Message, Prompt, Sample, Sampler, Tokenizer, generate};
use hardy_numerics::Precision;
use hardy_ops::{Phase, Receipt, Rule};
use hardy_train::{
    encode::{prompt_sequence, sample_sequence, unknown_token},
    machine::refuse_large_cache,
};
use serde::Serialize;

use crate::{
    batch_file::read_prompts,
    device::{Engine, on_device},
    failure::Failure,
    model_source::ModelArgs,
    noise_args::{self, NoiseArgs},
    number_args::{explained, number, whole},
    output::Output,
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
    #[arg(
        long,
        help = explained("Tokens after which a sequence is cut off", "train.max_new_tokens"),
        value_name = "N",
        value_parser = whole::<usize>("train.max_new_tokens")
    )]
    max_new_tokens: usize,
    #[arg(
        long,
        value_name = "T",
        default_value_t = 0.0,
        value_parser = temperature,
        allow_negative_numbers = true,
        help = TEMPERATURE
    )]
    temperature: f64,
    #[arg(
        long,
        value_name = "P",
        default_value_t = 1.0,
        value_parser = number("train.top_p"),
        allow_negative_numbers = true,
        help = explained("Sample among the most probable tokens whose probabilities reach this sum", "train.top_p")
    )]
    top_p: f64,
    #[arg(
        long,
        help = explained("Sample among this many of the most probable tokens; 0 is all", "train.top_k"),
        value_name = "K",
        default_value_t = 0,
        value_parser = whole::<usize>("train.top_k")
    )]
    top_k: usize,
    #[arg(
        long,
        help = explained("Samples of every prompt", "train.samples_per_prompt"),
        value_name = "N",
        default_value_t = 1,
        value_parser = whole::<usize>("train.samples_per_prompt")
    )]
    samples: usize,
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

const TEMPERATURE: &str = "Sampling temperature; 0 always takes the most probable token";

/// 0 is greedy; anything else is a temperature of rollouts.
fn temperature(text: &str) -> Result<f64, String> {
    if text.trim().parse() == Ok(0.0) {
        return Ok(0.0);
    }
    number("train.temperature")(text).map_err(|wrong| format!("{wrong}, or 0"))
}

/// What was generated, and under what.
#[derive(Serialize)]
struct Outcome<'a> {
    sequences: Vec<Sequence>,
    precision: Precision,
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
    /// The log-probability of each token among all, before top-k and top-p.
    log_probs: Vec<f32>,
    /// Whether the end-of-sequence token ended it.
    stopped: bool,
    /// Whether it ended because the next token's logits were not finite.
    non_finite: bool,
}

/// Generates.
///
/// # Errors
/// A model, prompt or plan that can not be used; noise that was asked for and never fired.
pub fn run(args: &Arguments, output: Output) -> Result<(), Failure> {
    on_device!(args.model.device.device, run_on(args, output))
}

fn run_on<B: Engine>(args: &Arguments, output: Output) -> Result<(), Failure> {
    let plan = noise_args::forward_only(args.noise.plan()?, "generation has no backward pass")?;
    let directory = args.model.directory()?;
    let decoder = args.model.decoder_as_stored::<B>()?;
    let tokenizer = args.tokenizer(&directory)?;
    let prompts = args.prompts(&directory, &decoder, tokenizer.as_ref())?;
    let at_once = (prompts.len() * args.samples).min(AT_ONCE);
    let longest = prompts.iter().map(|prompt| prompt.ids.len()).max().unwrap_or_default();
    refuse_large_cache(&decoder, (prompts.len().min(at_once), longest), (at_once, args.max_new_tokens))?;
    let bound = noise_args::bind(&plan, &decoder.blueprint, Phase::Rollout)?;
    let how = args.how(&decoder, tokenizer.as_ref(), plan.seed);
    let noise = bound.noise(Phase::Rollout, args.noise.step);
    let mut progress = Progress::new("generate", prompts.len() * args.samples);
    let samples = generate(&decoder, &prompts, &how, &noise, |done| progress.at(done));
    drop(progress);
    noise_args::check_fired(&bound)?;
    let sequences = sequences(samples, tokenizer.as_ref())?;
    let receipts = bound.receipts();
    let outcome = Outcome {
        sequences,
        precision: decoder.blueprint.precision,
        seed: plan.seed,
        step: args.noise.step,
        noise: &plan.rules,
        receipts,
    };
    output.show(&outcome, |_| text(&outcome))
}

impl Arguments {
    /// The tokenizer, which prompts of tokens can do without.
    fn tokenizer(&self, directory: &Path) -> Result<Option<Tokenizer>, Failure> {
        let needed = self.prompts.prompt.is_some() || directory.join("tokenizer.json").exists();
        Ok(needed.then(|| Tokenizer::from_dir(directory)).transpose()?)
    }

    fn prompts<B: Engine>(
        &self,
        directory: &Path,
        decoder: &Decoder<B>,
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
        let longest = ids.iter().map(Vec::len).max().unwrap_or(0) + self.max_new_tokens;
        self.model.refuse_longer(decoder, longest, "a prompt with its new tokens")?;
        let prompt = |(index, ids): (usize, Vec<u32>)| Prompt {
            ids,
            sequence: prompt_sequence(index as u64),
            samples: (0..self.samples).map(|sample| sample_sequence(index as u64, sample)).collect(),
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
        match unknown_token(&ids, vocab, tokenizer) {
            Some(unknown) => Err(Failure::input(format!("{}: {unknown}", self.model.spec))),
            None => Ok(ids),
        }
    }

    fn how<B: Engine>(&self, decoder: &Decoder<B>, tokenizer: Option<&Tokenizer>, seed: u64) -> Generation {
        let mut stop = Vec::new();
        if self.stop_at_eos || (self.prompts.prompt.is_some() && !self.ignore_eos) {
            stop.clone_from(&decoder.blueprint.config.eos_token_ids);
            stop.extend(tokenizer.and_then(Tokenizer::eos).filter(|eos| !stop.contains(eos)));
        }
        Generation {
            max_new_tokens: self.max_new_tokens,
            stop,
            sampler: Sampler {
                temperature: self.temperature as f32,
                top_p: self.top_p as f32,
                top_k: self.top_k,
            },
            batch: AT_ONCE,
            key: Generation::key(seed, Phase::Rollout.name(), self.noise.step),
        }
    }
}

fn sequences(samples: Vec<Vec<Sample>>, tokenizer: Option<&Tokenizer>) -> Result<Vec<Sequence>, Failure> {
    let mut sequences = Vec::new();
    for (prompt, samples) in samples.into_iter().enumerate() {
        for (sample, Sample { ids, log_probs, stopped, non_finite }) in samples.into_iter().enumerate() {
            let text = tokenizer.map(|tokenizer| tokenizer.decode(&ids, true)).transpose()?;
            sequences.push(Sequence { prompt, sample, ids, text, log_probs, stopped, non_finite });
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
    for s in outcome.sequences.iter().filter(|s| s.non_finite) {
        out += &format!(
            "prompt {}, sample {} ends after {} tokens: the next token's logits are not finite\n",
            s.prompt,
            s.sample,
            s.ids.len()
        );
    }
    if !outcome.receipts.is_empty() {
        out += &format!("\n{}", receipt_table::render(&outcome.receipts));
    }
    out
}
