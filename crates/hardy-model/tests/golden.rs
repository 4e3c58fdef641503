//! The decoder against `transformers`: logits, log-probabilities, gradients and greedy continuations of every
//! checkpoint in the golden directory, and cached decoding against a full forward pass.

use std::path::{Path, PathBuf};

use burn_autodiff::Autodiff;
use burn_flex::Flex;
use hardy_model::{Batch, Decoder, Frozen, Generation, Prompt, Sampler, TensorFile, generate, sequence_rows};
use hardy_numerics::Precision;
use hardy_ops::{
    BoundPlan, Noise, NoisyBackend, Phase, Plan, Rule,
    ops::{attention::KvBuffer, log_prob::log_prob},
};

/// The checkpoints that bring numbers with them: one of every family here, which `benches/peers/models.py` wrote, and those
/// of the golden directory.
fn checkpoints() -> Vec<PathBuf> {
    let crate_dir = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut dirs = subdirectories(&crate_dir.join("tests/families"));
    assert!(!dirs.is_empty(), "the families are part of the repository");
    let named = std::env::var_os("HARDY_GOLDEN").unwrap_or_else(|| "../shared/golden".into());
    let golden = crate_dir.join("../..").join(named);
    if !golden.is_dir() {
        println!("skipped: no golden directory at {}", golden.display());
    }
    dirs.extend(subdirectories(&golden));
    dirs
}

fn subdirectories(root: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    let complete =
        |dir: &PathBuf| dir.join("golden.safetensors").exists() && dir.join("config.json").exists();
    let mut dirs: Vec<PathBuf> = entries.filter(complete).collect();
    dirs.sort();
    dirs
}

/// ‖a − b‖/‖b‖.
fn relative(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied())
}

struct Golden {
    decoder: Decoder<Flex>,
    numbers: TensorFile,
    /// Unpadded sequences, with their row in `input_ids`.
    sequences: Vec<Vec<u32>>,
    width: usize,
}

impl Golden {
    fn load(dir: &Path) -> Self {
        let decoder = Decoder::from_dir(dir, &Default::default()).unwrap();
        let numbers = hardy_model::files::read_tensors(&dir.join("golden.safetensors")).unwrap();
        let ids = numbers.get("input_ids").unwrap();
        let width = ids.shape[1];
        let (ids, mask) = (ids.as_i64().unwrap(), numbers.get("attention_mask").unwrap().as_i64().unwrap());
        let kept = |(ids, mask): (&[i64], &[i64])| {
            ids.iter().zip(mask).filter(|(_, m)| **m != 0).map(|(id, _)| *id as u32).collect()
        };
        let sequences = ids.chunks(width).zip(mask.chunks(width)).map(kept).collect();
        Self { decoder, numbers, sequences, width }
    }

    fn batch(&self) -> Batch {
        pack(&self.sequences)
    }

    fn f32(&self, name: &str) -> Vec<f32> {
        self.numbers.get(name).unwrap().as_f32().unwrap()
    }
}

fn pack(sequences: &[Vec<u32>]) -> Batch {
    let rows: Vec<_> = sequences
        .iter()
        .enumerate()
        .map(|(i, s)| sequence_rows(i as u64, i as u64, s.len(), s.len()))
        .collect();
    Batch::pack(sequences.iter().zip(&rows).map(|(ids, rows)| (&ids[..], &rows[..])))
}

fn logits(decoder: &Decoder<Flex>, batch: &Batch, noise: &Noise) -> Vec<f32> {
    let every: Vec<u32> = (0..batch.ids.len() as u32).collect();
    let logits = decoder.logits(decoder.hidden(batch, noise), batch, &every, noise);
    Flex::host(&logits.into_primitive().tensor()).to_vec()
}

fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn golden_logits_agree_with_transformers() {
    for dir in checkpoints() {
        let golden = Golden::load(&dir);
        let ours = logits(&golden.decoder, &golden.batch(), &Noise::clean());
        let theirs = golden.f32("logits");
        let vocab = golden.decoder.blueprint.config.vocab_size;
        let rows = |(i, sequence): (usize, &Vec<u32>)| {
            let start = i * golden.width * vocab;
            theirs[start..start + sequence.len() * vocab].to_vec()
        };
        let theirs: Vec<f32> = golden.sequences.iter().enumerate().flat_map(rows).collect();
        let difference = relative(&ours, &theirs);
        println!("{}: relative difference of logits {difference:e}", dir.display());
        assert!(difference <= 1e-5, "{}: {difference:e}", dir.display());
        let narrow = golden.decoder.clone().in_precision(Precision::Bf16);
        let difference = relative(&logits(&narrow, &golden.batch(), &Noise::clean()), &theirs);
        println!("{}: relative difference of logits of products in bfloat16 {difference:e}", dir.display());
        assert!((1e-4..3e-2).contains(&difference), "{}: {difference:e}", dir.display());
    }
}

#[test]
fn golden_log_probs_loss_and_gradients_agree_with_transformers() {
    for dir in checkpoints() {
        let golden = Golden::load(&dir);
        let (batch, noise) = (golden.batch(), Noise::clean());
        let tracked: Decoder<Autodiff<Flex>> = golden.decoder.tracked();
        let (mut rows, mut targets, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for (i, range) in batch.segments.ranges().enumerate() {
            for row in range.start..range.end - 1 {
                rows.push(row as u32);
                targets.push(batch.ids[row + 1]);
                places.push(i * (golden.width - 1) + row - range.start);
            }
        }
        let logits = tracked.logits(tracked.hidden(&batch, &noise), &batch, &rows, &noise);
        let [log_probs, _] = log_prob(logits, &targets, 1.0);
        let ours = Flex::host(&log_probs.clone().inner().into_primitive().tensor()).to_vec();
        let theirs = golden.f32("logprobs");
        let theirs: Vec<f32> = places.iter().map(|&place| theirs[place]).collect();
        assert!(max_difference(&ours, &theirs) <= 1e-4);
        let loss = -ours.iter().map(|&x| f64::from(x)).sum::<f64>() / ours.len() as f64;
        assert!((loss - f64::from(golden.f32("loss")[0])).abs() <= 1e-5);
        let gradients = (log_probs.sum() / -(targets.len() as f32)).backward();
        let mut worst = 0.0_f64;
        for (spec, parameter) in tracked.blueprint.parameters.iter().zip(&tracked.parameters) {
            // An expert that no token came to has none.
            let ours = parameter.grad(&gradients).unwrap_or_else(|| parameter.clone().inner().zeros_like());
            let ours = Flex::host(&ours.into_primitive().tensor()).to_vec();
            let theirs = golden.f32(&format!("grad/{}", spec.name));
            // A key bias shifts all scores of a query alike: its gradient is rounding error alone.
            if theirs.iter().any(|x| x.abs() > 1e-6) {
                let difference = relative(&ours, &theirs);
                worst = worst.max(difference);
                assert!(difference <= 1e-5, "{}: {} {difference:e}", dir.display(), spec.name);
            } else {
                assert!(ours.iter().all(|x| x.abs() <= 1e-6), "{}: {}", dir.display(), spec.name);
            }
        }
        println!("{}: largest relative difference of a gradient {worst:e}", dir.display());
    }
}

#[test]
fn golden_greedy_continuations_are_equal() {
    for dir in checkpoints() {
        let golden = Golden::load(&dir);
        let prompts = golden.numbers.get("prompt_ids").unwrap();
        let theirs = golden.numbers.get("greedy_ids").unwrap();
        let (width, new) = (prompts.shape[1], theirs.shape[1]);
        let prompt = |(i, ids): (usize, &[i64])| Prompt {
            ids: ids.iter().map(|&id| id as u32).collect(),
            sequence: 2 * i as u64,
            samples: vec![2 * i as u64 + 1],
        };
        let prompts: Vec<Prompt> = prompts.as_i64().unwrap().chunks(width).enumerate().map(prompt).collect();
        let how = Generation {
            max_new_tokens: new,
            stop: Vec::new(),
            sampler: Sampler::GREEDY,
            batch: 64,
            key: Generation::key(0, "eval", 0),
        };
        let ours = generate(&golden.decoder, &prompts, &how, &Noise::clean(), |_| {});
        let ours: Vec<i64> = ours.iter().flat_map(|s| s[0].ids.iter().map(|&id| i64::from(id))).collect();
        assert_eq!(ours, theirs.as_i64().unwrap(), "{}", dir.display());
    }
}

/// 5 % on every operator's output.
fn noisy_plan(decoder: &Decoder<Flex>) -> BoundPlan {
    let everywhere = Rule { ops: hardy_ops::Ops::All, ..Rule::noise(0.05) };
    let plan = Plan { rules: vec![everywhere], ..Plan::default() };
    plan.bind(&decoder.blueprint.sites, &[Phase::Eval]).unwrap()
}

#[test]
fn golden_cached_decoding_is_a_full_pass_to_the_bit_clean_and_under_noise() {
    for dir in checkpoints() {
        let golden = Golden::load(&dir);
        let plan = noisy_plan(&golden.decoder);
        for noise in [Noise::clean(), plan.noise(Phase::Eval, 3)] {
            let batch = golden.batch();
            let full = logits(&golden.decoder, &batch, &noise);
            let vocab = golden.decoder.blueprint.config.vocab_size;
            let frozen = Frozen::new(&golden.decoder, &noise);
            for (sequence, range) in golden.sequences.iter().zip(batch.segments.ranges()) {
                let mut cache = KvBuffer::for_sequences(golden.decoder.kv_places(1, sequence.len()));
                let cached = [cache.sample(None)];
                let half = sequence.len() / 2;
                // The first half at once, the second token by token.
                let steps = std::iter::once(0..half).chain((half..sequence.len()).map(|i| i..i + 1));
                for step in steps {
                    let rows = &batch.rows[range.start + step.start..range.start + step.end];
                    let part = Batch::pack([(&sequence[step.clone()], rows)]);
                    let hidden = frozen.hidden(&part, &mut cache, &cached);
                    let every: Vec<u32> = (0..step.len() as u32).collect();
                    let logits = frozen.logits(hidden, &part, &every);
                    let ours = Flex::host(&logits.into_primitive().tensor()).to_vec();
                    let start = (range.start + step.start) * vocab;
                    let same = ours.iter().zip(&full[start..]).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{}: rows {step:?}", dir.display());
                }
            }
        }
    }
}

#[test]
fn golden_noise_does_not_depend_on_what_shares_the_batch() {
    for dir in checkpoints() {
        let golden = Golden::load(&dir);
        let plan = noisy_plan(&golden.decoder);
        let noise = plan.noise(Phase::Eval, 0);
        let batch = golden.batch();
        let together = logits(&golden.decoder, &batch, &noise);
        let vocab = golden.decoder.blueprint.config.vocab_size;
        for (sequence, range) in golden.sequences.iter().zip(batch.segments.ranges()) {
            let alone = Batch::pack([(&sequence[..], &batch.rows[range.clone()])]);
            let ours = logits(&golden.decoder, &alone, &noise);
            assert!(ours == together[range.start * vocab..range.end * vocab], "{}", dir.display());
        }
    }
}
