//! What was found, as text: layer by layer what the scan saw, whom it blames and why, and what to do next.

use std::fmt::Write;

use super::{
    FindReport,
    judge::{Judgement, Rate},
};
use crate::{
    format::{count, significant},
    text_table::{Align, TextTable, wrap},
};

/// The text of a report for `width` columns.
#[must_use]
pub fn render(report: &FindReport, width: usize) -> String {
    use Align::Right;
    let columns = ["layer", "gain", "least moving", "kurtosis", "unstable", "dead", "saturated"];
    let mut table = TextTable::new(&columns.map(|name| (name, Right)));
    for layer in &report.layers {
        table.row([
            layer.layer.to_string(),
            significant(layer.gain, 3),
            percent(layer.least_moving),
            significant(layer.kurtosis, 3),
            percent(layer.unstable),
            layer.dead_channels.to_string(),
            layer.saturated_channels.to_string(),
        ]);
    }
    let (n, tokens) = (report.n, count(report.tokens as u64));
    let mut out = format!("{}: {n} texts, {tokens} tokens\n", report.model);
    if let Some(injected) = &report.injected {
        let sites = injected.sites.len();
        let effect = match sites {
            0 => "it changed nothing".to_owned(),
            1 => format!(
                "it changed {}, by {} %",
                injected.sites[0],
                significant(100.0 * injected.measured, 3)
            ),
            _ => format!("it changed {sites} sites, by {} %", significant(100.0 * injected.measured, 3)),
        };
        out += &wrap(&format!("planted: {}; {effect}", injected.fault), width, 0);
    }
    let _ = write!(out, "\n{}\n", table.render());
    out += &wrap(
        "gain: growth of a disturbance of 1 % through the layer; least moving: the channel that follows it least; unstable: the \
         largest share of a site's values that differ from pass to pass; dead and saturated: channels that never move, or whose \
         largest value stands still",
        width,
        0,
    );
    out + "\n" + &verdict(report, width)
}

fn percent(share: f64) -> String {
    format!("{} %", significant(100.0 * share, 3))
}

fn verdict(report: &FindReport, width: usize) -> String {
    let hash = &report.hash;
    let Some(blamed) = report.blamed() else {
        let kept = "next: keep the hash of a machine that you trust; a fault that is small, deterministic and keeps every relation \
                    shows only as another hash: hardy find … --expect";
        return wrap(&format!("nothing stands out; every pass gave the hash {hash}"), width, 0)
            + &wrap(&format!("{kept} {hash}"), width, 0);
    };
    let layer =
        blamed.layer.map_or_else(|| "outside of the layers".to_owned(), |layer| format!("layer {layer}"));
    let mut out = wrap(&format!("blamed: {} ({}, {layer})", blamed.site, blamed.op.name()), width, 0);
    let (score, usual) = (significant(blamed.score, 3), significant(blamed.usual, 3));
    let check = blamed.check.words();
    out += &wrap(
        &format!("because {check} {score}, {usual} in other layers; looks like {}", blamed.looks_like),
        width,
        0,
    );
    if let Some((layer, site)) = report.hit() {
        let words = match (layer, site) {
            (_, true) => "that is the very site where the fault was planted",
            (true, false) => "that is the layer where the fault was planted, but not the site",
            (false, false) => "the fault was planted elsewhere",
        };
        out += &wrap(words, width, 0);
    }
    let others: Vec<&str> = report.findings.iter().skip(1).take(4).map(|other| other.site.as_str()).collect();
    if !others.is_empty() {
        out += &wrap(
            &format!("also out of the ordinary, perhaps because of it: {}", others.join(", ")),
            width,
            0,
        );
    }
    out + &wrap(
        &format!(
            "next: run the operator {} of that module alone on this machine and on another, and hold them against each other: hardy \
             diverge",
            blamed.op.name()
        ),
        width,
        0,
    )
}

/// The text of a judgement.
#[must_use]
pub fn render_judgement(judged: &Judgement, width: usize) -> String {
    use Align::{Left, Right};
    let columns = [
        ("fault", Left),
        ("model", Left),
        ("found", Right),
        ("right layer", Right),
        ("± 1", Right),
        ("site", Right),
        ("no effect", Right),
    ];
    let mut table = TextTable::new(&columns);
    for fault in &judged.faults {
        let mark = if fault.published { " *" } else { "" };
        table.row([
            format!("{}{mark}", fault.fault),
            fault.model.clone(),
            short(&fault.detected),
            with_interval(&fault.layer),
            short(&fault.near),
            short(&fault.site),
            fault.without_effect.to_string(),
        ]);
    }
    let mut out = table.render();
    for (model, alarms) in &judged.false_alarms {
        let _ = write!(out, "\nhealthy {model}: {} false alarms", with_interval(alarms));
    }
    out.push('\n');
    out + &wrap(
        "* a strength at which reports of the method claim to find the layer. Rates are of placements that changed something; \
         brackets hold Wilson's 95 % interval in per cent.",
        width,
        0,
    )
}

fn short(rate: &Rate) -> String {
    format!("{}/{}", rate.hits, rate.of)
}

fn with_interval(rate: &Rate) -> String {
    format!("{}/{} [{:.0}, {:.0}]", rate.hits, rate.of, 100.0 * rate.interval.low, 100.0 * rate.interval.high)
}
