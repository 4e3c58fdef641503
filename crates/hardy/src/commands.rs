//! The commands, one file each: its arguments, and what it does with them.

pub mod compare;
pub mod config;
pub mod diverge;
pub mod doctor;
pub mod dump;
pub mod eval;
pub mod export;
pub mod find;
pub mod formats;
pub mod generate;
pub mod merge;
pub mod perturb;
pub mod probe;
pub mod quantize;
pub mod replay;
pub mod report;
pub mod run;
pub mod scan;
pub mod schedule;
pub mod score;
pub mod sft;
pub mod suite;
pub mod watch;
