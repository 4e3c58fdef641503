//! The settings of a `[[noise]]` rule.

use super::{Setting, TERMS, number, switch, text, whole, words};

#[rustfmt::skip]
pub(super) const SETTINGS: &[Setting] = &[
    text("noise.ops", "all, or a list of operators", "The operators that a rule selects"),
    words("noise.at", &["input", "output", "weight", "grad_input", "grad_weight"], "The point at which its error enters"),
    text("noise.layers", "all, a range such as 4..8, or a list", "The layers that it selects"),
    text("noise.modules", "a glob", "The module paths that it selects"),
    text("noise.exclude", "a list of globs", "The module paths that it leaves out"),
    words("noise.during", &["rollout", "train", "eval"], "The phases in which it acts; rollout and train where left out"),
    words("noise.pass", &["forward", "backward"], "The passes in which it acts"),
    text("noise.error.kind", "a kind that `hardy perturb --help` lists", "What is injected"),
    number("noise.error.scale", 0.0, 1e30, "The magnitude of the error"),
    number("noise.error.step", 0.0, 1e30, "The step of a truncation, another word for its scale"),
    switch("noise.error.relative", "Whether a systematic bias grows with the value"),
    number("noise.error.sparsity", 0.0, 1.0, "The share of channels in which a fault sits"),
    number("noise.error.rate", 0.0, 1.0, "The probability of a spike for each value, or of a flip for each bit"),
    number("noise.error.value", -1e30, 1e30, "What a stuck channel is held at"),
    text("noise.error.bits", "sign, exponent, mantissa, all, or [first, last]", "The bits that can be flipped"),
    words("noise.error.image", &["f32", "bf16"], "How a value is stored where its bits are flipped"),
    whole("noise.error.period", 1, 1024, "The stride of the values that an event of burst_flip strikes; 32 where left out"),
    whole("noise.error.burst", 1, 32, "The most bits that such an event flips; 3 where left out"),
    whole("noise.error.chunk", 1, TERMS, "Terms between two roundings of a partial sum"),
    words("noise.error.rounding", &["nearest", "stochastic"], "How a number format rounds"),
    words("noise.error.blocks", &["1d", "2d"], "The shape of a number format's blocks"),
    switch("noise.error.clip_gradient", "Whether the gradient is 0 where a value saturated in its format"),
];
