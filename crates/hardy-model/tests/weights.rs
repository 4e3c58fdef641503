//! Reading and writing weights: what is promised of good files, and of bad ones.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use half::{bf16, f16};
use hardy_model::files::{read_checkpoint, read_tensors, write_tensors};
use hardy_model::{Dtype, HostTensor, ParameterSpec, TensorData};
use proptest::prelude::*;
use safetensors::tensor::TensorView;
use tempfile::{TempDir, tempdir};

fn tensor(name: &str, shape: &[usize], data: Vec<f32>) -> HostTensor {
    HostTensor { name: name.to_owned(), shape: shape.to_vec(), data }
}

fn spec(name: &str, shape: &[usize]) -> ParameterSpec {
    ParameterSpec { name: name.to_owned(), shape: shape.to_vec() }
}

fn two() -> [HostTensor; 2] {
    [tensor("b", &[2, 3], vec![0.0, -0.0, 1.5, -2.5, f32::MIN_POSITIVE, 3e8]), tensor("a", &[], vec![7.0])]
}

fn specs() -> [ParameterSpec; 2] {
    [spec("b", &[2, 3]), spec("a", &[])]
}

fn saved(tensors: &[HostTensor]) -> TempDir {
    let dir = tempdir().unwrap();
    write_tensors(&dir.path().join("model.safetensors"), tensors, Dtype::F32).unwrap();
    dir
}

fn raw(path: &Path, name: &str, dtype: safetensors::Dtype, shape: &[usize], bytes: &[u8]) {
    let view = TensorView::new(dtype, shape.to_vec(), bytes).unwrap();
    fs::write(path, safetensors::serialize([(name, view)], None).unwrap()).unwrap();
}

fn refusal(dir: &TempDir, specs: &[ParameterSpec]) -> String {
    read_checkpoint(dir.path(), specs).unwrap_err().to_string()
}

fn assert_contains(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "`{part}` not in: {message}");
    }
}

#[test]
fn what_was_written_is_read_in_the_order_asked_for() {
    let dir = saved(&two());
    assert_eq!(read_checkpoint(dir.path(), &specs()).unwrap(), two());
    let file = read_tensors(&dir.path().join("model.safetensors")).unwrap();
    assert_eq!(file.tensors.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_contains(&file.get("c").unwrap_err().to_string(), &["`c` is missing", "the file holds `a`, `b`"]);
}

#[test]
fn the_file_says_that_it_is_for_pytorch() {
    let dir = saved(&two());
    let bytes = fs::read(dir.path().join("model.safetensors")).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header.metadata(), &Some(HashMap::from([("format".to_owned(), "pt".to_owned())])));
}

#[test]
fn sixteen_bit_weights_are_rounded_to_nearest_even() {
    // Halfway between two neighbours of each type: the one with the even last bit is taken.
    for (dtype, step) in [(Dtype::Bf16, 2_f32.powi(-7)), (Dtype::F16, 2_f32.powi(-10))] {
        let halfway = vec![1.0 + 0.5 * step, 1.0 + 1.5 * step, -1.0 - 0.5 * step, 1.0 + 0.75 * step];
        let dir = tempdir().unwrap();
        write_tensors(&dir.path().join("model.safetensors"), &[tensor("x", &[4], halfway)], dtype).unwrap();
        let read = read_checkpoint(dir.path(), &[spec("x", &[4])]).unwrap();
        assert_eq!(read[0].data, [1.0, 1.0 + 2.0 * step, -1.0, 1.0 + step]);
    }
}

#[test]
fn sixteen_bit_weights_are_read_exactly() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let values = [0.1_f32, -3.0, 1e-3];
    let bytes: Vec<u8> = values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect();
    raw(&path, "x", safetensors::Dtype::BF16, &[3], &bytes);
    let read = read_checkpoint(dir.path(), &[spec("x", &[3])]).unwrap();
    assert_eq!(read[0].data, values.map(|x| bf16::from_f32(x).to_f32()));
    let bytes: Vec<u8> = values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect();
    raw(&path, "x", safetensors::Dtype::F16, &[3], &bytes);
    let read = read_checkpoint(dir.path(), &[spec("x", &[3])]).unwrap();
    assert_eq!(read[0].data, values.map(|x| f16::from_f32(x).to_f32()));
}

#[test]
fn token_ids_may_be_of_either_width() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("batch.safetensors");
    raw(&path, "ids", safetensors::Dtype::I32, &[2], &[5_i32.to_le_bytes(), (-1_i32).to_le_bytes()].concat());
    assert_eq!(read_tensors(&path).unwrap().get("ids").unwrap().as_i64().unwrap(), [5, -1]);
    raw(&path, "ids", safetensors::Dtype::I64, &[1], &6_i64.to_le_bytes());
    let file = read_tensors(&path).unwrap();
    assert_eq!(file.tensors[0].data, TensorData::I64(vec![6]));
    assert_eq!(file.tensors[0].as_i64().unwrap(), [6]);
    assert_contains(
        &file.tensors[0].as_f32().unwrap_err().to_string(),
        &["batch", "`ids` has dtype I64", "F32"],
    );
}

#[test]
fn integers_are_no_weights_and_doubles_are_not_read() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    raw(&path, "x", safetensors::Dtype::I64, &[1], &6_i64.to_le_bytes());
    assert_contains(
        &refusal(&dir, &[spec("x", &[1])]),
        &["model.safetensors: `x` has dtype I64", "F32, BF16 or F16"],
    );
    raw(&path, "x", safetensors::Dtype::F64, &[1], &6_f64.to_le_bytes());
    assert_contains(&read_tensors(&path).unwrap_err().to_string(), &["`x` has dtype F64", "I32 or I64"]);
}

#[test]
fn a_shape_that_does_not_fit_the_config_is_named() {
    let dir = saved(&two());
    let message = refusal(&dir, &[spec("b", &[3, 2])]);
    assert!(message.ends_with("model.safetensors: `b` is [2, 3], config.json asks for [3, 2]"), "{message}");
}

#[test]
fn a_missing_tensor_is_named_and_an_extra_one_is_left_alone() {
    let dir = saved(&two());
    assert_eq!(read_checkpoint(dir.path(), &specs()[1..]).unwrap().len(), 1);
    let message = refusal(&dir, &[spec("lm_head.weight", &[4, 2])]);
    assert_contains(&message, &["`lm_head.weight` is missing", "shape [4, 2]", "the file holds `a`, `b`"]);
}

#[test]
fn a_directory_without_weights_is_an_error() {
    let dir = tempdir().unwrap();
    assert_contains(
        &refusal(&dir, &specs()),
        &["neither model.safetensors nor model.safetensors.index.json"],
    );
}

#[test]
fn damaged_files_are_named_with_what_is_wrong() {
    let good = fs::read(saved(&two()).path().join("model.safetensors")).unwrap();
    let header = |json: &str| [&(json.len() as u64).to_le_bytes(), json.as_bytes()].concat();
    let entry = |offsets: &str, shape: &str| {
        header(&format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#))
    };
    for (bytes, part) in [
        (vec![], "it has 0 bytes"),
        (good[..5].to_vec(), "it has 5 bytes"),
        (good[..60].to_vec(), "its header should have"),
        (good[..good.len() - 1].to_vec(), "`b` ends at byte 28 of the data, which has 27"),
        ([good.as_slice(), b"x"].concat(), "bytes follow the last tensor"),
        ([&u64::MAX.to_le_bytes(), good.as_slice()].concat(), "its header should have"),
        (header("not json"), "its header is not a JSON object"),
        (entry("[0,18446744073709551615]", "[1]"), "ends at byte 18446744073709551615"),
        ([entry("[0,4]", "[2]"), vec![0; 4]].concat(), "shape does not fit"),
        (entry("[0,0]", "[4294967296,4294967296,2]"), "too large"),
        (entry("[4,0]", "[1]"), "`a`"),
        (entry("\"x\"", "[1]"), "JSON"),
    ] {
        let dir = tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        fs::write(&path, bytes).unwrap();
        assert_contains(
            &refusal(&dir, &specs()),
            &["model.safetensors: is not a whole safetensors file: ", part],
        );
        assert!(read_tensors(&path).is_err());
    }
}

/// `b` and `a` in two shards.
fn sharded() -> TempDir {
    let dir = tempdir().unwrap();
    for (shard, tensor) in ["one.safetensors", "two.safetensors"].iter().zip(two()) {
        write_tensors(&dir.path().join(shard), &[tensor], Dtype::F32).unwrap();
    }
    index(&dir, r#"{"metadata": {}, "weight_map": {"b": "one.safetensors", "a": "two.safetensors"}}"#);
    dir
}

fn index(dir: &TempDir, json: &str) {
    fs::write(dir.path().join("model.safetensors.index.json"), json).unwrap();
}

#[test]
fn shards_are_read_as_one_file() {
    assert_eq!(read_checkpoint(sharded().path(), &specs()).unwrap(), two());
}

#[test]
fn what_is_wrong_with_shards_is_named() {
    let dir = sharded();
    let message = refusal(&dir, &[spec("c", &[1])]);
    assert_contains(&message, &["index.json: tensor `c` is missing", "its weight_map holds `a`, `b`"]);
    index(&dir, r#"{"weight_map": {"b": "one.safetensors", "a": "one.safetensors"}}"#);
    assert_contains(
        &refusal(&dir, &specs()),
        &[
            "index.json: the shards disagree with it: the index puts `a` in one.safetensors, which does not hold it",
        ],
    );
    index(&dir, r#"{"weight_map": {"b": "one.safetensors", "c": "two.safetensors"}}"#);
    assert_contains(
        &refusal(&dir, &specs()[..1]),
        &["`a` is in two.safetensors, the index does not list it"],
    );
    index(&dir, r#"{"weight_map": {"b": "one.safetensors", "a": "three.safetensors"}}"#);
    assert_contains(&refusal(&dir, &specs()), &["index.json: names the shard `three.safetensors`"]);
    index(&dir, r#"{"weight_map": {"b": "../one.safetensors"}}"#);
    assert_contains(
        &refusal(&dir, &specs()),
        &["`weight_map.b` is \"../one.safetensors\"", "without a directory"],
    );
    index(&dir, r#"{"weight_map": 3}"#);
    assert_contains(&refusal(&dir, &specs()), &["`weight_map` is 3", "an object"]);
    index(&dir, "{");
    assert_contains(&refusal(&dir, &specs()), &["index.json: is not a JSON object", "line 1"]);
}

#[test]
fn shards_that_hold_a_tensor_twice_or_are_cut_short_are_refused() {
    let dir = sharded();
    write_tensors(&dir.path().join("two.safetensors"), &two(), Dtype::F32).unwrap();
    assert_contains(
        &refusal(&dir, &specs()),
        &[
            "index.json: the shards disagree",
            "`b` is in two.safetensors, the index puts it in one.safetensors",
        ],
    );
    let dir = sharded();
    let path = dir.path().join("one.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 4]).unwrap();
    assert_contains(
        &refusal(&dir, &specs()),
        &["one.safetensors: is not a whole safetensors file", "cut short"],
    );
    let dir = sharded();
    assert_contains(
        &refusal(&dir, &[spec("b", &[3, 2]), spec("a", &[])]),
        &["one.safetensors: `b` is [2, 3], config.json asks for [3, 2]"],
    );
}

#[test]
fn a_tensor_of_the_decoder_that_nobody_asks_for_is_refused() {
    let zeros = |name: &str| tensor(name, &[2], vec![0.0; 2]);
    let asked = [spec("model.norm.weight", &[2])];
    let dir = saved(&[zeros("model.norm.weight"), zeros("model.layers.0.self_attn.rotary_emb.inv_freq")]);
    assert_eq!(read_checkpoint(dir.path(), &asked).unwrap().len(), 1);
    let dir = saved(&[zeros("model.norm.weight"), zeros("model.layers.0.self_attn.o_proj.bias")]);
    assert_contains(
        &refusal(&dir, &asked),
        &[
            "model.safetensors: holds `model.layers.0.self_attn.o_proj.bias`, which the model of config.json does not",
        ],
    );
}

#[test]
fn experts_may_stand_one_by_one_or_in_one_tensor_of_a_layer() {
    let (experts, width, hidden) = (3, 2, 4);
    let values = |from: usize, count: usize| (from..from + count).map(|x| x as f32).collect::<Vec<f32>>();
    let name = |expert: usize, part: &str| format!("model.layers.0.mlp.experts.{expert}.{part}.weight");
    let (mut single, mut specs) = (Vec::new(), Vec::new());
    let (mut gate_up, mut down) = (Vec::new(), Vec::new());
    for expert in 0..experts {
        for (at, part) in ["gate_proj", "up_proj", "down_proj"].into_iter().enumerate() {
            let shape = if part == "down_proj" { [hidden, width] } else { [width, hidden] };
            let data = values(100 * expert + 10 * at, width * hidden);
            if part == "down_proj" { &mut down } else { &mut gate_up }.extend_from_slice(&data);
            single.push(tensor(&name(expert, part), &shape, data));
            specs.push(spec(&name(expert, part), &shape));
        }
    }
    let fused = |experts: usize| {
        let tensor = |part: &str, shape: [usize; 2], data: &[f32]| {
            let name = format!("model.layers.0.mlp.experts.{part}");
            tensor(&name, &[experts, shape[0], shape[1]], data[..experts * shape[0] * shape[1]].to_vec())
        };
        saved(&[
            tensor("gate_up_proj", [2 * width, hidden], &gate_up),
            tensor("down_proj", [hidden, width], &down),
        ])
    };
    assert_eq!(read_checkpoint(saved(&single).path(), &specs).unwrap(), single);
    assert_eq!(read_checkpoint(fused(3).path(), &specs).unwrap(), single);
    let message = refusal(&fused(2), &specs);
    assert_contains(&message, &["experts.gate_up_proj` is [2, 4, 4], config.json asks for [3, 4, 4]"]);
}

#[test]
fn what_cannot_be_written_leaves_the_old_file() {
    let dir = saved(&two());
    let path = dir.path().join("model.safetensors");
    let old = fs::read(&path).unwrap();
    for (tensors, dtype, part) in [
        (vec![tensor("x", &[2], vec![1.0])], Dtype::F32, "shape [2] does not fit its 1 elements"),
        (vec![tensor("x", &[1], vec![1.0]); 2], Dtype::F32, "another tensor has that name"),
        (vec![tensor("x", &[1], vec![7e4])], Dtype::F16, "7e4 is beyond the range of float16"),
        (vec![tensor("x", &[usize::MAX, 2], vec![])], Dtype::F32, "does not fit"),
    ] {
        let message = write_tensors(&path, &tensors, dtype).unwrap_err().to_string();
        assert_contains(&message, &["`x` cannot be written", part]);
        assert_eq!(fs::read(&path).unwrap(), old);
    }
    write_tensors(&path, &[tensor("x", &[2], vec![f32::INFINITY, f32::NAN])], Dtype::F16).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn writing_and_reading_keeps_every_bit(bits in prop::collection::vec(any::<u32>(), 0..40)) {
        let data: Vec<f32> = bits.iter().map(|bits| f32::from_bits(*bits)).collect();
        let dir = saved(&[tensor("x", &[data.len()], data)]);
        let read = read_checkpoint(dir.path(), &[spec("x", &[bits.len()])]).unwrap();
        prop_assert_eq!(read[0].data.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), bits);
    }

    #[test]
    fn a_cut_file_is_an_error(share in 0.0..1.0_f64) {
        let dir = saved(&two());
        let path = dir.path().join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..(share * bytes.len() as f64) as usize]).unwrap();
        prop_assert!(read_checkpoint(dir.path(), &specs()).is_err());
        prop_assert!(read_tensors(&path).is_err());
    }

    #[test]
    fn a_file_with_flipped_bits_never_panics(flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8_u8), 1..4)) {
        let dir = saved(&two());
        let path = dir.path().join("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        fs::write(&path, bytes).unwrap();
        let _ = read_checkpoint(dir.path(), &specs());
        let _ = read_tensors(&path);
    }
}
