//! The examples are run as the programs they are, and say what the seeds say (SCOPE R18).

use std::path::PathBuf;

/// The example, which cargo has built beside this test.
#[expect(clippy::disallowed_methods, reason = "the test starts the example program")]
fn output_of(example: &str) -> String {
    let mut path: PathBuf = std::env::current_exe().expect("this test is a file");
    path.pop();
    path.pop();
    let program = path.join("examples").join(example);
    let output = std::process::Command::new(&program).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run {}: {error}", program.display()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn r18_seed_000_prints_the_outcomes_of_the_seed() {
    let expected = "results:\n\
        r1: ok, result ok:refund, attempts 1\n\
        r2: error timeout\n\
        r3: error upstream_error\n\
        r4: error circuit_open\n\
        r5: error circuit_open\n\
        \n\
        metrics:\n\
        total 5\n\
        success 1\n\
        timeout 1\n\
        error 1\n\
        retry 2\n\
        rejected_by_breaker 2\n\
        latency_ms_total 200\n\
        avg_latency_ms 200\n\
        \n\
        `upstream` refuses calls: the breaker is open";
    let output = output_of("seed-000");
    assert!(output.starts_with(expected), "{output}");
}

#[test]
fn r18_seed_001_prints_the_outcomes_of_the_seed() {
    let expected = "-- circuit breaker --\n\
        call 1: failed, breaker closed\n\
        call 2: failed, breaker open\n\
        call 3: failed, breaker open\n\
        call 4: failed, breaker open\n\
        call 5: failed, breaker open\n\
        -- exponential backoff --\n\
        result: true, attempts 3\n\
        -- idempotency --\n\
        -> the mail leaves (once)\n\
        time 1: cached false, success true\n\
        time 2: cached true, success true\n";
    assert_eq!(output_of("seed-001"), expected);
}

#[test]
fn r12_an_order_whose_payment_times_out_is_undone_and_then_made() {
    let expected = "order:\n  \
        reserve: 3 of tea\n  \
        charge: the payment is asked\n  \
        undo charge: refunded, if anything was charged under this key\n  \
        undo reserve: 3 of tea given back\n\
        failed: step `charge`: it did not end within 200ms; undo charge: done; undo reserve: done\n\
        the payment answers again; resumed:\n  \
        reserve: 3 of tea\n  \
        charge: the payment is asked\n  \
        charge: 42.00 charged\n  \
        ship: 3 of tea\n\
        succeeded: \"parcel-tea, 4200 cents\"\n";
    assert_eq!(output_of("order-saga"), expected);
}
