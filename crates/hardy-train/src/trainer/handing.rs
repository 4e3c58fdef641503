//! What workers hand to each other beside gradients: the state of a run that goes on, and receipts.

use burn_tensor::{Tensor, TensorData};
use hardy_ops::{BoundPlan, NoisyBackend, Receipt, sum_of_workers};

use super::Trainer;
use crate::{
    error::{Error, Result},
    workers::Workers,
};

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
        let follow = |tensor: &mut Tensor<B, 2>| -> Result<()> {
            let own = workers.is_first().then(|| B::host(&tensor.clone().into_primitive().tensor()).to_vec());
            let data = workers.of_first(own)?.unwrap_or_default();
            if !workers.is_first() {
                *tensor = Tensor::from_data(TensorData::new(data, tensor.dims()), &tensor.device());
            }
            Ok(())
        };
        self.policy.decoder.trained_mut().iter_mut().try_for_each(follow)?;
        self.optimizer.moments.iter_mut().flatten().try_for_each(follow)
    }

    /// Sums the receipts of all workers up in those of the first; the others begin anew.
    ///
    /// # Errors
    /// A worker that is gone.
    pub fn gather_receipts(&self) -> Result<()> {
        let mut receipts = sum_receipts(&self.workers, &self.plan)?;
        if !self.workers.is_first() {
            receipts.iter_mut().for_each(Receipt::clear);
        }
        self.plan.restore(&receipts);
        Ok(())
    }
}

/// The receipts of all workers as one; see [`sum_of_workers`].
///
/// # Errors
/// A worker that is gone.
pub fn sum_receipts(workers: &Workers, plan: &BoundPlan) -> Result<Vec<Receipt>> {
    let own = plan.receipts();
    if workers.size() == 1 {
        return Ok(own);
    }
    let wrong = |error: serde_json::Error| Error::Worker(format!("receipts of a worker: {error}"));
    let all = workers.gather(serde_json::to_vec(&own).map_err(wrong)?)?;
    let all = all.iter().map(|json| serde_json::from_slice(json).map_err(wrong));
    Ok(sum_of_workers(all.collect::<Result<Vec<Vec<Receipt>>>>()?))
}
