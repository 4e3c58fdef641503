//! Runs while they go on: what their directories say now, read again only where it changed, and the page on it that
//! `hardy watch` keeps up to date.

mod followed;
mod overview;

use std::{
    fs,
    path::{Path, PathBuf},
};

use rayon::prelude::*;

pub use followed::Followed;

use crate::{
    error::LabError,
    html::section,
    report,
    run_records::{RunRecords, distinct_names},
};

/// Folders between a path that was given and a run below it: SUITE/PRESET/seed-N, with one more.
const DEPTH: usize = 4;
/// Evaluations that are read of all runs together, as far as every run keeps [`LEAST_EVALUATIONS`].
const EVALUATIONS_IN_ALL: usize = 160;
const LEAST_EVALUATIONS: usize = 6;

/// Runs that are followed, in the order of their paths.
#[derive(Debug, Default)]
pub struct Live {
    places: Vec<PathBuf>,
    runs: Vec<Followed>,
}

impl Live {
    /// Follows the runs in `places`: run directories, or folders of them, such as a suite's; runs that begin later are found
    /// too.
    ///
    /// # Errors
    /// A place that does not exist.
    pub fn new(places: &[PathBuf]) -> Result<Self, LabError> {
        for place in places {
            fs::metadata(place).map_err(LabError::file(place))?;
        }
        let mut live = Self { places: places.to_vec(), runs: Vec::new() };
        live.refresh();
        Ok(live)
    }

    /// Reads what is new; says whether anything is.
    pub fn refresh(&mut self) -> bool {
        let found: Vec<PathBuf> = self.places.iter().flat_map(|place| runs_below(place, DEPTH)).collect();
        let new = found.iter().filter(|path| !self.runs.iter().any(|run| run.directory() == path.as_path()));
        let new: Vec<Followed> = new.map(|path| Followed::new(path)).collect();
        let more = !new.is_empty();
        self.runs.extend(new);
        let most = EVALUATIONS_IN_ALL / self.runs.len().max(1);
        let most = most.clamp(LEAST_EVALUATIONS, followed::MOST_EVALUATIONS);
        let changed: Vec<bool> = self.runs.par_iter_mut().map(|run| run.refresh_with(most)).collect();
        more || changed.contains(&true)
    }

    /// The runs.
    #[must_use]
    pub fn runs(&self) -> &[Followed] {
        &self.runs
    }

    /// What the page shows now, as HTML without its frame: how every run stands, and of those that have been evaluated
    /// all that a report shows.
    #[must_use]
    pub fn page(&self) -> String {
        let judged: Vec<&RunRecords> = self.runs.iter().filter_map(Followed::judged).collect();
        let names = distinct_names(&judged);
        let report = match report::body(&judged, &names) {
            Ok(_) if judged.is_empty() => String::new(),
            Ok(body) => body + &report::footer(&judged),
            Err(reason) => format!("<p class=\"note\">{}</p>", crate::html::escape(&reason.to_string())),
        };
        section("Runs", &overview::html(&self.runs)) + &report
    }
}

/// The run directories at `place` or up to `depth` folders below it, in order; links are not followed, so that none leads
/// elsewhere.
fn runs_below(place: &Path, depth: usize) -> Vec<PathBuf> {
    if place.join("config.toml").is_file() {
        return vec![place.to_owned()];
    }
    let Some(depth) = depth.checked_sub(1) else { return Vec::new() };
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut folders: Vec<PathBuf> = folders.map(|entry| entry.path()).collect();
    folders.sort();
    folders.iter().flat_map(|folder| runs_below(folder, depth)).collect()
}

#[cfg(test)]
mod tests {
    use std::fs::{create_dir_all, write};

    use super::*;
    use crate::record::made_up::{level, record};

    fn begun(path: &Path) {
        create_dir_all(path.join("eval")).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        write(path.join("config.toml"), format!("name = \"{name}\"\n")).unwrap();
    }

    fn evaluated(path: &Path, step: u64) {
        let record = record(vec![level(0.0, 8, |i| i < step), level(0.05, 8, |i| 2 * i < step)]);
        record.write(&path.join(format!("eval/step-{step:06}.json"))).unwrap();
    }

    fn stepped(path: &Path, steps: u64) {
        let line = |step: u64| format!("{{\"step\":{step},\"reward_mean\":0.{step},\"step_seconds\":0.5}}\n");
        write(path.join("metrics.jsonl"), (1..=steps).map(line).collect::<String>()).unwrap();
    }

    #[test]
    fn runs_are_found_as_they_begin_and_read_as_they_go_on() {
        let root = tempfile::tempdir().unwrap();
        let mut live = Live::new(&[root.path().to_owned()]).unwrap();
        assert!(live.runs().is_empty() && !live.page().contains("<table"));
        let run = root.path().join("suite/e5/seed-0");
        begun(&run);
        assert!(live.refresh());
        assert!(live.page().contains("seed-0") && live.page().contains("no evaluation yet"));
        evaluated(&run, 0);
        stepped(&run, 3);
        assert!(live.refresh() && !live.refresh());
        let page = live.page();
        assert!(page.contains("Reward, mean") && page.contains("What survives"), "{page}");
        evaluated(&run, 4);
        assert!(live.refresh());
        assert!(live.page().contains("Accuracy over training"));
    }

    #[test]
    fn a_broken_file_is_said_beside_its_run_and_hides_no_other() {
        let root = tempfile::tempdir().unwrap();
        for name in ["bad", "good"] {
            begun(&root.path().join(name));
            evaluated(&root.path().join(name), 0);
        }
        write(root.path().join("bad/metrics.jsonl"), "nonsense\n").unwrap();
        let page = Live::new(&[root.path().to_owned()]).unwrap().page();
        assert!(page.contains("metrics.jsonl:1:") && page.contains("good"), "{page}");
    }

    #[cfg(unix)]
    #[test]
    fn a_link_does_not_lead_out_of_the_folder() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        begun(&outside.path().join("secret"));
        std::os::unix::fs::symlink(outside.path(), root.path().join("link")).unwrap();
        assert!(Live::new(&[root.path().to_owned()]).unwrap().runs().is_empty());
        assert!(Live::new(&[root.path().join("absent")]).is_err());
    }
}
