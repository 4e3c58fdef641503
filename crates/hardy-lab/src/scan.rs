//! Scanning a model for layers that a number format hurts: its own forward pass over calibration text, watched at the
//! inputs of linear layers, and its weights.

use std::{path::Path, sync::Arc};

use hardy_model::{Decoder, HostTensor, files::fingerprint};
use hardy_numerics::{ErrorSums, formats::Format};
use hardy_ops::{Noise, NoisyBackend, Observer, Op, Site};
use hardy_train::{
    config::{AUTO, RunConfig},
    data::Problem,
    error::Error,
    policy::{Policy, log_probs},
    scan_file::{Recommendation, ScanFile, ScanRow, Thresholds, What},
    sequence::{Packed, parts},
};

mod judge;

pub use judge::{USUAL_THRESHOLDS, judged};

use crate::{error::LabError, run::Crew, setting::Setting};

/// Problems with worked answers that a scan at the start of a run reads.
pub const CALIBRATION: usize = 32;
/// The format of a scan at the start of a run that names none.
const USUAL: &str = "mxfp4";
/// The SQNR of an image that is not finite, and so without bound below it.
const LEAST_DB: f64 = -1000.0;
/// Tokens of a forward pass.
const TOKENS: usize = 4096;

/// The format of a name.
///
/// # Errors
/// An unknown name.
pub fn format_named(name: &str) -> Result<Format, LabError> {
    let unknown =
        || Error::config(format!("unknown format `{name}`; the formats are {}", Format::NAMES.join(", ")));
    Ok(Format::from_name(name).ok_or_else(unknown)?)
}

/// Scans the model of `what` over its problems and their worked answers. The passes over them, and the weights, are shared out
/// among the workers of `crew`.
///
/// # Errors
/// Text that the model can not read; a model whose activations are not finite; a worker that is gone.
pub fn scan<B: NoisyBackend>(
    what: &Setting<'_, B>,
    model: &str,
    format: Format,
    thresholds: Thresholds,
    crew: &Crew,
) -> Result<ScanFile, LabError> {
    let decoder = &what.policy.decoder;
    let sites = &decoder.blueprint.sites;
    let sequences = what.worked()?;
    let passes = crew.select(parts(&sequences, TOKENS, true));
    let seen = passes.iter().map(|(_, packed)| observed(decoder, packed, format)).collect();
    let seen = added_up(sites.len(), crew.join(seen)?);
    refuse_broken(sites, &seen)?;
    let parameters = decoder.to_host();
    let linears: Vec<_> =
        sites.iter().zip(&seen).filter(|(site, sums)| site.op == Op::Linear && sums.elements() > 0).collect();
    let own = crew.select(linears.iter().map(|(site, _)| weight(site, &parameters)));
    let weights = own.into_iter().map(|weight| weight.map(|weight| measure(weight, format))).collect();
    let rows = linears.into_iter().zip(crew.join::<Option<ErrorSums>>(weights)?).flat_map(
        |((site, sums), weight)| {
            let weight = weight.map(|sums| row(site, What::Weight, &sums));
            [Some(row(site, What::Activation, sums)), weight].into_iter().flatten()
        },
    );
    Ok(judged(ScanFile {
        model: model.to_owned(),
        fingerprint: fingerprint(&parameters),
        format: format.name().to_owned(),
        precision: decoder.blueprint.precision,
        layers: decoder.blueprint.config.layers,
        thresholds,
        flagged_layers: Vec::new(),
        recommendation: Recommendation::None,
        rows: rows.collect(),
    }))
}

/// Refuses a model whose activations no format could hold.
fn refuse_broken(sites: &[Site], seen: &[ErrorSums]) -> Result<(), LabError> {
    let broken = sites.iter().zip(seen).find(|(_, sums)| !sums.signal().is_finite());
    broken.map_or(Ok(()), |(site, _)| {
        Err(LabError::NotFinite { what: format!("the input of {}", site.module) })
    })
}

/// What one pass shows of every site.
fn observed<B: NoisyBackend>(decoder: &Decoder<B>, packed: &Packed, format: Format) -> Vec<ErrorSums> {
    let observer = Arc::new(Observer::new(format, decoder.blueprint.sites.len()));
    // Only what the observer sees on the way is wanted.
    let _ = log_probs(decoder, packed, &Noise::clean().observed(&observer), 1.0);
    observer.sums()
}

/// What all passes show of every site, in the order of the passes.
fn added_up(sites: usize, passes: Vec<Vec<ErrorSums>>) -> Vec<ErrorSums> {
    let add = |sums: Vec<ErrorSums>, pass: Vec<ErrorSums>| {
        sums.into_iter().zip(pass).map(|(sum, more)| sum.plus(more)).collect()
    };
    passes.into_iter().fold(vec![ErrorSums::default(); sites], add)
}

/// The scan that a run's guided AQN asks for, made or read; `None` where it asks for none.
///
/// # Errors
/// A scan that can not be made or read, or is one of another model.
pub fn for_run<B: NoisyBackend>(
    config: &RunConfig,
    policy: &Policy<B>,
    problems: &[Problem],
) -> Result<Option<ScanFile>, LabError> {
    let Some(aqn) = &config.aqn else { return Ok(None) };
    let Some(source) = &aqn.scan else { return Ok(None) };
    if source == AUTO {
        let format = format_named(aqn.scan_format.as_deref().unwrap_or(USUAL))?;
        let problems = &problems[..problems.len().min(CALIBRATION)];
        let setting = Setting { policy, problems, wording: &config.data.prompt };
        return scan(&setting, &config.model.path, format, USUAL_THRESHOLDS, &Crew::default()).map(Some);
    }
    let found = ScanFile::read(Path::new(source))?;
    let decoder = &policy.decoder;
    found.check_model(&config.model.path, decoder.blueprint.config.layers, &decoder.to_host())?;
    Ok(Some(found))
}

/// The weight of a site, `[out, in]`; `None` where it is tied to the embedding.
fn weight<'a>(site: &Site, parameters: &'a [HostTensor]) -> Option<&'a HostTensor> {
    let name = format!("{}.weight", site.module);
    parameters.iter().find(|parameter| parameter.name == name)
}

fn measure(weight: &HostTensor, format: Format) -> ErrorSums {
    let (mut image, mut sums) = (weight.data.clone(), ErrorSums::default());
    format.fake_quantize(&mut image, weight.shape.last().copied().unwrap_or(1));
    sums.add_image(&weight.data, &image);
    sums
}

fn row(site: &Site, what: What, sums: &ErrorSums) -> ScanRow {
    let metrics = sums.metrics();
    ScanRow {
        module: site.module.clone(),
        layer: site.layer,
        what,
        elements: sums.elements(),
        sqnr_db: (metrics.sqnr_db < f64::INFINITY).then_some(metrics.sqnr_db.max(LEAST_DB)),
        relative_error: metrics.mean_relative,
        relative_rms: metrics.relative_rms,
        dead_zone: metrics.dead_zone,
        saturation: metrics.saturation,
        reasons: Vec::new(),
    }
}
