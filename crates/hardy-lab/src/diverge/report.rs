//! Two dumps against each other: every site that both have, in the order of execution, and the verdict.

use rayon::prelude::*;
use serde::Serialize;

use super::{
    dump::{Dump, Entry, Precision, Statistics, Values},
    matching::{aligned, pair},
    metrics::{Differences, statistics_differ},
    verdict::{Verdict, judge},
};
use crate::error::LabError;

/// A site of both sides.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    /// Its name, as the first side has it.
    pub name: String,
    /// The tensor's name on the first side.
    pub a: String,
    /// That on the second.
    pub b: String,
    /// Whether it is of the backward pass.
    pub gradient: bool,
    /// The measures; `None` where one side has only statistics.
    pub differences: Option<Differences>,
    /// The largest difference of statistics, as a share of their scale, where one side has no more.
    pub statistics: Option<f64>,
    /// The relative error between two recordings of one side, the larger of both sides, where they were made.
    pub floor: Option<f64>,
}

impl Compared {
    /// The relative error, by whatever measure there is; infinite where something is not finite on one side alone.
    pub fn error(&self) -> f64 {
        match &self.differences {
            Some(differences) if differences.non_finite > 0 => f64::INFINITY,
            Some(differences) => differences.relative,
            None => self.statistics.unwrap_or(0.0),
        }
    }
}

/// How dumps are compared.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The relative error up to which a site agrees; without one, what the precision of both sides asks for.
    pub tolerance: Option<f64>,
    /// Compare models with other parameters too.
    pub any_model: bool,
}

/// Two sides, compared.
#[derive(Clone, Debug, Serialize)]
pub struct Divergence {
    /// The first side.
    pub a: String,
    /// The second.
    pub b: String,
    /// The relative error up to which a site agrees.
    pub tolerance: f64,
    /// Why it is that.
    pub tolerance_reason: String,
    /// What is said of it.
    pub verdict: Verdict,
    /// The first site of which a single bit differs.
    pub first_bit: Option<String>,
    /// Every site of both, in the order of execution.
    pub sites: Vec<Compared>,
    /// Tensors of the first side without a counterpart.
    pub only_a: Vec<String>,
    /// Those of the second.
    pub only_b: Vec<String>,
}

/// Compares two dumps; `again` are further recordings of the two sides, by which their own scatter is known.
///
/// # Errors
/// Dumps of other tokens, models or shapes, or without a site in common.
pub fn diverge(a: &Dump, b: &Dump, again: [Option<&Dump>; 2], how: Options) -> Result<Divergence, LabError> {
    let pairs = pair(a, b, how.any_model)?;
    let mask = a.mask.as_ref().or(b.mask.as_ref());
    let sources = [a.source.as_str(), b.source.as_str()];
    let compare = |(x, y): &(&Entry, &Entry)| -> Result<Compared, LabError> {
        let elements = aligned((*x, *y), mask, sources)?;
        let differences = elements.map(|[x, y]| Differences::measure(&x, &y));
        let statistics = match differences {
            Some(_) => None,
            None => statistics_differ(&statistics(x)?, &statistics(y)?),
        };
        Ok(Compared {
            name: x.name.clone(),
            a: x.name.clone(),
            b: y.name.clone(),
            gradient: x.place.side.is_gradient(),
            differences,
            statistics,
            floor: None,
        })
    };
    let mut sites: Vec<Compared> = pairs.pairs.par_iter().map(compare).collect::<Result<_, _>>()?;
    for (side, again) in [a, b].into_iter().zip(again) {
        let Some(again) = again else { continue };
        let own = diverge(side, again, [None, None], Options { any_model: true, ..how })?;
        for site in &mut sites {
            let own = own.sites.iter().find(|other| other.a == site.a || other.a == site.b);
            let floor = own.map(Compared::error);
            site.floor = [site.floor, floor].into_iter().flatten().reduce(f64::max);
        }
    }
    let (tolerance, tolerance_reason) = tolerance(a, b, how);
    let ordered = if a.ordered { a } else { b };
    let gradient =
        |name: &&str| !sites.iter().any(|site| site.gradient && (site.a == **name || site.b == **name));
    let order: Vec<&str> =
        ordered.entries.iter().filter(|_| ordered.ordered).map(|entry| entry.name.as_str()).collect();
    let forward_order: Vec<&str> = order.iter().copied().filter(gradient).collect();
    let forward_differs = sites.iter().any(|site| !site.gradient && site.error() > tolerance);
    let verdict = judge(&sites, if forward_differs { &forward_order } else { &order }, tolerance);
    let bit = |site: &&Compared| site.error() > 0.0 || site.differences.is_some_and(|d| d.differing > 0.0);
    let names = |entries: &[&Entry]| entries.iter().map(|entry| entry.name.clone()).collect();
    Ok(Divergence {
        a: a.source.clone(),
        b: b.source.clone(),
        tolerance,
        tolerance_reason,
        verdict,
        first_bit: sites.iter().find(bit).map(|site| site.name.clone()),
        only_a: names(&pairs.only_a),
        only_b: names(&pairs.only_b),
        sites,
    })
}

fn statistics(entry: &Entry) -> Result<Statistics, LabError> {
    match entry.values {
        Values::Statistics(statistics) => Ok(statistics),
        _ => Ok(entry.elements()?.map_or_else(Statistics::default, |x| Statistics::of(&x))),
    }
}

/// The tolerance, and why it is that: Hardy promises the same bits within one kind of device; elsewhere rounding differs, by
/// some multiple of the unit roundoff of the coarser precision.
fn tolerance(a: &Dump, b: &Dump, how: Options) -> (f64, String) {
    if let Some(tolerance) = how.tolerance {
        return (tolerance, "as given".to_owned());
    }
    if let (Some(x), Some(y)) = (a.fact("device"), b.fact("device"))
        && x == y
        && a.fact("precision") == b.fact("precision")
    {
        return (0.0, format!("Hardy promises the same bits on every {x}"));
    }
    let coarsest = [a, b].into_iter().flat_map(|dump| dump.entries.iter().map(|entry| entry.precision)).max();
    // Where the last bits of a sum differ, the next product may see the neighbour of an operand.
    let narrow = [a, b].into_iter().any(|dump| dump.fact("precision") == Some(Precision::Bf16.name()));
    let coarsest = if narrow { Precision::Bf16 } else { coarsest.unwrap_or(Precision::F32) };
    let tolerance = match coarsest {
        Precision::F32 => 1e-5,
        Precision::F16 => 5e-3,
        Precision::Bf16 => 2e-2,
    };
    (tolerance, format!("what rounding in {} leaves", coarsest.name()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diverge::VerdictKind;

    const SITES: [&str; 4] = ["embed_tokens", "layers.0.mlp", "layers.1.mlp", "norm"];

    /// A dump whose sites have these relative errors.
    fn dump(errors: [f64; 4]) -> Dump {
        let entry = |(name, error): (&&str, f64)| {
            let values = (1..1000).map(|i| (f64::from(i) * (1.0 + error)) as f32).collect();
            Entry::new((*name).to_owned(), vec![999], values)
        };
        let entries = SITES.iter().zip(errors).map(entry).collect();
        Dump { source: "a dump".to_owned(), entries, ordered: true, ..Dump::default() }
    }

    fn kind(errors: [f64; 4]) -> (VerdictKind, Option<String>) {
        let found = diverge(&dump([0.0; 4]), &dump(errors), [None, None], Options::default()).unwrap();
        (found.verdict.kind, found.verdict.first)
    }

    #[test]
    fn verdicts_say_where_machines_part() {
        assert_eq!(kind([0.0; 4]), (VerdictKind::Equal, None));
        assert_eq!(kind([0.0, 1e-6, 3e-6, 4e-6]), (VerdictKind::Equal, None));
        let at = |name: &str| Some(name.to_owned());
        assert_eq!(kind([0.0, 0.0, 0.05, 0.1]), (VerdictKind::Localised, at("layers.1.mlp")));
        assert_eq!(kind([0.01, 0.01, 0.05, 0.1]), (VerdictKind::Localised, at("embed_tokens")));
        assert_eq!(kind([0.0, 6e-6, 1.2e-5, 2e-5]), (VerdictKind::Inconclusive, at("layers.1.mlp")));
    }

    #[test]
    fn a_difference_that_a_machine_has_from_itself_is_not_reproduced() {
        let (a, b, again) = (dump([0.0; 4]), dump([0.0, 0.05, 0.05, 0.05]), dump([0.0, 0.01, 0.01, 0.01]));
        let with = |again| diverge(&a, &b, [None, Some(again)], Options::default()).unwrap().verdict.kind;
        assert_eq!(with(&again), VerdictKind::NotReproduced);
        assert_eq!(with(&b), VerdictKind::Localised);
    }

    #[test]
    fn sites_that_were_not_compared_are_named_as_suspects() {
        let mut b = dump([0.0, 0.0, 0.05, 0.1]);
        b.entries.remove(1);
        let found = diverge(&dump([0.0; 4]), &b, [None, None], Options::default()).unwrap();
        assert_eq!(
            (found.verdict.kind, &found.verdict.between[..]),
            (VerdictKind::Localised, &["layers.0.mlp".to_owned()][..])
        );
        assert_eq!(found.only_a, ["layers.0.mlp"]);
        let mut late = dump([0.0, 0.0, 0.05, 0.1]);
        late.entries.drain(..2);
        let found = diverge(&dump([0.0; 4]), &late, [None, None], Options::default()).unwrap();
        assert_eq!(found.verdict.kind, VerdictKind::Inconclusive);
    }

    #[test]
    fn on_one_kind_of_device_a_single_bit_counts() {
        let on = |errors, device: &str| {
            let mut dump = dump(errors);
            dump.facts.insert("device".to_owned(), device.to_owned());
            dump
        };
        let kind = |device| {
            let (a, b) = (on([0.0; 4], "cpu"), on([0.0, 0.0, 0.0, 2e-7], device));
            diverge(&a, &b, [None, None], Options::default()).unwrap().verdict.kind
        };
        assert_eq!((kind("cpu"), kind("vulkan")), (VerdictKind::Localised, VerdictKind::Equal));
    }
}
