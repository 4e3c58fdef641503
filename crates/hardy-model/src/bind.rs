//! Binding a plan to a decoder: its sites, and which of their weights are trained.

use hardy_ops::{BindError, BoundPlan, Phase, Plan, Site};

use crate::sites::Blueprint;

impl Blueprint {
    /// Binds `plan` to the decoder's sites; rules that name no phase act in those of `otherwise`.
    ///
    /// # Errors
    /// As [`Plan::bind_with_frozen`]; with adapters only their own weights are trained.
    pub fn bind(&self, plan: &Plan, otherwise: &[Phase]) -> Result<BoundPlan, BindError> {
        plan.bind_with_frozen(&self.sites, otherwise, |site| self.is_frozen(site))
    }

    fn is_frozen(&self, site: &Site) -> bool {
        let is_adapter = site.module.ends_with(".lora_A") || site.module.ends_with(".lora_B");
        self.adapters.is_some() && !is_adapter
    }
}
