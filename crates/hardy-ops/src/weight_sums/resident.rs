//! Sums that lie on a device, whatever backend's they are.

use std::{any::Any, fmt};

use burn_tensor::{Tensor, TensorPrimitive};

use crate::backend::{NoisyBackend, Primitive};

/// A sum on a device, whose backend the one who put it there knows.
pub(super) trait Resident: Any + Send {
    /// How many elements it has.
    fn length(&self) -> usize;
    /// Its elements; waits for the device.
    fn host(&self) -> Vec<f32>;
    /// With another on the same device added to it.
    fn plus(self: Box<Self>, other: Box<dyn Resident>) -> Box<dyn Resident>;
    /// With zeros added to it, which a negative zero does not outlive.
    fn plus_zero(self: Box<Self>) -> Box<dyn Resident>;
    /// As the one who put it there knows it.
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

impl fmt::Debug for dyn Resident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} elements on the device", self.length())
    }
}

/// A sum of a backend.
pub(super) struct OnDevice<B: NoisyBackend>(pub Primitive<B>);

impl<B: NoisyBackend> OnDevice<B> {
    fn tensor(self) -> Tensor<B, 2> {
        Tensor::from_primitive(TensorPrimitive::Float(self.0))
    }

    fn boxed(x: Tensor<B, 2>) -> Box<dyn Resident> {
        Box::new(Self(x.into_primitive().tensor()))
    }
}

impl<B: NoisyBackend> Resident for OnDevice<B> {
    fn length(&self) -> usize {
        B::shape(&self.0).iter().product()
    }

    fn host(&self) -> Vec<f32> {
        B::host(&self.0).to_vec()
    }

    fn plus(self: Box<Self>, other: Box<dyn Resident>) -> Box<dyn Resident> {
        match other.into_any().downcast::<Self>() {
            Ok(other) => Self::boxed(self.tensor() + other.tensor()),
            Err(_) => panic!("sums that are added lie on one device"),
        }
    }

    fn plus_zero(self: Box<Self>) -> Box<dyn Resident> {
        Self::boxed(self.tensor().add_scalar(0.0))
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
