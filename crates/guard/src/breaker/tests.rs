use proptest::prelude::*;

use super::*;

const OPEN_FOR: Duration = Duration::from_secs(30);

/// The rule of failures in a row alone.
fn policy(consecutive_failures: u32, half_open_probes: u32) -> BreakerPolicy {
    BreakerPolicy {
        consecutive_failures,
        half_open_probes,
        open_for: OPEN_FOR,
        max_open_for: OPEN_FOR,
        open_jitter: 0.0,
        min_calls: 1000,
        ..BreakerPolicy::default()
    }
}

fn end(breaker: &mut Breaker, policy: &BreakerPolicy, ticket: Ticket, health: Health, at: Instant) {
    breaker.settle(policy, ticket, Ending { health, took: Duration::ZERO, at }, || 0.0);
}

fn tripped(policy: &BreakerPolicy, now: Instant) -> Breaker {
    let mut breaker = Breaker::new(policy, now);
    for _ in 0..policy.consecutive_failures {
        let ticket = breaker.admit(policy, now).unwrap();
        end(&mut breaker, policy, ticket, Health::Failure, now);
    }
    assert_eq!(breaker.state(now), BreakerState::Open);
    breaker
}

#[test]
fn r10_it_opens_on_the_third_failure_in_a_row_and_a_success_between_starts_the_count_anew() {
    let (policy, now) = (policy(3, 1), Instant::now());
    let mut breaker = Breaker::new(&policy, now);
    use Health::{Failure, Success};
    for health in [Failure, Failure, Success, Failure, Failure] {
        let ticket = breaker.admit(&policy, now).unwrap();
        end(&mut breaker, &policy, ticket, health, now);
        assert_eq!(breaker.state(now), BreakerState::Closed);
    }
    let ticket = breaker.admit(&policy, now).unwrap();
    end(&mut breaker, &policy, ticket, Failure, now);
    assert_eq!(breaker.state(now), BreakerState::Open);
    assert_eq!(breaker.admit(&policy, now + OPEN_FOR / 3), Err(OPEN_FOR * 2 / 3));
}

#[test]
fn r10_a_neutral_end_leaves_the_count_as_it_is() {
    let (policy, now) = (policy(2, 1), Instant::now());
    let mut breaker = Breaker::new(&policy, now);
    for health in [Health::Failure, Health::Neutral] {
        let ticket = breaker.admit(&policy, now).unwrap();
        end(&mut breaker, &policy, ticket, health, now);
        assert_eq!(breaker.look(&policy, now).consecutive_failures, 1);
    }
    let ticket = breaker.admit(&policy, now).unwrap();
    end(&mut breaker, &policy, ticket, Health::Failure, now);
    assert_eq!(breaker.state(now), BreakerState::Open);
}

#[test]
fn r10_half_open_grants_exactly_its_probes_and_a_neutral_end_frees_one() {
    let (policy, now) = (policy(1, 2), Instant::now());
    let mut breaker = tripped(&policy, now);
    let later = now + OPEN_FOR;
    let first = breaker.admit(&policy, later).unwrap();
    breaker.admit(&policy, later).unwrap();
    assert_eq!(breaker.admit(&policy, later), Err(OPEN_FOR));
    end(&mut breaker, &policy, first, Health::Neutral, later);
    assert_eq!(breaker.state(later), BreakerState::HalfOpen);
    breaker.admit(&policy, later).unwrap();
    assert!(breaker.admit(&policy, later).is_err());
}

#[test]
fn r10_a_stale_success_cannot_close_and_a_stale_failure_cannot_open() {
    let (policy, now) = (policy(1, 1), Instant::now());
    let mut breaker = Breaker::new(&policy, now);
    let stale = breaker.admit(&policy, now).unwrap();
    let failing = breaker.admit(&policy, now).unwrap();
    end(&mut breaker, &policy, failing, Health::Failure, now);
    end(&mut breaker, &policy, stale, Health::Success, now);
    assert_eq!(breaker.state(now), BreakerState::Open);
    let later = now + OPEN_FOR;
    let probe = breaker.admit(&policy, later).unwrap();
    end(&mut breaker, &policy, stale, Health::Success, later);
    assert_eq!(breaker.state(later), BreakerState::HalfOpen);
    end(&mut breaker, &policy, probe, Health::Success, later);
    end(&mut breaker, &policy, stale, Health::Failure, later);
    assert_eq!(breaker.state(later), BreakerState::Closed);
}

#[test]
fn r10_an_operator_forces_it_and_auto_starts_afresh_only_after_a_force() {
    let (policy, now) = (policy(1, 1), Instant::now());
    let mut breaker = Breaker::new(&policy, now);
    breaker.force_open();
    assert!(breaker.admit(&policy, now + OPEN_FOR * 9).is_err());
    breaker.force_closed();
    let ticket = breaker.admit(&policy, now).unwrap();
    end(&mut breaker, &policy, ticket, Health::Failure, now);
    assert_eq!(breaker.state(now), BreakerState::ForcedClosed);
    breaker.auto(now);
    assert_eq!(breaker.state(now), BreakerState::Closed);
    let mut open = tripped(&policy, now);
    open.auto(now);
    assert_eq!(open.state(now), BreakerState::Open);
}

fn settle_all(
    breaker: &mut Breaker,
    policy: &BreakerPolicy,
    healths: &[(Health, u64)],
    at: Instant,
) {
    for (health, took_s) in healths {
        let Ok(ticket) = breaker.admit(policy, at) else { return };
        let took = Duration::from_secs(*took_s);
        breaker.settle(policy, ticket, Ending { health: *health, took, at }, || 0.0);
    }
}

/// The defect of a window that does not slide: after a long healthy time it opened only after as long
/// a bad one.
#[test]
fn r10_a_full_window_of_100_opens_on_failure_50_after_100_000_successes() {
    let window = BreakerPolicy {
        consecutive_failures: u32::MAX,
        window_calls: Some(100),
        ..BreakerPolicy::default()
    };
    let now = Instant::now();
    let mut breaker = Breaker::new(&window, now);
    settle_all(&mut breaker, &window, &[(Health::Success, 0); 100_000], now);
    settle_all(&mut breaker, &window, &[(Health::Failure, 0); 49], now);
    assert_eq!(breaker.state(now), BreakerState::Closed);
    settle_all(&mut breaker, &window, &[(Health::Failure, 0)], now);
    assert_eq!(breaker.state(now), BreakerState::Open);
}

#[test]
fn r10_a_share_of_failures_opens_it_only_from_the_minimum_of_calls_on() {
    let (policy, now) = (BreakerPolicy::default(), Instant::now());
    let mut breaker = Breaker::new(&policy, now);
    let mixed = [(Health::Failure, 0), (Health::Success, 0)];
    for _ in 0..4 {
        settle_all(&mut breaker, &policy, &mixed, now);
    }
    settle_all(&mut breaker, &policy, &mixed[..1], now);
    assert_eq!(breaker.state(now), BreakerState::Closed, "9 calls");
    settle_all(&mut breaker, &policy, &mixed[..1], now);
    assert_eq!(breaker.state(now), BreakerState::Open, "6 of 10");
    // the same ends a window apart do not add up
    let mut breaker = Breaker::new(&policy, now);
    for minute in 0..20 {
        settle_all(&mut breaker, &policy, &mixed, now + policy.window * minute);
        assert_eq!(breaker.state(now + policy.window * minute), BreakerState::Closed);
    }
}

#[test]
fn r10_slow_calls_open_it_even_if_they_succeed() {
    let slow_call = Some(Duration::from_secs(5));
    let policy = BreakerPolicy { slow_call, slow_ratio: 0.6, ..BreakerPolicy::default() };
    let now = Instant::now();
    let mut breaker = Breaker::new(&policy, now);
    settle_all(&mut breaker, &policy, &[(Health::Success, 4); 5], now);
    settle_all(&mut breaker, &policy, &[(Health::Success, 5); 7], now);
    assert_eq!(breaker.state(now), BreakerState::Closed, "7 of 12");
    settle_all(&mut breaker, &policy, &[(Health::Success, 6)], now);
    assert_eq!(breaker.state(now), BreakerState::Open, "8 of 13");
}

#[test]
fn r10_it_stays_open_for_twice_as_long_each_time_until_it_was_healthy_for_a_window() {
    let policy = BreakerPolicy {
        consecutive_failures: 1,
        open_for: Duration::from_secs(10),
        max_open_for: Duration::from_secs(35),
        open_jitter: 0.5,
        ..BreakerPolicy::default()
    };
    let mut now = Instant::now();
    let mut breaker = Breaker::new(&policy, now);
    let mut trip = |now: Instant, draw: f64, health: Health| {
        let ticket = breaker.admit(&policy, now).unwrap();
        breaker.settle(&policy, ticket, Ending { health, took: Duration::ZERO, at: now }, || draw);
        breaker.refusal(&policy, now).map(|open| open.as_secs_f64())
    };
    assert_eq!(trip(now, 0.0, Health::Failure), Some(10.0));
    now += Duration::from_secs(10);
    assert_eq!(trip(now, 0.0, Health::Failure), Some(20.0));
    now += Duration::from_secs(20);
    // the limit comes first, and then the jitter
    assert_eq!(trip(now, 0.5, Health::Failure), Some(35.0 * 1.25));
    now += Duration::from_secs(44);
    assert_eq!(trip(now, 0.0, Health::Success), None, "closed");
    assert_eq!(trip(now + policy.window / 2, 0.0, Health::Failure), Some(35.0), "flapping");
    now += policy.window / 2 + Duration::from_secs(35);
    assert_eq!(trip(now, 0.0, Health::Success), None, "closed");
    assert_eq!(trip(now + policy.window, 0.0, Health::Failure), Some(10.0), "healthy between");
}

#[test]
fn r10_a_breaker_that_only_measures_tells_what_it_would_do() {
    let (policy, now) = (policy(2, 1), Instant::now());
    let mut breaker = Breaker::new(&policy, now);
    breaker.only_measure();
    for expected in [false, true, true] {
        settle_all(&mut breaker, &policy, &[(Health::Failure, 0)], now);
        assert_eq!(breaker.look(&policy, now).would_refuse, expected);
    }
    settle_all(&mut breaker, &policy, &[(Health::Success, 0)], now);
    assert!(!breaker.look(&policy, now).would_refuse);
    assert_eq!(breaker.state(now), BreakerState::MetricsOnly);
    breaker.auto(now);
    assert_eq!(breaker.state(now), BreakerState::Closed);
}

#[test]
fn r10_another_policy_keeps_the_window_unless_its_shape_changes() {
    let (old, now) = (BreakerPolicy::default(), Instant::now());
    let mut breaker = Breaker::new(&old, now);
    settle_all(&mut breaker, &old, &[(Health::Success, 0); 5], now);
    let stricter = BreakerPolicy { failure_ratio: 0.1, ..old.clone() };
    breaker.fit(&stricter, now);
    assert_eq!(breaker.look(&stricter, now).counts.calls, 5);
    let counted = BreakerPolicy { window_calls: Some(20), ..old };
    breaker.fit(&counted, now);
    assert_eq!(breaker.look(&counted, now).counts.calls, 0);
}

/// A breaker in a state, and a ticket that may still be settled in it.
fn in_state(name: &str, policy: &BreakerPolicy, now: Instant) -> (Breaker, Option<Ticket>) {
    let mut breaker = Breaker::new(policy, now);
    match name {
        "closed" => {}
        "open" => breaker = tripped(policy, now),
        "half_open" => breaker = tripped(policy, now - OPEN_FOR),
        "forced_open" => breaker.force_open(),
        "forced_closed" => breaker.force_closed(),
        "metrics_only" => breaker.only_measure(),
        other => panic!("no state `{other}`"),
    }
    let ticket = breaker.admit(policy, now).ok();
    assert_eq!(breaker.state(now).as_str(), name);
    (breaker, ticket)
}

/// The state after an event of the documented table; `-` where it cannot happen.
fn after(event: &str, state: &str) -> &'static str {
    let last = event.contains(", the last");
    let (policy, now) = (policy(if last { 1 } else { 2 }, 2), Instant::now() + OPEN_FOR * 9);
    let (mut breaker, ticket) = in_state(state, &policy, now);
    let health = match event.split(',').next().unwrap() {
        "a call is admitted" => {
            return breaker.admit(&policy, now).map_or("-", |_| breaker.state(now).as_str());
        }
        "`open_for` is over" => {
            let later = breaker.state(now + OPEN_FOR).as_str();
            return if later == state { "-" } else { later };
        }
        "an operator forces it open" => return forced(breaker, Breaker::force_open, now),
        "an operator forces it closed" => return forced(breaker, Breaker::force_closed, now),
        "an operator only measures" => return forced(breaker, Breaker::only_measure, now),
        "an operator gives it back" => {
            breaker.auto(now);
            return breaker.state(now).as_str();
        }
        "a call succeeds" => Health::Success,
        "a call fails" => Health::Failure,
        "a call ends neutrally" => Health::Neutral,
        other => panic!("no event `{other}`"),
    };
    let Some(ticket) = ticket else { return "-" };
    end(&mut breaker, &policy, ticket, health, now);
    breaker.state(now).as_str()
}

fn forced(mut breaker: Breaker, force: fn(&mut Breaker), now: Instant) -> &'static str {
    force(&mut breaker);
    breaker.state(now).as_str()
}

#[test]
fn r10_the_documented_table_and_the_code_agree_on_every_cell() {
    let page = include_str!("../../../../docs/states/breaker.md");
    let section = page.split("## Transitions").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut rows = section
        .lines()
        .filter(|line| line.starts_with('|') && !line.starts_with("|---"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>());
    let names = rows.next().unwrap();
    use BreakerState::{Closed, ForcedClosed, ForcedOpen, HalfOpen, MetricsOnly, Open};
    let states =
        [Closed, Open, HalfOpen, ForcedOpen, ForcedClosed, MetricsOnly].map(BreakerState::as_str);
    assert_eq!(names[1..], states);
    let mut events = 0;
    for row in rows {
        events += 1;
        assert_eq!(row[1..], states.map(|state| after(row[0], state)), "{}", row[0]);
    }
    assert_eq!(events, 10);
}

/// The rules as one would tell them: tickets are remembered with the period they belong to.
#[derive(Default)]
struct Naive {
    period: u32,
    failures: u32,
    open_until: Option<u64>,
    half_open: bool,
    out: Vec<u32>,
}

impl Naive {
    fn ask(&mut self, policy: &BreakerPolicy, now_s: u64) -> bool {
        if self.open_until.is_some_and(|until| now_s < until) {
            return false;
        }
        if self.open_until.take().is_some() {
            self.half_open = true;
            self.period += 1;
        }
        let mine = self.out.iter().filter(|period| **period == self.period).count();
        if self.half_open && mine >= policy.half_open_probes as usize {
            return false;
        }
        self.out.push(self.period);
        true
    }

    fn end(&mut self, policy: &BreakerPolicy, which: usize, health: Health, now_s: u64) {
        let period = self.out.remove(which);
        if period != self.period || self.open_until.is_some() || health == Health::Neutral {
            return;
        }
        let failed = health == Health::Failure;
        self.failures = if failed { self.failures + 1 } else { 0 };
        if failed && (self.half_open || self.failures >= policy.consecutive_failures) {
            self.open_until = Some(now_s + OPEN_FOR.as_secs());
            (self.half_open, self.failures) = (false, 0);
            self.period += 1;
        } else if self.half_open {
            self.half_open = false;
            self.period += 1;
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Ask,
    End(usize, Health),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let health = prop_oneof![
        1 => Just(Health::Success),
        3 => Just(Health::Failure),
        1 => Just(Health::Neutral),
    ];
    prop_oneof![
        4 => Just(Step::Ask),
        4 => (any::<usize>(), health).prop_map(|(which, health)| Step::End(which, health)),
        1 => (1_u64..40).prop_map(Step::Pass),
    ]
}

proptest! {
    #[test]
    fn r10_it_agrees_with_a_naive_model(
        failures in 1_u32..4,
        probes in 1_u32..4,
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let (policy, start) = (policy(failures, probes), Instant::now());
        let (mut breaker, mut naive) = (Breaker::new(&policy, start), Naive::default());
        let (mut tickets, mut now_s) = (Vec::new(), 0);
        for step in steps {
            let now = start + Duration::from_secs(now_s);
            match step {
                Step::Pass(seconds) => now_s += seconds,
                Step::Ask => {
                    let granted = breaker.admit(&policy, now);
                    prop_assert_eq!(granted.is_ok(), naive.ask(&policy, now_s));
                    tickets.extend(granted);
                }
                Step::End(which, health) if !tickets.is_empty() => {
                    let which = which % tickets.len();
                    end(&mut breaker, &policy, tickets.remove(which), health, now);
                    naive.end(&policy, which, health, now_s);
                }
                Step::End(..) => {}
            }
            let now = start + Duration::from_secs(now_s);
            let expected = match (naive.open_until, naive.half_open) {
                (Some(until), _) if now_s < until => BreakerState::Open,
                (Some(_), _) | (None, true) => BreakerState::HalfOpen,
                (None, false) => BreakerState::Closed,
            };
            prop_assert_eq!(breaker.state(now), expected);
        }
    }
}
