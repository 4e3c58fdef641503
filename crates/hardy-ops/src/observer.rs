//! Watching what linear layers read: the error that a number format would make on it, summed site by site, while the one
//! forward pass goes on undisturbed.

use std::sync::{Mutex, PoisonError};

use hardy_numerics::{ErrorSums, formats::Format};

/// The error of a format on the inputs of every linear layer.
#[derive(Debug)]
pub struct Observer {
    format: Format,
    sums: Vec<Mutex<ErrorSums>>,
}

impl Observer {
    /// An observer of a model with so many sites, which has seen nothing.
    pub fn new(format: Format, sites: usize) -> Self {
        Self { format, sums: (0..sites).map(|_| Mutex::default()).collect() }
    }

    /// Adds an activation `[rows, width]` that `site` reads.
    pub(crate) fn observe(&self, site: usize, width: usize, x: &[f32]) {
        let mut image = x.to_vec();
        // To a rule on activations every row is a tensor by itself.
        image.chunks_mut(width).for_each(|row| self.format.fake_quantize(row, width));
        self.sums[site].lock().unwrap_or_else(PoisonError::into_inner).add_image(x, &image);
    }

    /// The sums of every site, in the order of sites; those that read nothing have no elements.
    pub fn sums(&self) -> Vec<ErrorSums> {
        let copy = |sums: &Mutex<ErrorSums>| *sums.lock().unwrap_or_else(PoisonError::into_inner);
        self.sums.iter().map(copy).collect()
    }
}
