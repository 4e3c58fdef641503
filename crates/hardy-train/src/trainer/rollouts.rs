//! The rollouts of a step: a group of responses to every prompt, each scored. With dynamic sampling (DAPO,
//! arXiv:2503.14476 §3.2) groups that teach nothing are dropped and replaced by those of further prompts.

use hardy_model::{Generation, Sample, Sampler, generate};
use hardy_ops::{Noise, NoisyBackend, Phase};

use super::Trainer;
use crate::{
    data::Problem,
    encode::{prompt_sequence, sample_sequence},
    error::Result,
    reward::{Extraction, Response, overlong_penalty, score},
    rollout::{Rollout, Sampled, groups, part_uniform},
    sampler::{further_prompts, prompts_at_step},
    sequence::Sequence,
};

impl<B: NoisyBackend> Trainer<B> {
    /// Samples a group of responses to each of the step's prompts, and again to as many further ones as groups were
    /// dropped, until nothing is missing, the rounds are over, or there is no further prompt.
    pub(super) fn sample(&self, mut progress: impl FnMut(usize, usize) + Send) -> Result<Sampled> {
        let (n, size, step) = (self.problems.len(), self.train.prompts_per_step, self.steps as usize);
        let mut prompts = prompts_at_step(n, size, self.seed, step);
        // One noise for all rounds, so that the errors of weights are counted once.
        let noise = self.plan.noise(Phase::Rollout, self.steps);
        let Some(most_rounds) = self.train.dropping_rounds() else {
            let kept = self.rollouts(&prompts, 0, &noise, &mut progress)?;
            return Ok(Sampled { kept, dropped: Vec::new(), rounds: 1 });
        };
        let (wanted, mut drawn) = (prompts.len(), 0);
        let mut further = further_prompts(n, size, self.seed, step).into_iter();
        let mut sampled = Sampled::default();
        while !prompts.is_empty() && sampled.rounds < most_rounds {
            let [kept, dropped] = part_uniform(self.rollouts(&prompts, drawn, &noise, &mut progress)?);
            sampled.kept.extend(kept);
            sampled.dropped.extend(dropped);
            sampled.rounds += 1;
            drawn += prompts.len();
            prompts = further.by_ref().take(wanted - groups(&sampled.kept)).collect();
        }
        Ok(sampled)
    }

    /// A group of responses to each of some problems, of which each worker samples its share; the groups are numbered from
    /// `first_group`.
    fn rollouts(
        &self,
        chosen: &[usize],
        first_group: usize,
        noise: &Noise,
        mut progress: impl FnMut(usize, usize) + Send,
    ) -> Result<Vec<Rollout>> {
        let train = &self.train;
        // A program that died is better noticed before the answers are sampled.
        self.judge.check()?;
        let own = self.workers.share(chosen.len());
        let first_group = first_group + own.start;
        let problems: Vec<&Problem> = chosen[own].iter().map(|&index| &self.problems[index]).collect();
        let prompts =
            self.policy.prompts(problems.iter().copied(), &self.data.prompt, train.samples_per_prompt)?;
        let total = prompts.len() * train.samples_per_prompt;
        let how = self.generation();
        let samples = generate(&self.policy.decoder, &prompts, &how, noise, |done| progress(done, total));
        let mut rollouts = Vec::with_capacity(total);
        for (index, ((prompt, samples), problem)) in prompts.iter().zip(samples).zip(problems).enumerate() {
            let asked = self.policy.prompt_text(problem, &self.data.prompt)?;
            for (place, sample) in samples.into_iter().enumerate() {
                let asked = (&asked[..], &prompt.ids[..]);
                rollouts.push(self.rollout(first_group + index, problem, asked, place, sample)?);
            }
        }
        self.judge.check()?;
        self.workers.concat(rollouts)
    }

    fn generation(&self) -> Generation {
        let train = &self.train;
        Generation {
            max_new_tokens: train.max_new_tokens,
            stop: self.policy.stop(),
            sampler: Sampler { temperature: train.temperature, top_p: train.top_p, top_k: train.top_k },
            batch: train.rollout_batch,
            key: Generation::key(self.seed, Phase::Rollout.name(), self.steps),
        }
    }

    fn rollout(
        &self,
        group: usize,
        problem: &Problem,
        (asked, prompt): (&str, &[u32]),
        index: usize,
        sample: Sample,
    ) -> Result<Rollout> {
        let text = self.policy.tokenizer.decode(&sample.ids, true)?;
        let truth = &problem.truth;
        let scores = [Extraction::Strict, Extraction::Flexible].map(|how| score(&text, truth, how));
        let (tokens, extra) = (sample.ids.len(), &problem.extra);
        let earned = self.judge.score(&Response { prompt: asked, text: &text, tokens, truth, extra })?;
        let sequence = Sequence {
            ids: [prompt, &sample.ids].concat(),
            prompt_length: prompt.len(),
            prompt: prompt_sequence(problem.id),
            sample: sample_sequence(problem.id, index),
        };
        Ok(Rollout {
            group,
            text,
            log_probs: sample.log_probs,
            stopped: sample.stopped,
            non_finite: sample.non_finite,
            scores,
            score: earned.reward,
            named: earned.named,
            penalty: self.penalty(sequence.response_length()),
            sequence,
        })
    }

    /// The soft penalty for a response of `length` tokens.
    fn penalty(&self, length: usize) -> f32 {
        let train = &self.train;
        match train.overlong_tokens() {
            0 => 0.0,
            buffer => overlong_penalty(length, train.max_new_tokens, buffer, train.overlong_factor),
        }
    }
}
