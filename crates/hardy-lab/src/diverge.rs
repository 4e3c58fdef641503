//! This machine against that one: what two of them compute at the same sites from the same tokens, held against each
//! other site by site, and where in the order of execution they part.
//!
//! The path of a value: a recording of Hardy ([`record`]) or somebody's file ([`readers`]) → a [`Dump`] → pairs of sites
//! by module path ([`matching`]) → [`Differences`] → a [`Verdict`].

pub mod crossed;
pub mod dump;
pub mod endpoint;
pub mod fit;
pub mod matching;
pub mod metrics;
pub mod name;
pub mod readers;
pub mod record;
pub mod report;
pub mod verdict;

pub use dump::{Dump, Entry, Statistics, Values};
pub use metrics::Differences;
pub use name::{Place, Side};
pub use record::{Tokens, record};
pub use report::{Compared, Divergence, diverge};
pub use verdict::{Verdict, VerdictKind};
