//! The parameters of a decoder on their way to a file and back, one tensor at a time: a model that is saved or restored is
//! never in memory twice.

use std::path::Path;

use burn_tensor::{Tensor, TensorData};
use hardy_ops::NoisyBackend;
use rayon::prelude::*;

use super::{Dtype, adapter::fingerprint_of, read_each, write_each};
use crate::{Result, decoder::Decoder, narrow::narrow};

impl<B: NoisyBackend> Decoder<B> {
    /// Writes every parameter to `path` as `dtype`; see [`write_each`].
    ///
    /// # Errors
    /// A file that can not be written.
    pub fn write_parameters(&self, path: &Path, dtype: Dtype) -> Result<()> {
        self.write_from(0, path, dtype)
    }

    /// Writes the parameters that are trained.
    ///
    /// # Errors
    /// A file that can not be written.
    pub fn write_trained(&self, path: &Path, dtype: Dtype) -> Result<()> {
        self.write_from(self.blueprint.frozen, path, dtype)
    }

    fn write_from(&self, first: usize, path: &Path, dtype: Dtype) -> Result<()> {
        let parameters = &self.parameters[first..];
        write_each(path, &self.blueprint.parameters[first..], dtype, |index| host(&parameters[index]))
    }

    /// Sets the parameters that are trained to those in `path`.
    ///
    /// # Errors
    /// A file that can not be read, or does not hold them; some may have been set then.
    pub fn read_trained(&mut self, path: &Path) -> Result<()> {
        let (blueprint, frozen) = (self.blueprint.clone(), self.blueprint.frozen);
        let trained = &mut self.parameters[frozen..];
        read_each(path, &blueprint.parameters[frozen..], |index, data| {
            let (shape, device) = (trained[index].dims(), trained[index].device());
            trained[index] = Tensor::from_data(TensorData::new(data, shape), &device);
        })
    }

    /// The decoder as it would be after being written as `dtype` and read again, in as little memory as that allows. With
    /// adapters it stays as it is, for they are written in f32 and their base is not.
    #[must_use]
    pub fn stored_as(&self, dtype: Dtype) -> Self {
        let mut stored = self.clone();
        if dtype == Dtype::F32 || self.blueprint.adapters.is_some() {
            return stored;
        }
        for tensor in &mut stored.parameters {
            let rounded: Vec<f32> = host(tensor).par_iter().map(|&x| dtype.round(x)).collect();
            *tensor = Tensor::from_data(TensorData::new(rounded, tensor.dims()), &tensor.device());
            narrow(tensor);
        }
        stored
    }

    /// The [`fingerprint`](super::fingerprint) of the parameters.
    pub fn fingerprint(&self) -> String {
        let names = self.blueprint.parameters.iter().map(|spec| spec.name.as_str());
        fingerprint_of(names.zip(self.parameters.iter().map(host)))
    }
}

fn host<B: NoisyBackend>(tensor: &Tensor<B, 2>) -> B::Host {
    B::host(&tensor.clone().into_primitive().tensor())
}
