//! The addresses of an activation's rows: where the noise of each lies, forward and backward, and what of it was
//! counted before.
//!
//! Forward, a row of a prompt has the prompt's address, whoever computes it and however often. Its gradient is another
//! value for every response, so that backward every row has the address of its sample.

use std::{
    collections::BTreeMap,
    ops::{Deref, Range},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use hardy_numerics::Row;

use crate::{device::OnDevice, indices::Indices, ops::attention::Angles, site::Pass};

/// The addresses of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Forward: of a prompt's token the prompt's, else the sample's.
    pub row: Row,
    /// Backward: the sample's, also of a prompt's token.
    pub gradient: Row,
    /// Whether the row was computed before in the same forward pass. It is perturbed as it was, and not counted again.
    pub repeated: bool,
    /// Neighbours with one number are a group: in the gradient of a weight they are added up by themselves, so that it
    /// does not depend on which groups share a pass.
    pub group: u32,
}

impl From<Row> for Address {
    /// A row whose gradient has its own address.
    fn from(row: Row) -> Self {
        Self { row, gradient: row, repeated: false, group: 0 }
    }
}

/// The addresses of the rows of an activation, `[tokens]`; as a slice, the forward ones.
#[derive(Clone, Debug, Default)]
pub struct Rows(Arc<Columns>);

#[derive(Debug, Default)]
struct Columns {
    forward: Vec<Row>,
    gradients: Vec<Row>,
    /// Runs of rows, with whether they are repeated.
    spans: Vec<(Range<usize>, bool)>,
    /// The rows of every group.
    groups: Vec<Range<usize>>,
    /// Forward and backward addresses.
    on_device: [OnDevice; 2],
    /// Runs of so many rows at most.
    runs_on_device: Mutex<BTreeMap<usize, OnDevice>>,
    /// Those that were asked for: from one row to another, the last that were chosen, and the angles.
    parts: Mutex<BTreeMap<[usize; 2], Rows>>,
    chosen: Mutex<Option<(Indices, Rows)>>,
    angles: OnceLock<(Vec<f32>, f32, Angles)>,
}

impl FromIterator<Address> for Rows {
    fn from_iter<I: IntoIterator<Item = Address>>(addresses: I) -> Self {
        let addresses: Vec<Address> = addresses.into_iter().collect();
        let runs = |same: fn(&Address, &Address) -> bool| {
            addresses.chunk_by(same).scan(0, |end, run| {
                let start = std::mem::replace(end, *end + run.len());
                Some(start..*end)
            })
        };
        Self(Arc::new(Columns {
            forward: addresses.iter().map(|address| address.row).collect(),
            gradients: addresses.iter().map(|address| address.gradient).collect(),
            spans: runs(|a, b| a.repeated == b.repeated)
                .map(|run| (run.clone(), addresses[run.start].repeated))
                .collect(),
            groups: runs(|a, b| a.group == b.group).collect(),
            on_device: Default::default(),
            runs_on_device: Mutex::default(),
            parts: Mutex::default(),
            chosen: Mutex::default(),
            angles: OnceLock::new(),
        }))
    }
}

impl FromIterator<Row> for Rows {
    fn from_iter<I: IntoIterator<Item = Row>>(rows: I) -> Self {
        rows.into_iter().map(Address::from).collect()
    }
}

impl From<&[Row]> for Rows {
    fn from(rows: &[Row]) -> Self {
        rows.iter().copied().collect()
    }
}

impl Deref for Rows {
    type Target = [Row];

    fn deref(&self) -> &[Row] {
        &self.0.forward
    }
}

impl Rows {
    /// Whether these are the very rows of `other`, and not only equal ones.
    pub(crate) fn are(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The addresses in `pass`.
    pub(crate) fn of(&self, pass: Pass) -> &[Row] {
        match pass {
            Pass::Forward => &self.0.forward,
            Pass::Backward => &self.0.gradients,
        }
    }

    /// The copy on a device of the addresses in `pass`.
    pub(crate) fn on_device(&self, pass: Pass) -> &OnDevice {
        &self.0.on_device[pass as usize]
    }

    /// The copy on a device of the runs of at most `limit` rows.
    pub(crate) fn runs_on_device(&self, limit: usize) -> OnDevice {
        let mut all = self.0.runs_on_device.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(limit).or_default().clone()
    }

    /// The rows `range` in runs, with whether each is counted in `pass`: backward, every row is.
    pub(crate) fn spans(
        &self,
        pass: Pass,
        range: Range<usize>,
    ) -> impl Iterator<Item = (Range<usize>, bool)> {
        let whole = (pass == Pass::Backward).then(|| (range.clone(), true));
        let forward = (pass == Pass::Forward).then_some(&self.0.spans).into_iter().flatten();
        let within = forward
            .map(move |(span, repeated)| (span.start.max(range.start)..span.end.min(range.end), !repeated));
        whole.into_iter().chain(within).filter(|(span, _)| !span.is_empty())
    }

    /// How many rows are counted in `pass`.
    pub(crate) fn counted(&self, pass: Pass) -> u64 {
        let spans = self.spans(pass, 0..self.len());
        spans.filter(|(_, counted)| *counted).map(|(span, _)| span.len() as u64).sum()
    }

    /// The rows of every group, in runs of at most `limit` from its first on.
    pub(crate) fn runs(&self, limit: usize) -> Vec<Range<usize>> {
        let cut = |group: &Range<usize>| {
            let end = group.end;
            group.clone().step_by(limit).map(move |first| first..end.min(first.saturating_add(limit)))
        };
        self.0.groups.iter().flat_map(cut).collect()
    }

    /// Some of the rows, one after another; one that is chosen a second time is repeated.
    #[must_use]
    pub fn select(&self, chosen: impl IntoIterator<Item = usize>) -> Self {
        let mut addresses = self.addresses();
        let choose = |row: usize| {
            let address = addresses[row];
            addresses[row].repeated = true;
            address
        };
        chosen.into_iter().map(choose).collect()
    }

    /// Those that `chosen` names, selected once for all who choose by the same numbers.
    #[must_use]
    pub fn chosen(&self, chosen: &Indices) -> Self {
        let mut last = self.0.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, rows)) = last.as_ref().filter(|(by, _)| by.are(chosen)) {
            return rows.clone();
        }
        let rows = self.select(chosen.iter().map(|&row| row as usize));
        *last = Some((chosen.clone(), rows.clone()));
        rows
    }

    /// Those of a range, the same each time.
    pub(crate) fn part(&self, range: Range<usize>) -> Self {
        if range == (0..self.len()) {
            return self.clone();
        }
        let mut parts = self.0.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || self.addresses()[range.clone()].iter().copied().collect();
        parts.entry([range.start, range.end]).or_insert_with(new).clone()
    }

    /// The angles of their positions at these frequencies, in radians a position, for heads that also grow by `factor`;
    /// computed once where all ask for the same.
    pub fn angles(&self, frequencies: &[f32], factor: f32) -> Angles {
        let new = || Angles::new(self.iter().map(|row| row.position), frequencies).scaled(factor);
        let (of, by, kept) = self.0.angles.get_or_init(|| (frequencies.to_vec(), factor, new()));
        if (&of[..], *by) == (frequencies, factor) { kept.clone() } else { new() }
    }

    /// All addresses, row by row.
    pub fn addresses(&self) -> Vec<Address> {
        let Columns { forward, gradients, spans, groups, .. } = &*self.0;
        let pairs = forward.iter().zip(gradients);
        let mut addresses: Vec<Address> =
            pairs.map(|(&row, &gradient)| Address { gradient, ..row.into() }).collect();
        for (span, repeated) in spans {
            addresses[span.clone()].iter_mut().for_each(|address| address.repeated = *repeated);
        }
        for (group, rows) in (0..).zip(groups) {
            addresses[rows.clone()].iter_mut().for_each(|address| address.group = group);
        }
        addresses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(position: u32, group: u32, repeated: bool) -> Address {
        Address { group, repeated, ..Row { sequence: 1, position }.into() }
    }

    #[test]
    fn runs_end_with_every_group_and_begin_with_it() {
        let groups = [0, 0, 0, 0, 0, 1, 2, 2, 2];
        let rows: Rows = (0..).zip(groups).map(|(position, group)| address(position, group, false)).collect();
        assert_eq!(rows.runs(2), [0..2, 2..4, 4..5, 5..6, 6..8, 8..9]);
        assert_eq!(rows.runs(100), [0..5, 5..6, 6..9]);
    }

    #[test]
    fn repeated_rows_are_not_counted_forward_and_are_backward() {
        let repeated = [false, true, true, false];
        let rows: Rows = (0..).zip(repeated).map(|(position, r)| address(position, 0, r)).collect();
        assert_eq!([Pass::Forward, Pass::Backward].map(|pass| rows.counted(pass)), [2, 4]);
        let spans: Vec<_> = rows.spans(Pass::Forward, 2..4).collect();
        assert_eq!(spans, [(2..3, false), (3..4, true)]);
    }

    #[test]
    fn a_row_that_is_chosen_twice_is_repeated() {
        let rows: Rows = (0..3).map(|position| address(position, 0, position == 2)).collect();
        let chosen = rows.select([1, 2, 1]);
        assert_eq!(chosen.iter().map(|row| row.position).collect::<Vec<_>>(), [1, 2, 1]);
        assert_eq!(chosen.counted(Pass::Forward), 1);
    }
}
