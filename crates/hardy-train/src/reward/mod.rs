//! What a response is worth. Each grader is a file: from a response's text and the truth to a number.

pub mod command;
pub mod gsm8k;
pub mod judge;
pub mod length;
pub mod math;
pub mod multiple_choice;
pub mod overlong;
pub mod pattern;

pub use gsm8k::{Extraction, extract, score};
pub use judge::{Judge, Response, Score};
pub use overlong::overlong_penalty;
