//! The demonstration of seed 001: a breaker that opens after two failures, a retry that succeeds at
//! the third attempt, and a mail that is sent once although it is asked for twice (SCOPE R18). The
//! first two are guards; the third is an operation with an idempotency key. Time is virtual.

#![expect(clippy::print_stdout, reason = "an example prints")]

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use steadfast_guard::{
    BreakerPolicy, CallContext, Classify, Effect, ErrorClass, Guard, Policy, PolicyError,
    RetryPolicy,
};
use steadfast_runtime::{Catalog, OnceError, Operation, Runtime, RuntimeOptions};
use steadfast_store::{BlobHash, KeyName, MemoryStore};
use tokio::time::Instant;

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
        retry: RetryPolicy::alike(0, Duration::ZERO),
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

/// Sends a mail once per key; whether it had been sent before.
async fn send_once(runtime: &Runtime, key: &str) -> Result<bool, OnceError<Unavailable>> {
    let mail = Operation {
        name: KeyName { scope: "default/mail".to_owned(), key: key.to_owned() },
        digest: BlobHash::of(b"the mail"),
        effect: Effect::Once,
        keep: Duration::from_secs(24 * 60 * 60),
        deadline: Instant::now() + Duration::from_secs(60),
    };
    let send = || async {
        println!("-> the mail leaves (once)");
        Ok(Bytes::from_static(b"sent"))
    };
    Ok(runtime.once(mail, send).await?.recorded_at.is_some())
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("-- circuit breaker --");
    breaker().await?;
    println!("-- exponential backoff --");
    retry().await?;
    println!("-- idempotency --");
    let store = Arc::new(MemoryStore::new());
    let catalog = Catalog::builder().build()?;
    let runtime = Runtime::start(store, catalog, RuntimeOptions::default()).await?;
    for time in 1..=2 {
        let cached = send_once(&runtime, "send_email_abc123").await?;
        println!("time {time}: cached {cached}, success true");
    }
    Ok(())
}
