//! `hardy find`: a faulty machine, without a reference.

use std::path::{Path, PathBuf};

use clap::Args;
use hardy_lab::{
    Setting,
    evaluate::EVAL_DATA_SEED,
    find::{
        Fault, Find, FindReport,
        judge::{self, Judge, Judgement, Looks, random_model},
        table,
    },
};
use hardy_numerics::Precision;
use hardy_ops::{Op, Rule};
use hardy_train::{
    data::{self, Source, Split},
    error::Error,
    policy::Policy,
};
use serde_json::json;
use toml::{Table, Value};

use crate::{
    build_info,
    crew::{self, CrewArgs, refuse_company},
    device::{Engine, on_device},
    error_spec,
    failure::Failure,
    model_source::ModelArgs,
    number_args::{explained, whole},
    output::{Output, keep},
    progress::Progress,
    shard_args::{ShardArgs, keep_share},
};

/// Keys of a fault that say where it is; all others are those of its error.
const PLACE: [&str; 4] = ["layer", "op", "module", "at"];

const EXAMPLE: &str = "\
The machine's own layers are each other's reference: the same pass again, a small disturbance that should move every value, sums \
that are known, and symmetries that operators keep. Blamed is the first site that stands out. docs/lab.md says what can not be found \
so.

--inject plants a fault, so that the method can be watched: KIND:key=value,… with the kinds of a rule's error (dead_zone, saturation, \
spike, stuck, bias, bit_flip, burst_flip, …) and their options (scale, rate, sparsity, …), and layer=, op=, module= and at= for where. \
--judge plants 20 of every kind and strength at sites drawn at random, in the model and in one of twelve layers with random weights, \
prints how many were found and in the right layer, and how many of 100 looks at healthy machines were false alarms.

Exit codes: 0 nothing stands out, or the planted fault was found; 1 a fault was found, or the planted one was not, or another hash than \
the one expected; 2 bad usage or input.

Examples
  hardy find --model builtin:tiny
  hardy find --model builtin:tiny --inject dead_zone:layer=2,module=*.down_proj,scale=0.1,sparsity=0.25
  hardy find --model builtin:tiny --judge
  hardy find --model builtin:tiny --judge --shard 2/4 --out judged.json
  torchrun --no-python --nproc-per-node 4 hardy find --model builtin:tiny --judge   (the placements shared out)";

/// Arguments of `hardy find`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgs,
    /// The text that goes through the model: problems with their worked answers
    #[arg(long, value_name = "FILE", default_value = "builtin:arith")]
    data: String,
    #[arg(
        long,
        help = explained("Problems: the first N", "eval.n"),
        value_name = "N",
        default_value_t = 8,
        value_parser = whole::<usize>("eval.n")
    )]
    n: usize,
    #[arg(
        long,
        help = explained("The same pass so many times", "eval.draws"),
        value_name = "K",
        default_value_t = 3,
        value_parser = whole::<usize>("eval.draws")
    )]
    passes: usize,
    /// Plant a fault, as in dead_zone:layer=3,op=linear,module=*.down_proj,scale=0.1,sparsity=0.25
    #[arg(long, value_name = "FAULT")]
    inject: Option<String>,
    /// The hash that a machine which is trusted gave
    #[arg(long, value_name = "HASH", conflicts_with_all = ["inject", "judge"])]
    expect: Option<String>,
    /// Judge the method by faults at known places
    #[arg(long, conflicts_with = "inject")]
    judge: bool,
    #[arg(
        long,
        help = explained("With --judge: placements of every kind and strength in every model", "eval.n"),
        value_name = "N",
        default_value_t = 20,
        requires = "judge",
        value_parser = whole::<usize>("eval.n")
    )]
    placements: usize,
    #[arg(
        long,
        help = explained("With --judge: looks at every healthy machine (in f32, BF16, MXFP4) of every model", "eval.n"),
        value_name = "N",
        default_value_t = 100,
        requires = "judge",
        value_parser = whole::<usize>("eval.n")
    )]
    healthy: usize,
    /// The seed of what is planted
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// How a problem is asked, with `{question}` in it
    #[arg(long, value_name = "TEXT", default_value = "{question}")]
    prompt: String,
    /// Keep what was found in a new JSON file
    #[arg(long, value_name = "FILE.json")]
    out: Option<PathBuf>,
    #[command(flatten)]
    shard: ShardArgs,
    #[command(flatten)]
    crew: CrewArgs,
}

/// Looks at the machine.
///
/// # Errors
/// A model or fault that can not be used; a fault that was found, or was not.
pub fn run(args: &Arguments, output: Output) -> Result<(), Failure> {
    on_device!(args.model.device.device, run_on(args, output))
}

fn run_on<B: Engine>(args: &Arguments, output: Output) -> Result<(), Failure> {
    if args.shard.shard.is_some() && !args.judge {
        return Err(Failure::input(
            "--shard shares the placements of --judge; one look at a machine has no shares",
        ));
    }
    if !args.judge {
        refuse_company("one look at a machine")?;
    }
    let out = args.shard.file(args.out.as_deref())?;
    let fault = args.inject.as_deref().map(fault).transpose()?;
    let policy = args.model.policy::<B>()?;
    if args.judge {
        return args.judge(&policy, out.as_deref(), output);
    }
    let problems = data::load(&Source::texts(&args.data), Split::Eval, EVAL_DATA_SEED, Some(args.n))
        .map_err(Error::from)?;
    let setting = Setting { policy: &policy, problems: &problems, wording: &args.prompt };
    let mut report =
        Find { setting, passes: args.passes, seed: args.seed, rules: &[] }.run(fault.as_ref())?;
    report.model.clone_from(&args.model.spec);
    keep(&report, out.as_deref())?;
    output.show(&report, |width| table::render(&report, width))?;
    args.verdict(&report)
}

impl Arguments {
    fn judge<B: Engine>(
        &self,
        policy: &Policy<B>,
        out: Option<&Path>,
        output: Output,
    ) -> Result<(), Failure> {
        let random = random_model(policy, &B::open(self.model.device.device)?)?;
        let models = [(self.model.spec.clone(), policy), ("random, 12 layers".to_owned(), &random)];
        let names = models.each_ref().map(|(name, _)| name.clone());
        let files = [self.model.spec.as_str(), self.data.as_str()];
        let looks = Looks { placements: self.placements, healthy: self.healthy };
        let cells = looks.cells(models.len());
        let share = self.shard.manifest(
            judge::KIND,
            cells,
            self.definition(policy.decoder.blueprint.precision),
            files,
        )?;
        let problems = Some(looks.problems(self.n));
        let problems = data::load(&Source::texts(&self.data), Split::Eval, EVAL_DATA_SEED, problems)
            .map_err(Error::from)?;
        let crew = self.crew.launched(self.model.device.device)?;
        let asked = format!("{:#}", self.definition(policy.decoder.blueprint.precision));
        let agreed = crew.agree(Some(&build_info::table()), &asked, policy, problems.iter());
        let (mut bar, speaks): (Option<Progress>, bool) = (None, crew.workers.is_first());
        let mut progress = |done, of| {
            if speaks {
                bar.get_or_insert_with(|| Progress::new("find", of)).at(done);
            }
        };
        let how = Judge { models: &models, problems: &problems, looks, texts: self.n, seed: self.seed };
        let own = self.shard.among(&crew)?;
        let seen = agreed.and_then(|()| crew.join(how.look(own, &mut progress)?));
        let seen = crew::ended(&crew, seen)?;
        drop(bar);
        if !speaks {
            return Ok(());
        }
        if let (Some(manifest), Some(file), Some(whole)) = (share, out, &self.out) {
            let share = Judgement::share(&names, looks, manifest, &seen)?;
            return keep_share(&share, file, whole, output);
        }
        let judged = Judgement::of(&names, looks, &seen)?;
        keep(&judged, out)?;
        output.show(&judged, |width| table::render_judgement(&judged, width))
    }

    /// Everything that a judgement follows from, beside the files.
    fn definition(&self, precision: Precision) -> serde_json::Value {
        json!({
            "model": self.model.spec,
            "max_positions": self.model.max_positions,
            "device": self.model.device.device.to_string(),
            "precision": precision,
            "data": self.data,
            "n": self.n,
            "placements": self.placements,
            "healthy": self.healthy,
            "seed": self.seed,
        })
    }

    fn verdict(&self, report: &FindReport) -> Result<(), Failure> {
        let failed = |message: String| Err(Failure::run(message));
        match (report.hit(), report.blamed(), &self.expect) {
            (Some((true, _)), ..) => Ok(()),
            (Some(_), None, _) => failed("the planted fault was not found".to_owned()),
            (Some(_), Some(blamed), _) => {
                failed(format!("the fault was planted elsewhere than at {}", blamed.site))
            }
            (None, Some(blamed), _) => failed(format!("a fault stands out at {}", blamed.site)),
            (None, None, Some(hash)) if *hash != report.hash => failed(format!(
                "the hash is {}, not {hash}: this machine computes something else",
                report.hash
            )),
            (None, None, _) => Ok(()),
        }
    }
}

/// `KIND:key=value,…` as a fault.
fn fault(text: &str) -> Result<Fault, Failure> {
    let wrong = |message: String| Failure::input(format!("--inject: {message}"));
    let (kind, mut keys) = error_spec::split(text).map_err(wrong)?;
    let mut place = Table::new();
    for name in PLACE {
        place.extend(keys.remove(name).map(|value| (name.to_owned(), value)));
    }
    let options = error_spec::options(&kind, keys).map_err(wrong)?;
    let error = options.perturbation().map_err(|error| wrong(error.to_string()))?;
    let rule = Rule { error, ..placed(place).map_err(wrong)? };
    rule.validate().map_err(|error| wrong(error.to_string()))?;
    Ok(Fault { written: text.to_owned(), rule })
}

/// A rule at the place of a fault; without one at the output of every operator.
fn placed(mut place: Table) -> Result<Rule, String> {
    fn read<T: serde::de::DeserializeOwned>(name: &str, value: Value) -> Result<T, String> {
        let first_line =
            |error: toml::de::Error| error.to_string().lines().next().unwrap_or_default().to_owned();
        value.try_into().map_err(|error| format!("{name}: {}", first_line(error)))
    }
    let mut rule = Rule { ops: hardy_ops::Ops::All, ..Rule::noise(0.0) };
    if let Some(op) = place.remove("op") {
        rule.ops = hardy_ops::Ops::Some(vec![read::<Op>("op", op)?]);
    }
    if let Some(layer) = place.remove("layer") {
        rule.layers = read("layer", layer)?;
    }
    if let Some(module) = place.remove("module") {
        rule.modules = read("module", module)?;
    }
    if let Some(at) = place.remove("at") {
        rule.at = read("at", at)?;
    }
    Ok(rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_a_kind_its_options_and_a_place() {
        let found =
            fault("dead_zone:layer=3,op=linear,module=*.down_proj,scale=0.1,sparsity=0.25").unwrap().rule;
        assert_eq!(found.layers, hardy_ops::Layers::List(vec![3]));
        assert_eq!((found.modules.as_str(), found.error.scale()), ("*.down_proj", Some(0.1)));
        assert!(found.ops == hardy_ops::Ops::Some(vec![Op::Linear]));
        let flips = fault("burst_flip:rate=0.001,bits=[23, 30],layer=1..3").unwrap().rule;
        assert_eq!(flips.layers, hardy_ops::Layers::Range(1, 3));
        for wrong in [
            "dead",
            "dead_zone",
            "dead_zone:scale=0",
            "stuck:value=1,layer=x",
            "bias:scale=1,op=conv",
            "bias:scale=1,where=here",
        ] {
            assert!(fault(wrong).is_err(), "{wrong}");
        }
    }
}
