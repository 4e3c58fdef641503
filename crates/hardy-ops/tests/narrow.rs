//! A weight that is stored in 16 bits gives every product to the bit what the same weight in f32 gives, forward, backward, frozen
//! and in the head, whatever errors enter.

mod common;

use burn_flex::Flex;
use burn_tensor::{DType, Tensor, TensorPrimitive, bf16};
use common::{Tape, at, bind, clean, gradients, host, rule, tensor, tokens, values};
use hardy_numerics::Perturbation;
use hardy_ops::{
    At, NoisyBackend, Op, Ops, Pass, Point, Rule,
    ops::{
        head::head,
        linear::{freeze, frozen_linear, linear},
    },
};

const INNER: usize = 704;
const OUTER: usize = 96;
const ROWS: usize = 130;

/// A weight of bfloat16 values, in f32 and in 16 bits.
fn weights() -> [Tensor<Flex, 2>; 2] {
    let values: Vec<f32> = values(INNER * OUTER, 2).iter().map(|x| bf16::from_f32(*x).to_f32()).collect();
    let wide = tensor::<Flex>(&values, INNER);
    let narrow = Flex::narrowed(wide.clone().into_primitive().tensor());
    let narrow = Tensor::from_primitive(TensorPrimitive::Float(narrow));
    assert_eq!(narrow.dtype(), DType::BF16);
    [wide, narrow]
}

/// Nothing, noise at every point, sums in a narrow format.
fn plans() -> [Vec<Rule>; 3] {
    let both = [Pass::Forward, Pass::Backward];
    let chained = toml::from_str("kind = 'accumulate_bf16'\nchunk = 64").unwrap();
    [
        vec![],
        [Point::Input, Point::Output, Point::Weight].map(|point| rule(point, &both)).to_vec(),
        vec![Rule { error: chained, ops: Ops::Some(vec![Op::Linear]), ..rule(Point::Output, &both) }],
    ]
}

/// The outputs of a layer, of the frozen layer with few rows and with many, and of a head, and the gradients of the inputs.
fn all(weight: &Tensor<Flex, 2>, at: impl Fn(usize) -> At) -> Vec<Vec<f32>> {
    let (x, targets) = (values(ROWS * INNER, 1), [3; ROWS]);
    let few = tensor::<Flex>(&x[..5 * INNER], INNER);
    let frozen = |at: &At| freeze(weight.clone(), at);
    let own = || tensor::<Tape>(&x, INNER).require_grad();
    let (for_layer, for_head, held) = (own(), own(), Tensor::from_inner(weight.clone()));
    let layer = linear(for_layer.clone(), held.clone(), None, &at(ROWS));
    let logs = head(for_head.clone(), held, &targets, 0.7, &at(ROWS));
    let mut found = vec![
        host(frozen_linear(few, frozen(&at(5)), None, &at(5))),
        host(frozen_linear(tensor(&x, INNER), frozen(&at(ROWS)), None, &at(ROWS))),
    ];
    found.extend(gradients(&layer, &values(ROWS * OUTER, 3), &[&for_layer]));
    found.extend(gradients(&logs, &values(ROWS * 2, 4), &[&for_head]));
    found.extend([host(layer.inner()), host(logs.inner())]);
    found
}

#[test]
fn a_weight_in_16_bits_is_the_weight_in_f32_to_the_bit() {
    let [wide, narrow] = weights();
    for rules in plans() {
        let plan = (!rules.is_empty()).then(|| bind(rules.clone(), Op::Linear));
        let at = |rows: usize| match &plan {
            Some(plan) => at(plan, &tokens(rows)),
            None => clean(&tokens(rows)),
        };
        assert!(all(&wide, at) == all(&narrow, at), "{rules:?}");
    }
}

#[test]
fn a_frozen_weight_whose_errors_leave_bfloat16_values_is_kept_in_16_bits() {
    let [wide, _] = weights();
    for (kind, dtype) in [("mxfp4", DType::BF16), ("nvfp4", DType::F32)] {
        let error: Perturbation = toml::from_str(&format!("kind = '{kind}'")).unwrap();
        let plan = bind(vec![Rule { error, ..rule(Point::Weight, &[Pass::Forward]) }], Op::Linear);
        let frozen = freeze(wide.clone(), &at(&plan, &tokens(1)));
        assert_eq!(frozen.dtype(), dtype, "{kind}");
    }
}
