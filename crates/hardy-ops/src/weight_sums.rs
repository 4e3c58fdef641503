//! The gradients of weights, summed up in place over the micro-batches of an update. The error on ∂W falls on the sum, so
//! that it is one error an update however the batch is cut.

use std::sync::{Arc, Mutex, PoisonError};

use hardy_numerics::ErrorEnergy;

use crate::{
    at::At,
    backend::{NoisyBackend, Primitive, shape_of},
    clip,
    site::{Point, SiteId},
};

/// The sums of every site.
pub(crate) type WeightSums = Arc<[Mutex<SiteSums>]>;

/// The sums of one site's gradients, empty until something is added.
#[derive(Debug, Default)]
pub(crate) struct SiteSums {
    weight: Sum,
    bias: Vec<f32>,
}

/// The sum of a weight's gradient.
#[derive(Debug, Default)]
pub(crate) struct Sum {
    pub total: Vec<f32>,
    /// What it would be if partial sums were not rounded; empty where they are not.
    pub exact: Vec<f32>,
}

impl Sum {
    /// Makes room for `len` elements, where there is none yet.
    fn reserve(&mut self, len: usize, rounded: bool) {
        self.total.resize(len, 0.0);
        self.exact.resize(if rounded { len } else { 0 }, 0.0);
    }
}

/// No sums yet, for `sites` sites.
pub(crate) fn empty(sites: usize) -> WeightSums {
    (0..sites).map(|_| Mutex::default()).collect()
}

/// Takes the sums of a site.
fn take(sums: &WeightSums, site: usize) -> SiteSums {
    std::mem::take(&mut sums[site].lock().unwrap_or_else(PoisonError::into_inner))
}

impl At {
    /// The gradient of a weight of `len` elements in rows of `width`, to whose sum `add` adds what this pass gives.
    /// Nothing is handed back where sums are gathered; else the sum with its errors.
    pub(crate) fn weight_gradient(
        &self,
        [len, width]: [usize; 2],
        add: impl FnOnce(&mut Sum),
    ) -> Option<Vec<f32>> {
        let rounded = self.accumulation(Point::GradWeight).is_some();
        if let Some((sums, site)) = &self.gathering {
            let mut sums = sums[*site].lock().unwrap_or_else(PoisonError::into_inner);
            sums.weight.reserve(len, rounded);
            add(&mut sums.weight);
            return None;
        }
        let mut sum = Sum::default();
        sum.reserve(len, rounded);
        add(&mut sum);
        Some(self.finish(sum, width))
    }

    /// The same for a bias, on whose gradient no error falls.
    pub(crate) fn bias_gradient(&self, len: usize, add: impl FnOnce(&mut [f32])) -> Option<Vec<f32>> {
        let Some((sums, site)) = &self.gathering else {
            let mut sum = vec![0.0; len];
            add(&mut sum);
            return Some(sum);
        };
        let mut sums = sums[*site].lock().unwrap_or_else(PoisonError::into_inner);
        sums.bias.resize(len, 0.0);
        add(&mut sums.bias);
        None
    }

    /// Injects the errors of ∂W into a finished sum.
    fn finish(&self, Sum { mut total, exact }: Sum, width: usize) -> Vec<f32> {
        if let Some((_, injection)) = self.accumulation(Point::GradWeight) {
            let energy = ErrorEnergy::between(&exact, &total);
            self.count(injection, Point::GradWeight, 1, total.len() as u64, energy);
        }
        self.perturb_flat(Point::GradWeight, width, &mut total);
        total
    }

    /// The gradients of the weight `w` and of the bias of `site` that were gathered, with their errors, clipped where
    /// the weight saturated; `None` where nothing was added.
    pub(crate) fn gathered<B: NoisyBackend>(
        &self,
        sums: &WeightSums,
        SiteId(site): SiteId,
        w: &Primitive<B>,
    ) -> [Option<Primitive<B>>; 2] {
        let SiteSums { weight, bias } = take(sums, site);
        let shape @ [_, width] = shape_of::<B>(w);
        let dw = (!weight.total.is_empty()).then(|| {
            let dw = B::upload(self.finish(weight, width), shape, w);
            clip::gradient::<B>(self, Point::Weight, w, dw)
        });
        let bias_shape = [1, bias.len()];
        [dw, (!bias.is_empty()).then(|| B::upload(bias, bias_shape, w))]
    }
}
