//! Starting the binary, and the files that its tests need.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use hardy_model::{Dtype, HostTensor, TensorFile, files};
use serde_json::Value;

/// The binary with these arguments, away from whatever plan and SIMD level the environment holds.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hardy"));
    command.args(arguments).env_remove("HARDY_NOISE").env_remove("HARDY_SIMD");
    command
}

/// Runs the binary.
pub fn hardy(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

/// The JSON that a successful command prints; nothing else may be on standard output.
pub fn json(arguments: &[&str]) -> Value {
    let output = hardy(&[arguments, &["--json"]].concat());
    succeeded(&output);
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Asserts that a command succeeded.
pub fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// Asserts that a command refuses its input, in one sentence that holds all of `parts`.
pub fn refuses(arguments: &[&str], parts: &[&str]) {
    refused(&hardy(arguments), parts);
}

/// The same of a command that was run.
pub fn refused(output: &Output, parts: &[&str]) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.starts_with("error: "), "{said}");
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    for part in parts {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
}

/// What was printed.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The golden directory, if it is there.
pub fn golden() -> Option<PathBuf> {
    let named = std::env::var_os("HARDY_GOLDEN").unwrap_or_else(|| "../shared/golden".into());
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(named);
    let found = root.is_dir();
    if !found {
        println!("skipped: no golden directory at {}", root.display());
    }
    found.then_some(root)
}

/// The checkpoints of the golden directory that bring numbers with them, with those numbers.
pub fn checkpoints() -> Vec<(PathBuf, TensorFile)> {
    let entries = golden().into_iter().flat_map(|root| std::fs::read_dir(root).unwrap());
    let directories = entries.map(|entry| entry.unwrap().path());
    let complete =
        |dir: &PathBuf| dir.join("golden.safetensors").exists() && dir.join("config.json").exists();
    let mut found: Vec<_> = directories.filter(complete).map(|dir| (dir.clone(), numbers(&dir))).collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

fn numbers(dir: &Path) -> TensorFile {
    read(&dir.join("golden.safetensors"))
}

/// Reads a safetensors file.
pub fn read(path: &Path) -> TensorFile {
    files::read_tensors(path).unwrap()
}

/// Writes tensors of f32.
pub fn write(path: &Path, tensors: &[(&str, &[usize], Vec<f32>)]) {
    let host = |(name, shape, data): &(&str, &[usize], Vec<f32>)| HostTensor {
        name: (*name).to_owned(),
        shape: shape.to_vec(),
        data: data.clone(),
    };
    let tensors: Vec<HostTensor> = tensors.iter().map(host).collect();
    files::write_tensors(path, &tensors, Dtype::F32).unwrap();
}

/// Writes matrices of 32-bit integers, all of one shape, as a safetensors file.
pub fn write_tokens(path: &Path, shape: [usize; 2], tensors: &[(&str, &[i32])]) {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, values) in tensors {
        let start = data.len();
        data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        let entry =
            serde_json::json!({ "dtype": "I32", "shape": shape, "data_offsets": [start, data.len()] });
        header.insert((*name).to_owned(), entry);
    }
    let header = Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.into_bytes());
    bytes.extend(data);
    std::fs::write(path, bytes).unwrap();
}

/// A path as an argument.
pub fn arg(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// ‖a − b‖ / ‖b‖.
pub fn relative_difference(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let difference = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
    (difference / norm(b).powi(2)).sqrt()
}

/// ‖x‖.
pub fn norm(x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

/// The largest |a − b|.
pub fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// A copy of the built-in model's files.
pub fn tiny_model(dir: &Path) -> PathBuf {
    let (from, to) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/tiny"), dir.join("model"));
    std::fs::create_dir(&to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
    to
}
