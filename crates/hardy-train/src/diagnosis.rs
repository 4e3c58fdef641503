//! What to tell when a loss or gradient is not finite: the site whose output is largest, found by one more forward
//! pass over the same parts of the batch that watches all of them.

use hardy_model::Decoder;
use hardy_ops::{Noise, NoisyBackend};

use crate::{error::Error, policy::log_probs, sequence::Packed};

/// The error for a `what` (loss or gradient) that is not finite at `step`, in a batch of these `parts`.
pub fn not_finite<B: NoisyBackend>(
    decoder: &Decoder<B>,
    parts: impl IntoIterator<Item = Packed>,
    noise: &Noise,
    step: u64,
    what: impl Into<String>,
) -> Error {
    let sites = &decoder.blueprint.sites;
    let watched = noise.recomputed().watched(sites.len());
    for packed in parts {
        log_probs(decoder, &packed, &watched, 1.0);
    }
    let magnitudes = watched.magnitudes();
    let worst =
        (0..sites.len()).fold(0, |worst, i| if magnitudes[i] > magnitudes[worst] { i } else { worst });
    Error::NotFinite {
        step,
        what: what.into(),
        site: format!("{} ({})", sites[worst].module, sites[worst].op.name()),
        magnitude: magnitudes[worst],
        last_good: "no checkpoint was written yet".to_owned(),
    }
}
