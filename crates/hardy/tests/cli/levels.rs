//! SIMD levels: what `HARDY_SIMD` refuses, and that a training is the same at every level of the processor.

use std::{fs, path::Path};

use hardy_numerics::simd::Level;

use crate::support::{arg, command, refused, succeeded};

/// One update under errors in both passes, after a rollout, and an evaluation under errors.
const CONFIG: &str = "\
name = \"levels\"
[model]
path = \"builtin:tiny\"
[data]
train_problems = 4
[train]
steps = 1
prompts_per_step = 1
samples_per_prompt = 2
max_new_tokens = 6
[[noise]]
error = { kind = \"relative_gaussian\", scale = 0.05 }
ops = [\"linear\", \"matmul\"]
pass = [\"forward\", \"backward\"]
[eval]
n = 1
noise_levels = [0.05]
";

/// All files below a directory, by their names.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push((path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

#[test]
fn a_training_is_the_same_to_the_bit_at_every_simd_level() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("levels.toml");
    fs::write(&config, CONFIG).unwrap();
    let levels = Level::available();
    if levels.iter().all(|level| level.name() != "avx512") {
        println!("skipped in part: this processor has no AVX-512");
    }
    let runs: Vec<_> = levels
        .iter()
        .map(|level| {
            let out = dir.path().join(level.name());
            let arguments = ["run", arg(&config), "--out", arg(&out)];
            succeeded(&command(&arguments).env("HARDY_SIMD", level.name()).output().unwrap());
            (level.name(), files(&out.join("checkpoints")), files(&out.join("eval")))
        })
        .collect();
    let (best, checkpoints, evaluations) = &runs[0];
    assert!(checkpoints.iter().any(|(name, _)| name.ends_with(".safetensors")));
    for (level, others, evaluated) in &runs[1..] {
        for ((name, bytes), (_, other)) in checkpoints.iter().zip(others) {
            assert!(bytes == other, "{name} of {level} is not that of {best}");
        }
        assert_eq!(checkpoints.len(), others.len());
        assert!(evaluations == evaluated, "what {level} judged is not what {best} did");
    }
}

#[test]
fn a_level_that_the_processor_lacks_is_refused() {
    for wrong in ["avx9", "AVX2"] {
        let output = command(&["doctor"]).env("HARDY_SIMD", wrong).output().unwrap();
        refused(
            &output,
            &[&format!("HARDY_SIMD={wrong}: no SIMD level has this name"), Level::available()[0].name()],
        );
    }
    let level = Level::available().pop().expect("a level").name();
    let output = command(&["doctor", "--json"]).env("HARDY_SIMD", level).output().unwrap();
    succeeded(&output);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["simd"], level);
    assert!(found["notes"].to_string().contains("forces the SIMD level"), "{found}");
}
