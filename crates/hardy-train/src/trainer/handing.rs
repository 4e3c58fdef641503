//! What workers hand to each other beside gradients: the state of a run that goes on, and receipts.

use burn_tensor::{Tensor, TensorData};
use hardy_ops::{BoundPlan, NoisyBackend, Receipt, sum_of_workers};

use super::Trainer;
use crate::{error::Result, workers::Workers};

impl<B: NoisyBackend> Trainer<B> {
    /// Takes over the first worker's weights, moments and counts.
    ///
    /// # Errors
    /// A worker that is gone.
    pub fn follow_first(&mut self) -> Result<()> {
        let workers = self.workers.clone();
        if workers.size() == 1 {
            return Ok(());
        }
        let counts = [self.steps, self.optimizer.steps, self.nonfinite_in_row];
        [self.steps, self.optimizer.steps, self.nonfinite_in_row] = workers.of_first(counts)?;
        if let Some(sigma) = &mut self.sigma {
            let fits = sigma.restore(workers.of_first(sigma.state().clone())?);
            debug_assert!(fits, "workers have the same plan");
            sigma.apply(&mut self.plan);
        }
        follow(&workers, self.policy.decoder.trained_mut())?;
        follow(&workers, self.optimizer.moments.iter_mut().flatten())
    }

    /// Sums the receipts of all workers up in those of the first; the others begin anew.
    ///
    /// # Errors
    /// A worker that is gone.
    pub fn gather_receipts(&self) -> Result<()> {
        gather_receipts(&self.workers, &self.plan)
    }
}

/// Gives every worker the tensors of the first, which have the same shapes everywhere.
///
/// # Errors
/// A worker that is gone.
pub(crate) fn follow<'a, B: NoisyBackend>(
    workers: &Workers,
    tensors: impl IntoIterator<Item = &'a mut Tensor<B, 2>>,
) -> Result<()> {
    tensors.into_iter().try_for_each(|tensor| {
        let own = workers.is_first().then(|| B::host(&tensor.clone().into_primitive().tensor()).to_vec());
        let data = workers.of_first(own)?.unwrap_or_default();
        if !workers.is_first() {
            *tensor = Tensor::from_data(TensorData::new(data, tensor.dims()), &tensor.device());
        }
        Ok(())
    })
}

/// Sums the receipts of all workers up in those of the first; the others begin anew.
///
/// # Errors
/// A worker that is gone.
pub(crate) fn gather_receipts(workers: &Workers, plan: &BoundPlan) -> Result<()> {
    if workers.size() == 1 {
        return Ok(());
    }
    let mut receipts = sum_receipts(workers, plan)?;
    if !workers.is_first() {
        receipts.iter_mut().for_each(Receipt::clear);
    }
    plan.restore(&receipts);
    Ok(())
}

/// The receipts of all workers as one; see [`sum_of_workers`].
///
/// # Errors
/// A worker that is gone.
pub fn sum_receipts(workers: &Workers, plan: &BoundPlan) -> Result<Vec<Receipt>> {
    Ok(sum_of_workers(workers.gather_records(plan.receipts())?))
}
