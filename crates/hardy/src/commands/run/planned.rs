//! What a run will take, as people read it before they start it.

use std::path::PathBuf;

use hardy_lab::{forecast::Forecast, format};
use serde::Serialize;

const MIB: f64 = (1_u64 << 20) as f64;

/// What a run would do.
#[derive(Serialize)]
pub struct Planned {
    /// Its name.
    pub name: String,
    /// The directory that it would write.
    pub directory: PathBuf,
    /// What it will take.
    #[serde(flatten)]
    pub forecast: Forecast,
}

impl Planned {
    /// A few lines.
    pub fn text(&self) -> String {
        let Self { name, directory, forecast } = self;
        let Forecast { steps, responses_per_step, evaluations, answers_per_evaluation, .. } = forecast;
        let mut out = format!("{name}: {steps} steps, would write {}\n", directory.display());
        let counts = [responses_per_step, evaluations, answers_per_evaluation].map(|&n| format::count(n));
        let [responses, evaluations, answers] = counts;
        out += &format!(
            "  work    {responses} responses a step, {evaluations} evaluations of {answers} answers\n"
        );
        out += &format!(
            "  tokens  {} a step at most (prompts of up to {}), {} in all\n",
            format::short_count(forecast.tokens_per_step as f64),
            forecast.prompt_tokens,
            format::short_count(forecast.tokens as f64)
        );
        out += &format!("  memory  {} at most{}\n", size(forecast.memory.peak as u64), self.available());
        out += &format!("  disk    {} of checkpoints at most\n", size(forecast.disk_bytes));
        out + &self.time()
    }

    fn available(&self) -> String {
        let available = self.forecast.available_bytes;
        available.map(|bytes| format!(", {} are free", size(bytes))).unwrap_or_default()
    }

    fn time(&self) -> String {
        let Some(time) = &self.forecast.time else {
            return "  time    not measured: the run does not fit into the memory that is free; less: \
                    train.micro_batch_tokens, train.activation_checkpointing = true, train.rollout_batch, \
                    train.gradient_blocks, [lora]\n"
                .to_owned();
        };
        let [rollout, log_probs, update, optimizer] =
            [time.rollout_seconds, time.log_probs_seconds, time.update_seconds, time.optimizer_seconds]
                .map(duration);
        format!(
            "  time    {} in all: {} a step (rollout {rollout}, old log-probabilities {log_probs}, update {update}, optimizer \
             {optimizer}), {} an evaluation\n          by a probe of {:.1} s on this machine as it is now, were every response as long as it \
             may be\n",
            duration(time.total_seconds),
            duration(time.step_seconds()),
            duration(time.evaluation_seconds),
            time.rates.probe_seconds
        )
    }
}

fn size(bytes: u64) -> String {
    match bytes as f64 / MIB {
        mib if mib < 1024.0 => format!("{mib:.0} MiB"),
        mib => format!("{:.1} GiB", mib / 1024.0),
    }
}

/// Seconds as people say them.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{} s", format::significant(s, 2)),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_told_in_the_unit_that_fits() {
        let told = [0.0123, 59.0, 600.0, 36_000.0, 864_000.0].map(duration);
        assert_eq!(told, ["0.012 s", "59 s", "10 min", "10.0 h", "10.0 days"]);
    }
}
