//! The binary from outside: what it prints, what it writes, and its exit codes.

mod bad_input;
#[cfg(unix)]
mod dashboard;
#[cfg(feature = "vulkan")]
mod device;
mod diverge;
mod endpoint;
mod engines;
mod find;
mod golden_models;
mod golden_schedule;
mod help;
mod levels;
mod lora;
mod noise;
mod numbers;
mod perturb;
mod precision;
mod probe;
mod quantize;
mod replay;
mod rewards;
mod runs;
mod scan;
mod shards;
mod suite;
mod support;
mod tokens;
mod watch;
mod workers;
