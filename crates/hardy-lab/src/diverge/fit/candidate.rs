//! The deterministic errors that are tried: every number format at the inputs, the weight or both, at the output, and
//! partial sums in 16 bits for several lengths of chunks.

use std::fmt;

use hardy_numerics::{Accumulation, Partial, Perturbation, formats::Format};
use hardy_ops::{Op, Ops, Point, Rule};
use serde::{Serialize, Serializer};

use super::Class;

/// Chunks of partial sums.
const CHUNKS: [usize; 8] = [1, 4, 8, 16, 32, 64, 128, 256];

/// A kind of error, with where it enters.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// None beyond rounding in f32.
    Clean,
    /// The same error at some points.
    At(Perturbation, Vec<Point>),
}

impl Kind {
    /// The rules of a plan that has this error in `class`.
    pub fn rules(&self, class: Class) -> Vec<Rule> {
        let Self::At(error, points) = self else { return Vec::new() };
        let (modules, exclude) = match class {
            Class::Linear => ("*", vec!["lm_head".to_owned()]),
            Class::Head => ("lm_head", Vec::new()),
        };
        let rule = |&at: &Point| Rule {
            ops: Ops::Some(vec![Op::Linear]),
            at,
            modules: modules.to_owned(),
            exclude: exclude.clone(),
            error: *error,
            ..Rule::noise(0.0)
        };
        points.iter().map(rule).collect()
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::At(error, points) = self else { return f.write_str("none") };
        f.write_str(error.kind_name())?;
        if let Perturbation::Accumulation(accumulation) = error {
            return write!(f, ", chunk {}", accumulation.chunk);
        }
        let points: Vec<&str> = points.iter().map(|point| point.name()).collect();
        write!(f, " at {}", points.join(" and "))?;
        error.scale().map_or(Ok(()), |scale| write!(f, ", scale {scale:.4}"))
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// All that are tried.
pub fn candidates() -> impl Iterator<Item = Kind> {
    let places =
        [vec![Point::Weight], vec![Point::Input], vec![Point::Input, Point::Weight], vec![Point::Output]];
    let format = |name: &&str| {
        let format = Format::from_name(name)?;
        let error = Perturbation::Quantization(format.into());
        Some(places.clone().map(|points| Kind::At(error, points)))
    };
    let formats = Format::NAMES.iter().filter_map(format).flatten().collect::<Vec<_>>();
    let sums = [Partial::Bf16, Partial::Fp16].into_iter().flat_map(|partial| {
        CHUNKS.map(|chunk| {
            Kind::At(Perturbation::Accumulation(Accumulation { partial, chunk }), vec![Point::Output])
        })
    });
    formats.into_iter().chain(sums)
}
