//! An order as a saga: reserve, charge, ship. The payment does not answer in time, so everything is undone,
//! backwards; once it answers again, a person resumes the order and it starts over (SCOPE R12).
//!
//! The run lives in a SQLite file. Kill the process anywhere and start it again on the same file: it goes on.

#![expect(clippy::print_stdout, reason = "an example prints")]

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Deserialize;
use steadfast_guard::{Classify, ErrorClass};
use steadfast_runtime::code::{RunContext, StepError};
use steadfast_runtime::{Catalog, ResumeRun, Runtime, RuntimeOptions, SubmitRun};
use steadfast_store::{SqliteOptions, SqliteStore};

#[derive(Deserialize)]
struct Order {
    sku: String,
    count: u32,
}

#[derive(Debug, thiserror::Error)]
#[error("the shop is closed")]
struct Closed;

impl Classify for Closed {
    fn class(&self) -> ErrorClass {
        ErrorClass::Unavailable
    }
}

/// The shop's world outside: here it only prints, and its payment answers or does not.
#[derive(Clone, Default)]
struct Shop {
    payment_answers: Arc<AtomicBool>,
}

impl Shop {
    async fn charge(&self) -> Result<u64, Closed> {
        println!("  charge: the payment is asked");
        if !self.payment_answers.load(Ordering::SeqCst) {
            pending::<()>().await;
        }
        println!("  charge: 42.00 charged");
        Ok(4_200)
    }
}

async fn order(shop: Shop, run: RunContext) -> Result<String, StepError> {
    let Order { sku, count } = run.input()?;
    let (sku, goods) = (&sku, format!("{count} of {sku}"));
    let reserve = async || {
        println!("  reserve: {goods}");
        Ok::<_, Closed>(())
    };
    run.step("reserve").idempotent().call(|_| reserve()).await?;
    let back = goods.clone();
    run.compensate("reserve").by(move |_| {
        println!("  undo reserve: {back} given back");
        async { Ok::<_, Closed>(()) }
    });
    // Said before the step: a charge that did not answer in time may have taken place.
    run.compensate("charge").by(|_| {
        println!("  undo charge: refunded, if anything was charged under this key");
        async { Ok::<_, Closed>(()) }
    });
    let charge = run.step("charge").idempotent().within(Duration::from_millis(200));
    let cents: u64 = charge.call(|_| shop.charge()).await?;
    let ship = |_| async {
        println!("  ship: {goods}");
        Ok::<_, Closed>(format!("parcel-{sku}"))
    };
    let parcel: String = run.step("ship").idempotent().call(ship).await?;
    Ok(format!("{parcel}, {cents} cents"))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let store = SqliteStore::open(folder.path().join("orders.db"), SqliteOptions::default())?;
    let shop = Shop::default();
    let code = shop.clone();
    let catalog = Catalog::builder().code("order", move |run| order(code.clone(), run)).build()?;
    let runtime = Runtime::start(Arc::new(store), catalog, RuntimeOptions::default()).await?;

    println!("order:");
    let order = SubmitRun::new("order", r#"{ "sku": "tea", "count": 3 }"#);
    let run = runtime.submit(order).await?.run.id;
    let failed = runtime.wait(run).await?;
    println!("{}: {}", failed.state, failed.ending.unwrap_or_default());

    println!("the payment answers again; resumed:");
    shop.payment_answers.store(true, Ordering::SeqCst);
    runtime.resume(ResumeRun { run, by: "ada".to_owned() }).await?;
    let done = runtime.wait(run).await?;
    println!("{}: {}", done.state, done.ending.unwrap_or_default());
    runtime.shutdown().await?;
    Ok(())
}
