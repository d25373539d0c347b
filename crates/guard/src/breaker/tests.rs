use proptest::prelude::*;

use super::*;

const OPEN_FOR: Duration = Duration::from_secs(30);

const fn policy(consecutive_failures: u32, half_open_probes: u32) -> BreakerPolicy {
    BreakerPolicy { consecutive_failures, open_for: OPEN_FOR, half_open_probes }
}

fn tripped(policy: &BreakerPolicy, now: Instant) -> Breaker {
    let mut breaker = Breaker::new();
    for _ in 0..policy.consecutive_failures {
        let ticket = breaker.admit(policy, now).unwrap();
        breaker.settle(policy, ticket, Health::Failure, now);
    }
    assert_eq!(breaker.state(now), BreakerState::Open);
    breaker
}

#[test]
fn r10_it_opens_on_the_third_failure_in_a_row_and_a_success_between_starts_the_count_anew() {
    let (policy, now) = (policy(3, 1), Instant::now());
    let mut breaker = Breaker::new();
    use Health::{Failure, Success};
    for health in [Failure, Failure, Success, Failure, Failure] {
        let ticket = breaker.admit(&policy, now).unwrap();
        breaker.settle(&policy, ticket, health, now);
        assert_eq!(breaker.state(now), BreakerState::Closed);
    }
    let ticket = breaker.admit(&policy, now).unwrap();
    breaker.settle(&policy, ticket, Failure, now);
    assert_eq!(breaker.state(now), BreakerState::Open);
    assert_eq!(breaker.admit(&policy, now + OPEN_FOR / 3), Err(OPEN_FOR * 2 / 3));
}

#[test]
fn r10_a_neutral_end_leaves_the_count_as_it_is() {
    let (policy, now) = (policy(2, 1), Instant::now());
    let mut breaker = Breaker::new();
    for health in [Health::Failure, Health::Neutral] {
        let ticket = breaker.admit(&policy, now).unwrap();
        breaker.settle(&policy, ticket, health, now);
        assert_eq!(breaker.consecutive_failures(), 1);
    }
    let ticket = breaker.admit(&policy, now).unwrap();
    breaker.settle(&policy, ticket, Health::Failure, now);
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
    breaker.settle(&policy, first, Health::Neutral, later);
    assert_eq!(breaker.state(later), BreakerState::HalfOpen);
    breaker.admit(&policy, later).unwrap();
    assert!(breaker.admit(&policy, later).is_err());
}

#[test]
fn r10_a_stale_success_cannot_close_and_a_stale_failure_cannot_open() {
    let (policy, now) = (policy(1, 1), Instant::now());
    let mut breaker = Breaker::new();
    let stale = breaker.admit(&policy, now).unwrap();
    let failing = breaker.admit(&policy, now).unwrap();
    breaker.settle(&policy, failing, Health::Failure, now);
    breaker.settle(&policy, stale, Health::Success, now);
    assert_eq!(breaker.state(now), BreakerState::Open);
    let later = now + OPEN_FOR;
    let probe = breaker.admit(&policy, later).unwrap();
    breaker.settle(&policy, stale, Health::Success, later);
    assert_eq!(breaker.state(later), BreakerState::HalfOpen);
    breaker.settle(&policy, probe, Health::Success, later);
    breaker.settle(&policy, stale, Health::Failure, later);
    assert_eq!(breaker.state(later), BreakerState::Closed);
}

#[test]
fn r10_an_operator_forces_it_and_auto_starts_afresh_only_after_a_force() {
    let (policy, now) = (policy(1, 1), Instant::now());
    let mut breaker = Breaker::new();
    breaker.force_open();
    assert!(breaker.admit(&policy, now + OPEN_FOR * 9).is_err());
    breaker.force_closed();
    let ticket = breaker.admit(&policy, now).unwrap();
    breaker.settle(&policy, ticket, Health::Failure, now);
    assert_eq!(breaker.state(now), BreakerState::ForcedClosed);
    breaker.auto();
    assert_eq!(breaker.state(now), BreakerState::Closed);
    let mut open = tripped(&policy, now);
    open.auto();
    assert_eq!(open.state(now), BreakerState::Open);
}

/// A breaker in a state, and a ticket that may still be settled in it.
fn in_state(name: &str, policy: &BreakerPolicy, now: Instant) -> (Breaker, Option<Ticket>) {
    let mut breaker = Breaker::new();
    match name {
        "closed" => {}
        "open" => breaker = tripped(policy, now),
        "half_open" => breaker = tripped(policy, now - OPEN_FOR),
        "forced_open" => breaker.force_open(),
        "forced_closed" => breaker.force_closed(),
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
        "an operator gives it back" => return forced(breaker, Breaker::auto, now),
        "a call succeeds" => Health::Success,
        "a call fails" => Health::Failure,
        "a call ends neutrally" => Health::Neutral,
        other => panic!("no event `{other}`"),
    };
    let Some(ticket) = ticket else { return "-" };
    breaker.settle(&policy, ticket, health, now);
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
    use BreakerState::{Closed, ForcedClosed, ForcedOpen, HalfOpen, Open};
    let states = [Closed, Open, HalfOpen, ForcedOpen, ForcedClosed].map(BreakerState::as_str);
    assert_eq!(names[1..], states);
    let mut events = 0;
    for row in rows {
        events += 1;
        assert_eq!(row[1..], states.map(|state| after(row[0], state)), "{}", row[0]);
    }
    assert_eq!(events, 9);
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
        let (mut breaker, mut naive) = (Breaker::new(), Naive::default());
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
                    breaker.settle(&policy, tickets.remove(which), health, now);
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
