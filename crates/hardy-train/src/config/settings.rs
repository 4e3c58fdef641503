//! Every key of a configuration and every number of the command line, with what is admissible and what it means: the one
//! table that checks, messages, `hardy config` and the documentation are made from.

mod check;
mod defaults;
mod flags;
mod noise;
mod range;
mod run;
mod sft;

use hardy_ops::ops::attention::MOST_KEYS;

use crate::toml_errors::suggestion;

pub(crate) use check::Checked;
pub use range::{Bound, Range};

/// A key, or a flag of the command line where it begins with `--`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setting {
    /// Its path, as in `train.top_p`; that of a list's entries is the list's.
    pub key: &'static str,
    /// What is admissible; of a list, for every entry.
    pub range: Range,
    /// What it means, in one line.
    pub meaning: &'static str,
}

impl Setting {
    /// Whether it is `key`, or stands in the section `key`.
    pub fn is_in(&self, key: &str) -> bool {
        self.key.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }
}

/// Which configurations there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// That of `hardy run`.
    Run,
    /// That of `hardy sft`.
    Sft,
}

impl Kind {
    /// Every key, in the order in which people read them; those of rules come last.
    pub fn settings(self) -> impl Iterator<Item = &'static Setting> {
        let own = match self {
            Self::Run => run::SETTINGS,
            Self::Sft => sft::SETTINGS,
        };
        own.iter().chain(noise::SETTINGS)
    }

    /// The default of a key as TOML writes it; `None` where it must be given, or means something else when left out.
    pub fn default(self, key: &str) -> Option<String> {
        defaults::of(self, key)
    }

    /// "did you mean …?", for a key that does not exist.
    pub fn suggestion(self, key: &str) -> String {
        let keys: Vec<&str> = self.settings().map(|setting| setting.key).collect();
        suggestion(key, &keys)
    }

    /// The setting of a key.
    pub fn find(self, key: &str) -> Option<&'static Setting> {
        self.settings().find(|setting| setting.key == key)
    }
}

/// The setting of a flag that stands for itself, or of the key of a run that means the same.
///
/// # Panics
/// If there is none.
pub fn flag(key: &str) -> &'static Setting {
    let own = flags::SETTINGS.iter().find(|setting| setting.key == key);
    own.or_else(|| Kind::Run.find(key)).unwrap_or_else(|| panic!("no setting `{key}`"))
}

const fn words(key: &'static str, words: &'static [&'static str], meaning: &'static str) -> Setting {
    Setting { key, range: Range::Words(words), meaning }
}

const fn text(key: &'static str, what: &'static str, meaning: &'static str) -> Setting {
    Setting { key, range: Range::Text(what), meaning }
}

const fn switch(key: &'static str, meaning: &'static str) -> Setting {
    Setting { key, range: Range::Switch, meaning }
}

const fn whole(key: &'static str, least: u64, most: u64, meaning: &'static str) -> Setting {
    Setting { key, range: Range::Whole(least, most), meaning }
}

/// From `low` to `high`, both admissible.
const fn number(key: &'static str, low: f64, high: f64, meaning: &'static str) -> Setting {
    Setting { key, range: Range::Number(Bound::To(low), Bound::To(high)), meaning }
}

/// Above `low`, up to `high`.
const fn above(key: &'static str, low: f64, high: f64, meaning: &'static str) -> Setting {
    Setting { key, range: Range::Number(Bound::Short(low), Bound::To(high)), meaning }
}

/// From `low`, but below `high`.
const fn below(key: &'static str, low: f64, high: f64, meaning: &'static str) -> Setting {
    Setting { key, range: Range::Number(Bound::To(low), Bound::Short(high)), meaning }
}

/// More steps than any run has.
pub(crate) const STEPS: u64 = 10_000_000;
/// More problems than any data set is read for.
const PROBLEMS: u64 = 10_000_000;
/// More tokens than any response has.
const RESPONSE: u64 = 1_000_000;
/// The positions that attention tells apart.
const POSITIONS: u64 = MOST_KEYS as u64;
/// Terms of an inner product; f32 counts no further.
const TERMS: u64 = 1 << 24;
/// Sequences that are computed at once.
const BATCH: u64 = 65_536;
/// Tokens of one pass.
const PASS: u64 = 1 << 24;
/// The largest coefficient, scale or factor.
const LARGE: f64 = 1e6;

#[cfg(test)]
mod tests;
