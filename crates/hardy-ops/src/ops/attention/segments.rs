//! Where the sequences of a packed batch lie: runs of rows, each of which may continue another run. Several responses
//! to one prompt so share the prompt's rows.

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
};

use super::MOST_KEYS;
use crate::{device::OnDevice, scatter::Scatter};

/// Where the sequences of a packed batch begin and end, and which earlier run of rows each one continues.
#[derive(Clone, Debug)]
pub struct Segments {
    all: Arc<[Segment]>,
    /// How many positions a token sees, its own among them.
    window: usize,
    /// Which keys of all segments are each row; asked for by the backward pass of every layer.
    sharing: Arc<OnceLock<Scatter>>,
    #[cfg_attr(not(feature = "cube"), allow(dead_code, reason = "kernels ask for it"))]
    on_device: OnDevice,
    #[cfg_attr(not(feature = "cube"), allow(dead_code, reason = "kernels ask for it"))]
    expanded: OnDevice,
}

#[derive(Clone, Debug)]
struct Segment {
    rows: Range<usize>,
    prefix: Option<usize>,
}

impl Segments {
    /// The segments of sequences with these lengths.
    pub fn from_lengths(lengths: impl IntoIterator<Item = usize>) -> Self {
        Self::new(lengths.into_iter().map(|length| (length, None)))
    }

    /// Segments of a length each, with the index of the earlier segment that one continues.
    ///
    /// # Panics
    /// If a segment continues one that does not come before it, or one that itself continues another; if a query would
    /// see more than 2²⁰ keys.
    pub fn new(segments: impl IntoIterator<Item = (usize, Option<usize>)>) -> Self {
        let mut all: Vec<Segment> = Vec::new();
        let mut end = 0;
        for (length, prefix) in segments {
            let whole = prefix.is_none_or(|prefix| all.get(prefix).is_some_and(|s| s.prefix.is_none()));
            assert!(whole, "a segment continues an earlier one that stands alone");
            let keys = length + prefix.map_or(0, |prefix| all[prefix].rows.len());
            assert!(keys <= MOST_KEYS, "a sequence of {keys} tokens, but attention sees at most {MOST_KEYS}");
            all.push(Segment { rows: end..end + length, prefix });
            end += length;
        }
        Self {
            all: all.into(),
            window: usize::MAX,
            sharing: Arc::default(),
            on_device: OnDevice::default(),
            expanded: OnDevice::default(),
        }
    }

    /// The same sequences, in which a token sees `window` positions, its own among them, or all up to its own.
    #[must_use]
    pub fn within(&self, window: Option<usize>) -> Self {
        Self { window: window.unwrap_or(usize::MAX), ..self.clone() }
    }

    /// How many positions a token sees.
    pub(crate) fn window(&self) -> usize {
        self.window
    }

    /// The copy on a device.
    #[cfg_attr(not(feature = "cube"), allow(dead_code, reason = "kernels ask for it"))]
    pub(crate) fn on_device(&self) -> &OnDevice {
        &self.on_device
    }

    /// The copy on a device of what the backward pass needs of keys.
    pub(crate) fn expanded_on_device(&self) -> &OnDevice {
        &self.expanded
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The rows of every segment.
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = Range<usize>> + '_ {
        self.all.iter().map(|segment| segment.rows.clone())
    }

    /// The rows of segment `index`.
    pub(crate) fn rows(&self, index: usize) -> Range<usize> {
        self.all[index].rows.clone()
    }

    /// The rows that segment `index` continues; none where it stands alone.
    pub(crate) fn prefix(&self, index: usize) -> Range<usize> {
        self.all[index].prefix.map_or(0..0, |prefix| self.rows(prefix))
    }

    /// The rows that the keys of every segment are, one segment after another.
    pub(crate) fn keys(&self) -> Vec<u32> {
        let of = |index| self.prefix(index).chain(self.rows(index));
        (0..self.len()).flat_map(of).map(|row| row as u32).collect()
    }

    /// Which keys are each row; `None` where no segment continues another, so that each is one.
    pub(super) fn sharing(&self) -> Option<&Scatter> {
        let rows = self.all.last().map_or(0, |last| last.rows.end);
        let shared = self.all.iter().any(|segment| segment.prefix.is_some());
        shared.then(|| self.sharing.get_or_init(|| Scatter::new(&self.keys(), rows)))
    }

    /// Splits `x` `[tokens, width]` into the rows of every segment.
    pub(crate) fn split<'a>(&self, mut x: &'a mut [f32], width: usize) -> Vec<&'a mut [f32]> {
        let take = |range: Range<usize>| {
            let (head, tail) = std::mem::take(&mut x).split_at_mut(range.len() * width);
            x = tail;
            head
        };
        self.ranges().map(take).collect()
    }
}
