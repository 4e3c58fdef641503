//! A served model against Hardy: `--endpoint`.

use std::time::Duration;

use clap::{Args, ValueEnum};
use hardy_lab::{
    diverge::endpoint::{Asking, Client, Engine, Gap, Scored, Served, ask, compare, meet, score},
    format::{percent, significant},
    text_table::{Align, TextTable, wrap},
};
use hardy_ops::Phase;

use crate::{
    device::Backend,
    failure::Failure,
    model_source::ModelArgs,
    noise_args::{self, NoiseArgs},
    number_args::{explained, help, number, whole},
    output::note,
    progress::Progress,
    token_args::TokenArgs,
};

/// Which endpoint, and how it is asked.
#[derive(Debug, Args)]
pub struct EndpointArgs {
    /// A served copy of the model, as in http://127.0.0.1:8000: vLLM, SGLang, or another with OpenAI's interface
    #[arg(long, value_name = "URL", requires = "model", conflicts_with_all = ["between", "devices"])]
    pub endpoint: Option<String>,
    /// Its interface [default: found out]
    #[arg(long, value_name = "NAME", requires = "endpoint")]
    engine: Option<EngineName>,
    /// The model's name there [default: the first that it lists]
    #[arg(long, value_name = "NAME", requires = "endpoint")]
    served_model: Option<String>,
    #[arg(
        long,
        value_name = "N",
        default_value_t = 16,
        value_parser = whole::<usize>("--sampled"),
        help = explained("Tokens that it samples after every sequence", "--sampled")
    )]
    sampled: usize,
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 60.0,
        value_parser = number("--timeout"),
        help = help("--timeout")
    )]
    timeout: f64,
    /// The errors that Hardy scores under
    #[command(flatten)]
    noise: NoiseArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum EngineName {
    Vllm,
    Sglang,
    Openai,
}

/// Mean |Δ| in nats up to which both agree, unless --tolerance says otherwise.
const TOLERANCE: f64 = 0.01;

impl EndpointArgs {
    fn asking(&self, url: &str) -> Asking {
        let engine = self.engine.map(|name| match name {
            EngineName::Vllm => Engine::Vllm,
            EngineName::Sglang => Engine::Sglang,
            EngineName::Openai => Engine::Openai,
        });
        Asking {
            url: url.to_owned(),
            engine,
            model: self.served_model.clone(),
            new_tokens: self.sampled,
            timeout: Duration::from_secs_f64(self.timeout),
        }
    }

    /// Asks the endpoint at `url` twice, and Hardy once.
    ///
    /// # Errors
    /// A model, batch or plan that can not be used; an endpoint that does not answer, or not about the same tokens.
    pub fn compare(
        &self,
        url: &str,
        model: &ModelArgs,
        tokens: &TokenArgs,
        tolerance: Option<f64>,
    ) -> Result<Served, Failure> {
        let asking = self.asking(url);
        let plan = noise_args::forward_only(self.noise.plan()?, "an endpoint has no backward pass")?;
        let client = Client::new(url, asking.timeout)?;
        let (decoder, tokens) = tokens.read::<Backend>(model)?;
        let bound = noise_args::bind(&plan, &decoder.blueprint, Phase::Train)?;
        let noise = bound.noise(Phase::Train, self.noise.step);
        let server = meet(&client, &asking)?;
        let version = server.version.as_deref().unwrap_or("of unknown version");
        note(&format!("{url}: {} {version}, model {}", server.engine.name(), server.model));
        let vocab = decoder.blueprint.config.vocab_size;
        let (mut first, mut second, mut own): (Vec<_>, Vec<_>, Vec<Scored>) =
            (Vec::new(), Vec::new(), Vec::new());
        let mut progress = Progress::new("endpoint", tokens.rows());
        for row in 0..tokens.rows() {
            let ids: Vec<u32> =
                tokens.columns(row).iter().map(|column| tokens.ids[row * tokens.width + column]).collect();
            if ids.len() < 2 {
                continue;
            }
            let answer = ask(&client, &server, &ids, asking.new_tokens, vocab)?;
            second.push(ask(&client, &server, &answer.ids, 0, vocab)?);
            own.push(score(&decoder, row, &answer.ids, &noise));
            first.push(answer);
            progress.at(row + 1);
        }
        drop(progress);
        noise_args::check_fired(&bound)?;
        if first.is_empty() {
            return Err(Failure::input("no sequence has two tokens; there is nothing to compare"));
        }
        Ok(compare(server, &first, &second, &own, tolerance.unwrap_or(TOLERANCE)))
    }
}

/// The comparison as text.
pub fn text(found: &Served) -> String {
    use Align::{Left, Right};
    let server = &found.server;
    let mut out = format!(
        "{} ({} {}) against Hardy: {}\n",
        server.url,
        server.engine.name(),
        server.version.as_deref().unwrap_or("of unknown version"),
        found.verdict.kind.name().to_uppercase()
    );
    out += &wrap(&format!("{}.", found.verdict.reason), 100, 0);
    if found.flagged {
        out += "FLAGGED: mean exp|Δ| is above 1.05\n";
    }
    let mut table = TextTable::new(&[
        ("tokens", Left),
        ("", Right),
        ("mean |Δ|", Right),
        ("max |Δ|", Right),
        ("mean exp|Δ|", Right),
        ("k3", Right),
        ("ESS", Right),
        ("ratio outside 0.9–1.1", Right),
        ("flips", Right),
    ]);
    let mut row = |name: String, gap: &Gap| {
        if gap.tokens == 0 {
            return;
        }
        table.row([
            name,
            gap.tokens.to_string(),
            significant(gap.mean, 3),
            significant(gap.largest, 3),
            format!("{:.4}", gap.mean_exp),
            significant(gap.k3, 3),
            percent(gap.effective_sample_size),
            percent(gap.outside),
            gap.flips.map_or_else(|| "–".to_owned(), percent),
        ]);
    };
    row("all".to_owned(), &found.all);
    row("sent".to_owned(), &found.prompt);
    row("sampled".to_owned(), &found.sampled);
    row("endpoint against itself".to_owned(), &found.floor);
    for bin in &found.positions {
        row(format!("positions {} to {}", bin.from, bin.to), &bin.gap);
    }
    out + "\n" + &table.render() + "\n" + &wrap(&format!("Next: {}.", found.verdict.next), 100, 0)
}
