//! What the binary says of itself.

use std::process::Stdio;

use crate::support::{command, hardy, json, succeeded, text};

const COMMANDS: [&str; 20] = [
    "run", "suite", "sft", "eval", "probe", "scan", "dump", "diverge", "replay", "compare", "report",
    "score", "generate", "quantize", "formats", "perturb", "schedule", "export", "config", "doctor",
];

#[test]
fn help_lists_every_command_and_each_shows_an_example() {
    let help = hardy(&["--help"]);
    succeeded(&help);
    for name in COMMANDS {
        assert!(text(&help.stdout).contains(&format!("\n  {name} ")), "{name}");
        let own = hardy(&[name, "--help"]);
        succeeded(&own);
        let own = text(&own.stdout);
        assert!(own.contains("Example") && own.contains(&format!("\n  hardy {name} ")), "{own}");
        assert!(own.contains("--json"), "{own}");
    }
}

#[test]
fn the_doctor_finds_a_device_threads_and_versions() {
    let found = json(&["doctor", "--threads", "1"]);
    assert_eq!(found["devices"][0]["name"], "cpu");
    assert_eq!(found["threads"], 1);
    assert_eq!(found["versions"]["hardy"], env!("CARGO_PKG_VERSION"));
    let said = hardy(&["doctor"]);
    succeeded(&said);
    assert!(text(&said.stdout).contains("SIMD"));
}

#[test]
fn a_reader_that_goes_away_ends_the_command_quietly() {
    let mut command =
        command(&["schedule", "--kind", "constant", "--sigma", "0.1", "--total-steps", "100000"]);
    let mut child = command.arg("--json").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
    assert!(output.status.code().is_some());
}
