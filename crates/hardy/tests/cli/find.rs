//! `find`: a healthy machine is not blamed, a planted fault is found where it was planted.

use crate::support::{arg, command, hardy, json, refuses, text};

const TINY: [&str; 5] = ["find", "--model", "builtin:tiny", "--n", "2"];

#[test]
fn a_healthy_machine_is_not_blamed_and_its_hash_tells_it_from_others() {
    let report = json(&TINY);
    assert!(report["findings"].as_array().unwrap().is_empty(), "{report}");
    assert_eq!((report["layers"].as_array().unwrap().len(), &report["reproduced"]), (4, &true.into()));
    let hash = report["hash"].as_str().unwrap();
    let expecting = |hash: &str| hardy(&[&TINY[..], &["--expect", hash]].concat()).status.code();
    assert_eq!((expecting(hash), expecting("0123456789abcdef")), (Some(0), Some(1)));
}

#[test]
fn a_planted_fault_is_found_and_the_text_says_what_to_do_next() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("found.json");
    let fault = "dead_zone:layer=2,op=linear,module=*.down_proj,scale=0.1,sparsity=0.25";
    let found = hardy(&[&TINY[..], &["--inject", fault, "--out", arg(&out)]].concat());
    let said = text(&found.stdout);
    assert_eq!(found.status.code(), Some(0), "{said} {}", text(&found.stderr));
    for part in ["blamed: model.layers.2.mlp.down_proj", "dead zone", "the very site", "next: "] {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
    assert!(std::fs::read_to_string(&out).unwrap().contains("model.layers.2.mlp.down_proj"));
    refuses(&[&TINY[..], &["--out", arg(&out)]].concat(), &["found.json", "exists"]);
}

#[cfg(feature = "vulkan")]
#[test]
fn a_device_is_looked_at_as_the_cpu_is() {
    let there = [&TINY[..], &["--device", "vulkan"]].concat();
    let report = json(&there);
    assert!(report["findings"].as_array().unwrap().is_empty(), "{report}");
    assert_eq!(report["reproduced"], true);
    let fault = "saturation:layer=1,op=linear,module=*.up_proj,scale=0.3,sparsity=0.5";
    let found = json(&[&there[..], &["--inject", fault]].concat());
    assert_eq!(found["findings"][0]["layer"], 1, "{found}");
}

#[test]
fn faults_that_can_not_be_planted_are_refused() {
    for (fault, parts) in [
        ("dead", &["--inject", "unknown kind `dead`"][..]),
        ("dead_zone:layer=2", &["missing field `scale`"]),
        ("dead_zone:scale=0.1,layer=9", &["matches no site", "layers 0..=3"]),
        ("bias:scale=0.1,op=conv", &["op", "conv"]),
        ("stuck:value=1,module=*.conv", &["matches no site"]),
        ("spike:scale=1,rate=2", &["rate is 2"]),
    ] {
        refuses(&[&TINY[..], &["--inject", fault]].concat(), parts);
    }
    let both = command(&[&TINY[..], &["--judge", "--inject", "bias:scale=1"]].concat()).output().unwrap();
    assert_eq!(both.status.code(), Some(2));
}
