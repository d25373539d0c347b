//! What the clones of a guard, and the calls under it, have in common.

use std::sync::Arc;

use crate::admission::Admission;
use crate::stats::Stats;

/// A guard's name, state and counters.
pub(crate) struct Shared {
    pub(crate) name: Arc<str>,
    pub(crate) admission: Admission,
    pub(crate) stats: Stats,
}
