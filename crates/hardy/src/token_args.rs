//! Naming tokens on the command line: a batch of them, or problems with worked answers.

use std::path::PathBuf;

use clap::Args;
use hardy_lab::{diverge::Tokens, evaluate::EVAL_DATA_SEED};
use hardy_model::Decoder;
use hardy_train::{
    data::{self, Source, Split},
    error::Error,
};

use crate::{
    batch_file::read_score_batch,
    device::Engine,
    failure::Failure,
    model_source::ModelArgs,
    number_args::{explained, whole},
};

/// Which tokens.
#[derive(Clone, Debug, Args)]
pub struct TokenArgs {
    /// The tokens: `input_ids` and, with padding, `attention_mask` [B,T]; the loss is the mean over all that follow another
    #[arg(long, value_name = "IN.safetensors", conflicts_with = "data")]
    pub batch: Option<PathBuf>,
    /// Or problems with worked answers, `builtin:arith` or a GSM8K-style .jsonl file; the loss is the mean over the answers'
    /// tokens
    #[arg(long, value_name = "FILE")]
    pub data: Option<String>,
    #[arg(
        long,
        help = explained("Problems: the first N", "eval.n"),
        value_name = "N",
        default_value_t = 4,
        value_parser = whole::<usize>("eval.n")
    )]
    pub n: usize,
    /// How a problem is asked, with `{question}` in it
    #[arg(long, value_name = "TEXT", default_value = "{question}")]
    pub prompt: String,
}

impl TokenArgs {
    /// Reads the model, and the tokens for it.
    ///
    /// # Errors
    /// No tokens, or files that can not be used.
    pub fn read<B: Engine>(&self, model: &ModelArgs) -> Result<(Decoder<B>, Tokens), Failure> {
        match (&self.batch, &self.data) {
            (Some(path), _) => {
                let decoder = model.decoder::<B>()?;
                let batch = read_score_batch(path, decoder.blueprint.config.vocab_size)?;
                let tokens = Tokens::from_rows(&batch.ids.rows, &batch.mask);
                let longest = (0..tokens.rows()).map(|row| tokens.columns(row).len()).max().unwrap_or(0);
                model.refuse_longer(&decoder, longest, &format!("{}: a sequence", path.display()))?;
                Ok((decoder, tokens))
            }
            (None, Some(source)) => {
                let policy = model.policy::<B>()?;
                let problems = data::load(&Source::texts(source), Split::Eval, EVAL_DATA_SEED, Some(self.n));
                let problems = problems.map_err(Error::from)?;
                let worked = |problem| policy.worked(problem, &problem.answer, &self.prompt);
                let sequences = problems.iter().map(worked).collect::<Result<Vec<_>, _>>()?;
                Ok((policy.decoder, Tokens::from_sequences(&sequences)))
            }
            (None, None) => Err(Failure::input(
                "which tokens? give --batch IN.safetensors, or --data FILE such as builtin:arith",
            )),
        }
    }
}
