//! The demonstration of seed 001: a breaker that opens after two failures, a retry that succeeds at
//! the third attempt, and a mail that is sent once although it is asked for twice (SCOPE R18). The
//! first two are guards; the third is a run with an idempotency key on a store. Time is virtual.

#![expect(clippy::print_stdout, reason = "an example prints")]

use std::cell::Cell;
use std::sync::Arc;

use bytes::Bytes;
use steadfast_guard::{
    BreakerPolicy, CallContext, Classify, Effect, ErrorClass, Guard, Policy, PolicyError,
    RetryPolicy,
};
use steadfast_store::{
    Append, Created, Disposition, Fence, HeadUpdate, Journal, MemoryStore, NewEvent, NewRun, RunId,
    StoreError,
};

#[derive(Debug, thiserror::Error)]
#[error("service unavailable")]
struct Unavailable;

impl Classify for Unavailable {
    fn class(&self) -> ErrorClass {
        ErrorClass::Unavailable
    }
}

/// Five calls, of which the first three would fail: two do, then the breaker refuses the rest.
async fn breaker() -> Result<(), PolicyError> {
    let policy = Policy {
        retry: RetryPolicy { max_retries: 0, ..RetryPolicy::default() },
        breaker: BreakerPolicy { consecutive_failures: 2, ..BreakerPolicy::default() },
        ..Policy::default()
    };
    let guard = Guard::new("search_tool", policy)?;
    for call in 1..=5 {
        let search = |_| async move { if call <= 3 { Err(Unavailable) } else { Ok("results") } };
        let answer = guard.call(CallContext::new(Effect::Read), search).await;
        let mark = if answer.is_ok() { "ok" } else { "failed" };
        let snapshot = guard.snapshot();
        println!("call {call}: {mark}, breaker {}", snapshot.breaker.as_str());
    }
    Ok(())
}

/// An API that fails twice, under a policy of three retries.
async fn retry() -> Result<(), PolicyError> {
    let guard = Guard::new(
        "flaky_api",
        Policy {
            breaker: BreakerPolicy { consecutive_failures: 5, ..BreakerPolicy::default() },
            ..Policy::default()
        },
    )?;
    let calls = Cell::new(0);
    let flaky = |_| {
        calls.set(calls.get() + 1);
        let call = calls.get();
        async move { if call < 3 { Err(Unavailable) } else { Ok("success") } }
    };
    match guard.call(CallContext::new(Effect::Read), flaky).await {
        Ok(answer) => println!("result: true, attempts {}", answer.report.attempts),
        Err(error) => println!("result: false, {error}"),
    }
    Ok(())
}

/// Sends once per key: the log that `create` opens under the key is the record of it.
async fn send_once(store: &Arc<MemoryStore>, key: &str) -> Result<bool, StoreError> {
    let id = RunId::generate();
    let ended = |state: &str| HeadUpdate {
        state: state.to_owned(),
        disposition: Disposition::Parked { wake_at: None },
        summary: Bytes::new(),
    };
    let event = |kind: &'static str| NewEvent { kind: kind.into(), version: 1, body: Bytes::new() };
    let created = store
        .create(NewRun {
            id,
            tenant: "default".to_owned(),
            agent: "mail".to_owned(),
            priority: 0,
            key: Some(key.to_owned()),
            events: vec![event("asked")],
            blobs: Vec::new(),
            head: ended("sending"),
        })
        .await?;
    if matches!(created, Created::Existing(_)) {
        return Ok(true);
    }
    println!("-> the mail leaves (once)");
    store
        .append(Append {
            run: id,
            fence: Fence::Seize,
            expected_seq: 1,
            events: vec![event("sent")],
            blobs: Vec::new(),
            checkpoint: None,
            head: Some(ended("sent")),
        })
        .await?;
    Ok(false)
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("-- circuit breaker --");
    breaker().await?;
    println!("-- exponential backoff --");
    retry().await?;
    println!("-- idempotency --");
    let store = Arc::new(MemoryStore::new());
    for time in 1..=2 {
        let cached = send_once(&store, "send_email_abc123").await?;
        println!("time {time}: cached {cached}, success true");
    }
    Ok(())
}
