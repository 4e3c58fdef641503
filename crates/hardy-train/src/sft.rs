//! Supervised fine-tuning: the log-likelihood of worked answers, for warming up a base model, from a checkpoint or
//! from nothing.

use std::time::Instant;

use hardy_model::{
    Blueprint, ChatTemplate, Decoder, Dtype, HostTensor, ModelConfig, ParameterSpec, Qwen2Sizes, Tokenizer,
};
use hardy_numerics::{NoiseKey, Row, fill_gaussian};
use hardy_ops::{BoundPlan, NoisyBackend, Phase, Plan, Rule, Streams};
use serde::{Deserialize, Serialize};

use crate::{
    adamw::AdamW,
    builtin,
    config::{DataSection, read_with_changes},
    data::{self, Problem, Split, styled_answer},
    diagnosis::not_finite,
    error::{Error, Result},
    gradients::Gradients,
    learning_rate::{Decay, LearningRate},
    policy::{Policy, prompt_sequence, sample_sequence},
    recording::Recording,
    sampler::prompts_at_step,
    sequence::{Packed, Sequence, micro_batches},
};

/// A supervised run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SftConfig {
    /// Names the run and, unless `--out` says otherwise, its directory `runs/NAME`.
    pub name: String,
    /// The seed of everything that is drawn.
    #[serde(default)]
    pub seed: u64,
    /// The model to start from.
    pub model: SftModel,
    /// The problems and how they are asked.
    #[serde(default)]
    pub data: DataSection,
    /// The share of answers that end in the rewarded `#### N`, the rest in other styles; left out, answers stay as
    /// they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewarded_share: Option<f64>,
    /// How to train.
    #[serde(default)]
    pub train: SftTrain,
    /// The rules of the plan; they act in the train phase.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub noise: Vec<Rule>,
    /// Greedy evaluation at the end, on this many problems.
    #[serde(default = "two_hundred")]
    pub eval_problems: usize,
    /// The type in which weights are saved: `float32`, `bfloat16` or `float16`.
    #[serde(default = "float32")]
    pub dtype: String,
}

fn two_hundred() -> usize {
    200
}

fn float32() -> String {
    Dtype::F32.name().to_owned()
}

/// The model to start from: a directory, or sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SftModel {
    /// `builtin:tiny` or a Hugging Face directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// A Qwen2 decoder from nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<NewModel>,
}

/// The sizes of a Qwen2 decoder from nothing; embeddings are tied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewModel {
    /// Tokens that its byte-level BPE tokenizer may have.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// The longest sequence, in tokens.
    pub max_positions: usize,
    /// How a question becomes a prompt, in Jinja.
    pub chat_template: String,
}

/// How to train.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SftTrain {
    /// Steps.
    pub steps: usize,
    /// Problems of a step.
    pub batch: usize,
    /// The highest learning rate.
    pub learning_rate: f64,
    /// Steps until it is reached.
    pub warmup_steps: usize,
    /// How it falls afterwards.
    pub decay: Decay,
    /// What it falls to, as a share of the highest.
    pub floor_ratio: f64,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// AdamW's β₁ and β₂.
    pub betas: [f64; 2],
    /// Gradients are scaled down to this norm; 0 never.
    pub max_grad_norm: f64,
    /// Tokens of a forward and backward pass.
    pub micro_batch_tokens: usize,
}

impl Default for SftTrain {
    fn default() -> Self {
        Self {
            steps: 100,
            batch: 64,
            learning_rate: 1e-5,
            warmup_steps: 10,
            decay: Decay::Cosine,
            floor_ratio: 0.0,
            weight_decay: 0.01,
            betas: [0.9, 0.999],
            max_grad_norm: 1.0,
            micro_batch_tokens: 4096,
        }
    }
}

/// One line of a supervised run's `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SftRecord {
    /// The step, from 1.
    pub step: u64,
    /// Mean negative log-likelihood of an answer's token, in nats.
    pub loss: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Tokens of the step.
    pub tokens: u64,
    /// Seconds of the step.
    pub step_seconds: f64,
}

impl SftConfig {
    /// Reads a configuration: a file, or the name of a preset; `set` holds `key=value` changes.
    ///
    /// # Errors
    /// What can not be read or understood, with the line or key.
    pub fn load(spec: &str, set: &[String]) -> Result<Self> {
        let config: Self = read_with_changes(spec, set)?;
        let wrong = |message: String| Err(Error::config(format!("{spec}: {message}")));
        if config.train.steps == 0 || config.train.batch == 0 {
            return wrong("`train.steps` and `train.batch` must be at least 1".to_owned());
        }
        if config.model.path.is_some() == config.model.new.is_some() {
            return wrong("[model] needs either `path` or the sizes of a `new` model".to_owned());
        }
        if Dtype::from_name(&config.dtype).is_none() {
            return wrong(format!(
                "`dtype` is \"{}\", but must be float32, bfloat16 or float16",
                config.dtype
            ));
        }
        Ok(config)
    }

    /// The type in which weights are saved.
    pub fn save_dtype(&self) -> Dtype {
        Dtype::from_name(&self.dtype).unwrap_or_default()
    }
}

/// A model in supervised training.
#[derive(Debug)]
pub struct SftTrainer<B: NoisyBackend> {
    /// The model.
    pub policy: Policy<B>,
    /// The plan, bound to its sites.
    pub plan: BoundPlan,
    /// Steps taken.
    pub steps: u64,
    config: SftConfig,
    problems: Vec<Problem>,
    optimizer: AdamW<B>,
    learning_rate: LearningRate,
}

impl<B: NoisyBackend> SftTrainer<B> {
    /// Reads or makes the model, and reads the data.
    ///
    /// # Errors
    /// Files that can not be used, or a plan that does not fit.
    pub fn new(config: SftConfig, device: &B::Device) -> Result<Self> {
        let data = &config.data;
        let problems = data::load(&data.train, Split::Train, config.seed, data.train_problems)?;
        let policy = match (&config.model.new, &config.model.path) {
            (Some(sizes), _) => fresh(sizes, &config, &problems, device)?,
            (None, path) => {
                Policy::from_dir(&builtin::resolve(path.as_deref().unwrap_or_default())?, device)?
            }
        };
        let plan = Plan { rules: config.noise.clone(), seed: config.seed, streams: Streams::PerPhase };
        let plan = plan.bind(&policy.decoder.blueprint.sites, &[Phase::Train])?;
        let train = &config.train;
        let optimizer = AdamW::new(policy.decoder.trained(), train.betas, train.weight_decay);
        let learning_rate = LearningRate {
            peak: train.learning_rate,
            warmup_steps: train.warmup_steps,
            decay: train.decay,
            total_steps: train.steps,
            floor_ratio: train.floor_ratio,
        };
        Ok(Self { policy, plan, steps: 0, config, problems, optimizer, learning_rate })
    }

    /// One step.
    ///
    /// # Errors
    /// A loss or gradient that is not finite.
    pub fn step(&mut self) -> Result<SftRecord> {
        let started = Instant::now();
        let train = &self.config.train;
        let chosen = prompts_at_step(self.problems.len(), train.batch, self.config.seed, self.steps as usize);
        let sequences = chosen.iter().map(|&i| self.sequence(i)).collect::<Result<Vec<_>>>()?;
        let targets: usize = sequences.iter().map(Sequence::response_length).sum();
        let noise = self.plan.noise(Phase::Train, self.steps);
        let tracked = self.policy.decoder.tracked();
        let mut gradients = Gradients::zeros(&self.policy.decoder);
        let mut loss = 0.0;
        for part in micro_batches(&sequences, train.micro_batch_tokens) {
            let packed = Packed::new(&sequences[part]);
            let pass = Recording::forward(&tracked, &packed, &noise, 1.0, false);
            let [log_probs, _] = pass.scores();
            loss -= log_probs.iter().map(|&x| f64::from(x)).sum::<f64>() / targets as f64;
            if !loss.is_finite() {
                return Err(not_finite(&self.policy.decoder, &packed, &noise, self.steps + 1, "loss"));
            }
            let derivative = vec![-1.0 / targets as f32; log_probs.len()];
            pass.backward(&mut gradients, &derivative, None);
        }
        let grad_norm = gradients.norm();
        if !grad_norm.is_finite() {
            let packed = Packed::new(&sequences);
            return Err(not_finite(&self.policy.decoder, &packed, &noise, self.steps + 1, "gradient"));
        }
        let gradients = gradients.clipped(grad_norm, train.max_grad_norm);
        let learning_rate = self.learning_rate.at(self.steps as usize);
        drop(tracked);
        self.optimizer.step(self.policy.decoder.trained_mut(), gradients, learning_rate);
        self.steps += 1;
        let tokens = sequences.iter().map(|sequence| sequence.ids.len() as u64).sum();
        let step_seconds = started.elapsed().as_secs_f64();
        Ok(SftRecord { step: self.steps, loss, grad_norm, learning_rate, tokens, step_seconds })
    }

    /// A problem with its worked answer and the end-of-sequence token.
    fn sequence(&self, index: usize) -> Result<Sequence> {
        let problem = &self.problems[index];
        let answer = worked_answer(&self.config, problem, index);
        let text = self.policy.prompt_text(&problem.question, &self.config.data.prompt)?;
        let mut ids = self.policy.tokenizer.encode(&text)?;
        let prompt_length = ids.len();
        ids.extend(self.policy.tokenizer.encode(&answer)?);
        ids.extend(self.policy.stop().first());
        let (prompt, sample) = (prompt_sequence(problem.id), sample_sequence(problem.id, 0));
        Ok(Sequence { ids, prompt_length, prompt, sample })
    }
}

fn worked_answer(config: &SftConfig, problem: &Problem, index: usize) -> String {
    match config.rewarded_share {
        Some(share) => styled_answer(problem, index as u64, share, config.seed),
        None => problem.answer.clone(),
    }
}

/// The special tokens of a tokenizer from nothing: end of text and padding, and those of a chat.
const SPECIAL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
/// Texts that a tokenizer from nothing is trained on.
const TOKENIZER_TEXTS: usize = 4096;

/// A policy from nothing: a tokenizer trained on the data, and normal weights, addressed like all noise.
fn fresh<B: NoisyBackend>(
    sizes: &NewModel,
    config: &SftConfig,
    problems: &[Problem],
    device: &B::Device,
) -> Result<Policy<B>> {
    let template = ChatTemplate::new(&sizes.chat_template)?;
    let texts = problems.iter().take(TOKENIZER_TEXTS).enumerate();
    let text = |(index, problem): (usize, &Problem)| {
        let messages = [hardy_model::Message::user(problem.question.clone())];
        Ok(template.render(&messages, true)? + &worked_answer(config, problem, index))
    };
    let texts = texts.map(text).collect::<Result<Vec<String>>>()?;
    let mut tokenizer = Tokenizer::train(&texts, sizes.vocab_size, &SPECIAL)?;
    tokenizer.set_special(SPECIAL[0], SPECIAL[0])?;
    let mut model = ModelConfig::qwen2(&Qwen2Sizes {
        vocab_size: tokenizer.vocab_size(),
        hidden_size: sizes.hidden_size,
        intermediate_size: sizes.intermediate_size,
        layers: sizes.layers,
        heads: sizes.heads,
        kv_heads: sizes.kv_heads,
        max_positions: sizes.max_positions,
        rope_theta: 10_000.0,
        tied_embeddings: true,
        initializer_range: 0.02,
    })?;
    model.eos_token_ids = tokenizer.eos().into_iter().collect();
    model.pad_token_id = tokenizer.pad();
    let blueprint = Blueprint::new(&model);
    let tensors = initial_weights(&blueprint, config.seed);
    Ok(Policy {
        decoder: Decoder::from_host(blueprint, tensors, device),
        tokenizer,
        template: Some(template),
    })
}

/// The weights of a model from nothing, a function of the seed and their names.
pub fn initial_weights(blueprint: &Blueprint, seed: u64) -> Vec<HostTensor> {
    let scale = blueprint.config.initializer_range;
    blueprint.parameters.iter().map(|spec| initial(spec, seed, scale)).collect()
}

/// Norms start at 1, biases at 0, everything else normal.
fn initial(spec: &ParameterSpec, seed: u64, scale: f32) -> HostTensor {
    let mut data = vec![0.0; spec.shape.iter().product()];
    if spec.name.ends_with("norm.weight") {
        data.fill(1.0);
    } else if !spec.name.ends_with(".bias") {
        fill_gaussian(NoiseKey::new(seed, "initial", 0, &spec.name), Row::WEIGHT, 0, &mut data);
        data.iter_mut().for_each(|x| *x *= scale);
    }
    HostTensor { name: spec.name.clone(), shape: spec.shape.clone(), data }
}
