//! What a run directory looks like on terminals of several sizes.

use std::path::Path;

use ratatui_core::{backend::TestBackend, terminal::Terminal};

use super::*;

/// A directory in which a run of twenty steps is after its third.
fn run(directory: &Path) -> Followed {
    std::fs::write(directory.join("config.toml"), "name = \"e5b\"\n[train]\nsteps = 20\n").unwrap();
    let line = |step: u64| {
        format!("{{\"step\":{step},\"reward_mean\":0.{step},\"grad_norm\":0.25,\"step_seconds\":60}}\n")
    };
    std::fs::write(directory.join("metrics.jsonl"), (1..=3).map(line).collect::<String>()).unwrap();
    let receipt = r#"[{"site":"model.layers.0.mlp.down_proj","op":"linear","point":"output","phase":"rollout",
        "pass":"forward","calls":1,"elements":8,"asked":0.05,"measured":0.0497,"error_energy":0.0025,"signal_energy":1.0}]"#;
    std::fs::write(directory.join("receipts.json"), receipt).unwrap();
    let mut run = Followed::new(directory);
    run.refresh();
    assert_eq!(run.problem(), None);
    run
}

fn shown(view: &View<'_>, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view.draw(frame)).unwrap();
    let buffer = terminal.backend().buffer();
    let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>() + "\n";
    (0..height).map(row).collect()
}

#[test]
fn a_run_is_shown_with_its_step_curves_figures_and_receipts() {
    let directory = tempfile::tempdir().unwrap();
    let run = run(directory.path());
    let work = Some(Work { label: "rollout".to_owned(), done: 12, of: 256 });
    let said = vec!["warning: something".to_owned()];
    let view = View { run: Some(&run), work, said, elapsed: Duration::from_secs(180) };
    let wide = shown(&view, 120, 40);
    for part in [
        "e5b",
        "step 3 of 20, 3 min gone, training 17 min left",
        "reward 0.3",
        "no evaluation yet",
        "norm of the gradient",
        "0.25",
        "rollout: linear output",
        "5 %",
        "asked",
        "warning: something",
        "rollout 12 of 256",
    ] {
        assert!(wide.contains(part), "`{part}` is not in:\n{wide}");
    }
    // One below the other, and what has no place is left out.
    let narrow = shown(&view, 60, 44);
    assert!(narrow.contains("rollout: linear output") && narrow.contains("no evaluation yet"), "{narrow}");
    let low = shown(&view, 60, 16);
    assert!(low.contains("reward 0.3") && !low.contains("no evaluation yet"), "{low}");
}

#[test]
fn no_size_of_a_terminal_and_no_state_of_a_run_is_too_little() {
    let directory = tempfile::tempdir().unwrap();
    let run = run(directory.path());
    let begun = tempfile::tempdir().unwrap();
    let nothing = Followed::new(begun.path());
    for run in [None, Some(&nothing), Some(&run)] {
        let view = View { run, work: None, said: vec!["x".repeat(300); SAID], elapsed: Duration::ZERO };
        for (width, height) in [(0, 0), (1, 1), (3, 50), (200, 2), (20, 8), (100, 13), (99, 12)] {
            shown(&view, width, height);
        }
    }
}
