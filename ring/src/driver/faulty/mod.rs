//! A link that misbehaves, from a seed.

mod fate;
mod plan;

pub use fate::{Damage, Fate, Fates, FaultCounts};
pub use plan::{BadPlan, FaultPlan, Faults, Share};
