//! What an error of the backward pass does to the gradient: its direction and its length, held against the gradient without
//! error. An error in one layer changes nothing above it, so that every cell starts from the clean gradient that arrives
//! there, and ends with the clean gradients of what lies above.

use burn_autodiff::Autodiff;
use burn_tensor::Tensor;
use hardy_model::Decoder;
use hardy_ops::{Noise, NoisyBackend, Rule, Site};
use hardy_train::{
    gradients::back_from,
    policy::from_columns,
    sequence::{Packed, Sequence, parts},
};

/// Groups of problems, each with a gradient of its own: what intervals doubt beside the draws.
const GROUPS: usize = 8;
/// Numbers that the clean gradients of all groups may have.
const KEPT: usize = 1 << 28;

/// A gradient beside the one without error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Direction {
    /// The cosine of the angle between them.
    pub cosine: f64,
    /// The length over that of the clean one.
    pub norm_ratio: f64,
}

/// One gradient for the weight and one for the bias of every site with a weight; `None` where nothing arrived.
type SiteGradients = Vec<[Option<Vec<f32>>; 2]>;

/// One pass: what went into every layer and into the last norm, and the clean gradient that arrives there.
struct Part<B: NoisyBackend> {
    packed: Packed,
    derivative: Vec<f32>,
    inputs: Vec<Tensor<B, 2>>,
    arriving: Vec<Tensor<B, 2>>,
}

/// Problems with one gradient.
struct Group<B: NoisyBackend> {
    parts: Vec<Part<B>>,
    clean: SiteGradients,
}

/// The gradients of the mean negative log-likelihood of worked answers, group by group.
pub(crate) struct Backward<'a, B: NoisyBackend> {
    decoder: &'a Decoder<B>,
    tracked: Decoder<Autodiff<B>>,
    groups: Vec<Group<B>>,
}

impl<'a, B: NoisyBackend> Backward<'a, B> {
    /// Computes the clean gradients of `sequences` in passes of at most `tokens` tokens.
    pub fn new(decoder: &'a Decoder<B>, sequences: &[Sequence], tokens: usize) -> Self {
        let parameters: usize = decoder.trained().iter().map(|tensor| tensor.shape().num_elements()).sum();
        let most = (KEPT / parameters.max(1)).clamp(1, GROUPS).min(sequences.len());
        let mut backward = Self { decoder, tracked: decoder.tracked(), groups: Vec::new() };
        for group in sequences.chunks(sequences.len().div_ceil(most)) {
            let group = backward.group(group, tokens);
            backward.groups.push(group);
        }
        backward
    }

    fn group(&self, sequences: &[Sequence], tokens: usize) -> Group<B> {
        let responses: usize = sequences.iter().map(Sequence::response_length).sum();
        let noise = self.gathering(&Noise::clean());
        let part = |(_, packed): (_, Packed)| {
            let derivative = vec![-1.0 / responses as f32; packed.targets.len()];
            let inputs = self.inputs(&packed);
            let mut part = Part { packed, derivative, inputs, arriving: Vec::new() };
            part.arriving = self.descend(&part, &noise, self.units());
            part
        };
        let parts = parts(sequences, tokens, false).map(part).collect();
        Group { parts, clean: self.gathered(&noise) }
    }

    /// The direction of every group's gradient under the error of `rule`, whose noise is `noise`.
    pub fn directions(&self, rule: &Rule, noise: &Noise) -> Vec<Direction> {
        let from = self.unit_of(rule);
        let one = |group: &Group<B>| self.direction(group, noise, from);
        self.groups.iter().map(one).collect()
    }

    fn direction(&self, group: &Group<B>, noise: &Noise, from: usize) -> Direction {
        let noise = self.gathering(noise);
        for part in &group.parts {
            self.descend(part, &noise, from);
        }
        let noisy = self.gathered(&noise);
        let (mut dot, mut noisy_square, mut clean_square) = (0.0, 0.0, 0.0);
        // What nothing arrived at lies above the error.
        let or_clean = |site: usize, i: usize| noisy[site][i].as_ref().or(group.clean[site][i].as_ref());
        for places in self.by_parameter() {
            let noisy = add(places.iter().filter_map(|&(site, i)| or_clean(site, i)));
            let clean = add(places.iter().filter_map(|&(site, i)| group.clean[site][i].as_ref()));
            for (&a, &b) in noisy.iter().zip(&clean) {
                let (a, b) = (f64::from(a), f64::from(b));
                dot += a * b;
                noisy_square += a * a;
                clean_square += b * b;
            }
        }
        Direction {
            cosine: (dot / (noisy_square.sqrt() * clean_square.sqrt())).clamp(-1.0, 1.0),
            norm_ratio: (noisy_square / clean_square).sqrt(),
        }
    }

    /// The places in [`SiteGradients`] of every parameter: several where sites share a weight.
    fn by_parameter(&self) -> Vec<Vec<(usize, usize)>> {
        let mut places = vec![Vec::new(); self.decoder.parameters.len()];
        for (site, (_, weight, bias)) in self.decoder.blueprint.weights().into_iter().enumerate() {
            places[weight].push((site, 0));
            if let Some(bias) = bias {
                places[bias].push((site, 1));
            }
        }
        places.retain(|places| !places.is_empty());
        places
    }

    fn gathering(&self, noise: &Noise) -> Noise {
        noise.clone().gathering(self.decoder.blueprint.sites.len())
    }

    fn gathered(&self, noise: &Noise) -> SiteGradients {
        let host = |gradient: Option<Tensor<B, 2>>| {
            gradient.map(|gradient| B::host(&gradient.into_primitive().tensor()).to_vec())
        };
        let weights = self.decoder.blueprint.weights().into_iter();
        weights
            .map(|(site, weight, _)| noise.gathered(site, &self.decoder.weight_at(site, weight)).map(host))
            .collect()
    }

    /// What goes into every layer and into the last norm.
    fn inputs(&self, packed: &Packed) -> Vec<Tensor<B, 2>> {
        let clean = Noise::clean();
        let scene = self.decoder.scene(&packed.batch, &clean);
        let mut inputs = vec![self.decoder.embed(&packed.batch, &clean)];
        for layer in 0..self.decoder.layers() {
            inputs.push(self.decoder.layer(layer, inputs[layer].clone(), &scene));
        }
        inputs
    }

    /// The last unit: 0 is the embedding, `1 + layer` a layer, then the last norm with the head.
    fn units(&self) -> usize {
        self.decoder.layers() + 1
    }

    /// The last unit in which `rule` acts: no gradient above it changes.
    fn unit_of(&self, rule: &Rule) -> usize {
        let unit = |site: &Site| match (site.layer, site.op) {
            (Some(layer), _) => layer + 1,
            (None, hardy_ops::Op::Embedding) => 0,
            (None, _) => self.units(),
        };
        let sites = self.decoder.blueprint.sites.iter();
        sites.filter(|site| rule.selects(site)).map(unit).max().unwrap_or(self.units())
    }

    /// Goes back through the units `from` and below; gives what arrives at the inputs of layers and of the last norm, in their
    /// order, those that were passed.
    fn descend(&self, part: &Part<B>, noise: &Noise, from: usize) -> Vec<Tensor<B, 2>> {
        let Part { packed, derivative, inputs, arriving } = part;
        let leaf = |x: &Tensor<B, 2>| Tensor::from_inner(x.clone()).require_grad();
        let scene = self.tracked.scene(&packed.batch, noise);
        let mut passed = Vec::new();
        let mut grad = if from == self.units() {
            let x = leaf(&inputs[self.decoder.layers()]);
            let hidden = self.tracked.last_norm(x.clone(), &packed.batch, noise);
            let targets = (&packed.targets, 1.0);
            let scores = self.tracked.log_probs(hidden, &packed.batch, &packed.rows, targets, noise);
            let derivative = from_columns(derivative, None, &scores.device());
            let grad = back_from(scores, derivative, Some(&x));
            passed.extend(grad.clone());
            grad
        } else {
            Some(arriving[from].clone())
        };
        for layer in (0..from.min(self.decoder.layers())).rev() {
            let Some(above) = grad else { break };
            let x = leaf(&inputs[layer]);
            let y = self.tracked.layer(layer, x.clone(), &scene);
            grad = back_from(y, above, Some(&x));
            passed.extend(grad.clone());
        }
        // Frozen, the embedding has no gradient.
        if let (Some(grad), 0) = (grad, self.decoder.blueprint.frozen) {
            back_from(self.tracked.embed(&packed.batch, noise), grad, None);
        }
        passed.reverse();
        passed
    }
}

/// The sum of gradients of one parameter; nothing of none.
fn add<'a>(mut gradients: impl Iterator<Item = &'a Vec<f32>>) -> Vec<f32> {
    let mut sum = gradients.next().cloned().unwrap_or_default();
    for gradient in gradients {
        sum.iter_mut().zip(gradient).for_each(|(sum, x)| *sum += x);
    }
    sum
}

#[cfg(test)]
mod tests {
    use burn_flex::Flex;
    use hardy_ops::{Pass, Phase};
    use hardy_train::{
        builtin,
        data::{self, Source, Split},
        gradients::Gradients,
        policy::Policy,
        recording::Recording,
    };

    use super::*;
    use crate::{Setting, grid::Axes};

    fn tiny() -> (Policy<Flex>, Vec<Sequence>) {
        let policy =
            Policy::from_dir(&builtin::resolve("builtin:tiny").unwrap(), &Default::default()).unwrap();
        let problems = data::load(&Source::texts("builtin:arith"), Split::Eval, 0, Some(2)).unwrap();
        let setting = Setting { policy: &policy, problems: &problems, wording: "{question}" };
        let sequences = setting.worked().unwrap();
        (policy, sequences)
    }

    #[test]
    fn a_gradient_that_starts_where_the_error_is_equals_the_whole_one_to_the_bit() {
        let (policy, sequences) = tiny();
        let backward = Backward::new(&policy.decoder, &sequences, 4096);
        assert_eq!(backward.groups.len(), 2);
        let axes = Axes { passes: vec![Pass::Backward], ..Axes::default() };
        for cell in axes.cells(&policy.decoder.blueprint.sites) {
            let bound = policy.decoder.blueprint.bind(&cell.plan(0), &[Phase::Train]).unwrap();
            let noise = bound.noise(Phase::Train, 0);
            let late = backward.directions(&cell.rule(), &noise);
            let whole: Vec<Direction> = backward
                .groups
                .iter()
                .map(|group| backward.direction(group, &noise, backward.units()))
                .collect();
            assert_eq!(late, whole, "{cell}");
            assert!(late.iter().all(|direction| direction.cosine < 1.0), "{cell}");
        }
    }

    #[test]
    fn the_clean_gradient_is_that_of_training() {
        let (policy, sequences) = tiny();
        let decoder = &policy.decoder;
        let backward = Backward::new(decoder, &sequences[..1], 4096);
        let noise = Noise::clean().gathering(decoder.blueprint.sites.len());
        let (tracked, packed) = (decoder.tracked(), Packed::new(&sequences[..1], false));
        let derivative = vec![-1.0 / packed.targets.len() as f32; packed.targets.len()];
        Recording::forward(&tracked, &packed, &noise, 1.0, false).backward(&derivative, None);
        let norm = Gradients::gathered(decoder, &noise).norm();
        let own = |&(site, i): &(usize, usize)| backward.groups[0].clean[site][i].as_ref();
        let places = backward.by_parameter().into_iter();
        let square: f64 = places
            .map(|places| {
                add(places.iter().filter_map(own)).iter().map(|&x| f64::from(x).powi(2)).sum::<f64>()
            })
            .sum();
        assert!((square.sqrt() / norm - 1.0).abs() < 1e-6, "{} {norm}", square.sqrt());
    }
}
