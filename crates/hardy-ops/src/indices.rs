//! Numbers of rows: token ids, targets, the places of some rows in a batch. A clone shares them, and what a device has of
//! them, which is uploaded when it first asks.

use std::{ops::Deref, sync::Arc};

use crate::device::OnDevice;

/// Numbers of rows, one after another.
#[derive(Clone, Debug, Default)]
pub struct Indices(Arc<Held>);

#[derive(Debug, Default)]
struct Held {
    numbers: Vec<u32>,
    on_device: OnDevice,
    order: OnDevice,
}

impl Indices {
    /// Whether these are the very numbers of `other`, and not only equal ones.
    pub(crate) fn are(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The copy on a device.
    pub(crate) fn on_device(&self) -> &OnDevice {
        &self.0.on_device
    }

    /// The copy on a device of the order in which a scatter adds by them.
    pub(crate) fn order_on_device(&self) -> &OnDevice {
        &self.0.order
    }
}

impl Deref for Indices {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        &self.0.numbers
    }
}

impl From<Vec<u32>> for Indices {
    fn from(numbers: Vec<u32>) -> Self {
        Self(Arc::new(Held { numbers, ..Held::default() }))
    }
}

impl From<&[u32]> for Indices {
    fn from(numbers: &[u32]) -> Self {
        numbers.to_vec().into()
    }
}

impl From<&Vec<u32>> for Indices {
    fn from(numbers: &Vec<u32>) -> Self {
        numbers.clone().into()
    }
}

impl<const N: usize> From<&[u32; N]> for Indices {
    fn from(numbers: &[u32; N]) -> Self {
        numbers.to_vec().into()
    }
}

impl From<&Self> for Indices {
    fn from(shared: &Self) -> Self {
        shared.clone()
    }
}

impl FromIterator<u32> for Indices {
    fn from_iter<I: IntoIterator<Item = u32>>(numbers: I) -> Self {
        Vec::from_iter(numbers).into()
    }
}
