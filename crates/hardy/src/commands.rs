//! The commands, one file each: its arguments, and what it does with them.

pub mod compare;
pub mod doctor;
pub mod eval;
pub mod export;
pub mod generate;
pub mod perturb;
pub mod report;
pub mod run;
pub mod schedule;
pub mod score;
pub mod sft;
