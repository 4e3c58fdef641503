//! The two layouts of a mixture of experts: every expert's matrices by themselves, as on the hub, or those of a layer in
//! one tensor, as `transformers` 5 holds them, `experts.gate_up_proj` `[experts, 2·width, hidden]` and
//! `experts.down_proj` `[experts, hidden, width]`.

use crate::config::ParameterSpec;

/// Where the matrix of one expert stands in a tensor of all of them.
pub(super) struct Fused {
    /// The name of the tensor.
    pub name: String,
    /// Its extents but for the number of experts.
    pub shape: [usize; 2],
    /// The expert.
    pub expert: usize,
    /// The first element of the matrix.
    pub first: usize,
}

impl Fused {
    /// The place of `spec`, if it is an expert's matrix.
    pub fn of(spec: &ParameterSpec) -> Option<Self> {
        let (layer, rest) = spec.name.split_once(".mlp.experts.")?;
        let (expert, part) = rest.split_once('.')?;
        let ([rows, columns], expert) = (spec.shape[..].try_into().ok()?, expert.parse().ok()?);
        let (tensor, of_two) = match part {
            "gate_proj.weight" => ("gate_up_proj", Some(0)),
            "up_proj.weight" => ("gate_up_proj", Some(1)),
            "down_proj.weight" => ("down_proj", None),
            _ => return None,
        };
        let matrix = rows * columns;
        let (shape, first) = match of_two {
            Some(half) => ([2 * rows, columns], (2 * expert + half) * matrix),
            None => ([rows, columns], expert * matrix),
        };
        Some(Self { name: format!("{layer}.mlp.experts.{tensor}"), shape, expert, first })
    }
}
