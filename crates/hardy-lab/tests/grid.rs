//! Grids start late and say the same: every cell equals, to the bit, what the whole computation gives.

use burn_flex::Flex;
use hardy_lab::{
    Metric, Setting,
    evaluate::{Evaluation, Level, Sampling},
    grid::{Axes, Cell, Grid, GridMetric, GridRecord},
    nll::nll,
    run::Crew,
};
use hardy_numerics::Perturbation;
use hardy_ops::{Layers, Ops, Pass, Point};
use hardy_train::{
    builtin,
    data::{self, Problem, Source, Split},
    policy::Policy,
    reward::{Extraction, Judge},
};

fn policy() -> Policy<Flex> {
    Policy::from_dir(&builtin::resolve("builtin:tiny").unwrap(), &Default::default()).unwrap()
}

fn problems(n: usize) -> Vec<Problem> {
    data::load(&Source::texts("builtin:arith"), Split::Eval, 0, Some(n)).unwrap()
}

fn grid<'a>(
    policy: &'a Policy<Flex>,
    problems: &'a [Problem],
    metric: GridMetric,
    draws: usize,
) -> Grid<'a, Flex> {
    let setting = Setting { policy, problems, wording: "{question}" };
    Grid { setting, metric, draws, seed: 3, max_new_tokens: 128, batch: 8 }
}

fn level(cell: &Cell) -> Level {
    Level::plan(cell.to_string(), cell.plan(3))
}

fn forward(points: &[Point], scale: f64) -> Axes {
    Axes {
        points: points.to_vec(),
        errors: vec![Perturbation::RelativeGaussian { scale }],
        ..Axes::default()
    }
}

#[test]
fn every_cell_has_the_likelihood_of_a_whole_pass_to_the_bit() {
    let (policy, problems) = (policy(), problems(3));
    let cells =
        forward(&[Point::Input, Point::Output, Point::Weight], 0.1).cells(&policy.decoder.blueprint.sites);
    let grid = grid(&policy, &problems, GridMetric::Nll, 2);
    let found = grid.run(&cells, &mut |_| {}).unwrap();
    let levels: Vec<Level> = cells.iter().map(level).collect();
    for (cell, whole) in found.cells.iter().zip(nll(&grid.setting, &levels, 2, &Crew::default()).unwrap()) {
        assert_eq!(cell.value.to_bits(), whole.nll.to_bits(), "{}", cell.cell);
        let elements: u64 = whole.receipts.iter().flatten().map(|receipt| receipt.elements).sum();
        assert_eq!(cell.elements, elements, "{}", cell.cell);
        assert!((cell.measured - 0.1).abs() < 0.05, "{}: {}", cell.cell, cell.measured);
    }
}

#[test]
fn every_cell_has_the_accuracy_of_answers_that_were_all_written_to_the_bit() {
    let (policy, problems) = (policy(), problems(12));
    let axes = Axes { layers: Layers::List(vec![0, 3]), ..forward(&[Point::Output], 0.4) };
    let mut cells = axes.cells(&policy.decoder.blueprint.sites);
    // The last norm and the head, and a weak error that leaves most answers as they are.
    cells.extend(
        forward(&[Point::Output], 0.02).cells(&policy.decoder.blueprint.sites).into_iter().rev().take(3),
    );
    let found = grid(&policy, &problems, GridMetric::Accuracy(Extraction::Flexible), 1)
        .run(&cells, &mut |_| {})
        .unwrap();
    let judge = Judge::new(&[]).unwrap();
    let whole = Evaluation {
        setting: Setting { policy: &policy, problems: &problems, wording: "{question}" },
        model: "",
        data: "",
        step: None,
        seed: 3,
        max_new_tokens: 128,
        batch: 5,
        draws: 1,
        metric: &Metric::Flexible,
        judge: &judge,
        sampling: Sampling::GREEDY,
        workers: &hardy_train::workers::ALONE,
    };
    let record = whole.run(&cells.iter().map(level).collect::<Vec<_>>(), |_, _| {}).unwrap();
    for (cell, level) in found.cells.iter().zip(&record.levels) {
        assert_eq!(cell.value, level.flexible_accuracy, "{}", cell.cell);
    }
    let losses: Vec<f64> = found.cells.iter().map(|cell| cell.degradation).collect();
    assert!(losses.iter().any(|lost| *lost > 0.0) && found.clean > 0.5, "{} {losses:?}", found.clean);
}

#[test]
fn errors_of_the_backward_pass_turn_the_gradient_and_stronger_ones_more() {
    let (policy, problems) = (policy(), problems(4));
    let axes = Axes {
        operators: Ops::Some(vec![hardy_ops::Op::Linear]),
        passes: vec![Pass::Backward],
        errors: [0.05, 0.5].map(|scale| Perturbation::RelativeGaussian { scale }).to_vec(),
        ..Axes::default()
    };
    let cells = axes.cells(&policy.decoder.blueprint.sites);
    let found: GridRecord = grid(&policy, &problems, GridMetric::Nll, 2).run(&cells, &mut |_| {}).unwrap();
    // Four layers and the head.
    assert_eq!(found.cells.len(), 10);
    for pair in found.cells.chunks(2) {
        let [weak, strong] = [&pair[0], &pair[1]];
        assert!(
            weak.value > 0.95 && weak.value < 1.0 && strong.value < weak.value,
            "{}: {}",
            weak.cell,
            weak.value
        );
        assert!((weak.norm_ratio.unwrap() - 1.0).abs() < 0.1, "{:?}", weak.norm_ratio);
    }
}
