//! Receipts, as this crate reads them: what was asked at a site and what was measured there. Entries of one operator,
//! point, pass and phase are summed into one row, because a model has hundreds of sites and a reader one screen.

use std::collections::BTreeMap;

use serde_json::Value;

/// One entry of a receipt list. Keys that are missing read as empty or absent, and unknown keys are ignored.
#[derive(Debug, Clone, PartialEq)]
pub struct Receipt {
    /// The site or group of sites.
    pub site: String,
    /// The operator.
    pub op: String,
    /// The point of the operator: `input`, `output`, `weight`, `grad_input`, `grad_weight`.
    pub point: String,
    /// `forward` or `backward`.
    pub pass: String,
    /// `rollout`, `train` or `eval`.
    pub phase: String,
    /// How often the point was reached.
    pub calls: f64,
    /// Elements perturbed.
    pub elements: f64,
    /// The relative error asked for, where the rule has one.
    pub asked: Option<f64>,
    /// ‖err‖₂/‖x‖₂ as measured.
    pub measured: Option<f64>,
}

impl Receipt {
    /// Reads the entries of a list.
    #[must_use]
    pub fn read_all(entries: &[Value]) -> Vec<Self> {
        entries.iter().map(Self::read).collect()
    }

    fn read(entry: &Value) -> Self {
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        let number = |key: &str| entry[key].as_f64();
        let site = if entry["site"].is_string() { text("site") } else { text("group") };
        Self {
            site,
            op: text("op"),
            point: text("point"),
            pass: text("pass"),
            phase: text("phase"),
            calls: number("calls").unwrap_or(0.0),
            elements: number("elements").unwrap_or(0.0),
            asked: number("asked"),
            measured: number("measured"),
        }
    }
}

/// Receipts of one operator, point, pass and phase taken together.
#[derive(Debug, Clone, PartialEq)]
pub struct ReceiptGroup {
    /// The phase.
    pub phase: String,
    /// The pass.
    pub pass: String,
    /// The operator.
    pub op: String,
    /// The point.
    pub point: String,
    /// Entries summed.
    pub sites: usize,
    /// Calls, summed.
    pub calls: f64,
    /// Elements, summed.
    pub elements: f64,
    /// The error asked for: root mean square over elements.
    pub asked: Option<f64>,
    /// The error measured: root mean square over elements.
    pub measured: Option<f64>,
    /// The smallest and largest error measured at one of the sites.
    pub range: Option<(f64, f64)>,
}

/// Sums entries by phase, pass, operator and point, in that order.
#[must_use]
pub fn grouped(receipts: &[Receipt]) -> Vec<ReceiptGroup> {
    let mut groups: BTreeMap<[&str; 4], Vec<&Receipt>> = BTreeMap::new();
    for receipt in receipts {
        let key = [&*receipt.phase, &receipt.pass, &receipt.op, &receipt.point];
        groups.entry(key).or_default().push(receipt);
    }
    groups.into_iter().map(|(key, members)| group(key, &members)).collect()
}

fn group([phase, pass, op, point]: [&str; 4], members: &[&Receipt]) -> ReceiptGroup {
    let measured = members.iter().filter_map(|member| member.measured);
    let range = measured.fold(None, |range: Option<(f64, f64)>, value| {
        Some(range.map_or((value, value), |(low, high)| (low.min(value), high.max(value))))
    });
    ReceiptGroup {
        phase: phase.into(),
        pass: pass.into(),
        op: op.into(),
        point: point.into(),
        sites: members.len(),
        calls: members.iter().map(|member| member.calls).sum(),
        elements: members.iter().map(|member| member.elements).sum(),
        asked: root_mean_square(members, |member| member.asked),
        measured: root_mean_square(members, |member| member.measured),
        range,
    }
}

/// √(Σ elements·value² / Σ elements) over the members that have a value and elements.
fn root_mean_square(members: &[&Receipt], value: impl Fn(&Receipt) -> Option<f64>) -> Option<f64> {
    let (mut sum, mut weight) = (0.0, 0.0);
    for member in members {
        if let Some(value) = value(member) {
            sum += member.elements * value * value;
            weight += member.elements;
        }
    }
    (weight > 0.0).then(|| (sum / weight).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sites_of_one_operator_become_one_row_weighted_by_elements() {
        let entry = |site: &str, op: &str, elements: u64, measured: f64| {
            json!({"site": site, "op": op, "point": "output", "phase": "eval", "pass": "forward",
                   "calls": 2, "elements": elements, "asked": 0.05, "measured": measured})
        };
        let entries = [
            entry("a", "linear", 300, 0.05),
            entry("c", "matmul", 10, 0.02),
            entry("b", "linear", 100, 0.03),
            json!({"group": "rest", "phase": "train"}),
        ];
        let groups = grouped(&Receipt::read_all(&entries));
        assert_eq!(groups.iter().map(|g| g.sites).collect::<Vec<_>>(), [2, 1, 1]);
        let linear = &groups[0];
        assert_eq!((linear.op.as_str(), linear.calls, linear.elements), ("linear", 4.0, 400.0));
        assert_eq!(linear.range, Some((0.03, 0.05)));
        let expected = ((300.0 * 0.05f64.powi(2) + 100.0 * 0.03f64.powi(2)) / 400.0).sqrt();
        assert!((linear.measured.unwrap() - expected).abs() < 1e-12);
        assert_eq!((groups[2].measured, groups[2].range), (None, None));
    }
}
