//! The gradient of a loss with an entropy term, from the tape to the parameters, against finite differences.

use burn_flex::Flex;
use burn_tensor::{Tensor, TensorData};
use hardy_model::{Blueprint, Decoder, ModelConfig, Qwen2Sizes};
use hardy_ops::Noise;
use hardy_train::{
    gradients::Gradients,
    policy::{columns, log_probs},
    recording::Recording,
    sequence::{Packed, Sequence},
    sft::initial_weights,
};

fn decoder() -> Decoder<Flex> {
    let config = ModelConfig::qwen2(&Qwen2Sizes {
        vocab_size: 23,
        hidden_size: 16,
        intermediate_size: 24,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        max_positions: 32,
        rope_theta: 10_000.0,
        tied_embeddings: true,
        initializer_range: 0.5,
    })
    .unwrap();
    let blueprint = Blueprint::new(&config);
    let weights = initial_weights(&blueprint, 3);
    Decoder::from_host(blueprint, weights, &Default::default())
}

fn packed() -> Packed {
    let sequence = |ids: &[u32]| Sequence { ids: ids.to_vec(), prompt_length: 2, prompt: 1, sample: 2 };
    Packed::new(&[sequence(&[1, 5, 9, 3, 20]), sequence(&[7, 7, 0, 12])], true)
}

const TEMPERATURE: f32 = 0.8;
/// Derivatives of the loss in the log-probability and the entropy of every token.
const D_LOG_PROB: [f32; 5] = [0.5, -1.0, 0.25, 0.0, 2.0];
const D_ENTROPY: [f32; 5] = [-0.5, 1.5, 0.0, -1.0, 0.75];

fn host(x: Tensor<Flex, 2>) -> Vec<f64> {
    x.into_data().to_vec::<f32>().unwrap().into_iter().map(f64::from).collect()
}

fn loss(decoder: &Decoder<Flex>) -> f64 {
    let columns = columns(&log_probs(decoder, &packed(), &Noise::clean(), TEMPERATURE));
    let [log_probs, entropy] = columns.map(|column| column.into_iter().map(f64::from).collect::<Vec<_>>());
    let dot = |x: &[f64], d: &[f32]| x.iter().zip(d).map(|(x, d)| x * f64::from(*d)).sum::<f64>();
    dot(&log_probs, &D_LOG_PROB) + dot(&entropy, &D_ENTROPY)
}

/// The loss after a parameter has moved by `by` along `direction`.
fn moved(decoder: &Decoder<Flex>, parameter: usize, direction: &Tensor<Flex, 2>, by: f64) -> f64 {
    let mut decoder = decoder.clone();
    decoder.parameters[parameter] = decoder.parameters[parameter].clone() + direction.clone() * by;
    loss(&decoder)
}

#[test]
fn log_probabilities_and_entropies_together_have_the_gradient_of_their_loss() {
    let decoder = decoder();
    let tracked = decoder.tracked();
    let (packed, noise) = (packed(), Noise::clean().gathering(decoder.blueprint.sites.len()));
    let pass = Recording::forward(&tracked, &packed, &noise, TEMPERATURE, false);
    pass.backward(&D_LOG_PROB, Some(&D_ENTROPY));
    let gradients = Gradients::gathered(&decoder, &noise);
    for (index, gradient) in gradients.clipped(0.0, 0.0).into_iter().enumerate() {
        // Along the gradient's own direction the slope is its norm.
        let norm = host(gradient.clone()).iter().map(|g| g * g).sum::<f64>().sqrt();
        let name = &decoder.blueprint.parameters[index].name;
        assert!(norm > 1e-3, "{name} has no gradient");
        let shape = gradient.dims();
        let unit: Vec<f32> = host(gradient).iter().map(|g| (g / norm) as f32).collect();
        let direction = Tensor::from_data(TensorData::new(unit, shape), &Default::default());
        let slope =
            (moved(&decoder, index, &direction, 1e-2) - moved(&decoder, index, &direction, -1e-2)) / 2e-2;
        assert!((slope / norm - 1.0).abs() < 0.02, "{name}: slope {slope}, norm {norm}");
    }
}
