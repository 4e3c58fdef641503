//! A list of cells that several processes work through, each its share: every n-th cell, so that shares differ by at most
//! one cell and a list in which costs change slowly is shared evenly. Which process has which share is typed, or read
//! from Slurm and Kubernetes; what the shares found is joined in the order of the cells.

mod manifest;
mod merge;

use std::{ffi::OsStr, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

pub use manifest::{Allow, Manifest, inputs};
pub use merge::{CellsFile, Joined, join, join_cells};

/// What tells a task of a Slurm array its number, the smallest and largest number of its array, and how many there are.
const SLURM: [&str; 4] =
    ["SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_COUNT"];
/// What tells a pod of an indexed Kubernetes job its number, from 0.
const KUBERNETES: &str = "JOB_COMPLETION_INDEX";
/// Processes among which a list is shared, at most.
const MOST: usize = 1 << 20;

/// Which of how many shares, from 1; written `2/4`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Shard {
    index: usize,
    of: usize,
}

impl Shard {
    /// The share `index` of `of`.
    ///
    /// # Errors
    /// One sentence where `index` is not from 1 to `of`, or `of` is beyond 2^20.
    pub fn new(index: usize, of: usize) -> Result<Self, String> {
        if !(1..=MOST).contains(&of) || !(1..=of).contains(&index) {
            return Err(format!(
                "there is no shard {index} of {of}: shards are numbered from 1, as in 1/{}",
                of.clamp(1, MOST)
            ));
        }
        Ok(Self { index, of })
    }

    /// Which, from 1.
    #[must_use]
    pub fn index(self) -> usize {
        self.index
    }

    /// Of how many.
    #[must_use]
    pub fn of(self) -> usize {
        self.of
    }

    /// Whether the cell at `place`, from 0, is in this share.
    #[must_use]
    pub fn has(self, place: usize) -> bool {
        place % self.of == self.index - 1
    }

    /// The cells of this share with their places, from 0.
    pub fn select<T>(self, cells: impl IntoIterator<Item = T>) -> impl Iterator<Item = (usize, T)> {
        cells.into_iter().enumerate().filter(move |(place, _)| self.has(*place))
    }

    /// How many of `cells` cells are in this share.
    #[must_use]
    pub fn count(self, cells: usize) -> usize {
        self.select(0..cells).count()
    }

    /// The name of its directory or file: `shard-2-of-4`.
    #[must_use]
    pub fn name(self) -> String {
        format!("shard-{}-of-{}", self.index, self.of)
    }

    /// Whether it is what [`Shard::name`] gives of some shard.
    #[must_use]
    pub fn is_name(name: &OsStr) -> bool {
        let numbers = name.to_str().and_then(|name| name.strip_prefix("shard-")?.split_once("-of-"));
        numbers.is_some_and(|(index, of)| Self::parse(&format!("{index}/{of}"), |_| None).is_ok())
    }

    /// Refuses more shards than there are cells, of which some would have nothing to do.
    ///
    /// # Errors
    /// One sentence that names `what` the cells are.
    pub fn check(self, cells: usize, what: &str) -> Result<(), String> {
        if self.of <= cells {
            return Ok(());
        }
        Err(format!(
            "{} shards of {cells} {what}: some would have nothing to do; take at most {cells}",
            self.of
        ))
    }

    /// What `--shard` says: `2/4`; `auto/4` with the number from the environment; `auto` with both from a whole Slurm array.
    /// `variable` looks the environment up.
    ///
    /// # Errors
    /// One sentence that says what is missing, or does not fit.
    pub fn parse(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let number =
            |text: &str| text.parse::<usize>().map_err(|_| format!("`{text}` is no whole number; {FORMS}"));
        match text.split_once('/') {
            None if text == "auto" => whole_array(&variable),
            Some(("auto", of)) => {
                Self::new(task(&variable)?, number(of)?).map_err(|wrong| format!("{wrong}; {NUMBERED}"))
            }
            Some((index, of)) => Self::new(number(index)?, number(of)?),
            None => Err(FORMS.to_owned()),
        }
    }
}

const FORMS: &str =
    "write 2/4 for the second of four shards, auto/4 to take the number from Slurm or Kubernetes, or auto";
const NUMBERED: &str = "number a Slurm array from 1, as in --array=1-8";

/// A number of the environment.
fn read(variable: &impl Fn(&str) -> Option<String>, name: &str) -> Result<Option<usize>, String> {
    let Some(text) = variable(name) else { return Ok(None) };
    text.trim().parse().map(Some).map_err(|_| format!("{name} is `{text}`, which is no whole number"))
}

/// The number of this task, from 1.
fn task(variable: &impl Fn(&str) -> Option<String>) -> Result<usize, String> {
    if let Some(id) = read(variable, SLURM[0])? {
        return Ok(id);
    }
    let index = read(variable, KUBERNETES)?;
    index.map(|index| index + 1).ok_or_else(|| {
        format!("neither {} nor {KUBERNETES} is set: this is no task of a Slurm array and no pod of an indexed job; {FORMS}", SLURM[0])
    })
}

/// The share of a task of a Slurm array that is whole. Of an array with gaps, or one task submitted again, nobody could
/// tell how many shares there are.
fn whole_array(variable: &impl Fn(&str) -> Option<String>) -> Result<Shard, String> {
    let [id, min, max, count] = SLURM.map(|name| read(variable, name));
    let (Some(id), Some(min), Some(max), Some(count)) = (id?, min?, max?, count?) else {
        let of = if variable(KUBERNETES).is_some() {
            "a pod is not told how many there are"
        } else {
            "there is no Slurm array here"
        };
        return Err(format!("{of}; say how many shards there are, as in auto/4"));
    };
    if count < 2 || max - min + 1 != count || !(min..=max).contains(&id) {
        return Err(format!(
            "the Slurm array has {count} tasks from {min} to {max}, which is no whole array: was part of it submitted again? \
             Say how many shards there are, as in auto/4"
        ));
    }
    Shard::new(id - min + 1, count)
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text, |name| std::env::var(name).ok())
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

impl TryFrom<String> for Shard {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text, |_| None)
    }
}

impl From<Shard> for String {
    fn from(shard: Shard) -> Self {
        shard.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn within(text: &str, environment: &[(&str, &str)]) -> Result<String, String> {
        let variable = |name: &str| {
            environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        Shard::parse(text, variable).map(|shard| shard.to_string())
    }

    fn array<'a>(id: &'a str, min: &'a str, max: &'a str, count: &'a str) -> [(&'static str, &'a str); 4] {
        [(SLURM[0], id), (SLURM[1], min), (SLURM[2], max), (SLURM[3], count)]
    }

    #[test]
    fn a_shard_is_typed_or_read_from_slurm_or_kubernetes() {
        assert_eq!(within("2/4", &[]), Ok("2/4".to_owned()));
        assert_eq!(within("auto/4", &[(SLURM[0], "3")]), Ok("3/4".to_owned()));
        assert_eq!(within("auto/4", &[(KUBERNETES, "0")]), Ok("1/4".to_owned()));
        assert_eq!(within("auto", &array("5", "4", "7", "4")), Ok("2/4".to_owned()));
    }

    #[test]
    fn what_can_not_be_told_is_refused_with_what_would_be_right() {
        let says = |text: &str, environment: &[(&str, &str)], part: &str| {
            let said = within(text, environment).unwrap_err();
            assert!(said.contains(part), "{text}: {said}");
        };
        says("0/4", &[], "numbered from 1");
        says("5/4", &[], "no shard 5 of 4");
        says("1/0", &[], "no shard 1 of 0");
        says("2", &[], "write 2/4");
        says("a/4", &[], "`a` is no whole number");
        says("-1/4", &[], "`-1` is no whole number");
        says("1/99999999999", &[], "no shard");
        says("auto", &[], "say how many");
        says("auto", &[(KUBERNETES, "1")], "a pod is not told");
        says("auto/4", &[], "no task of a Slurm array");
        says("auto/4", &[(SLURM[0], "0")], "--array=1-8");
        says("auto/4", &[(SLURM[0], "x")], "SLURM_ARRAY_TASK_ID is `x`");
        // One task submitted again, and an array with a gap.
        says("auto", &array("3", "3", "3", "1"), "submitted again");
        says("auto", &array("3", "1", "7", "3"), "no whole array");
    }

    #[test]
    fn more_shards_than_cells_are_refused() {
        assert!(Shard::new(1, 4).unwrap().check(4, "runs").is_ok());
        assert!(Shard::new(1, 5).unwrap().check(4, "runs").unwrap_err().contains("at most 4"));
    }

    proptest! {
        #[test]
        fn every_cell_is_in_one_share_and_shares_differ_by_at_most_one(cells in 0usize..50, of in 1usize..9) {
            let shares: Vec<Shard> = (1..=of).map(|index| Shard::new(index, of).unwrap()).collect();
            for place in 0..cells {
                prop_assert_eq!(shares.iter().filter(|shard| shard.has(place)).count(), 1);
            }
            let counts: Vec<usize> = shares.iter().map(|shard| shard.count(cells)).collect();
            prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
        }
    }
}
