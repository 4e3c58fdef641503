//! Low-rank adapters: they change nothing at first, have the gradients of their formula, are the same after merging and
//! after being read again, and are untouched by rules that do not name them.

mod common;

use burn_flex::Flex;
use burn_tensor::{Tensor, TensorData};
use hardy_model::{
    Batch, Blueprint, Decoder, Dropout, Dtype, Frozen, HostTensor, Lora,
    files::{read_adapter_config, read_tensors, write_tensors},
    sequence_rows,
};
use hardy_ops::{Noise, NoisyBackend, Phase, Plan, Rule, ops::attention::KvBuffer};

use common::{decoder, values};

const BASE: &str = "the base";

fn base() -> Decoder<Flex> {
    decoder(29, |spec| spec.name.len() as u64)
}

fn lora() -> Lora {
    Lora { rank: 4, alpha: 8.0, dropout: 0.0, target_modules: vec!["q_proj".into(), "down_proj".into()] }
}

/// Adapters whose B is not 0.
fn trained() -> Decoder<Flex> {
    let mut decoder = base().with_lora(&lora(), BASE, 3).unwrap();
    for (index, tensor) in decoder.trained_mut().iter_mut().enumerate() {
        let shape = tensor.dims();
        let data = values(shape[0] * shape[1], index as u64).into_iter().map(|x| 3.0 * x).collect();
        *tensor = Tensor::from_data(TensorData::new(data, shape), &Default::default());
    }
    decoder
}

fn batch() -> Batch {
    let ids: Vec<u32> = (0..13).map(|i| i * 5 % 29).collect();
    let rows = sequence_rows(7, 8, 4, ids.len());
    Batch::pack([(&ids[..], &rows[..])])
}

fn logits(decoder: &Decoder<Flex>, batch: &Batch, noise: &Noise) -> Vec<f32> {
    let every: Vec<u32> = (0..batch.ids.len() as u32).collect();
    let logits = decoder.logits(decoder.hidden(batch, noise), batch, &every, noise);
    Flex::host(&logits.into_primitive().tensor()).to_vec()
}

#[test]
fn new_adapters_change_nothing_and_are_uniform_times_zero() {
    let (base, adapted) = (base(), base().with_lora(&lora(), BASE, 3).unwrap());
    let clean = Noise::clean();
    assert_eq!(logits(&base, &batch(), &clean), logits(&adapted, &batch(), &clean));
    assert_eq!(adapted.trained().len(), 2 * 2 * 2);
    for tensor in adapted.to_host().iter().skip(base.parameters.len()) {
        let bound = 1.0 / (tensor.shape[1] as f32).sqrt();
        let largest = tensor.data.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
        match tensor.name.ends_with("lora_A.weight") {
            true => assert!(largest <= bound && largest > 0.8 * bound, "{}: {largest}", tensor.name),
            false => assert_eq!(largest, 0.0, "{}", tensor.name),
        }
    }
}

#[test]
fn weights_in_16_bits_compute_the_same_to_the_bit() {
    let narrow = base().stored_as(Dtype::Bf16);
    let blueprint = Blueprint::new(&narrow.blueprint.config);
    let wide = Decoder::<Flex>::from_host(blueprint, narrow.to_host(), &Default::default());
    let rule = Rule { ops: hardy_ops::Ops::All, at: hardy_ops::Point::Weight, ..Rule::noise(0.05) };
    let plan = Plan { rules: vec![rule], seed: 0, ..Plan::default() };
    let plan = narrow.blueprint.bind(&plan, &[Phase::Rollout]).unwrap();
    for noise in [Noise::clean(), plan.noise(Phase::Rollout, 0)] {
        assert_eq!(logits(&narrow, &batch(), &noise), logits(&wide, &batch(), &noise));
    }
    let again = narrow.stored_as(Dtype::Bf16);
    assert_eq!(again.to_host(), wide.to_host(), "rounding what is rounded changes nothing");
    assert_ne!(wide.to_host(), base().to_host(), "something was rounded");
    assert_eq!(base().stored_as(Dtype::F32).to_host(), base().to_host());
}

#[test]
fn merged_adapters_give_the_same_logits() {
    let decoder = trained();
    let clean = Noise::clean();
    let (apart, merged) = (logits(&decoder, &batch(), &clean), logits(&decoder.merged(), &batch(), &clean));
    let base = logits(&base(), &batch(), &clean);
    let largest = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(largest(&apart, &merged) < 1e-5, "{}", largest(&apart, &merged));
    assert!(largest(&apart, &base) > 1e-2, "the adapters do something");
}

#[test]
fn adapters_read_again_are_the_same_and_belong_to_their_base() {
    let dir = tempfile::tempdir().unwrap();
    let decoder = trained();
    decoder.save_adapter(dir.path()).unwrap();
    let read = base().with_adapter_from(dir.path()).unwrap();
    assert_eq!(read.to_host(), decoder.to_host());
    let names = read_tensors(&dir.path().join("adapter_model.safetensors")).unwrap();
    names.get("base_model.model.model.layers.1.mlp.down_proj.lora_B.weight").unwrap();
    assert_eq!(read_adapter_config(dir.path()).unwrap().lora, lora());
    let mut other = base();
    other.parameters[0] = other.parameters[0].clone() * 1.5;
    let message = other.with_adapter_from(dir.path()).unwrap_err().to_string();
    assert!(message.contains("is an adapter for the base with the fingerprint"), "{message}");
}

#[test]
fn adapters_with_tensors_that_would_be_left_out_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    trained().save_adapter(dir.path()).unwrap();
    let path = dir.path().join("adapter_model.safetensors");
    let decoder = trained();
    let own = decoder.to_host().split_off(decoder.blueprint.frozen);
    let name = "base_model.model.model.layers.1.mlp.down_proj.lora_B.bias".to_owned();
    let bias = HostTensor { name: name.clone(), shape: vec![16], data: vec![0.1; 16] };
    write_tensors(&path, &[own, vec![bias]].concat(), Dtype::F32).unwrap();
    let message = base().with_adapter_from(dir.path()).unwrap_err().to_string();
    assert!(message.contains(&name) && message.contains("adapter_model.safetensors"), "{message}");
}

#[test]
fn cached_decoding_with_adapters_is_the_full_pass_to_the_bit() {
    let (decoder, batch, noise) = (trained(), batch(), Noise::clean());
    let full = logits(&decoder, &batch, &noise);
    let frozen = Frozen::new(&decoder, &noise);
    let mut cache = KvBuffer::for_sequences(decoder.kv_places(1, batch.ids.len()));
    let sequence = [cache.sample(None)];
    for position in 0..batch.ids.len() {
        let part = Batch::pack([(&batch.ids[position..=position], &batch.rows[position..=position])]);
        let hidden = frozen.hidden(&part, &mut cache, &sequence);
        let ours = Flex::host(&frozen.logits(hidden, &part, &[0]).into_primitive().tensor()).to_vec();
        assert!(ours == full[position * 29..][..29], "position {position}");
    }
}

#[test]
fn only_adapters_have_gradients_and_those_of_finite_differences() {
    for dropout in [None, Some(Dropout { seed: 1, step: 2 })] {
        let mut decoder = trained();
        if dropout.is_some() {
            let lora = Lora { dropout: 0.3, ..lora() };
            let parameters = decoder.parameters.clone();
            decoder = base().with_lora(&lora, BASE, 3).unwrap();
            decoder.parameters = parameters;
        }
        let batch = Batch { dropout, ..batch() };
        let rows: Vec<u32> = (3..13).collect();
        let targets: Vec<u32> = rows.iter().map(|row| row * 3 % 29).collect();
        let tracked = decoder.tracked();
        let hidden = tracked.hidden(&batch, &Noise::clean());
        let scores = tracked.log_probs(hidden, &batch, &rows, (&targets, 1.0), &Noise::clean());
        let tape = scores.slice([0..10, 0..1]).sum().backward();
        let loss = |decoder: &Decoder<Flex>| -> f64 {
            let hidden = decoder.hidden(&batch, &Noise::clean());
            let scores = decoder.log_probs(hidden, &batch, &rows, (&targets, 1.0), &Noise::clean());
            let host = Flex::host(&scores.into_primitive().tensor()).to_vec();
            host.iter().step_by(2).map(|&x| f64::from(x)).sum()
        };
        let frozen = decoder.blueprint.frozen;
        for index in 0..decoder.parameters.len() {
            let grad = tracked.parameters[index].grad(&tape);
            if index < frozen {
                assert!(grad.is_none(), "{}", decoder.blueprint.parameters[index].name);
                continue;
            }
            let grad = grad.unwrap();
            let norm = f64::from(grad.clone().powf_scalar(2.0).sum().sqrt().into_scalar());
            let moved = |by: f64| {
                let mut moved = decoder.clone();
                moved.parameters[index] = moved.parameters[index].clone() + grad.clone() * (by / norm);
                loss(&moved)
            };
            let slope = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            // The loss is summed in f32.
            assert!((slope - norm).abs() < 0.01 * norm + 2e-4, "{index}: slope {slope}, norm {norm}");
        }
    }
}

#[test]
fn dropout_takes_its_share_and_keeps_the_mean() {
    let lora = Lora { dropout: 0.5, ..lora() };
    let mut decoder = base().with_lora(&lora, BASE, 3).unwrap();
    decoder.parameters = trained().parameters;
    let plain = logits(&decoder, &batch(), &Noise::clean());
    let dropped = |step| {
        let batch = Batch { dropout: Some(Dropout { seed: 1, step }), ..batch() };
        logits(&decoder, &batch, &Noise::clean())
    };
    assert!(dropped(0) != plain && dropped(0) != dropped(1) && dropped(0) == dropped(0));
}

#[test]
fn rules_select_adapters_only_where_they_name_them() {
    let sites = &trained().blueprint.sites;
    let receipts = |modules: &str| {
        let rule = Rule { modules: modules.to_owned(), ..Rule::noise(0.05) };
        let plan = Plan { rules: vec![rule], ..Plan::default() }.bind(sites, &[Phase::Eval]).unwrap();
        let noise = plan.noise(Phase::Eval, 0);
        logits(&trained(), &batch(), &noise);
        let all = plan.receipts();
        let of_lora = all.iter().filter(|receipt| receipt.site.contains(".lora_")).count();
        (of_lora, all.len())
    };
    let (of_lora, all) = receipts("*");
    assert!(of_lora == 0 && all > 0);
    assert_eq!(receipts("*.lora_B"), (4, 4));
}

#[test]
fn adapters_that_do_not_fit_are_refused_in_one_sentence() {
    let message = |lora: Lora| base().with_lora(&lora, BASE, 0).unwrap_err().to_string();
    let large = message(Lora { rank: 17, ..lora() });
    assert!(
        large.contains("`rank` is 17, larger than the matrix of model.layers.0.self_attn.q_proj"),
        "{large}"
    );
    let unknown = message(Lora { target_modules: vec!["qproj".into()], ..lora() });
    assert!(unknown.contains("`qproj`") && unknown.contains("q_proj, k_proj"), "{unknown}");
    assert!(message(Lora { rank: 0, ..lora() }).contains("`rank` is 0"));
    assert!(message(Lora { dropout: 1.0, ..lora() }).contains("`dropout` is 1"));
    let twice = trained().with_lora(&lora(), "the adapters", 0).unwrap_err().to_string();
    assert!(twice.contains("the adapters holds adapters for the base already"), "{twice}");
}
