//! `score` and `generate` against the numbers that `transformers` computed.

use crate::support::{
    arg, checkpoints, json, largest_difference, norm, read, relative_difference, write_tokens,
};

#[test]
fn golden_scores_agree_with_transformers() {
    for (dir, golden) in checkpoints() {
        let scratch = tempfile::tempdir().unwrap();
        let out = scratch.path().join("scores.safetensors");
        let batch = dir.join("golden.safetensors");
        let files = ["--model", arg(&dir), "--batch", arg(&batch), "--out", arg(&out)];
        let said = json(&[&["score"], &files[..], &["--logits", "--grads"]].concat());
        let ours = read(&out);
        let f32s = |name: &str| {
            (ours.get(name).unwrap().as_f32().unwrap(), golden.get(name).unwrap().as_f32().unwrap())
        };
        for tensor in &ours.tensors {
            assert_eq!(tensor.shape, golden.get(&tensor.name).unwrap().shape, "{}", tensor.name);
        }
        let (log_probs, wanted) = f32s("logprobs");
        assert!(largest_difference(&log_probs, &wanted) <= 1e-4, "{}", dir.display());
        assert!(log_probs.iter().zip(&wanted).all(|(a, b)| (*a == 0.0) == (*b == 0.0)));
        let (loss, wanted) = f32s("loss");
        assert!((loss[0] - wanted[0]).abs() <= 1e-5);
        assert!((said["loss"].as_f64().unwrap() - f64::from(wanted[0])).abs() <= 1e-5);
        let (logits, wanted) = f32s("logits");
        let mask = golden.get("attention_mask").unwrap().as_i64().unwrap();
        let vocab = logits.len() / mask.len();
        for (row, _) in mask.iter().enumerate().filter(|(_, m)| **m != 0) {
            let row = row * vocab..(row + 1) * vocab;
            assert!(largest_difference(&logits[row.clone()], &wanted[row]) <= 1e-4, "{}", dir.display());
        }
        let gradients = golden.tensors.iter().filter(|tensor| tensor.name.starts_with("grad/"));
        for tensor in gradients {
            let (gradient, wanted) = f32s(&tensor.name);
            // Where the true gradient is 0, as of a key bias, both are rounding errors.
            if norm(&wanted) > 1e-6 {
                let difference = relative_difference(&gradient, &wanted);
                assert!(difference <= 1e-4, "{}: {} {difference:e}", dir.display(), tensor.name);
            }
        }
    }
}

#[test]
fn golden_scores_do_not_depend_on_where_the_padding_stands() {
    for (dir, golden) in checkpoints() {
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        let ids = golden.get("input_ids").unwrap();
        let mask = golden.get("attention_mask").unwrap();
        let [rows, width] = ids.shape[..] else { panic!("two axes") };
        let (ids, mask) = (ids.as_i64().unwrap(), mask.as_i64().unwrap());
        // Every row turned by its padding: right padding becomes left padding.
        let (mut left_ids, mut left_mask) = (Vec::new(), Vec::new());
        for (ids, mask) in ids.chunks(width).zip(mask.chunks(width)) {
            let kept = mask.iter().filter(|m| **m != 0).count();
            let turned = |values: &[i64]| {
                let padding = values[kept..].iter().chain(&values[..kept]);
                padding.map(|&value| value as i32).collect::<Vec<i32>>()
            };
            left_ids.extend(turned(ids));
            left_mask.extend(turned(mask));
        }
        write_tokens(
            &path("left"),
            [rows, width],
            &[("input_ids", &left_ids), ("attention_mask", &left_mask)],
        );
        let golden_batch = dir.join("golden.safetensors");
        for (batch, out) in [(&golden_batch, path("right-scores")), (&path("left"), path("left-scores"))] {
            let files = ["--model", arg(&dir), "--batch", arg(batch), "--out", arg(&out)];
            json(&[&["score", "--noise", "0.05"], &files[..]].concat());
        }
        let scores = |name: &str| read(&path(name)).get("logprobs").unwrap().as_f32().unwrap();
        let (right, left) = (scores("right-scores"), scores("left-scores"));
        for ((right, left), mask) in
            right.chunks(width - 1).zip(left.chunks(width - 1)).zip(mask.chunks(width))
        {
            let targets = mask.iter().filter(|m| **m != 0).count() - 1;
            assert_eq!(right[..targets], left[width - 1 - targets..]);
        }
    }
}

#[test]
fn golden_greedy_continuations_are_equal() {
    for (dir, golden) in checkpoints() {
        let wanted = golden.get("greedy_ids").unwrap();
        let new = wanted.shape[1];
        let batch = dir.join("golden.safetensors");
        let files = ["--model", arg(&dir), "--batch", arg(&batch)];
        let said = json(&[&["generate", "--max-new-tokens", &new.to_string()], &files[..]].concat());
        let sequences = said["sequences"].as_array().unwrap();
        let ids = sequences.iter().flat_map(|sequence| sequence["ids"].as_array().unwrap());
        let ids: Vec<i64> = ids.map(|id| id.as_i64().unwrap()).collect();
        assert_eq!(ids, wanted.as_i64().unwrap(), "{}", dir.display());
        assert!(sequences.iter().all(|sequence| sequence["text"].is_string()));
    }
}
