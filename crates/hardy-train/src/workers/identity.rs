//! What workers must have in common before they begin: the build, the configuration, the model and the data; and the kind
//! of processor, on another of which last bits may differ.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde::{Deserialize, Serialize};

use super::Workers;
use crate::error::{Error, Result};

/// What a worker is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Versions, compiler, target, revision.
    pub build: String,
    /// The kind of processor.
    pub processor: String,
    /// The resolved configuration, as TOML.
    pub config: String,
    /// A hash of the model's weights.
    pub model: u64,
    /// A hash of the problems to learn from and to be judged by.
    pub data: u64,
}

/// A hash of what is the same for all workers; not kept anywhere.
#[must_use]
pub fn hash_of(parts: impl IntoIterator<Item = impl Hash>) -> u64 {
    let mut hasher = DefaultHasher::new();
    parts.into_iter().for_each(|part| part.hash(&mut hasher));
    hasher.finish()
}

/// Refuses workers that differ from the first, but for the processor where that is `allowed`. All say the same.
///
/// # Errors
/// One sentence that names the worker and what differs.
pub fn agree(workers: &Workers, own: Identity, allowed: bool) -> Result<()> {
    let all = workers.gather(own)?;
    let first = &all[0];
    for (rank, other) in all.iter().enumerate().skip(1) {
        let differs =
            |what: String| Err(Error::config(format!("worker {rank} differs from worker 0: {what}")));
        if other.build != first.build {
            return differs(format!("it is {} there and {} here", other.build, first.build));
        }
        if other.config != first.config {
            let mut lines = first.config.lines().zip(other.config.lines());
            let (here, there) = lines.find(|(a, b)| a != b).unwrap_or(("fewer keys", "more keys"));
            return differs(format!("its configuration has `{there}`, not `{here}`"));
        }
        if other.model != first.model {
            return differs("its model has other weights".to_owned());
        }
        if other.data != first.data {
            return differs("its problems are others".to_owned());
        }
        if other.processor != first.processor && !allowed {
            let (there, here) = (&other.processor, &first.processor);
            return differs(format!(
                "it computes with {there}, not {here}, so that last bits may differ; take one kind of processor, or \
                 --allow-mixed-processors"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workers::tcp::tests::on;

    #[test]
    fn workers_that_differ_are_refused_by_all_and_other_processors_are_taken_where_that_is_allowed() {
        let own = || Identity {
            build: "hardy 0.1.0".to_owned(),
            processor: "x86-64-v4".to_owned(),
            config: "seed = 0\nsteps = 2".to_owned(),
            model: 1,
            data: 2,
        };
        let said = |change: fn(&mut Identity), allowed| {
            let found = on(3, |workers| {
                let mut own = own();
                if workers.rank() == 2 {
                    change(&mut own);
                }
                agree(&workers, own, allowed).map_err(|error| error.to_string())
            });
            assert!(found.iter().all(|said| *said == found[0]), "{found:?}");
            found[0].clone().err().unwrap_or_default()
        };
        assert_eq!(said(|_| {}, false), "");
        for (change, part) in [
            (
                (|own| own.build.push('1')) as fn(&mut Identity),
                "worker 2 differs from worker 0: it is hardy 0.1.01 there",
            ),
            (|own| own.config = "seed = 0\nsteps = 3".to_owned(), "has `steps = 3`, not `steps = 2`"),
            (|own| own.model = 7, "other weights"),
            (|own| own.data = 7, "problems are others"),
            (|own| own.processor = "aarch64".to_owned(), "--allow-mixed-processors"),
        ] {
            let said = said(change, false);
            assert!(said.contains(part), "{said}");
        }
        assert_eq!(said(|own| own.processor = "aarch64".to_owned(), true), "");
    }
}
