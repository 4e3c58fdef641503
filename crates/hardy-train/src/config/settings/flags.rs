//! Numbers of the command line that no key of a configuration means.

use super::{Setting, above, number, whole};

pub(super) const SETTINGS: &[Setting] = &[
    whole("--threads", 1, 1024, "Threads to compute with, by default all cores; results do not depend on it"),
    whole("--jobs", 1, 1024, "Runs at once; they share the threads"),
    whole("--cpus", 1, 4096, "Processor cores of every run on an engine"),
    whole("--gpus", 0, 1024, "GPUs of every run on an engine"),
    whole(
        "--retries",
        0,
        1000,
        "How often a run that failed is started again; it goes on from its last checkpoint",
    ),
    whole("--start-timeout", 1, 10_000_000, "Seconds that a job may wait for its resources"),
    number("--temperature", 0.0, 1000.0, "Sampling temperature; 0 always takes the most probable token"),
    number("--tolerance", 0.0, 1e6, "The relative error up to which a site agrees"),
    whole("--sampled", 0, 65_536, "Tokens that an endpoint samples after every sequence"),
    number("--timeout", 0.001, 86_400.0, "Seconds that an answer may take"),
    number("--min-sqnr", -1000.0, 1000.0, "The least signal to quantisation noise, in dB"),
    number("--max-dead-zone", 0.0, 1.0, "The largest share of values that become 0"),
    number("--max-saturation", 0.0, 1.0, "The largest share of values that are cut off"),
    above("--drop", 0.0, 100.0, "What a place may lose: points of accuracy, or nats"),
    above("--keep", 0.0, 1.0, "The share of accuracy that a plan shall keep"),
    number("--max-relative-error", 0.0, 1e6, "The largest mean relative error"),
];
