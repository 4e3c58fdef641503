//! The gradients of weights, summed up in place over the micro-batches of an update. The error on ∂W falls on the sum, so
//! that it is one error an update however the batch is cut.

mod resident;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hardy_numerics::ErrorEnergy;

use crate::{
    at::At,
    backend::{NoisyBackend, Primitive},
    clip,
    ops::parallel,
    site::{Point, SiteId},
};
use resident::{OnDevice, Resident};

/// The sums of every site.
#[derive(Clone, Debug)]
pub(crate) struct WeightSums(Arc<[Mutex<SiteSums>]>);

impl WeightSums {
    fn of(&self, site: usize) -> MutexGuard<'_, SiteSums> {
        self.0[site].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to ∂L/∂scale of a learned rule at a site's output.
    pub fn add_scale(&self, site: usize, along: f64) {
        self.of(site).scale += along;
    }

    /// Takes those of all sites.
    pub fn take_scales(&self) -> Vec<f64> {
        (0..self.0.len()).map(|site| std::mem::take(&mut self.of(site).scale)).collect()
    }

    /// The sum of a weight's gradient.
    pub fn with_weight<T>(&self, site: usize, of: impl FnOnce(&[f32]) -> T) -> T {
        of(&self.of(site).weight.total)
    }
}

/// The sums of one site's gradients, empty until something is added.
#[derive(Debug, Default)]
pub(crate) struct SiteSums {
    weight: Sum,
    bias: Vec<f32>,
    /// ∂L/∂scale of a learned rule at the output; handed to nobody with the others.
    scale: f64,
    /// Those of the weight and of the bias that lie on a device.
    there: [Option<Box<dyn Resident>>; 2],
}

/// Which of a site's gradients.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Of {
    Weight,
    Bias,
}

/// The sum of a weight's gradient.
#[derive(Debug, Default)]
pub(crate) struct Sum {
    pub total: Vec<f32>,
    /// What it would be if partial sums were not rounded; empty where they are not.
    pub exact: Vec<f32>,
}

impl Sum {
    /// Makes room for `len` elements, where there is none yet; all threads clear it.
    fn reserve(&mut self, len: usize, rounded: bool) {
        let exact = if rounded { len } else { 0 };
        for (sum, len) in [(&mut self.total, len), (&mut self.exact, exact)] {
            if sum.len() != len {
                *sum = parallel::zeros(len);
            }
        }
    }
}

/// The gradients of all weights that were gathered, without the errors of ∂W: what workers hand to each other.
#[derive(Debug, Default)]
pub struct GradientSums(Vec<SiteSums>);

impl GradientSums {
    /// Adds those of other sequences.
    pub fn add(&mut self, other: Self) {
        self.0.resize_with(self.0.len().max(other.0.len()), SiteSums::default);
        for (own, mut other) in self.0.iter_mut().zip(other.0) {
            own.add_there(&mut other);
            own.parts().into_iter().zip(other.into_parts()).for_each(|(own, other)| add(own, other));
        }
    }

    /// The lengths of all vectors, 0 where nothing was added.
    pub fn lengths(&self) -> Vec<usize> {
        let site = |site: &SiteSums| {
            let [weight, bias] =
                site.there.each_ref().map(|there| there.as_ref().map_or(0, |there| there.length()));
            [site.weight.total.len().max(weight), site.weight.exact.len(), site.bias.len().max(bias)]
        };
        self.0.iter().flat_map(site).collect()
    }

    /// All vectors one after another, with zeros where nothing was added to one that has a length in `lengths`.
    pub fn flat(mut self, lengths: &[usize]) -> Vec<f32> {
        let mut flat = Vec::with_capacity(lengths.iter().sum());
        self.0.resize_with(lengths.len().div_ceil(PARTS), SiteSums::default);
        self.0.iter_mut().for_each(SiteSums::bring_here);
        let parts = self.0.into_iter().flat_map(SiteSums::into_parts);
        for (part, &len) in parts.zip(lengths) {
            let end = flat.len() + len;
            flat.extend(part);
            flat.resize(end, 0.0);
        }
        flat
    }

    /// The sums whose vectors, of these lengths, lie one after another in `flat`.
    pub fn from_flat(mut flat: &[f32], lengths: &[usize]) -> Self {
        let mut next = |len: usize| {
            let (part, rest) = flat.split_at(len);
            flat = rest;
            part.to_vec()
        };
        let site = |lengths: &[usize; PARTS]| {
            let [total, exact, bias] = lengths.map(&mut next);
            SiteSums { weight: Sum { total, exact }, bias, scale: 0.0, there: Default::default() }
        };
        Self(lengths.as_chunks().0.iter().map(site).collect())
    }
}

/// Vectors of a site.
const PARTS: usize = 3;

impl SiteSums {
    fn parts(&mut self) -> [&mut Vec<f32>; PARTS] {
        [&mut self.weight.total, &mut self.weight.exact, &mut self.bias]
    }

    fn into_parts(self) -> [Vec<f32>; PARTS] {
        [self.weight.total, self.weight.exact, self.bias]
    }

    fn here(&mut self, of: Of) -> &mut Vec<f32> {
        match of {
            Of::Weight => &mut self.weight.total,
            Of::Bias => &mut self.bias,
        }
    }

    /// Adds what lies on the device, where both do; else both come to the host.
    fn add_there(&mut self, other: &mut Self) {
        let lies_here = |sums: &mut Self| [Of::Weight, Of::Bias].map(|of| !sums.here(of).is_empty());
        if [lies_here(self), lies_here(other)].concat().contains(&true) {
            self.bring_here();
            other.bring_here();
            return;
        }
        for (own, other) in self.there.iter_mut().zip(&mut other.there) {
            *own = match (own.take(), other.take()) {
                (Some(own), Some(other)) => Some(own.plus(other)),
                (own, other) => own.or(other).map(|sum| sum.plus_zero()),
            };
        }
    }

    /// Brings to the host what lies on a device.
    fn bring_here(&mut self) {
        for of in [Of::Weight, Of::Bias] {
            if let Some(there) = self.there[of as usize].take() {
                add(self.here(of), there.host());
            }
        }
    }

    /// Takes what lies on the device of `B`.
    fn take_there<B: NoisyBackend>(&mut self, of: Of) -> Option<Primitive<B>> {
        let there = self.there[of as usize].take()?;
        match there.into_any().downcast::<OnDevice<B>>() {
            Ok(there) => Some(there.0),
            Err(_) => panic!("the sums of one site lie on one device"),
        }
    }
}

/// `own += other`; one to which nothing was added counts as zeros, also for the sign of a zero.
fn add(own: &mut Vec<f32>, other: Vec<f32>) {
    match (own.is_empty(), other.is_empty()) {
        (_, true) => parallel::each(own, |x| x + 0.0),
        (true, false) => {
            *own = other;
            parallel::each(own, |x| x + 0.0);
        }
        (false, false) => parallel::zip(own, &other, |x, y| x + y),
    }
}

/// No sums yet, for `sites` sites.
pub(crate) fn empty(sites: usize) -> WeightSums {
    WeightSums((0..sites).map(|_| Mutex::default()).collect())
}

/// Takes the sums of all sites.
pub(crate) fn take_all(sums: &WeightSums) -> GradientSums {
    GradientSums((0..sums.0.len()).map(|site| take(sums, site)).collect())
}

/// Sums that were taken, to go on with.
pub(crate) fn from_taken(GradientSums(sums): GradientSums) -> WeightSums {
    WeightSums(sums.into_iter().map(Mutex::new).collect())
}

/// Takes the sums of a site.
fn take(sums: &WeightSums, site: usize) -> SiteSums {
    std::mem::take(&mut sums.of(site))
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
            let mut sums = sums.of(*site);
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
        let mut sums = sums.of(*site);
        sums.bias.resize(len, 0.0);
        add(&mut sums.bias);
        None
    }

    /// The same on a device: `add` is handed the sum so far, where there is one, and gives it with what this pass adds.
    pub(crate) fn gradient_there<B: NoisyBackend>(
        &self,
        of: Of,
        add: impl FnOnce(Option<Primitive<B>>) -> Primitive<B>,
    ) -> Option<Primitive<B>> {
        let Some((sums, site)) = &self.gathering else {
            let sum = add(None);
            return Some(match of {
                Of::Weight => B::weight_gradient_errors(sum, self),
                Of::Bias => sum,
            });
        };
        let mut sums = sums.of(*site);
        let sum = add(sums.take_there::<B>(of));
        sums.there[of as usize] = Some(Box::new(OnDevice::<B>(sum)));
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
        let mut sums = take(sums, site);
        let [dw, db] = [Of::Weight, Of::Bias].map(|of| sums.take_there::<B>(of));
        let SiteSums { weight, bias, .. } = sums;
        let (shape @ [_, width], bias_shape) = (B::shape(w), [1, bias.len()]);
        let dw = match dw {
            Some(dw) => Some(B::weight_gradient_errors(dw, self)),
            // A device injects by itself, also into what workers summed up.
            None if !B::ON_HOST && !weight.total.is_empty() && weight.exact.is_empty() => {
                Some(B::weight_gradient_errors(B::upload(weight.total, shape, w), self))
            }
            None => (!weight.total.is_empty()).then(|| B::upload(self.finish(weight, width), shape, w)),
        };
        let dw = dw.map(|dw| clip::gradient::<B>(self, Point::Weight, w, dw));
        [dw, db.or_else(|| (!bias.is_empty()).then(|| B::upload(bias, bias_shape, w)))]
    }
}
