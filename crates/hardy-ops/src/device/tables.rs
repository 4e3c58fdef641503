//! Tables on a device: addresses, segments, angles, indices. One that a whole pass reads is uploaded when a kernel first asks
//! for it, and kept beside the table of the host.

use std::{
    any::Any,
    cell::Cell,
    fmt,
    sync::{Arc, OnceLock},
};

use burn_tensor::{
    TensorData,
    ops::{FloatTensor, IntTensor},
};

use crate::{
    backend::NoisyBackend,
    indices::Indices,
    ops::attention::{Angles, Segments},
    rows::Rows,
    scatter::Scatter,
    site::Pass,
};

/// The copy of a table on the device that first asked for it.
#[derive(Clone, Default)]
pub(crate) struct OnDevice(Arc<OnceLock<Box<dyn Any + Send + Sync>>>);

impl fmt::Debug for OnDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.get().is_some() { "uploaded" } else { "not uploaded" })
    }
}

impl OnDevice {
    /// The copy on `device`. One for another device is made anew each time.
    pub fn get<D, T>(&self, device: &D, upload: impl Fn() -> T) -> T
    where
        D: Clone + PartialEq + Send + Sync + 'static,
        T: Clone + Send + Sync + 'static,
    {
        let kept = self.0.get_or_init(|| Box::new((device.clone(), upload())));
        match kept.downcast_ref::<(D, T)>() {
            Some((on, table)) if on == device => table.clone(),
            _ => upload(),
        }
    }
}

thread_local! {
    static UPLOADS: Cell<usize> = const { Cell::new(0) };
}

/// How many tables this thread has uploaded so far.
pub fn uploads() -> usize {
    UPLOADS.get()
}

/// Counts one more.
pub(crate) fn count_upload() {
    UPLOADS.set(uploads() + 1);
}

/// A table of words, `[length]`.
pub(crate) fn table<B: NoisyBackend>(words: Vec<u32>, device: &B::Device) -> IntTensor<B> {
    let length = words.len();
    count_upload();
    B::int_from_data(TensorData::new(words, [length]), device)
}

impl Rows {
    /// The addresses in `pass` on `device`, `[rows, 4]`: position, the low and the high half of the sequence, and whether
    /// the row is counted.
    pub(crate) fn table<B: NoisyBackend>(&self, pass: Pass, device: &B::Device) -> IntTensor<B> {
        self.on_device(pass).get(device, || {
            let mut counted = vec![0; self.len()];
            for (span, counts) in self.spans(pass, 0..self.len()) {
                counted[span].fill(u32::from(counts));
            }
            let row = |(row, counted): (&hardy_numerics::Row, u32)| {
                [row.position, row.sequence as u32, (row.sequence >> 32) as u32, counted]
            };
            table::<B>(self.of(pass).iter().zip(counted).flat_map(row).collect(), device)
        })
    }

    /// The runs of at most `limit` rows on `device`: the first row of each, and the end of the last.
    pub(crate) fn runs_on<B: NoisyBackend>(&self, limit: usize, device: &B::Device) -> IntTensor<B> {
        self.runs_on_device(limit).get(device, || {
            let starts = self.runs(limit).into_iter().map(|run| run.start as u32);
            table::<B>(starts.chain([self.len() as u32]).collect(), device)
        })
    }
}

impl Indices {
    /// On `device`, `[length]`.
    pub(crate) fn table<B: NoisyBackend>(&self, device: &B::Device) -> IntTensor<B> {
        self.on_device().get(device, || table::<B>(self.to_vec(), device))
    }

    /// The order in which a scatter into a table of `height` rows adds by them, on `device`.
    pub(crate) fn order<B: NoisyBackend>(&self, height: usize, device: &B::Device) -> IntTensor<B> {
        let new = || (height, table::<B>(Scatter::new(self, height).into_table(), device));
        let (kept_height, kept) = self.order_on_device().get(device, new);
        if kept_height == height { kept } else { new().1 }
    }
}

impl Segments {
    /// `[segments, 4]`: first row and rows, first row and rows of what it continues.
    #[cfg_attr(not(feature = "cube"), allow(dead_code, reason = "kernels ask for it"))]
    pub(crate) fn words(&self) -> Vec<u32> {
        let one = |index| {
            let (rows, prefix) = (self.rows(index), self.prefix(index));
            [rows.start, rows.len(), prefix.start, prefix.len()].map(|word| word as u32)
        };
        (0..self.len()).flat_map(one).collect()
    }
}

impl Angles {
    /// On `device`, `[tokens, half, 2]`.
    pub(crate) fn table<B: NoisyBackend>(&self, device: &B::Device) -> FloatTensor<B> {
        self.on_device().get(device, || {
            let angles: Vec<f32> = self.pairs().iter().flat_map(|&(cos, sin)| [cos, sin]).collect();
            let length = angles.len();
            count_upload();
            B::float_from_data(TensorData::new(angles, [length]), device)
        })
    }
}
