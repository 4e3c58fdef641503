//! `hardy score`: what a model thinks of given tokens, in the train phase: log-probabilities, loss, and on request
//! logits and the gradient of the loss in every parameter.

use std::path::{Path, PathBuf};

use clap::Args;
use hardy_lab::format;
use hardy_model::{Decoder, Dtype, HostTensor, files::write_tensors};
use hardy_numerics::Precision;
use hardy_ops::{BoundPlan, Phase, Receipt, Rule};
use hardy_train::{
    gradients::{Gradients, back_from},
    policy::{columns, from_columns},
};
use serde::Serialize;

use crate::{
    batch_file::{ScoreBatch, read_score_batch},
    device::{Engine, on_device},
    failure::Failure,
    model_source::ModelArgs,
    noise_args::{self, NoiseArgs},
    output::Output,
    progress::Progress,
    receipt_table,
};

mod part;

use part::{Part, Scored, host, parts};

const EXAMPLE: &str = "\
IN holds `input_ids` and `attention_mask` [B,T] (no mask: no padding). OUT gets `logprobs` [B,T-1] of the next token, \
0 where it or the token before it is masked; `loss` [1], their mean negated; with --logits `logits` [B,T,V], 0 where \
masked; with --grads `grad/<parameter>`. Row i of the batch is sequence i of the noise; positions count tokens that \
are not masked. HARDY_NOISE adds rules to the plan.

Example: the loss and its gradients under 5 % error in every matrix product
  hardy score --model DIR --batch in.safetensors --out out.safetensors --grads --noise 0.05";

/// Arguments of `hardy score`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    /// The tokens
    #[arg(long, value_name = "IN.safetensors")]
    batch: PathBuf,
    /// Where to write
    #[arg(long, value_name = "OUT.safetensors")]
    out: PathBuf,
    /// Write the logits too
    #[arg(long)]
    logits: bool,
    /// Write the gradient of the loss in every parameter too
    #[arg(long)]
    grads: bool,
    #[command(flatten)]
    noise: NoiseArgs,
}

/// What was computed, beside the tensors.
#[derive(Serialize)]
struct Outcome<'a> {
    loss: f64,
    sequences: usize,
    tokens: usize,
    out: &'a Path,
    precision: Precision,
    seed: u64,
    step: u64,
    noise: &'a [Rule],
    receipts: Vec<Receipt>,
}

/// Scores a batch.
///
/// # Errors
/// A model, batch or plan that can not be used; a loss that is not finite; noise that was asked for and never fired.
pub fn run(args: &Arguments, output: Output) -> Result<(), Failure> {
    on_device!(args.model.device.device, run_on(args, output))
}

fn run_on<B: Engine>(args: &Arguments, output: Output) -> Result<(), Failure> {
    let mut plan = args.noise.plan()?;
    if !args.grads {
        plan = noise_args::forward_only(plan, "give --grads")?;
    }
    let decoder =
        if args.grads { args.model.decoder::<B>()? } else { args.model.decoder_as_stored::<B>()? };
    let batch = read_score_batch(&args.batch, decoder.blueprint.config.vocab_size)?;
    let longest = batch.mask.iter().map(|row| row.iter().filter(|shown| **shown).count()).max().unwrap_or(0);
    args.model.refuse_longer(&decoder, longest, &format!("{}: a sequence", args.batch.display()))?;
    let bound = noise_args::bind(&plan, &decoder.blueprint, Phase::Train)?;
    let scores = args.scores(&decoder, &batch, &bound)?;
    noise_args::check_fired(&bound)?;
    write_tensors(&args.out, &scores.tensors, Dtype::F32)?;
    let outcome = Outcome {
        loss: scores.loss,
        sequences: batch.ids.rows.len(),
        tokens: scores.tokens,
        out: &args.out,
        precision: decoder.blueprint.precision,
        seed: plan.seed,
        step: args.noise.step,
        noise: &plan.rules,
        receipts: bound.receipts(),
    };
    output.show(&outcome, |_| text(&outcome))
}

/// What is written, and what is said about it.
struct Scores {
    tensors: Vec<HostTensor>,
    loss: f64,
    tokens: usize,
}

impl Arguments {
    fn scores<B: Engine>(
        &self,
        decoder: &Decoder<B>,
        batch: &ScoreBatch,
        plan: &BoundPlan,
    ) -> Result<Scores, Failure> {
        let vocab = decoder.blueprint.config.vocab_size;
        let parts = parts(batch, vocab, self.logits);
        let tokens: usize = parts.iter().map(Part::targets).sum();
        if tokens == 0 {
            let path = self.batch.display();
            return Err(Failure::input(format!(
                "{path}: no token follows another that is not masked; there is nothing to score"
            )));
        }
        let noise = plan.noise(Phase::Train, self.noise.step);
        let mut scored = Scored::zeros(batch, self.logits.then_some(vocab));
        let noise = if self.grads { noise.gathering(decoder.blueprint.sites.len()) } else { noise };
        let tracked = self.grads.then(|| decoder.tracked());
        let mut progress = Progress::new("score", parts.len());
        for (done, part) in parts.iter().enumerate() {
            match &tracked {
                None => {
                    let (scores, logits) = part.forward(decoder, &noise, self.logits);
                    let [log_probs, _] = columns(&scores);
                    scored.add(part, &log_probs, logits.as_ref());
                }
                Some(tracked) => {
                    let (scores, logits) = part.forward(tracked, &noise, self.logits);
                    let [log_probs, _] = columns(&scores);
                    scored.add(part, &log_probs, logits.as_ref());
                    drop(logits);
                    let derivative = from_columns(&part.derivative(tokens), None, &scores.device());
                    back_from(scores, derivative, None);
                }
            }
            progress.at(done + 1);
        }
        let loss = scored.loss(tokens);
        if !loss.is_finite() {
            return Err(Failure::run(format!("the loss is {loss}; nothing was written")));
        }
        let mut tensors = scored.tensors(loss);
        if self.grads {
            tensors.extend(named(decoder, Gradients::gathered(decoder, &noise)));
        }
        Ok(Scores { tensors, loss, tokens })
    }
}

/// The gradients under the names and in the shapes of the parameters.
fn named<B: Engine>(decoder: &Decoder<B>, gradients: Gradients<B>) -> impl Iterator<Item = HostTensor> {
    let specs = decoder.blueprint.parameters[decoder.blueprint.frozen..].iter();
    specs.zip(gradients.clipped(0.0, 0.0)).map(|(spec, gradient)| HostTensor {
        name: format!("grad/{}", spec.name),
        shape: spec.shape.clone(),
        data: host(&gradient),
    })
}

fn text(outcome: &Outcome) -> String {
    let Outcome { loss, tokens, sequences, out, receipts, .. } = outcome;
    let head = format!(
        "loss {loss:.6} over {} tokens of {sequences} sequences, written to {}\n",
        format::count(*tokens as u64),
        out.display()
    );
    match receipt_table::render(receipts) {
        table if table.is_empty() => head,
        table => format!("{head}\n{table}"),
    }
}
