//! Judging: from answers to verdicts. An evaluation is kept as a record of every problem's outcome, so that noise
//! levels and runs can be compared problem by problem, with intervals, exact tests and the sample size that a claim
//! would need.
//!
//! The path of a number: [`record::EvalRecord`] → [`robustness::RobustnessTable`] (one run against itself without
//! noise) or [`compare::Comparison`] (runs against each other) → terminal, JSON, or the page of [`report`].

pub mod compare;
pub mod diverge;
pub mod error;
pub mod evaluate;
pub mod export;
pub mod find;
pub mod forecast;
pub mod format;
pub mod grid;
pub mod html;
pub mod live;
pub mod lock;
pub mod metric_table;
pub mod metrics_file;
pub mod nll;
pub mod page;
pub mod pairing;
pub mod probe;
pub mod receipt;
pub mod record;
pub mod replay;
pub mod report;
pub mod robustness;
pub mod run;
pub mod run_records;
pub mod scan;
pub mod setting;
pub mod shard;
pub mod statistics;
pub mod suite;
pub mod svg;
pub mod tensorboard;
pub mod text_table;

pub use compare::Comparison;
pub use error::LabError;
pub use record::{EvalRecord, LevelRecord, Metric, ProblemRecord, SampleRecord};
pub use robustness::{RobustnessTable, Verdict};
pub use run_records::{RunRecords, read_run};
pub use setting::Setting;
pub use tensorboard::TensorBoardWriter;
