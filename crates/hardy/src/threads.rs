//! The thread pool that everything is computed in.

use rayon::ThreadPoolBuilder;

use crate::failure::Failure;

/// Builds the pool with so many threads, by default one for every core.
///
/// # Errors
/// More threads than the system gives.
pub fn build_pool(threads: Option<usize>) -> Result<(), Failure> {
    let Some(threads) = threads else { return Ok(()) };
    let pool = ThreadPoolBuilder::new().num_threads(threads).build_global();
    pool.map_err(|error| Failure::input(format!("--threads {threads}: {error}")))
}
