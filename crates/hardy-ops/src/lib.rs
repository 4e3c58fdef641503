//! Where numerical errors enter: every numeric operation of a decoder is a named *site*, and every error is a *rule*
//! that says at which sites, in which phases and passes, and what.
//!
//! A [`Plan`] is a list of rules. Bound to a model's sites it becomes a [`BoundPlan`], which hands out the
//! [`Noise`] of one step; an operator is given its part of it as an [`At`], injects what that carries, and the
//! plan's receipt counts and measures every injection.

mod at;
mod backend;
mod by_row;
mod clip;
pub mod device;
mod errors;
mod glob;
mod indices;
mod learned;
mod narrow;
mod observer;
pub mod ops;
mod plan;
mod receipt;
mod rows;
mod rule;
mod scatter;
mod site;
mod tap;
mod watch;
mod weight_sums;

pub use at::{At, Noise};
pub use backend::{Grads, NoisyBackend, Primitive};
pub use errors::Errors;
pub use glob::matches as glob_matches;
pub use hardy_numerics::Row;
pub use indices::Indices;
pub use observer::Observer;
pub use plan::{BindError, BoundPlan, Plan, Streams};
pub use receipt::{Receipt, ReceiptGroup, group_receipts, sum_of_workers};
pub use rows::{Address, Rows};
pub use rule::{Layers, Ops, Rule, RuleError};
pub use site::{Op, Pass, Phase, Point, Site, SiteId};
pub use tap::{Tap, TapKey, TapRow, TapValues};
pub use weight_sums::GradientSums;
