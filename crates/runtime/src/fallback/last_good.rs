//! The last good results of a tool that only reads.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use tokio::time::Instant;

/// What the results of one tool may take, in bytes.
const BYTES_MAX: u64 = 8 * 1024 * 1024;

/// The last good result for each tenant and arguments, as many as fit. In memory: a restart begins anew.
#[derive(Clone, Debug)]
pub(crate) struct LastGood {
    results: Cache<(String, String), Kept>,
    max_age: Duration,
}

#[derive(Clone, Debug)]
struct Kept {
    content: Arc<str>,
    at: Instant,
}

impl LastGood {
    pub(crate) fn new(max_age: Duration) -> Self {
        let weigh = |key: &(String, String), kept: &Kept| {
            u32::try_from(key.0.len() + key.1.len() + kept.content.len()).unwrap_or(u32::MAX)
        };
        Self { results: Cache::builder().max_capacity(BYTES_MAX).weigher(weigh).build(), max_age }
    }

    pub(crate) fn keep(&self, tenant: &str, arguments: &str, content: &str) {
        let key = (tenant.to_owned(), arguments.to_owned());
        self.results.insert(key, Kept { content: content.into(), at: Instant::now() });
    }

    /// A result that is young enough, and its age.
    pub(crate) fn recall(&self, tenant: &str, arguments: &str) -> Option<(Arc<str>, Duration)> {
        let kept = self.results.get(&(tenant.to_owned(), arguments.to_owned()))?;
        let age = kept.at.elapsed();
        (age <= self.max_age).then_some((kept.content, age))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn r14_a_result_is_recalled_for_its_tenant_and_arguments_while_it_is_young() {
        let kept = LastGood::new(Duration::from_secs(60));
        kept.keep("acme", "{}", "old");
        kept.keep("acme", "{}", "new");
        advance(Duration::from_secs(60)).await;
        let (content, age) = kept.recall("acme", "{}").expect("is young enough");
        assert_eq!((content.as_ref(), age), ("new", Duration::from_secs(60)));
        assert!(kept.recall("other", "{}").is_none() && kept.recall("acme", "{1}").is_none());
        advance(Duration::from_secs(1)).await;
        assert!(kept.recall("acme", "{}").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn r14_what_is_too_large_is_not_kept() {
        let kept = LastGood::new(Duration::from_secs(60));
        kept.keep("acme", "{}", &"x".repeat(9 * 1024 * 1024));
        kept.results.run_pending_tasks();
        assert!(kept.recall("acme", "{}").is_none());
    }
}
