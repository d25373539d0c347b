//! How long the step under way may take, all its attempts and substitutes together.

use std::time::Duration;

use steadfast_guard::Guard;

use crate::agent::{AgentSpec, Decision};
use crate::catalog::Catalog;
use crate::fallback::FallbackRule;

/// The limit of what was decided; `None` for what calls nobody.
pub(crate) fn step_limit(
    catalog: &Catalog,
    agent: &AgentSpec,
    decision: &Decision,
) -> Option<Duration> {
    let of_tool = |name: &str| {
        let entry = catalog.any_tool(name)?;
        // A call with a key may wait as long again for the one that has it.
        let ways = 1 + u32::from(entry.key.is_some());
        Some(limit(&entry.guard, entry.fallback.as_deref(), ways))
    };
    let (limit, within) = match decision {
        Decision::AskModel { within } => {
            let entry = catalog.model(&agent.model)?;
            (limit(&entry.guard, entry.fallback.as_deref(), 1), within)
        }
        Decision::ReadTools { calls, within } => {
            (calls.iter().filter_map(|open| of_tool(&open.call.name)).max()?, within)
        }
        Decision::RunTool { call, within } => (of_tool(&call.call.name)?, within),
        _ => return None,
    };
    Some(limit.min(*within))
}

fn limit(guard: &Guard, fallback: Option<&FallbackRule>, ways: u32) -> Duration {
    let policy = guard.policy();
    let more = fallback.map_or(0, |rule| rule.to.len() + usize::from(rule.compact));
    let ways = ways.saturating_add(u32::try_from(more).unwrap_or(u32::MAX));
    policy.total_timeout.saturating_add(policy.queue_timeout).saturating_mul(ways)
}
