//! Rules as people write them, what they select, and what binding refuses; receipts of what they did.

mod common;

use burn_flex::Flex;
use common::{at, bind, gradients, host, rule, tensor, tokens, values};
use hardy_numerics::{Fault, Format, Options, Perturbation};
use hardy_ops::{
    BindError, BoundPlan, Layers, Op, Ops, Pass, Phase, Plan, Point, Receipt, Rule, RuleError, Site, SiteId,
    group_receipts,
    ops::{linear::linear, silu::silu},
};
use proptest::prelude::*;

const ERROR: &str = "error = { kind = \"relative_gaussian\", scale = 0.05 }";

fn parse(text: &str) -> Result<Rule, String> {
    toml::from_str(&format!("{text}\n{ERROR}")).map_err(|error| error.to_string())
}

/// Two layers of a decoder, with an embedding before them and a head after them.
fn sites() -> Vec<Site> {
    let mut sites = vec![("model.embed_tokens".to_owned(), Op::Embedding, None)];
    for layer in 0..3 {
        for (module, op) in [
            ("input_layernorm", Op::RmsNorm),
            ("self_attn.q_proj", Op::Linear),
            ("self_attn.scores", Op::Matmul),
            ("self_attn.softmax", Op::Softmax),
            ("mlp.act_fn", Op::Silu),
            ("mlp.down_proj", Op::Linear),
        ] {
            sites.push((format!("model.layers.{layer}.{module}"), op, Some(layer)));
        }
    }
    sites.push(("model.norm".to_owned(), Op::RmsNorm, None));
    sites.push(("lm_head".to_owned(), Op::Linear, None));
    sites.into_iter().map(|(module, op, layer)| Site { module, op, layer }).collect()
}

fn plan(rules: Vec<Rule>) -> Result<BoundPlan, BindError> {
    Plan { rules, ..Plan::default() }.bind(&sites(), &Phase::ALL)
}

/// The modules at which the rule acts, in training.
fn selected(text: &str) -> Vec<String> {
    let plan = plan(vec![parse(text).unwrap()]).unwrap();
    plan.noise(Phase::Train, 0);
    let mut modules: Vec<String> = plan.receipts().into_iter().map(|receipt| receipt.site).collect();
    modules.dedup();
    modules
}

#[test]
fn operators_are_all_or_one_or_a_list() {
    assert_eq!(selected("").len(), sites().len());
    assert_eq!(selected("ops = \"all\"").len(), sites().len());
    assert_eq!(selected("ops = \"softmax\"").len(), 3);
    assert_eq!(selected("ops = [\"linear\", \"matmul\"]").len(), 10);
    assert_eq!(selected("ops = [\"embedding\"]"), ["model.embed_tokens"]);
}

#[test]
fn all_operators_are_those_that_have_the_point() {
    let with_weight = selected("at = \"weight\"");
    assert_eq!(with_weight.len(), 12);
    assert!(with_weight.iter().all(|module| !module.contains("softmax") && !module.contains("act_fn")));
}

#[test]
fn layers_are_all_or_a_range_or_a_number_or_a_list() {
    let in_layers = |text: &str| selected(&format!("ops = \"silu\"\n{text}"));
    let act = |layer: usize| format!("model.layers.{layer}.mlp.act_fn");
    assert_eq!(in_layers("layers = \"all\""), [act(0), act(1), act(2)]);
    assert_eq!(in_layers("layers = \"0..2\""), [act(0), act(1)]);
    assert_eq!(in_layers("layers = \"1..=2\""), [act(1), act(2)]);
    assert_eq!(in_layers("layers = [0, 2]"), [act(0), act(2)]);
    assert_eq!(in_layers("layers = 1"), [act(1)]);
    assert_eq!(selected("layers = [0]\nops = \"linear\"").len(), 2, "the head is in no layer");
}

#[test]
fn modules_are_chosen_by_glob_and_left_out_by_glob() {
    assert_eq!(selected("modules = \"*.q_proj\"").len(), 3);
    assert_eq!(selected("ops = \"linear\"\nexclude = [\"lm_head\", \"*.1.*\"]").len(), 4);
    assert_eq!(selected("modules = \"lm_head\""), ["lm_head"]);
}

#[test]
fn points_and_passes_are_those_named() {
    let points = |text: &str| {
        let plan = plan(vec![parse(&format!("modules = \"lm_head\"\n{text}")).unwrap()]).unwrap();
        plan.noise(Phase::Train, 0);
        plan.receipts().into_iter().map(|receipt| receipt.point).collect::<Vec<_>>()
    };
    use Point::{GradInput, GradWeight, Input, Output, Weight};
    assert_eq!(points(""), [Output]);
    assert_eq!(points("at = \"input\""), [Input]);
    assert_eq!(points("at = \"weight\"\npass = [\"forward\"]"), [Weight]);
    assert_eq!(points("pass = [\"backward\"]"), [GradInput, GradWeight]);
    assert_eq!(points("pass = [\"forward\", \"backward\"]"), [Output, GradInput, GradWeight]);
    assert_eq!(points("at = \"input\"\npass = [\"forward\", \"backward\"]"), [Input, GradInput]);
    assert_eq!(points("at = \"weight\"\npass = [\"backward\"]"), [GradWeight]);
    assert_eq!(points("at = \"grad_input\"\npass = [\"backward\"]"), [GradInput]);
    assert_eq!(points("at = \"grad_weight\"\npass = [\"forward\", \"backward\"]"), [GradWeight]);
}

#[test]
fn rules_act_in_the_phases_named_and_otherwise_where_the_user_of_the_plan_says() {
    let phases = |text: &str, otherwise: &[Phase]| {
        let plan =
            Plan { rules: vec![parse(&format!("ops = \"silu\"\n{text}")).unwrap()], ..Plan::default() };
        let bound = plan.bind(&sites(), otherwise).unwrap();
        Phase::ALL.into_iter().filter(|&phase| bound.acts_in(phase)).collect::<Vec<_>>()
    };
    assert_eq!(phases("during = [\"rollout\", \"train\"]", &[Phase::Eval]), [Phase::Rollout, Phase::Train]);
    assert_eq!(phases("during = [\"eval\"]", &[]), [Phase::Eval]);
    assert_eq!(phases("", &[Phase::Eval]), [Phase::Eval]);
    assert_eq!(phases("pass = [\"forward\", \"backward\"]", &Phase::ALL), Phase::ALL);
    assert_eq!(
        phases("pass = [\"backward\"]", &Phase::ALL),
        [Phase::Train],
        "only training has a backward pass"
    );
}

#[test]
fn what_can_not_be_meant_is_refused_with_what_would_be_right() {
    for (text, says) in [
        ("ops = []", "`ops` is empty"),
        ("ops = \"linaer\"", "unknown operator `linaer`; the operators are linear, matmul"),
        ("ops = [\"linear\", \"conv\"]", "unknown operator `conv`"),
        ("ops = 3", "`ops` must be \"all\" or a list"),
        ("layers = []", "`layers` is empty"),
        ("layers = \"8..4\"", "but is \"8..4\""),
        ("layers = \"4..4\"", "but is \"4..4\""),
        ("layers = \"some\"", "`layers` must be \"all\", a range"),
        ("layers = -1", "`layers` must be \"all\""),
        ("layers = [1.5]", "`layers` must be \"all\""),
        ("at = \"outputs\"", "unknown variant `outputs`"),
        ("pass = [\"sideways\"]", "unknown variant `sideways`"),
        ("during = [\"test\"]", "unknown variant `test`"),
        ("layerz = \"all\"", "unknown field `layerz`"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.contains(says), "{text}: {error}");
    }
    assert!(
        toml::from_str::<Rule>("ops = \"all\"").unwrap_err().to_string().contains("missing field `error`")
    );
}

#[test]
fn a_rule_that_could_never_act_does_not_bind() {
    let refused = |text: &str| match plan(vec![Rule::noise(0.1), parse(text).unwrap()]) {
        Err(BindError::Rule { number: 2, source }) => source,
        other => panic!("{text}: {other:?}"),
    };
    assert_eq!(refused("pass = []"), RuleError::Never("pass"));
    assert_eq!(refused("during = []"), RuleError::Never("during"));
    assert_eq!(refused("at = \"grad_input\""), RuleError::PassExcludesPoint("grad_input"));
    assert_eq!(refused("pass = [\"backward\"]\nduring = [\"rollout\", \"eval\"]"), RuleError::NoBackward);
    for scale in [-0.1, f64::NAN, f64::INFINITY] {
        assert!(matches!(Rule::noise(scale).validate(), Err(RuleError::Scale(_))), "{scale}");
        let schedule = Rule { schedule: Some([0.1, scale].into()), ..Rule::noise(0.1) };
        assert!(matches!(schedule.validate(), Err(RuleError::Schedule { step: 1, .. })), "{scale}");
    }
}

#[test]
fn an_error_that_can_not_be_where_the_rule_puts_it_does_not_bind() {
    let says =
        |text: &str| toml::from_str::<Rule>(text).unwrap().validate().map_err(|wrong| wrong.to_string());
    let accumulate = "error = { kind = \"accumulate_bf16\", chunk = 64 }";
    for place in ["ops = \"all\"", "ops = [\"linear\", \"silu\"]", "ops = \"linear\"\nat = \"input\""] {
        let wrong = says(&format!("{place}\n{accumulate}")).unwrap_err();
        assert!(wrong.contains("rounds the partial sums of products: it needs at = \"output\""), "{wrong}");
    }
    assert_eq!(says(&format!("ops = [\"linear\", \"matmul\"]\n{accumulate}")), Ok(()));
    let square = "error = { kind = \"mxfp4\", blocks = \"2d\" }";
    assert!(says(square).unwrap_err().contains("needs at = \"weight\", not \"output\""));
    assert_eq!(says(&format!("at = \"weight\"\n{square}")), Ok(()));
    let hif4 = says("at = \"weight\"\nerror = { kind = \"hif4\", blocks = \"2d\" }").unwrap_err();
    assert!(hif4.contains("hif4 has no square blocks"), "{hif4}");
    let clip = "error = { kind = \"mxfp4\", clip_gradient = true }";
    for place in ["at = \"output\"", "ops = [\"linear\", \"matmul\"]\nat = \"input\""] {
        let wrong = says(&format!("{place}\n{clip}")).unwrap_err();
        assert!(wrong.contains("clip_gradient does not reach matmul and softmax"), "{wrong}");
    }
    let backward = says(&format!("ops = \"linear\"\npass = [\"backward\"]\n{clip}")).unwrap_err();
    assert!(backward.contains("needs a format in the forward pass"), "{backward}");
    assert_eq!(says(&format!("at = \"weight\"\n{clip}")), Ok(()));
    let scheduled = Rule { schedule: Some([0.1].into()), error: Format::Mxfp4.into(), ..Rule::noise(0.1) };
    assert_eq!(scheduled.validate(), Err(RuleError::NoScale("mxfp4")));
}

#[test]
fn a_rule_that_matches_nothing_fails_and_lists_the_sites() {
    for text in [
        "layers = [99]",
        "ops = \"gelu\"",
        "modules = \"transformer.*\"",
        "exclude = [\"*\"]",
        "ops = \"softmax\"\nat = \"weight\"",
        "ops = \"embedding\"\nlayers = [0]",
    ] {
        let error = plan(vec![Rule::noise(0.1), parse(text).unwrap()]).unwrap_err();
        assert!(matches!(error, BindError::NoSite { number: 2, .. }), "{text}: {error}");
    }
    let error =
        plan(vec![parse("ops = \"linear\"\nlayers = [99]\nexclude = [\"lm_head\"]").unwrap()]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "rule 1 matches no site: it asks for ops [linear], at output, layers [99], exclude lm_head, but the model \
         has layers 0..=2 and the sites lm_head (linear), model.embed_tokens (embedding), \
         model.layers.N.input_layernorm (rms_norm), model.layers.N.mlp.act_fn (silu), \
         model.layers.N.mlp.down_proj (linear), model.layers.N.self_attn.q_proj (linear), \
         model.layers.N.self_attn.scores (matmul), model.layers.N.self_attn.softmax (softmax), model.norm (rms_norm)"
    );
}

/// An error of this kind.
fn error_of((kind, number, flag): (&str, f64, bool)) -> Perturbation {
    let takes = Options::taken_by(kind).unwrap();
    let some = |option: &str| takes.contains(&option).then_some(number);
    let options = Options {
        kind: kind.to_owned(),
        scale: some("scale").filter(|_| kind != "stuck"),
        relative: some("relative").map(|_| flag),
        rate: some("rate"),
        value: some("value"),
        sparsity: some("sparsity"),
        chunk: some("chunk").map(|n| n as usize),
        clip_gradient: some("clip_gradient").map(|_| flag),
        ..Options::default()
    };
    options.perturbation().unwrap()
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let ops =
        prop_oneof![Just(Ops::All), prop::sample::subsequence(Op::ALL.to_vec(), 1..=8).prop_map(Ops::Some),];
    let at = prop::sample::select(vec![
        Point::Input,
        Point::Output,
        Point::Weight,
        Point::GradInput,
        Point::GradWeight,
    ]);
    let layers = prop_oneof![
        Just(Layers::All),
        (0..50_usize, 1..50_usize).prop_map(|(start, length)| Layers::Range(start, start + length)),
        prop::collection::vec(0..100_usize, 1..5).prop_map(Layers::List),
    ];
    let during = prop::option::of(prop::sample::subsequence(Phase::ALL.to_vec(), 1..=3));
    let pass = prop::sample::subsequence(vec![Pass::Forward, Pass::Backward], 1..=2);
    let error = (prop::sample::select(Perturbation::NAMES), 0.0..10.0_f64, any::<bool>()).prop_map(error_of);
    let globs = ("[a-z_.*?]{1,12}", prop::collection::vec("[a-z_.*?]{1,12}", 0..3));
    (ops, at, layers, globs, during, pass, error).prop_map(
        |(ops, at, layers, (modules, exclude), during, pass, error)| Rule {
            ops,
            at,
            layers,
            modules,
            exclude,
            during,
            pass,
            error,
            schedule: None,
            learned: false,
        },
    )
}

proptest! {
    #[test]
    fn rules_come_back_from_toml_as_they_were(rule in any_rule()) {
        let text = toml::to_string(&rule).unwrap();
        prop_assert_eq!(toml::from_str::<Rule>(&text).unwrap(), rule, "{}", text);
    }
}

/// A linear layer forward and backward in training.
fn train(plan: &BoundPlan, count: usize) {
    let (x, w) = (values(count * 8, 1), values(5 * 8, 2));
    let (x, w) = (tensor::<common::Tape>(&x, 8).require_grad(), tensor::<common::Tape>(&w, 8).require_grad());
    let y = linear(x.clone(), w.clone(), None, &at(plan, &tokens(count)));
    gradients(&y, &values(count * 5, 3), &[&x, &w]);
}

const BOTH: [Pass; 2] = [Pass::Forward, Pass::Backward];

#[test]
fn receipts_add_up_over_calls() {
    let plan = bind(vec![rule(Point::Output, &BOTH)], Op::Linear);
    train(&plan, 10);
    train(&plan, 32);
    let counts: Vec<_> = plan
        .receipts()
        .into_iter()
        .map(|receipt| {
            (
                receipt.rule,
                receipt.point,
                receipt.pass,
                receipt.calls,
                receipt.elements,
                receipt.asked.unwrap(),
            )
        })
        .collect();
    assert_eq!(
        counts,
        [
            (1, Point::Output, Pass::Forward, 42, 42 * 5, 0.05),
            (1, Point::GradInput, Pass::Backward, 42, 42 * 8, 0.05),
            (1, Point::GradWeight, Pass::Backward, 2, 2 * 40, 0.05),
        ]
    );
}

#[test]
fn noise_that_was_asked_for_and_never_happened_is_reported() {
    let plan = bind(vec![rule(Point::Input, &[Pass::Forward]), rule(Point::Output, &BOTH)], Op::Linear);
    assert!(plan.unfired().is_empty(), "nothing was asked for yet");
    let noise = plan.noise(Phase::Train, 3);
    assert_eq!(
        plan.unfired(),
        [
            "rule 1 (ops all, at input, layers all) asked for noise in train, forward, but none was injected",
            "rule 2 (ops all, at output, layers all) asked for noise in train, forward, but none was injected",
            "rule 2 (ops all, at output, layers all) asked for noise in train, backward, but none was injected",
        ]
    );
    let (x, w) = (tensor::<Flex>(&values(8, 1), 8), tensor::<Flex>(&values(40, 2), 8));
    linear(x, w, None, &noise.at(SiteId(0), &tokens(1)));
    assert_eq!(plan.unfired().len(), 1, "the backward pass is missing");
    train(&plan, 3);
    assert!(plan.unfired().is_empty());
    plan.noise(Phase::Eval, 3);
    assert_eq!(plan.unfired().len(), 2, "the phase of evaluation never ran");
}

#[test]
fn a_restored_plan_goes_on_counting_to_the_bit() {
    let scheduled =
        Rule { schedule: Some([0.0, 0.0, 0.0, 0.07].into()), ..rule(Point::Input, &[Pass::Forward]) };
    let new = || bind(vec![scheduled.clone(), rule(Point::Output, &BOTH)], Op::Linear);
    let whole = new();
    let first = new();
    for plan in [&whole, &first] {
        train(plan, 13);
        train(plan, 4);
    }
    let kept = first.receipts();
    let resumed = new();
    resumed.restore(&kept);
    assert_eq!(resumed.receipts(), kept);
    for plan in [&whole, &resumed] {
        train(plan, 7);
    }
    assert_eq!(resumed.receipts(), whole.receipts());
}

#[test]
fn receipts_survive_toml_and_grouping_sums_over_sites() {
    let plan = plan(vec![rule(Point::Output, &[Pass::Forward])]).unwrap();
    let noise = plan.noise(Phase::Eval, 0);
    let acts: Vec<usize> = (0..sites().len()).filter(|&i| sites()[i].op == Op::Silu).collect();
    for (count, site) in [2, 3, 4].into_iter().zip(acts) {
        host(silu(tensor::<Flex>(&values(count * 50, 1), 50), &noise.at(SiteId(site), &tokens(count))));
    }
    let receipts = plan.receipts();
    let groups = group_receipts(&receipts);
    let of = |op| groups.iter().find(|group| group.sum.op == op).unwrap();
    let (group, range) = (&of(Op::Silu).sum, of(Op::Silu).range);
    let parts: Vec<&Receipt> = receipts.iter().filter(|receipt| receipt.op == Op::Silu).collect();
    assert_eq!((group.site.as_str(), group.calls, group.elements), ("3 sites", 9, 9 * 50));
    assert_eq!(group.asked, Some(0.05));
    let energy = |of: fn(&Receipt) -> f64| parts.iter().map(|part| of(part)).sum::<f64>();
    let measured = (energy(|part| part.error_energy) / energy(|part| part.signal_energy)).sqrt();
    assert_eq!(group.measured, measured);
    assert!(of(Op::Silu).sites == 3 && range.0 < measured && measured < range.1);
    let embedding = &of(Op::Embedding).sum;
    assert_eq!((embedding.site.as_str(), embedding.calls), ("model.embed_tokens", 0));
    let text = toml::to_string(&receipts[0]).unwrap();
    assert_eq!(toml::from_str::<Receipt>(&text).unwrap(), receipts[0]);
}

#[test]
fn what_is_not_finite_is_counted_and_measured_apart() {
    let plan = plan(vec![rule(Point::Output, &[Pass::Forward])]).unwrap();
    let act = sites().iter().position(|site| site.op == Op::Silu).unwrap();
    let mut x = values(4 * 50, 1);
    let noise = plan.noise(Phase::Eval, 0);
    let run = |x: &[f32]| host(silu(tensor::<Flex>(x, 50), &noise.at(SiteId(act), &tokens(4))));
    (x[3], x[70], x[199]) = (f32::NAN, f32::INFINITY, f32::NAN);
    run(&x);
    let receipt = plan.receipts().into_iter().find(|receipt| receipt.op == Op::Silu).unwrap();
    assert_eq!((receipt.elements, receipt.non_finite), (200, 3));
    assert!((receipt.measured - 0.05).abs() < 0.01 && receipt.signal_energy.is_finite());
    let text = serde_json::to_string(&receipt).unwrap();
    assert_eq!(serde_json::from_str::<Receipt>(&text).unwrap(), receipt);
    // What earlier versions wrote of such a site.
    let text = text.replace("\"non_finite\":3,", "");
    let old = text.split("\"measured\"").next().unwrap().to_owned()
        + "\"measured\":null,\"error_energy\":null,\"signal_energy\":null}";
    let read: Receipt = serde_json::from_str(&old).unwrap();
    assert_eq!((read.elements, read.non_finite, read.error_energy, read.signal_energy), (200, 0, 0.0, 0.0));
}

#[test]
fn an_error_on_zeros_alone_is_written_and_read() {
    let error = Perturbation::AbsoluteGaussian { scale: 0.1 };
    let plan = plan(vec![Rule { error, ..rule(Point::Output, &[Pass::Forward]) }]).unwrap();
    let act = sites().iter().position(|site| site.op == Op::Silu).unwrap();
    host(silu(tensor::<Flex>(&[0.0; 100], 50), &plan.noise(Phase::Eval, 0).at(SiteId(act), &tokens(2))));
    let receipt = plan.receipts().into_iter().find(|receipt| receipt.op == Op::Silu).unwrap();
    assert_eq!(receipt.measured, f64::INFINITY);
    let text = serde_json::to_string(&receipt).unwrap();
    assert_eq!(serde_json::from_str::<Receipt>(&text).unwrap(), receipt);
}

#[test]
fn a_rule_that_would_change_nothing_is_refused() {
    let message = |rule: Rule| plan(vec![rule]).unwrap_err().to_string();
    assert_eq!(
        message(Rule::noise(0.0)),
        "rule 1: error relative_gaussian: `scale` is 0, so the rule would change nothing; leave the rule out, or give a \
         number above 0"
    );
    let fault = |fault, sparsity| Rule { error: Perturbation::Fault { fault, sparsity }, ..Rule::noise(0.1) };
    assert!(message(fault(Fault::Spike { scale: 1.0, rate: 0.0 }, 1.0)).contains("spike: `rate` is 0"));
    assert!(message(fault(Fault::Stuck { value: 1.0 }, 0.0)).contains("stuck: `sparsity` is 0"));
    let silent = message(Rule::aqn(vec![0.0; 7]));
    assert!(silent.contains("absolute_gaussian is 0 at every one of its 7 steps"), "{silent}");
    assert!(plan(vec![Rule::aqn(vec![0.0, 0.0, 0.1])]).is_ok(), "a schedule may be silent at some steps");
}

#[test]
fn a_rule_on_the_gradient_of_a_frozen_weight_is_refused_and_one_on_outputs_keeps_its_other_half() {
    let frozen = |site: &Site| site.op == Op::Linear;
    let bind = |rule: Rule| {
        let plan = Plan { rules: vec![rule], ..Plan::default() };
        plan.bind_with_frozen(&sites(), &[Phase::Train], frozen)
    };
    for (point, pass) in [(Point::GradWeight, &[Pass::Backward][..]), (Point::Weight, &BOTH)] {
        let linear = Rule { ops: Ops::Some(vec![Op::Linear]), ..rule(point, pass) };
        let message = bind(linear.clone()).unwrap_err().to_string();
        let module = sites().into_iter().find(|site| site.op == Op::Linear).unwrap().module;
        assert!(
            message.contains(&format!("the gradient of {module}'s weight")) && message.contains("frozen"),
            "{message}"
        );
        assert!(bind(Rule { ops: Ops::Some(vec![Op::RmsNorm]), ..linear.clone() }).is_ok(), "trained");
        assert!(
            point == Point::GradWeight || bind(Rule { during: Some(vec![Phase::Eval]), ..linear }).is_ok()
        );
    }
    let plan = bind(rule(Point::Output, &BOTH)).unwrap();
    plan.noise(Phase::Train, 0);
    let has = |op, point| plan.receipts().iter().any(|receipt| receipt.op == op && receipt.point == point);
    assert!(has(Op::Linear, Point::GradInput) && !has(Op::Linear, Point::GradWeight));
    assert!(has(Op::RmsNorm, Point::GradWeight));
}

#[test]
fn an_empty_plan_binds_and_injects_nothing() {
    let plan = plan(Vec::new()).unwrap();
    plan.noise(Phase::Train, 0);
    assert!(plan.receipts().is_empty() && plan.unfired().is_empty());
    assert!(Phase::ALL.into_iter().all(|phase| !plan.acts_in(phase)));
}
