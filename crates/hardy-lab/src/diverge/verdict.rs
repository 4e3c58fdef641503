//! What a comparison says: that two machines agree, where they part, that their difference does not come back, or that the
//! place can not be told.

use serde::Serialize;

use super::report::Compared;

/// A site's error must be so many times the largest before it to be where machines part; below that, rounding merely
/// grows from layer to layer.
pub const JUMP: f64 = 4.0;
/// A difference must be so many times what a machine differs from itself.
pub const ABOVE_FLOOR: f64 = 2.0;

/// The kinds of verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VerdictKind {
    /// No site that was compared differs by more than the tolerance.
    Equal,
    /// The first site that differs is where they part: what was compared before it agrees.
    Localised,
    /// They differ, but not by more than one of them differs from itself.
    NotReproduced,
    /// They differ, and where that begins can not be told.
    Inconclusive,
}

impl VerdictKind {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Localised => "localised",
            Self::NotReproduced => "not reproduced",
            Self::Inconclusive => "inconclusive",
        }
    }
}

/// What a comparison says, and what to do next.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// The kind.
    pub kind: VerdictKind,
    /// The first site in the order of execution that differs by more than the tolerance.
    pub first: Option<String>,
    /// The last that agrees before it.
    pub last_agreeing: Option<String>,
    /// Sites between the two that were not compared.
    pub between: Vec<String>,
    /// Why it is this verdict.
    pub reason: String,
    /// What to do next.
    pub next: String,
}

/// Judges sites in the order of execution; `order` lists all sites of a side that knows the order, compared or not.
pub fn judge(sites: &[Compared], order: &[&str], tolerance: f64) -> Verdict {
    let beyond = |site: &&Compared| site.error() > tolerance;
    let stands = |site: &&Compared| site.error() > ABOVE_FLOOR * site.floor.unwrap_or(0.0);
    let Some(any) = sites.iter().find(beyond) else { return equal(sites, tolerance) };
    let Some(at) = sites.iter().position(|site| beyond(&site) && stands(&site)) else {
        return not_reproduced(any);
    };
    let (site, before) = (&sites[at], &sites[..at]);
    let last = before.iter().rfind(|site| site.error() <= tolerance);
    let between = between(order, last, site);
    let largest = before.iter().map(Compared::error).fold(0.0, f64::max);
    let kind = |kind, reason: String, next: String| Verdict {
        kind,
        first: Some(site.name.clone()),
        last_agreeing: last.map(|site| site.name.clone()),
        between: between.iter().map(|name| (*name).to_owned()).collect(),
        reason,
        next,
    };
    let unseen_start = before.is_empty() && !between.is_empty();
    if unseen_start {
        let reason = format!(
            "the first site that was compared differs already, and {} before it were not compared",
            between.len()
        );
        let next = "dump the sites before it too, the embedding first (--sites '*')".to_owned();
        return kind(VerdictKind::Inconclusive, reason, next);
    }
    if site.error() < JUMP * largest {
        let reason = format!(
            "the error grows from site to site (here {:.1} times the largest before) and crosses the tolerance of {tolerance:e} \
             without a jump",
            site.error() / largest
        );
        let next = "this is how rounding grows; give a --tolerance that such machines should meet, or compare both with \
                    a reference in float32"
            .to_owned();
        return kind(VerdictKind::Inconclusive, reason, next);
    }
    let reason = match last {
        Some(last) => format!("everything up to {} agrees, and {} does not", last.name, site.name),
        None => format!("{} is the first site of all, and differs", site.name),
    };
    kind(VerdictKind::Localised, reason, next_at(&between))
}

fn equal(sites: &[Compared], tolerance: f64) -> Verdict {
    let largest = sites.iter().map(Compared::error).fold(0.0, f64::max);
    let statistics = sites.iter().filter(|site| site.differences.is_none()).count();
    let mut reason = match largest {
        0.0 => "no element differs at any site that was compared".to_owned(),
        _ => format!("the largest relative error of a site is {largest:.2e}, the tolerance {tolerance:e}"),
    };
    if statistics > 0 {
        reason += &format!("; of {statistics} sites only statistics were compared");
    }
    let next = "nothing to do; other tokens or gradients (--grads) may still differ".to_owned();
    let (first, last_agreeing) = (None, sites.last().map(|site| site.name.clone()));
    Verdict { kind: VerdictKind::Equal, first, last_agreeing, between: Vec::new(), reason, next }
}

fn not_reproduced(site: &Compared) -> Verdict {
    Verdict {
        kind: VerdictKind::NotReproduced,
        first: Some(site.name.clone()),
        last_agreeing: None,
        between: Vec::new(),
        reason: format!(
            "{} differs by {:.2e}, but one machine asked twice differs from itself by {:.2e}",
            site.name,
            site.error(),
            site.floor.unwrap_or_default()
        ),
        next: "first make that machine repeat itself: fixed seeds, deterministic kernels, one batch size; `hardy find` \
               looks for a faulty one"
            .to_owned(),
    }
}

/// Sites of `order` after `last` and before `site`.
fn between<'a>(order: &[&'a str], last: Option<&Compared>, site: &Compared) -> Vec<&'a str> {
    let at = |wanted: &Compared| order.iter().position(|name| *name == wanted.a || *name == wanted.b);
    let Some(end) = at(site) else { return Vec::new() };
    let start = last.and_then(at).map_or(0, |at| at + 1);
    order.get(start..end).unwrap_or_default().to_vec()
}

fn next_at(between: &[&str]) -> String {
    let narrow = match between {
        [] => String::new(),
        [one] => format!("{one} lies between and was not compared: dump it too; "),
        [first, .., last] => format!("{first} to {last} lie between and were not compared: dump them too; "),
    };
    format!(
        "{narrow}look at that operator on both machines: kernel, precision of its sums, format of its weight; `hardy probe` \
         says whether an error there hurts this model, and --between simulates one"
    )
}
