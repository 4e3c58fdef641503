//! The error model of a machine: `--fit`.

use std::path::Path;

use hardy_lab::{
    diverge::{
        Divergence, Dump, Tokens,
        crossed::{Ranked, rank},
        diverge,
        fit::{Class, ErrorModel, explain},
        record,
        record::Wanted,
        report::Options,
    },
    format::{percent, significant},
    text_table::{Align, TextTable},
};
use hardy_model::files::write_atomically;
use hardy_ops::{Phase, Plan};
use serde::Serialize;

use crate::{device::Backend, failure::Failure, model_source::ModelArgs, noise_args};

/// Operators of largest own error that are shown.
const SHOWN: usize = 5;

/// An error model, and how well Hardy under it diverges as the machine does.
#[derive(Serialize)]
pub struct Explained {
    #[serde(flatten)]
    model: ErrorModel,
    simulation: Option<Simulation>,
    /// Its operators by what their errors should cost this model.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    look_first: Vec<Ranked>,
}

/// Hardy under the fitted plan against Hardy without errors, beside the machine against Hardy without errors.
#[derive(Serialize)]
struct Simulation {
    /// Sites compared.
    sites: usize,
    /// The median over sites of simulated over seen relative error.
    median_ratio: f64,
    /// The quarter of sites below, and that above.
    quartiles: (f64, f64),
}

/// Explains the machine of dump `b`, whose divergence from `a` is `seen`, and writes the plan.
///
/// # Errors
/// A model that can not be read, dumps that do not hold enough, or a plan that can not be written.
pub fn explained(
    (a, b): (&Dump, &Dump),
    seen: &Divergence,
    model: &ModelArgs,
    (plan, sensitivity): (&Path, Option<&Path>),
) -> Result<Explained, Failure> {
    let decoder = model.decoder::<Backend>()?;
    let found = explain(&decoder, b)?;
    let head = "# The error model of a machine, fitted by `hardy diverge --fit`.\n";
    write_atomically(plan, format!("{head}{}", found.plan).as_bytes())?;
    let simulation = match (&a.ids, found.rules.is_empty()) {
        (Some(ids), false) => {
            let shown = |i: usize| a.mask.as_ref().is_none_or(|mask| mask.values[i] != 0);
            let rows = ids.values.len() / ids.width.max(1);
            let row = |r: usize| r * ids.width..(r + 1) * ids.width;
            let vocab = decoder.blueprint.config.vocab_size as i64;
            if ids.values.iter().any(|id| !(0..vocab).contains(id)) {
                return Err(Failure::input(format!("{}: `input_ids` are not this model's", a.source)));
            }
            let tokens: Vec<Vec<u32>> =
                (0..rows).map(|r| ids.values[row(r)].iter().map(|&id| id as u32).collect()).collect();
            let mask: Vec<Vec<bool>> = (0..rows).map(|r| row(r).map(shown).collect()).collect();
            let rules = Plan { rules: found.rules.clone(), ..Plan::default() };
            let bound = noise_args::bind(&rules, &decoder.blueprint, Phase::Train)?;
            let wanted = Wanted { sites: &["*".to_owned()], gradients: false };
            let tokens = Tokens::from_rows(&tokens, &mask);
            let simulated = record(&decoder, &tokens, (&bound, 0), &wanted, &mut |_, _| {})?;
            Some(simulation(a, &simulated, seen)?)
        }
        _ => None,
    };
    let look_first = sensitivity.map(|probe| rank(&found.own, probe)).transpose()?.unwrap_or_default();
    Ok(Explained { model: found, simulation, look_first })
}

fn simulation(a: &Dump, simulated: &Dump, seen: &Divergence) -> Result<Simulation, Failure> {
    let options = Options { any_model: true, ..Options::default() };
    let found = diverge(a, simulated, [None, None], options)?;
    let ratio = |site: &hardy_lab::diverge::Compared| {
        let seen = seen.sites.iter().find(|other| other.a == site.a)?.error();
        (seen > 0.0 && seen.is_finite() && !site.gradient).then(|| site.error() / seen)
    };
    let mut ratios: Vec<f64> = found.sites.iter().filter_map(ratio).collect();
    ratios.sort_by(f64::total_cmp);
    let at =
        |share: usize| ratios.get((ratios.len() * share / 4).min(ratios.len().saturating_sub(1))).copied();
    let at = |share| at(share).unwrap_or(f64::NAN);
    Ok(Simulation { sites: ratios.len(), median_ratio: at(2), quartiles: (at(1), at(3)) })
}

/// The ranking as text.
fn look_first(ranked: &[Ranked]) -> String {
    use Align::{Left, Right};
    if ranked.is_empty() {
        return String::new();
    }
    let columns = [
        ("look here first", Left),
        ("expected cost", Right),
        ("own error", Right),
        ("probed at", Right),
        ("lost there", Right),
    ];
    let mut table = TextTable::new(&columns);
    for place in ranked.iter().take(2 * SHOWN) {
        let layer = place.layer.map_or_else(|| "head".to_owned(), |layer| format!("layer {layer}"));
        let numbers = [place.expected, place.own, place.level, place.degradation].map(|x| significant(x, 3));
        table.row([format!("{layer}, {}", place.op.name())].into_iter().chain(numbers));
    }
    format!("\nDifferences that hurt this model, in the probe's measure:\n{}", table.render())
}

/// The error model as text.
pub fn text(found: &Explained, plan: &Path) -> String {
    use Align::{Left, Right};
    let mut table = TextTable::new(&[
        ("operators", Left),
        ("", Right),
        ("error", Left),
        ("scale [95 %]", Right),
        ("own error seen", Right),
        ("simulated", Right),
        ("explained", Right),
        ("from normal", Right),
        ("next best", Left),
    ]);
    let dash = || "–".to_owned();
    for class in &found.model.classes {
        let fitted = &class.fitted;
        let scale = fitted.scale.map(|(scale, interval)| {
            let [low, high] = [interval.low, interval.high].map(|x| significant(x, 4));
            format!("{} [{low}, {high}]", significant(scale, 4))
        });
        table.row([
            match class.class {
                Class::Linear => "linear, in layers".to_owned(),
                Class::Head => "linear, head".to_owned(),
            },
            class.operators.to_string(),
            fitted.kind.to_string(),
            scale.unwrap_or_else(dash),
            significant(fitted.seen, 3),
            significant(fitted.simulated, 3),
            fitted.explained.map_or_else(dash, percent),
            fitted.distance.map_or_else(dash, |distance| format!("{distance:.3}")),
            class
                .runner_up
                .as_ref()
                .map_or_else(dash, |(kind, share)| format!("{kind} ({})", percent(*share))),
        ]);
    }
    let mut out = format!(
        "Which error model explains it, operator by operator from its own input:\n{}",
        table.render()
    );
    if let Some(Simulation { sites, median_ratio, quartiles: (low, high) }) = &found.simulation {
        out += &format!(
            "Hardy under that plan diverges {median_ratio:.2} times as far as the machine does, in the median of {sites} sites \
             (half of them {low:.2} to {high:.2})\n"
        );
    }
    let mut own: Vec<_> = found.model.own.iter().collect();
    own.sort_by(|a, b| b.relative.total_cmp(&a.relative));
    let worst = own.iter().take(SHOWN).map(|own| format!("{} {}", own.module, significant(own.relative, 3)));
    out += &format!("Largest own errors: {}\n", worst.collect::<Vec<_>>().join(", "));
    out += &look_first(&found.look_first);
    out + &format!(
        "Plan written to {0}: `hardy eval --plan {0}` measures what it costs, `hardy run` trains under it\n",
        plan.display()
    )
}
