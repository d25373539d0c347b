//! One guarded call against a semaphore and a timer around the same call, and against other libraries, in
//! the same process.

use std::hint::black_box;
use std::time::{Duration, Instant};

use recloser::{AsyncRecloser, Recloser};
use steadfast_guard::{CallContext, Classify, Effect, ErrorClass, Guard, Policy};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tower::{Service, ServiceBuilder, ServiceExt as _};
use tower_resilience::bulkhead::BulkheadLayer;
use tower_resilience::circuitbreaker::CircuitBreakerLayer;
use tower_resilience::retry::RetryLayer;
use tower_resilience::timelimiter::TimeLimiterLayer;

/// The limit of a call.
const LIMIT: Duration = Duration::from_secs(60);
/// The limit of a call and its repetitions.
const TOTAL: Duration = Duration::from_secs(120);
/// Calls in flight at once.
const CONCURRENCY: usize = 32;
/// Ways to protect a call.
const CASES: usize = 6;

/// Calls per round.
const CALLS: u32 = 100_000;
/// Rounds; the median counts.
const ROUNDS: usize = 15;

#[derive(Debug, thiserror::Error)]
#[error("never")]
struct Never;

impl Classify for Never {
    fn class(&self) -> ErrorClass {
        ErrorClass::Internal
    }
}

/// Calls whose allocations are counted.
const COUNTED: u32 = 1000;

/// Prints, for each way to protect a call that does nothing, nanoseconds, the ratio to the first, and
/// allocations.
pub(crate) fn run() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let guard = Guard::new("bench", Policy::default())?;
    let open = Guard::new("bench", Policy::default())?;
    open.force_open();
    let semaphore = Semaphore::new(CONCURRENCY);
    let mut layers = ServiceBuilder::new()
        .concurrency_limit(CONCURRENCY)
        .timeout(LIMIT)
        .service_fn(|number: u32| async move { Ok::<_, Never>(black_box(number)) });
    let mut resilience = resilience_layers()?;
    anyhow::ensure!(through(&runtime, &mut resilience, CALLS) == CALLS, "the layers refuse calls");
    let breaker = AsyncRecloser::from(Recloser::default());

    let mut plain = |calls: u32| {
        runtime.block_on(async {
            for number in 0..calls {
                let permit = semaphore.acquire().await;
                let answer = tokio::time::timeout(LIMIT, async { black_box(number) }).await;
                black_box(answer.is_ok() && permit.is_ok());
            }
        });
    };
    let guarded = |guard: &Guard, calls: u32| {
        runtime.block_on(async {
            for number in 0..calls {
                let call = |_| async move { Ok::<_, Never>(black_box(number)) };
                black_box(guard.call(CallContext::new(Effect::Read), call).await.is_ok());
            }
        });
    };
    let mut with_breaker = |calls: u32| {
        runtime.block_on(async {
            for number in 0..calls {
                let call = async { Ok::<_, Never>(black_box(number)) };
                black_box(breaker.call(call).await.is_ok());
            }
        });
    };
    let cases: [(&str, &mut dyn FnMut(u32)); CASES] = [
        ("tokio semaphore + timeout", &mut plain),
        ("full guard", &mut |calls| guarded(&guard, calls)),
        ("open breaker refuses", &mut |calls| guarded(&open, calls)),
        ("tower: concurrency limit + timeout", &mut |calls| {
            black_box(through(&runtime, &mut layers, calls));
        }),
        ("tower-resilience: time limits, retry, breaker, bulkhead", &mut |calls| {
            black_box(through(&runtime, &mut resilience, calls));
        }),
        ("recloser: breaker alone", &mut with_breaker),
    ];
    print(cases);
    Ok(())
}

/// The layers of tower-resilience that do what a guard does, in the order that its composition guide gives
/// for calls to a dependency: the total limit outermost, then retry, breaker and bulkhead, and the limit of
/// one attempt innermost.
fn resilience_layers() -> anyhow::Result<impl Service<u32>> {
    let breaker = CircuitBreakerLayer::standard().build()?;
    let bulkhead = BulkheadLayer::builder().max_concurrent_calls(CONCURRENCY).build()?;
    Ok(ServiceBuilder::new()
        .layer(TimeLimiterLayer::builder().timeout_duration(TOTAL).build())
        .layer(RetryLayer::<u32, u32, _>::exponential_backoff().build())
        .layer(breaker)
        .layer(bulkhead)
        .layer(TimeLimiterLayer::builder().timeout_duration(LIMIT).build())
        .service_fn(|number: u32| async move { Ok::<_, Never>(black_box(number)) }))
}

/// Calls a service one time after the other, and says how many calls it answered.
fn through(runtime: &Runtime, service: &mut impl Service<u32>, calls: u32) -> u32 {
    runtime.block_on(async {
        let mut answered = 0;
        for number in 0..calls {
            let Ok(ready) = service.ready().await else { break };
            answered += u32::from(black_box(ready.call(number).await.is_ok()));
        }
        answered
    })
}

fn print(mut cases: [(&str, &mut dyn FnMut(u32)); CASES]) {
    let mut times = [const { Vec::new() }; CASES];
    // Round by round, so that what disturbs the machine disturbs all alike.
    for _ in 0..ROUNDS {
        for ((_, case), times) in cases.iter_mut().zip(&mut times) {
            times.push(time(|| case(CALLS)));
        }
    }
    println!("| one call | ns | ratio | allocations |");
    println!("|---|---:|---:|---:|");
    let times = times.map(median);
    for ((name, case), time) in cases.iter_mut().zip(times) {
        let before = crate::ALLOCATOR.stats().allocations;
        case(COUNTED);
        let each = (crate::ALLOCATOR.stats().allocations - before) as f64 / f64::from(COUNTED);
        println!("| {name} | {time:.0} | {:.2} | {each:.1} |", time / times[0]);
    }
    println!();
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the real clock")]
fn time(body: impl FnOnce()) -> f64 {
    let began = Instant::now();
    body();
    began.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
