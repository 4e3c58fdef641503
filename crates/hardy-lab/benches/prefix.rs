//! What a grid saves by starting late: the grid of the built-in model, operators × 3 levels on 100 problems, beside the same
//! cells as whole passes, taking turns: `cargo bench -p hardy-lab --bench prefix`.

use std::time::Instant;

use burn_flex::Flex;
use hardy_lab::{
    Metric, Setting,
    evaluate::{Evaluation, Level, Sampling},
    grid::{Axes, Cell, Grid, GridMetric},
    nll::nll,
    run::Crew,
};
use hardy_numerics::Perturbation;
use hardy_train::{
    builtin,
    data::{self, Problem, Source, Split},
    policy::Policy,
    reward::{Extraction, Judge},
};

/// Turns of which the fastest counts.
const TURNS: usize = 3;

fn main() {
    let policy: Policy<Flex> =
        Policy::from_dir(&builtin::resolve("builtin:tiny").unwrap(), &Default::default()).unwrap();
    let errors = [0.01, 0.05, 0.1].map(|scale| Perturbation::RelativeGaussian { scale }).to_vec();
    let cells = Axes { errors, ..Axes::default() }.cells(&policy.decoder.blueprint.sites);
    let problems = data::load(&Source::texts("builtin:arith"), Split::Eval, 0, Some(100)).unwrap();
    rayon::scope(|_| {
        compare(
            "nll",
            || late(&policy, &problems, &cells, GridMetric::Nll),
            || whole_nll(&policy, &problems, &cells),
        )
    });
    let accuracy = GridMetric::Accuracy(Extraction::Flexible);
    rayon::scope(|_| {
        compare(
            "accuracy",
            || late(&policy, &problems, &cells, accuracy),
            || whole_answers(&policy, &problems, &cells),
        )
    });
}

fn late(policy: &Policy<Flex>, problems: &[Problem], cells: &[Cell], metric: GridMetric) {
    let setting = Setting { policy, problems, wording: "{question}" };
    Grid { setting, metric, draws: 1, seed: 0, max_new_tokens: 128, batch: 256 }
        .run(cells, &mut |_| {})
        .unwrap();
}

fn levels(cells: &[Cell]) -> Vec<Level> {
    cells.iter().map(|cell| Level::plan(cell.to_string(), cell.plan(0))).collect()
}

fn whole_nll(policy: &Policy<Flex>, problems: &[Problem], cells: &[Cell]) {
    nll(&Setting { policy, problems, wording: "{question}" }, &levels(cells), 1, &Crew::default()).unwrap();
}

fn whole_answers(policy: &Policy<Flex>, problems: &[Problem], cells: &[Cell]) {
    let setting = Setting { policy, problems, wording: "{question}" };
    let judge = Judge::new(&[]).unwrap();
    let evaluation = Evaluation {
        setting,
        model: "",
        data: "",
        step: None,
        seed: 0,
        max_new_tokens: 128,
        batch: 256,
        draws: 1,
        metric: &Metric::Flexible,
        judge: &judge,
        sampling: Sampling::GREEDY,
        workers: &hardy_train::workers::ALONE,
    };
    evaluation.run(&levels(cells), |_, _| {}).unwrap();
}

fn compare(name: &str, late: impl Fn(), whole: impl Fn()) {
    let mut best = [[f64::INFINITY; 2]; 2];
    for _ in 0..TURNS {
        for (which, work) in [&late as &dyn Fn(), &whole].into_iter().enumerate() {
            let found = timed(work);
            best[which] = [0, 1].map(|i| best[which][i].min(found[i]));
        }
    }
    let [[late_cpu, late_wall], [whole_cpu, whole_wall]] = best;
    println!(
        "{name}: {late_cpu:.2} s of processor time instead of {whole_cpu:.2}: {:.2}; {late_wall:.2} s instead of {whole_wall:.2}",
        late_cpu / whole_cpu
    );
}

/// Seconds of processor time, of all threads, and of the clock.
fn timed(work: &dyn Fn()) -> [f64; 2] {
    let (cpu, start) = (processor_seconds(), Instant::now());
    work();
    [processor_seconds() - cpu, start.elapsed().as_secs_f64()]
}

/// User and system time of this process, from Linux.
fn processor_seconds() -> f64 {
    /// Ticks of a second, on every Linux that runs today.
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok());
    ticks.sum::<f64>() / TICKS
}
