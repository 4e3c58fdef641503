//! What a scan says: which thresholds an activation or weight crosses, which layers are flagged by it, and what follows.
//! The numbers come from the forward pass of [`super::scan`]; here they are only judged.

use hardy_train::scan_file::{Recommendation, ScanFile, ScanRow, Thresholds};

/// The thresholds of a scan that names none.
pub const USUAL_THRESHOLDS: Thresholds =
    Thresholds { min_sqnr_db: 20.0, max_dead_zone: 0.05, max_saturation: 0.01, max_relative_error: 0.1 };
/// A mean SQNR below this many dB calls for another format.
const HOPELESS_DB: f64 = 10.0;
/// Up to this share of flagged layers can be treated one by one.
const FEW: f64 = 1.0 / 3.0;

/// `scan` with the reasons of every row, the flagged layers and what follows, all by its thresholds.
#[must_use]
pub fn judged(mut scan: ScanFile) -> ScanFile {
    for row in &mut scan.rows {
        row.reasons = reasons(row, &scan.thresholds);
    }
    let flagged = scan.activations().filter(|row| !row.reasons.is_empty()).filter_map(|row| row.layer);
    let mut flagged: Vec<usize> = flagged.collect();
    flagged.dedup();
    scan.recommendation = recommend(&scan, flagged.len());
    scan.flagged_layers = flagged;
    scan
}

/// The thresholds that `row` crosses, in words.
fn reasons(row: &ScanRow, limits: &Thresholds) -> Vec<String> {
    let above = |what: &str, value: f64, limit: f64| {
        (value > limit).then(|| format!("{what} {:.1} % > {:.1} %", 100.0 * value, 100.0 * limit))
    };
    let sqnr = row.sqnr_db.filter(|&db| db < limits.min_sqnr_db);
    let crossed = [
        sqnr.map(|db| format!("SQNR {db:.1} dB < {:.1} dB", limits.min_sqnr_db)),
        above("dead zone", row.dead_zone, limits.max_dead_zone),
        above("saturation", row.saturation, limits.max_saturation),
        above("relative error", row.relative_error, limits.max_relative_error),
    ];
    crossed.into_iter().flatten().collect()
}

fn recommend(scan: &ScanFile, flagged: usize) -> Recommendation {
    let noisy: Vec<f64> = scan.activations().filter_map(|row| row.sqnr_db).collect();
    let mean = noisy.iter().sum::<f64>() / noisy.len().max(1) as f64;
    match flagged as f64 / scan.layers.max(1) as f64 {
        _ if !noisy.is_empty() && mean < HOPELESS_DB => Recommendation::Reconsider,
        0.0 => Recommendation::None,
        share if share <= FEW => Recommendation::Targeted,
        _ => Recommendation::MixedPrecision,
    }
}

#[cfg(test)]
mod tests {
    use hardy_train::scan_file::What;

    use super::*;

    fn row(layer: usize, sqnr_db: f64, dead_zone: f64) -> ScanRow {
        ScanRow {
            module: format!("model.layers.{layer}.mlp.up_proj"),
            layer: Some(layer),
            what: What::Activation,
            elements: 1,
            sqnr_db: Some(sqnr_db),
            relative_error: dead_zone,
            relative_rms: 0.0,
            dead_zone,
            saturation: 0.0,
            reasons: Vec::new(),
        }
    }

    fn scan(rows: Vec<ScanRow>) -> ScanFile {
        judged(ScanFile {
            model: "m".into(),
            fingerprint: "f".into(),
            format: "mxfp4".into(),
            precision: hardy_numerics::Precision::F32,
            layers: rows.len(),
            thresholds: USUAL_THRESHOLDS,
            flagged_layers: Vec::new(),
            recommendation: Recommendation::None,
            rows,
        })
    }

    #[test]
    fn a_layer_is_flagged_for_every_threshold_that_it_crosses() {
        let reasons = |row| reasons(&row, &USUAL_THRESHOLDS);
        assert!(reasons(row(0, 20.0, 0.05)).is_empty());
        assert_eq!(reasons(row(0, 19.0, 0.0)), ["SQNR 19.0 dB < 20.0 dB"]);
        assert_eq!(reasons(row(0, 30.0, 0.2)).len(), 2);
    }

    #[test]
    fn what_follows_depends_on_how_many_layers_are_flagged_and_how_badly() {
        let (fine, coarse) = (|layer| row(layer, 30.0, 0.0), |layer| row(layer, 18.0, 0.0));
        let cases = [
            (scan(vec![fine(0), fine(1), fine(2)]), Recommendation::None, vec![]),
            (scan(vec![fine(0), coarse(1), fine(2)]), Recommendation::Targeted, vec![1]),
            (scan(vec![coarse(0), coarse(1), fine(2)]), Recommendation::MixedPrecision, vec![0, 1]),
            (scan(vec![row(0, 5.0, 0.5)]), Recommendation::Reconsider, vec![0]),
        ];
        for (scan, recommendation, flagged) in cases {
            assert_eq!((scan.recommendation, &scan.flagged_layers), (recommendation, &flagged));
        }
    }
}
