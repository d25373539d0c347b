//! The five tasks of seed 000 through one guard: a success, a timeout, an error, and two calls that the
//! open breaker keeps away from the sick dependency (SCOPE R18). Time is virtual, so the figures are
//! exact.

#![expect(clippy::print_stdout, reason = "an example prints")]

use std::time::Duration;

use steadfast_guard::{
    BreakerPolicy, CallContext, CallError, Classify, Effect, ErrorClass, Guard, Policy, RetryPolicy,
};

struct Task {
    id: &'static str,
    payload: &'static str,
    latency_ms: u64,
    fails: bool,
}

const TASKS: [Task; 5] = [
    Task { id: "r1", payload: "refund", latency_ms: 200, fails: false },
    Task { id: "r2", payload: "slow", latency_ms: 1000, fails: false },
    Task { id: "r3", payload: "fail", latency_ms: 100, fails: true },
    Task { id: "r4", payload: "normal", latency_ms: 300, fails: false },
    Task { id: "r5", payload: "after_breaker", latency_ms: 100, fails: false },
];

#[derive(Debug, thiserror::Error)]
#[error("upstream_error")]
struct Upstream;

impl Classify for Upstream {
    fn class(&self) -> ErrorClass {
        ErrorClass::Server
    }
}

/// The seed counts failed tasks (2 open its breaker); the guard counts failed attempts, and a task
/// has two: 4.
fn policy() -> Policy {
    Policy {
        concurrency: 2,
        attempt_timeout: Duration::from_millis(700),
        retry: RetryPolicy::alike(1, Duration::from_secs(1)),
        breaker: BreakerPolicy { consecutive_failures: 4, ..BreakerPolicy::default() },
        ..Policy::default()
    }
}

async fn upstream(task: &Task) -> Result<String, Upstream> {
    tokio::time::sleep(Duration::from_millis(task.latency_ms)).await;
    if task.fails { Err(Upstream) } else { Ok(format!("ok:{}", task.payload)) }
}

async fn handle(guard: &Guard, task: &Task) -> String {
    match guard.call(CallContext::new(Effect::Read), |_| upstream(task)).await {
        Ok(answer) => {
            format!("{}: ok, result {}, attempts {}", task.id, answer.value, answer.report.attempts)
        }
        Err(CallError::Rejected { .. }) => format!("{}: error circuit_open", task.id),
        Err(CallError::TimedOut { .. }) => format!("{}: error timeout", task.id),
        Err(CallError::Failed { source, .. }) => format!("{}: error {source}", task.id),
        Err(error) => format!("{}: error {error}", task.id),
    }
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), steadfast_guard::PolicyError> {
    let guard = Guard::new("upstream", policy())?;
    println!("results:");
    for task in &TASKS {
        println!("{}", handle(&guard, task).await);
    }
    let snapshot = guard.snapshot();
    let counters = snapshot.counters;
    let latency_ms = counters.latency_sum_micros / 1000;
    println!("\nmetrics:");
    println!("total {}", counters.total);
    println!("success {}", counters.success);
    println!("timeout {}", counters.timeout);
    println!("error {}", counters.error);
    println!("retry {}", counters.retry);
    println!("rejected_by_breaker {}", counters.rejected);
    println!("latency_ms_total {latency_ms}");
    println!("avg_latency_ms {}", latency_ms / counters.success.max(1));
    println!("\n{}", guard.explain());
    Ok(())
}
