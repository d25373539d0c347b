//! One guarded call against a semaphore and a timer around the same call, and against other libraries, in
//! the same process.

use std::cell::RefCell;
use std::hint::black_box;
use std::time::{Duration, Instant};

use recloser::{AsyncRecloser, Recloser};
use steadfast_guard::{CallContext, Classify, Effect, ErrorClass, Guard, Policy};
use tokio::sync::Semaphore;
use tower::{Service as _, ServiceBuilder, ServiceExt as _};

/// The limit of a call.
const LIMIT: Duration = Duration::from_secs(60);

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
    let semaphore = Semaphore::new(32);
    let layers = ServiceBuilder::new()
        .concurrency_limit(32)
        .timeout(LIMIT)
        .service_fn(|number: u32| async move { Ok::<_, Never>(black_box(number)) });
    let layers = RefCell::new(layers);
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
    let mut with_layers = |calls: u32| {
        let mut layers = layers.borrow_mut();
        runtime.block_on(async {
            for number in 0..calls {
                let ready = layers.ready().await;
                let Ok(ready) = ready else { return };
                black_box(ready.call(number).await.is_ok());
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
    let cases: [(&str, &mut dyn FnMut(u32)); 5] = [
        ("tokio semaphore + timeout", &mut plain),
        ("full guard", &mut |calls| guarded(&guard, calls)),
        ("open breaker refuses", &mut |calls| guarded(&open, calls)),
        ("tower: concurrency limit + timeout", &mut with_layers),
        ("recloser: breaker alone", &mut with_breaker),
    ];
    print(cases);
    Ok(())
}

fn print(mut cases: [(&str, &mut dyn FnMut(u32)); 5]) {
    let mut times = [const { Vec::new() }; 5];
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
