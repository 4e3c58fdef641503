//! What a tensor of a dump is of: the module path, and whether it is an input, an output or a gradient there. Hardy writes
//! `model.layers.0.mlp.down_proj/linear/output`; others write the same in their own ways, which are read here.

use serde::Serialize;

/// Which of a module's values a tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// What it reads.
    Input,
    /// What it writes.
    Output,
    /// The gradient of what it reads.
    GradInput,
    /// The gradient of what it writes.
    GradOutput,
    /// The gradient of a parameter.
    GradWeight,
    /// The gradient of its bias.
    GradBias,
}

impl Side {
    /// The name in Hardy's dumps.
    pub fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
            Self::GradInput => "grad_input",
            Self::GradOutput => "grad_output",
            Self::GradWeight => "grad_weight",
            Self::GradBias => "grad_bias",
        }
    }

    /// Whether it belongs to the backward pass.
    pub fn is_gradient(self) -> bool {
        !matches!(self, Self::Input | Self::Output)
    }
}

/// What a tensor is of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The module path, without what wrappers put before it.
    pub module: String,
    /// Which value.
    pub side: Side,
    /// Which of several inputs or outputs, from 0; the second factor of a product is 1.
    pub index: usize,
    /// Which call of the module, from 0.
    pub call: usize,
}

/// Names that wrappers and heads put before the path of a layer; two dumps may differ in them.
const OUTER: [&str; 9] = [
    "module",
    "model",
    "base_model",
    "language_model",
    "transformer",
    "decoder",
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
];

/// A module path without wrappers.
pub fn bare(path: &str) -> String {
    let parts = path.split('.').filter(|part| !part.starts_with('_') || !OUTER.contains(part));
    let mut parts: Vec<&str> = parts.collect();
    while parts.len() > 1 && OUTER.contains(&parts[0]) {
        parts.remove(0);
    }
    parts.join(".")
}

impl Place {
    /// Reads a name of Hardy's, of msprobe's, or a module path with an optional ending such as `.output` or `.grad`.
    pub fn parse(name: &str) -> Self {
        hardy(name).or_else(|| msprobe(name)).unwrap_or_else(|| plain(name))
    }

    fn new(path: &str, side: Side, index: usize) -> Self {
        Self { module: bare(path), side, index, call: 0 }
    }
}

/// `MODULE/OPERATOR/POINT`, and `/rhs` for a second factor.
fn hardy(name: &str) -> Option<Place> {
    let mut parts = name.split('/');
    let (module, _, point) = (parts.next()?, parts.next()?, parts.next()?);
    let index = match (parts.next(), parts.next()) {
        (None, _) => 0,
        (Some("rhs"), None) => 1,
        _ => return None,
    };
    let sides = [Side::Input, Side::Output, Side::GradInput, Side::GradWeight, Side::GradBias];
    let side = sides.into_iter().find(|side| side.name() == point)?;
    Some(Place::new(module, side, index))
}

/// `Module.PATH.CLASS.forward.CALL.output.INDEX`, or of a functional `Functional.linear.CALL.forward.output.INDEX`. The
/// backward pass of a module reads the gradient of its output, so `backward.CALL.input` is that, and `output` the gradient
/// of its input; those of parameters are `Module.PATH.CLASS.parameters_grad.CALL.weight`.
fn msprobe(name: &str) -> Option<Place> {
    let parts: Vec<&str> = name.split('.').collect();
    if !matches!(parts[0], "Module" | "Cell") {
        return functional(&parts);
    }
    let at = parts.iter().rposition(|part| matches!(*part, "forward" | "backward" | "parameters_grad"))?;
    if at < 3 {
        return None;
    }
    // The class stands between the path and the pass.
    let path = parts[1..at - 1].join(".");
    let rest = &parts[at + 1..];
    if parts[at] == "parameters_grad" {
        let side = if rest.last() == Some(&"bias") { Side::GradBias } else { Side::GradWeight };
        return Some(Place::new(&path, side, 0));
    }
    let number = |text: Option<&&str>| text.and_then(|text| text.parse::<usize>().ok());
    let call = number(rest.first());
    let rest = &rest[usize::from(call.is_some())..];
    let side = side_of(parts[at] == "backward", rest.first()?)?;
    let index = number(rest.get(1)).unwrap_or(0);
    Some(Place { call: call.unwrap_or(0), ..Place::new(&path, side, index) })
}

fn functional(parts: &[&str]) -> Option<Place> {
    if !matches!(parts[0], "Functional" | "Tensor" | "Torch" | "NPU" | "VF" | "Aten" | "Distributed") {
        return None;
    }
    let at = parts.iter().rposition(|part| matches!(*part, "forward" | "backward"))?;
    let side = side_of(parts[at] == "backward", parts.get(at + 1)?)?;
    let index = parts.get(at + 2).and_then(|text| text.parse().ok()).unwrap_or(0);
    let (call, path) = match parts[at - 1].parse() {
        Ok(call) => (call, parts[..at - 1].join(".")),
        Err(_) => (0, parts[..at].join(".")),
    };
    Some(Place { module: path, side, index, call })
}

fn side_of(backward: bool, what: &str) -> Option<Side> {
    Some(match (backward, what) {
        (false, "input" | "input_args" | "input_kwargs") => Side::Input,
        (false, "output") => Side::Output,
        (true, "input") => Side::GradOutput,
        (true, "output") => Side::GradInput,
        _ => return None,
    })
}

/// A module path, with `grad/` or `grad.` before it or an ending that says what of it is meant.
fn plain(name: &str) -> Place {
    let name = name.replace('/', ".");
    let (gradient, mut path) = match name.strip_prefix("grad.") {
        Some(path) => (true, path),
        None => (false, &name[..]),
    };
    let mut index = 0;
    if let Some((head, last)) = path.rsplit_once('.')
        && let Ok(number) = last.parse::<usize>()
        && ["input", "output", "out", "grad_input", "grad_output"].iter().any(|end| ends(head, end).is_some())
    {
        (path, index) = (head, number);
    }
    let endings = [
        ("grad_input", Side::GradInput),
        ("grad_output", Side::GradOutput),
        ("input", Side::Input),
        ("output", Side::Output),
        ("out", Side::Output),
    ];
    for (ending, side) in endings {
        if let Some(path) = ends(path, ending) {
            let path = ends(path, "forward").unwrap_or(path);
            return Place::new(path, side, index);
        }
    }
    let (gradient, path) = match ends(path, "grad") {
        Some(path) => (true, path),
        None => (gradient, path),
    };
    match (gradient, ends(path, "weight"), ends(path, "bias")) {
        (true, Some(path), _) => Place::new(path, Side::GradWeight, 0),
        (true, None, Some(path)) => Place::new(path, Side::GradBias, 0),
        (true, None, None) => Place::new(path, Side::GradInput, 0),
        (false, ..) => Place::new(path, Side::Output, 0),
    }
}

fn ends<'a>(path: &'a str, ending: &str) -> Option<&'a str> {
    path.strip_suffix(ending)?.strip_suffix('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str) -> (String, Side, usize, usize) {
        let Place { module, side, index, call } = Place::parse(name);
        (module, side, index, call)
    }

    #[test]
    fn names_of_several_writers_mean_the_same_place() {
        let down = |side| ("layers.3.mlp.down_proj".to_owned(), side, 0, 0);
        for (name, side) in [
            ("model.layers.3.mlp.down_proj/linear/output", Side::Output),
            ("model.layers.3.mlp.down_proj/linear/grad_input", Side::GradInput),
            ("model.layers.3.mlp.down_proj/linear/grad_weight", Side::GradWeight),
            ("Module.model.layers.3.mlp.down_proj.Linear.forward.0.output.0", Side::Output),
            ("Module.model.layers.3.mlp.down_proj.Linear.forward.0.input.0", Side::Input),
            ("Module.model.layers.3.mlp.down_proj.Linear.backward.0.output.0", Side::GradInput),
            ("Module.model.layers.3.mlp.down_proj.Linear.backward.0.input.0", Side::GradOutput),
            ("Module.module.model.layers.3.mlp.down_proj.Linear.parameters_grad.0.weight", Side::GradWeight),
            ("model.layers.3.mlp.down_proj", Side::Output),
            ("module.model.layers.3.mlp.down_proj.output", Side::Output),
            ("_orig_mod.model.layers.3.mlp.down_proj.forward.output.0", Side::Output),
            ("grad/model.layers.3.mlp.down_proj.weight", Side::GradWeight),
            ("model.layers.3.mlp.down_proj.weight.grad", Side::GradWeight),
            ("model.layers.3.mlp.down_proj.grad_input.0", Side::GradInput),
        ] {
            assert_eq!(place(name), down(side), "{name}");
        }
    }

    #[test]
    fn second_factors_and_later_calls_are_told_apart() {
        let scores = "model.layers.0.self_attn.scores";
        assert_eq!(Place::parse(&format!("{scores}/matmul/grad_input/rhs")).index, 1);
        assert_eq!(Place::parse("Module.norm.RMSNorm.forward.2.output.0").call, 2);
        let linear = place("Functional.linear.7.forward.output.0");
        assert_eq!(linear, ("Functional.linear".to_owned(), Side::Output, 0, 7));
    }

    #[test]
    fn modules_outside_of_layers_keep_their_names() {
        assert_eq!(bare("model.norm"), "norm");
        assert_eq!(bare("lm_head"), "lm_head");
        assert_eq!(bare("model"), "model");
        assert_eq!(bare("module._fsdp_wrapped_module.model.embed_tokens"), "embed_tokens");
    }
}
