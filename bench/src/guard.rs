//! One guarded call against a semaphore and a timer around the same call, in the same process.

use std::time::{Duration, Instant};

use steadfast_guard::{CallContext, Classify, Effect, ErrorClass, Guard, Policy};
use tokio::sync::Semaphore;

/// Calls per round.
const CALLS: u32 = 100_000;
/// Rounds; the median counts.
const ROUNDS: usize = 15;

#[derive(Debug)]
struct Never;

impl Classify for Never {
    fn class(&self) -> ErrorClass {
        ErrorClass::Internal
    }
}

/// Prints nanoseconds per call and the ratio.
pub(crate) fn run() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let guard = Guard::new("bench", Policy::default())?;
    let semaphore = Semaphore::new(32);
    let (mut plain, mut guarded) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        plain.push(time(|| {
            runtime.block_on(async {
                for number in 0..CALLS {
                    let permit = semaphore.acquire().await;
                    let call = async { std::hint::black_box(number) };
                    let answer = tokio::time::timeout(Duration::from_secs(60), call).await;
                    std::hint::black_box(answer.is_ok() && permit.is_ok());
                }
            });
        }));
        guarded.push(time(|| {
            runtime.block_on(async {
                for number in 0..CALLS {
                    let call = |_| async move { Ok::<_, Never>(std::hint::black_box(number)) };
                    let answer = guard.call(CallContext::new(Effect::Read), call).await;
                    std::hint::black_box(answer.is_ok());
                }
            });
        }));
    }
    let (plain, guarded) = (median(plain), median(guarded));
    println!("| one call | ns | ratio |");
    println!("|---|---:|---:|");
    println!("| tokio semaphore + timeout | {plain:.0} | 1.00 |");
    println!("| full guard | {guarded:.0} | {:.2} |\n", guarded / plain);
    Ok(())
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
