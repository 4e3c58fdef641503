//! What to tell when a loss or gradient is not finite: the site whose output is largest, found by one more forward
//! pass that watches all of them.

use hardy_model::Decoder;
use hardy_ops::{Noise, NoisyBackend};

use crate::{error::Error, policy::log_probs, sequence::Packed};

/// The error for a `what` (loss or gradient norm) that is not finite at `step`.
pub fn not_finite<B: NoisyBackend>(
    decoder: &Decoder<B>,
    packed: &Packed,
    noise: &Noise,
    step: u64,
    what: &'static str,
) -> Error {
    let sites = &decoder.blueprint.sites;
    let watched = noise.clone().watched(sites.len());
    log_probs(decoder, packed, &watched, 1.0);
    let magnitudes = watched.magnitudes();
    let worst =
        (0..sites.len()).fold(0, |worst, i| if magnitudes[i] > magnitudes[worst] { i } else { worst });
    Error::NotFinite {
        step,
        what,
        site: format!("{} ({})", sites[worst].module, sites[worst].op.name()),
        magnitude: magnitudes[worst],
        last_good: "no checkpoint was written yet".to_owned(),
    }
}
