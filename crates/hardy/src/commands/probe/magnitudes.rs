//! `hardy probe --magnitudes`: the table.

use hardy_lab::{
    Setting,
    format::significant,
    probe::{Magnitude, magnitudes},
    text_table::{Align, TextTable},
};
use hardy_ops::{Pass, Plan, Rule};

use crate::{device::Engine, failure::Failure, output::Output};

/// Measures and prints.
///
/// # Errors
/// A plan that does not fit.
pub fn run<B: Engine>(setting: &Setting<'_, B>, mut plan: Plan, output: Output) -> Result<(), Failure> {
    if plan.rules.is_empty() {
        plan.rules.push(Rule { pass: vec![Pass::Forward, Pass::Backward], ..Rule::noise(0.05) });
    }
    let found = magnitudes(setting, &plan)?;
    output.show(&found, |_| text(&found))
}

fn text(found: &[Magnitude]) -> String {
    use Align::{Left, Right};
    let columns = [
        ("layer", Right),
        ("operator", Left),
        ("point", Left),
        ("rule", Right),
        ("magnitude", Right),
        ("error", Right),
        ("signal to noise", Right),
    ];
    let mut table = TextTable::new(&columns);
    for row in found {
        let db = row.signal_to_noise_db.map_or_else(|| "–".to_owned(), |db| format!("{db:.1} dB"));
        table.row([
            row.layer.map_or_else(|| "–".to_owned(), |layer| layer.to_string()),
            row.op.name().to_owned(),
            row.point.name().to_owned(),
            row.rule.to_string(),
            significant(row.magnitude, 3),
            significant(row.error, 3),
            db,
        ]);
    }
    table.render()
}
