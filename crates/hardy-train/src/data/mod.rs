//! Problems to learn from and to be judged on: read from a file or generated.
//!
//! A source is named by a short text, `builtin:arith` or a path, and gives the same problems in the same order every
//! time.

pub mod arith;
mod error;
mod jsonl;
mod layout;
mod parquet;
mod permutation;
mod problem;
mod source;
mod style;
mod truths;

pub use arith::Arith;
pub use error::DataError;
pub use jsonl::read_jsonl;
pub use layout::{Answers, Columns, answers_for};
pub use parquet::read_parquet;
pub use problem::{Place, Problem, Split, list_places, truth_of};
pub use source::{DEFAULT_PROBLEMS, Source, load};
pub use style::{AnswerStyle, REWARDED_SHARE, styled_answer};
pub use truths::check_truths;
