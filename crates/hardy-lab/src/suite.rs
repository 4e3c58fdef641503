//! A suite is a set of presets, each run with the same seeds and held against one of them. Its runs are ordinary run
//! directories, so that a suite that was cut off goes on where it stopped, and its table follows from them alone.
//!
//! [`Suite`] (what a TOML file says) → [`Schedule`] (runs, checked and placed) → [`execute`] → [`SuiteTable`].

mod criterion;
mod definition;
mod execute;
mod member;
mod render;
mod schedule;
mod share;
mod shipped;
mod spread;
mod table;

pub use criterion::{Criterion, Hypothesis, JudgedCriterion, Judgement, Outcome};
pub use definition::Suite;
pub use execute::{SuiteEvent, execute};
pub use member::Member;
pub use schedule::Schedule;
pub use share::{Whole, merge};
pub use shipped::ALL as SHIPPED;
pub use spread::{Peak, Spread};
pub use table::{LevelCell, PresetRow, SuiteTable};
