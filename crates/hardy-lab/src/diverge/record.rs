//! Recording what Hardy computes: one forward pass, and if wanted one backward, with the values of sites kept in the
//! shape of the batch.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use hardy_model::{Batch, Decoder, files::fingerprint, sequence_rows};
use hardy_ops::{
    BoundPlan, Noise, NoisyBackend, Phase, Point, Row, Site, SiteId, Tap, TapKey, TapValues, glob_matches,
};
use hardy_train::{
    error::Error,
    machine::refuse_beyond_memory,
    policy::{columns, log_probs},
    recording::Recording,
    sequence::{Packed, Sequence},
};

use super::dump::{Dump, Entry, Matrix, Precision};
use crate::{error::LabError, evaluate::rules_toml};

/// Tokens of a pass.
const PASS: usize = 4096;

/// The tokens of a batch, `[B, T]`.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// Token ids, row by row; 0 where none is shown.
    pub ids: Vec<u32>,
    /// Whether a token is there.
    pub shown: Vec<bool>,
    /// Whether the loss counts its log-probability, given what precedes it.
    pub scored: Vec<bool>,
    /// Columns.
    pub width: usize,
}

impl Tokens {
    /// Rows of tokens of which some are shown; every shown token that directly follows another is scored.
    pub fn from_rows(ids: &[Vec<u32>], shown: &[Vec<bool>]) -> Self {
        let width = ids.first().map_or(0, Vec::len);
        let scored = |row: &Vec<bool>| (0..row.len()).map(|i| i > 0 && row[i] && row[i - 1]).collect();
        let scored: Vec<Vec<bool>> = shown.iter().map(scored).collect();
        Self { ids: ids.concat(), shown: shown.concat(), scored: scored.concat(), width }
    }

    /// Prompts with responses, of which the responses are scored; padded on the right.
    pub fn from_sequences(sequences: &[Sequence]) -> Self {
        let width = sequences.iter().map(|sequence| sequence.ids.len()).max().unwrap_or(0);
        let mut tokens = Self { ids: Vec::new(), shown: Vec::new(), scored: Vec::new(), width };
        for sequence in sequences {
            tokens.ids.extend((0..width).map(|i| sequence.ids.get(i).copied().unwrap_or(0)));
            tokens.shown.extend((0..width).map(|i| i < sequence.ids.len()));
            let scored = |i| i > 0 && i >= sequence.prompt_length && i < sequence.ids.len();
            tokens.scored.extend((0..width).map(scored));
        }
        tokens
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.ids.len() / self.width.max(1)
    }

    /// Tokens that the loss counts.
    pub fn targets(&self) -> usize {
        self.scored.iter().filter(|scored| **scored).count()
    }

    /// The columns of a row's tokens.
    pub fn columns(&self, row: usize) -> Vec<usize> {
        (0..self.width).filter(|column| self.shown[row * self.width + column]).collect()
    }

    fn matrix(&self, value: impl Fn(usize) -> i64) -> Matrix {
        Matrix { values: (0..self.ids.len()).map(value).collect(), width: self.width }
    }

    /// Which tokens the loss counts.
    pub fn loss_mask(&self) -> Matrix {
        self.matrix(|i| i64::from(self.scored[i]))
    }
}

/// What is to be recorded.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// Globs on `MODULE/OPERATOR/POINT`, or on the module path alone.
    pub sites: &'a [String],
    /// Gradients of the loss too: of what sites read, and of weights.
    pub gradients: bool,
}

impl Wanted<'_> {
    fn selects(&self, site: &Site, point: &str) -> bool {
        let name = format!("{}/{}/{point}", site.module, site.op.name());
        self.sites.iter().any(|glob| glob_matches(glob, &name) || glob_matches(glob, &site.module))
    }
}

/// Records what `decoder` computes on `tokens` under `plan`, at `step` of the training phase. The loss is the mean negative
/// log-probability of the scored tokens.
///
/// # Errors
/// Globs that select nothing, no token to score, more values than memory holds, or noise that was asked for and never
/// fired.
pub fn record<B: NoisyBackend>(
    decoder: &Decoder<B>,
    tokens: &Tokens,
    (plan, step): (&BoundPlan, u64),
    wanted: &Wanted,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Dump, LabError> {
    let sites = &decoder.blueprint.sites;
    let points = |site: &Site| {
        let gradient = wanted.gradients && wanted.selects(site, "grad_input");
        [wanted.selects(site, "output"), gradient]
    };
    let chosen: Vec<[bool; 2]> = sites.iter().map(points).collect();
    let weights = wanted.gradients && sites.iter().any(|site| wanted.selects(site, "grad_weight"));
    if !weights && chosen.iter().flatten().all(|chosen| !chosen) {
        return Err(no_site(wanted, sites));
    }
    if tokens.targets() == 0 {
        return Err(Error::config("no token follows another that is shown; there is nothing to score").into());
    }
    refuse_too_much(decoder, tokens, &chosen)?;
    let tap = Arc::new(Tap::new(chosen));
    let noise = plan.noise(Phase::Train, step).tapped(&tap);
    let noise = if wanted.gradients { noise.gathering(sites.len()) } else { noise };
    let loss = pass(decoder, tokens, &noise, wanted.gradients, progress);
    let mut entries = Vec::new();
    let (backward, forward): (BTreeMap<_, _>, BTreeMap<_, _>) =
        tap.take().into_iter().partition(|(key, _)| key.point == Point::GradInput);
    entries.extend(forward.into_iter().map(|(key, values)| entry(sites, key, &values, tokens)));
    entries.extend(backward.into_iter().rev().map(|(key, values)| entry(sites, key, &values, tokens)));
    if weights {
        entries.extend(weight_gradients(decoder, &noise, wanted));
    }
    if let Some(silent) = plan.unfired().into_iter().next() {
        return Err(Error::Unfired(silent).into());
    }
    let facts = [
        ("fingerprint", fingerprint(&decoder.to_host())),
        ("plan", rules_toml(&plan.plan().rules)),
        ("seed", plan.plan().seed.to_string()),
        ("step", step.to_string()),
        ("phase", Phase::Train.name().to_owned()),
        ("loss", loss.to_string()),
        ("precision", Precision::from(decoder.blueprint.precision).name().to_owned()),
        ("simd", hardy_numerics::simd::level().to_owned()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    Ok(Dump {
        source: String::new(),
        facts: facts.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        ids: Some(tokens.matrix(|i| tokens.ids[i].into())),
        mask: Some(tokens.matrix(|i| tokens.shown[i].into())),
        entries,
        ordered: true,
    })
}

fn no_site(wanted: &Wanted, sites: &[Site]) -> LabError {
    let first = sites.first().map(|site| format!("{}/{}/output", site.module, site.op.name()));
    LabError::Diverge(format!(
        "--sites {} matches no site; the first of {} is `{}`",
        wanted.sites.join(" "),
        sites.len(),
        first.unwrap_or_default()
    ))
}

/// Refuses what memory can not hold: the values, and the file made of them.
fn refuse_too_much<B: NoisyBackend>(
    decoder: &Decoder<B>,
    tokens: &Tokens,
    chosen: &[[bool; 2]],
) -> Result<(), LabError> {
    use hardy_ops::Op;
    let config = &decoder.blueprint.config;
    let cells = tokens.ids.len() as u128;
    let wide = config.intermediate_size.max(config.heads * config.head_dim).max(config.hidden_size);
    let mut values = 0;
    for (site, chosen) in decoder.blueprint.sites.iter().zip(chosen) {
        let width = match site.op {
            Op::Matmul | Op::Softmax if !site.module.ends_with("values") => config.heads * tokens.width,
            Op::Linear if site.layer.is_none() => config.vocab_size,
            Op::RmsNorm | Op::LayerNorm | Op::Embedding => config.hidden_size,
            _ => wide,
        };
        let share = config.experts.filter(|_| site.module.contains(".experts."));
        let width = share.map_or(width, |all| width * all.per_token / all.count.max(1));
        values += cells * width as u128 * chosen.iter().filter(|chosen| **chosen).count() as u128;
    }
    let remedy = "take fewer --sites or shorter sequences";
    Ok(refuse_beyond_memory("the dump", 3 * 4 * values, remedy)?)
}

/// One pass over all sequences; gives the loss.
fn pass<B: NoisyBackend>(
    decoder: &Decoder<B>,
    tokens: &Tokens,
    noise: &Noise,
    gradients: bool,
    progress: &mut dyn FnMut(usize, usize),
) -> f64 {
    let tracked = gradients.then(|| decoder.tracked());
    let parts = parts(tokens);
    let (targets, mut sum) = (tokens.targets(), 0.0);
    for (done, (packed, scored)) in parts.iter().enumerate() {
        let scores = match &tracked {
            None => columns(&log_probs(decoder, packed, noise, 1.0))[0].clone(),
            Some(tracked) => {
                let pass = Recording::forward(tracked, packed, noise, 1.0, false);
                let [scores, _] = pass.scores();
                let each = -1.0 / targets as f32;
                let derivative: Vec<f32> = scored.iter().map(|&s| if s { each } else { 0.0 }).collect();
                pass.backward(&derivative, None);
                scores
            }
        };
        sum -= scores.iter().zip(scored).filter(|(_, s)| **s).map(|(x, _)| f64::from(*x)).sum::<f64>();
        progress(done + 1, parts.len());
    }
    sum / targets as f64
}

/// The sequences in passes, with logits for every token, and which of those predict a token that is scored.
fn parts(tokens: &Tokens) -> Vec<(Packed, Vec<bool>)> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut used = 0;
    for row in 0..tokens.rows() {
        let length = tokens.columns(row).len();
        if length == 0 {
            continue;
        }
        used += length;
        match groups.last_mut() {
            Some(group) if used <= PASS => group.push(row),
            _ => {
                used = length;
                groups.push(vec![row]);
            }
        }
    }
    groups.iter().map(|rows| part(tokens, rows)).collect()
}

fn part(tokens: &Tokens, rows: &[usize]) -> (Packed, Vec<bool>) {
    let (mut sequences, mut targets, mut scored) = (Vec::new(), Vec::new(), Vec::new());
    for &row in rows {
        let columns = tokens.columns(row);
        let at = |column: usize| row * tokens.width + column;
        let ids: Vec<u32> = columns.iter().map(|&column| tokens.ids[at(column)]).collect();
        for index in 0..columns.len() {
            let next = columns.get(index + 1).copied().filter(|next| *next == columns[index] + 1);
            targets.push(next.map_or(0, |next| tokens.ids[at(next)]));
            scored.push(next.is_some_and(|next| tokens.scored[at(next)]));
        }
        let addresses = sequence_rows(row as u64, row as u64, ids.len(), ids.len());
        sequences.push((ids, addresses));
    }
    let pairs = sequences.iter().map(|(ids, rows): &(Vec<u32>, Vec<Row>)| (&ids[..], &rows[..]));
    let rows = (0..targets.len() as u32).collect();
    (Packed { batch: Batch::pack(pairs), rows, targets: targets.into(), shared: false }, scored)
}

/// What a tap kept of one place, in the shape of the batch: `[B, T, width]`, of what attention's heads see
/// `[B, heads, T, T]`, with 0 where nothing is.
fn entry(sites: &[Site], key: TapKey, kept: &TapValues, tokens: &Tokens) -> Entry {
    let site = &sites[key.site.0];
    let second = if key.rhs { "/rhs" } else { "" };
    let name = format!("{}/{}/{}{second}", site.module, site.op.name(), key.point.name());
    let (batch, time) = (tokens.rows(), tokens.width);
    let columns: HashMap<u64, Vec<usize>> = (0..batch).map(|row| (row as u64, tokens.columns(row))).collect();
    let heads = kept.rows.iter().filter_map(|row| row.head).map(|(head, _)| head + 1).max();
    let shape = match heads {
        Some(heads) => vec![batch, heads, time, time],
        None => vec![batch, time, kept.rows.first().map_or(0, |row| row.width)],
    };
    let mut values = vec![0.0; shape.iter().product()];
    let mut rest = &kept.values[..];
    for row in &kept.rows {
        let (own, others) = rest.split_at(row.width);
        rest = others;
        let columns = &columns[&row.row.sequence];
        let (b, t) = (row.row.sequence as usize, columns[row.row.position as usize]);
        match (row.head, heads) {
            (Some((head, first)), Some(heads)) => {
                let start = ((b * heads + head) * time + t) * time;
                for (column, x) in columns[first..].iter().zip(own) {
                    values[start + column] = *x;
                }
            }
            _ => values[(b * time + t) * row.width..][..row.width].copy_from_slice(own),
        }
    }
    Entry::new(name, shape, values)
}

/// The gradients of weights and biases, in the order of the backward pass. A table that is tied has one gradient, the sum
/// of both sites', and stands under both.
fn weight_gradients<B: NoisyBackend>(decoder: &Decoder<B>, noise: &Noise, wanted: &Wanted) -> Vec<Entry> {
    let blueprint = &decoder.blueprint;
    let mut places = Vec::new();
    let mut sums: HashMap<usize, Vec<f32>> = HashMap::new();
    for (id, weight, bias) in blueprint.weights().into_iter().rev() {
        let gathered = noise.gathered(id, &decoder.weight_at(id, weight));
        let points = [("grad_weight", Some(weight)), ("grad_bias", bias)];
        for (gradient, (point, parameter)) in gathered.into_iter().zip(points) {
            let (Some(gradient), Some(parameter)) = (gradient, parameter) else { continue };
            places.push((id, point, parameter));
            let values = B::host(&gradient.into_primitive().tensor());
            match sums.get_mut(&parameter) {
                Some(sum) => sum.iter_mut().zip(&*values).for_each(|(sum, x)| *sum += x),
                None => drop(sums.insert(parameter, values.to_vec())),
            }
        }
    }
    let entry = |(id, point, parameter): (SiteId, &str, usize)| {
        let site = &blueprint.sites[id.0];
        let name = format!("{}/{}/{point}", site.module, site.op.name());
        let shape = blueprint.parameters[parameter].shape.clone();
        wanted.selects(site, point).then(|| Entry::new(name, shape, sums[&parameter].clone()))
    };
    places.into_iter().filter_map(entry).collect()
}
