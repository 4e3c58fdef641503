//! Faults of every kind planted at known sites of the built-in model, and a healthy machine.

use burn_flex::Flex;
use hardy_lab::{
    Setting,
    find::{Check, Fault, Find, FindReport, judge::random_model},
};
use hardy_numerics::{Options, Perturbation};
use hardy_ops::{Op, Ops, Point, Rule};
use hardy_train::{
    builtin,
    data::{self, Source, Split},
    policy::Policy,
};

fn look(fault: Option<&Fault>) -> FindReport {
    look_at(&policy(), &[], 0, fault)
}

fn policy() -> Policy<Flex> {
    Policy::from_dir(&builtin::resolve("builtin:tiny").unwrap(), &Default::default()).unwrap()
}

/// A look at a machine that does `rules` to all numbers, with four texts from `first` on.
fn look_at(policy: &Policy<Flex>, rules: &[Rule], first: usize, fault: Option<&Fault>) -> FindReport {
    let problems = data::load(&Source::texts("builtin:arith"), Split::Eval, 0, Some(first + 4)).unwrap();
    let setting = Setting { policy, problems: &problems[first..], wording: "{question}" };
    Find { setting, passes: 3, seed: 5, rules }.run(fault).unwrap()
}

/// A fault with `options` at one module.
fn at(module: &str, options: &str) -> Fault {
    let options: Options = toml::from_str(options).unwrap();
    let error: Perturbation = options.perturbation().unwrap();
    let rule = Rule { ops: Ops::All, modules: module.to_owned(), error, ..Rule::noise(0.0) };
    Fault { written: module.to_owned(), rule }
}

#[test]
fn nothing_stands_out_in_a_healthy_machine() {
    let report = look(None);
    assert_eq!((report.findings.len(), report.reproduced), (0, true), "{:?}", report.findings);
    assert!(
        report.layers.iter().all(|layer| layer.gain > 0.1 && layer.unstable == 0.0 && layer.kurtosis > 1.0)
    );
}

#[test]
fn a_machine_that_computes_in_fewer_bits_is_healthy() {
    let tiny = policy();
    let deep = random_model(&tiny, &Default::default()).unwrap();
    for (kind, at) in [("bf16", Point::Output), ("fp16", Point::Output), ("mxfp4", Point::Input)] {
        let error = toml::from_str::<Options>(&format!("kind = '{kind}'")).unwrap().perturbation().unwrap();
        let ops = if at == Point::Input { Ops::Some(vec![Op::Linear]) } else { Ops::All };
        let rules = [Rule { ops, at, error, ..Rule::noise(0.0) }];
        for (name, policy) in [("tiny", &tiny), ("deep", &deep)] {
            for first in [0, 10, 20, 30] {
                let found = look_at(policy, &rules, first, None).findings;
                assert!(found.is_empty(), "{kind} in {name}, texts from {first}: {found:#?}");
            }
        }
    }
}

#[test]
fn every_kind_of_fault_is_found_at_its_site() {
    for (module, options, check) in [
        ("model.layers.1.mlp.down_proj", "kind = 'dead_zone'\nscale = 0.2\nsparsity = 0.1", Check::Response),
        ("model.layers.2.self_attn.q_proj", "kind = 'dead_zone'\nscale = 0.05", Check::Response),
        ("model.layers.3.mlp.up_proj", "kind = 'saturation'\nscale = 0.6\nsparsity = 0.2", Check::Response),
        ("model.layers.0.self_attn.v_proj", "kind = 'stuck'\nvalue = 0.25\nsparsity = 0.1", Check::Response),
        ("model.layers.2.self_attn.o_proj", "kind = 'bias'\nscale = 0.05\nsparsity = 0.1", Check::Symmetry),
        ("model.layers.1.mlp.act_fn", "kind = 'bias'\nscale = 0.05", Check::Symmetry),
        ("model.layers.1.self_attn.values", "kind = 'bias'\nscale = 0.1", Check::Symmetry),
        ("model.layers.3.self_attn.scores", "kind = 'bias'\nscale = 0.1\nsparsity = 0.3", Check::Symmetry),
        ("model.layers.0.self_attn.softmax", "kind = 'dead_zone'\nscale = 0.05", Check::Sums),
        ("model.embed_tokens", "kind = 'dead_zone'\nscale = 0.01", Check::Sums),
        // Clamps that the text hardly meets.
        ("model.layers.1.mlp.down_proj", "kind = 'saturation'\nscale = 8.3\nsparsity = 0.1", Check::Scaling),
        (
            "model.layers.2.post_attention_layernorm",
            "kind = 'spike'\nscale = 1.0\nrate = 1e-3",
            Check::Stability,
        ),
        ("model.layers.1.self_attn.k_proj", "kind = 'bit_flip'\nrate = 1e-5", Check::Stability),
        ("model.layers.3.mlp.gate_proj", "kind = 'burst_flip'\nrate = 0.02", Check::Stability),
    ] {
        let report = look(Some(&at(module, options)));
        let injected = report.injected.as_ref().unwrap();
        assert!(injected.took_effect(), "{module}: {options}");
        let blamed = report.blamed().unwrap_or_else(|| panic!("{module}: {options} was not found"));
        assert_eq!((blamed.site.as_str(), blamed.check), (module, check), "{options}: {:?}", report.findings);
        assert_eq!(report.hit(), Some((true, true)));
    }
}

#[test]
fn what_keeps_every_relation_shows_only_in_the_hash() {
    let healthy = look(None);
    let small = at("model.layers.1.mlp.down_proj", "kind = 'systematic_bias'\nscale = 0.01\nrelative = true");
    let report = look(Some(&small));
    assert!(report.injected.as_ref().unwrap().took_effect() && report.blamed().is_none());
    assert_ne!(report.hash, healthy.hash);
    assert_eq!(look(None).hash, healthy.hash);
}
