use std::sync::Barrier;
use std::thread;

use proptest::prelude::*;
use tokio::time::advance;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A window of a minute: a slice is a second.
fn policy(calls: Option<u64>, cost: Option<u64>) -> BudgetPolicy {
    BudgetPolicy { calls, cost, window: SECOND * 60 }
}

fn budget(calls: Option<u64>, cost: Option<u64>) -> CallBudget {
    CallBudget::new("tool", policy(calls, cost)).unwrap()
}

fn spent(budget: &CallBudget) -> (u64, u64) {
    let snapshot = budget.snapshot();
    (snapshot.calls, snapshot.cost)
}

#[tokio::test(start_paused = true)]
async fn r15_a_refusal_names_the_limit_what_is_spent_what_was_asked_and_when() {
    let budget = budget(Some(3), Some(100));
    let _kept = budget.reserve(98).unwrap();
    advance(SECOND * 10).await;
    let over = budget.reserve(5).unwrap_err();
    assert_eq!(
        over.to_string(),
        "the budget `tool` holds 100 cost units in 60s; 98 are spent and 5 more do not fit, for \
         another 51s"
    );
    assert_eq!((over.limit, over.spent, over.asked), (BudgetLimit::Cost, 98, 5));
    assert_eq!(over.class(), ErrorClass::QuotaExhausted);
    assert_eq!(Classify::retry_after(&over), Some(SECOND * 51));
    for _ in 0..2 {
        let _kept = budget.reserve(1).unwrap();
    }
    let over = budget.reserve(0).unwrap_err();
    assert_eq!((over.limit, over.allowed, over.spent, over.asked), (BudgetLimit::Calls, 3, 3, 1));
}

#[tokio::test(start_paused = true)]
async fn r15_of_two_limits_the_one_that_is_in_the_way_for_longer_is_named() {
    let budget = budget(Some(2), Some(10));
    let _first = budget.reserve(1).unwrap();
    advance(SECOND * 20).await;
    let _second = budget.reserve(9).unwrap();
    let by_cost = budget.reserve(9).unwrap_err();
    assert_eq!((by_cost.limit, by_cost.retry_after), (BudgetLimit::Cost, Some(SECOND * 61)));
    let by_calls = budget.reserve(0).unwrap_err();
    assert_eq!((by_calls.limit, by_calls.retry_after), (BudgetLimit::Calls, Some(SECOND * 41)));
}

#[tokio::test(start_paused = true)]
async fn r15_what_no_window_can_hold_is_refused_for_ever_and_takes_nothing() {
    let budget = budget(None, Some(100));
    for cost in [101, u64::MAX] {
        let over = budget.reserve(cost).unwrap_err();
        assert_eq!((over.retry_after, over.asked, over.spent), (None, cost, 0));
        assert!(over.to_string().contains("raise the limit"), "{over}");
    }
    assert_eq!(spent(&budget), (0, 0));
    budget.reserve(100).unwrap().cancel();
}

#[tokio::test(start_paused = true)]
async fn r15_a_settled_call_costs_what_it_cost_and_a_dropped_one_what_was_reserved() {
    let budget = budget(Some(10), Some(100));
    budget.reserve(60).unwrap().settle(20);
    assert_eq!(spent(&budget), (1, 20));
    drop(budget.reserve(30).unwrap());
    assert_eq!(spent(&budget), (2, 50), "the call may have left");
    let reservation = budget.reserve(50).unwrap();
    assert_eq!(reservation.cost(), 50);
    reservation.cancel();
    assert_eq!(spent(&budget), (2, 50));
    let given_up = async {
        let reservation = budget.reserve(40).unwrap();
        std::future::pending::<()>().await;
        reservation.cancel();
    };
    tokio::time::timeout(SECOND, given_up).await.unwrap_err();
    assert_eq!(spent(&budget), (3, 90), "a dropped future settles nothing");
}

#[tokio::test(start_paused = true)]
async fn r15_what_a_call_cost_beyond_its_reservation_counts_from_its_end_on() {
    let budget = budget(None, Some(100));
    let reservation = budget.reserve(10).unwrap();
    advance(SECOND * 30).await;
    reservation.settle(150);
    assert_eq!(spent(&budget), (1, 150));
    let over = budget.reserve(0).unwrap_err();
    assert_eq!(over.retry_after, Some(SECOND * 61));
    advance(SECOND * 31).await;
    assert_eq!(spent(&budget), (0, 140), "the reservation has left, the excess has not");
    advance(SECOND * 30).await;
    assert_eq!(spent(&budget), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn r15_a_call_longer_than_the_window_gives_nothing_back_and_still_pays_its_excess() {
    let budget = budget(Some(5), Some(100));
    let (cheap, dear, cancelled) =
        (budget.reserve(30).unwrap(), budget.reserve(30).unwrap(), budget.reserve(30).unwrap());
    advance(SECOND * 100).await;
    let _other = budget.reserve(50).unwrap();
    cheap.settle(1);
    cancelled.cancel();
    assert_eq!(spent(&budget), (1, 50), "their slice is another one's now");
    dear.settle(70);
    assert_eq!(spent(&budget), (1, 90));
}

#[tokio::test(start_paused = true)]
async fn r15_the_largest_costs_overflow_nothing() {
    let budget = budget(None, Some(100));
    let (one, two, three) =
        (budget.reserve(1).unwrap(), budget.reserve(1).unwrap(), budget.reserve(1).unwrap());
    one.settle(u64::MAX);
    two.settle(u64::MAX);
    assert_eq!(spent(&budget), (3, u64::MAX));
    assert_eq!(budget.reserve(1).unwrap_err().spent, u64::MAX);
    three.cancel();
    advance(SECOND * 61).await;
    assert_eq!(spent(&budget), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn r15_after_days_of_idleness_a_budget_is_whole() {
    let budget = budget(Some(2), None);
    for days in [1, 9, 300] {
        for _ in 0..2 {
            let _kept = budget.reserve(0).unwrap();
        }
        budget.reserve(0).unwrap_err();
        advance(DAY * days).await;
        assert_eq!(spent(&budget), (0, 0), "after {days} days");
    }
}

#[test]
fn r15_a_clock_that_seems_to_go_back_frees_nothing_early() {
    let now = Instant::now();
    let mut ledger = Ledger::new(&policy(Some(1), None), now);
    let slice = ledger.take(0, now + SECOND * 30).unwrap();
    let over = ledger.take(0, now + SECOND * 10).unwrap_err();
    assert_eq!(over.wait, Some(SECOND * 81));
    ledger.slide(now);
    ledger.cancel(slice, 0, now);
    ledger.take(0, now).unwrap();
    ledger.take(0, now + SECOND * 90).unwrap_err();
    ledger.take(0, now + SECOND * 91).unwrap();
}

#[test]
fn r15_a_thousand_racing_reservations_never_pass_the_limit() {
    for (calls, cost) in [(Some(100), None), (None, Some(700))] {
        let budget = CallBudget::new("tool", BudgetPolicy { calls, cost, ..Default::default() });
        let budget = budget.unwrap();
        let start = Barrier::new(20);
        let admitted = thread::scope(|scope| {
            let racers: Vec<_> = (0..20)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        (0..50).filter(|_| budget.reserve(7).is_ok()).count()
                    })
                })
                .collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).sum::<usize>()
        });
        assert_eq!((admitted, spent(&budget)), (100, (100, 700)));
    }
}

#[test]
fn r15_racing_settlements_and_cancellations_leave_exactly_what_was_spent() {
    let policy = BudgetPolicy { calls: Some(400), ..BudgetPolicy::default() };
    let budget = CallBudget::new("tool", policy).unwrap();
    let settle = |racer: u64| {
        let (mut calls, mut cost) = (0, 0);
        for turn in 0..50 {
            let Ok(reservation) = budget.reserve(10) else { continue };
            let actual = [Some(4), Some(13), None][((racer + turn) % 3) as usize];
            match actual {
                Some(actual) => reservation.settle(actual),
                None => reservation.cancel(),
            }
            calls += u64::from(actual.is_some());
            cost += actual.unwrap_or_default();
        }
        (calls, cost)
    };
    let expected = thread::scope(|scope| {
        let racers: Vec<_> = (0..20).map(|racer| scope.spawn(move || settle(racer))).collect();
        let ended = racers.into_iter().map(|racer| racer.join().unwrap());
        ended.fold((0, 0), |sum, ended| (sum.0 + ended.0, sum.1 + ended.1))
    });
    assert_eq!(spent(&budget), expected);
    assert_eq!(expected.0, 400, "all that were left over took what the cancelled ones gave back");
}

/// What happens to a budget.
#[derive(Clone, Debug)]
enum Act {
    Reserve(u64),
    /// Of the oldest open reservation.
    Settle(u64),
    Cancel,
    Drop,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        5 => (0_u64..40).prop_map(Act::Reserve),
        2 => (0_u64..60).prop_map(Act::Settle),
        1 => Just(Act::Cancel),
        1 => Just(Act::Drop),
    ]
}

/// Keeps every time at which something was spent.
#[derive(Default)]
struct Model {
    charges: Vec<(u64, Amount)>,
}

impl Model {
    /// What was spent less than `length_ms` ago.
    fn within(&self, now_ms: u64, length_ms: u64) -> Amount {
        let mut sum = Amount::default();
        for (at_ms, amount) in &self.charges {
            if now_ms - at_ms < length_ms {
                sum.add(*amount);
            }
        }
        sum
    }
}

const CALLS: u64 = 8;
const COST: u64 = 100;

fn fits(spent: Amount, cost: u64) -> bool {
    spent.calls < CALLS && spent.cost + u128::from(cost) <= u128::from(COST)
}

proptest! {
    /// What goes through fits into every exact window, and what is refused would not have fitted into one
    /// that is a sixtieth longer.
    #[test]
    fn r15_it_agrees_with_a_list_of_everything_spent(
        acts in prop::collection::vec((0_u64..9_000, act()), 1..200),
    ) {
        let start = Instant::now();
        let mut ledger = Ledger::new(&policy(Some(CALLS), Some(COST)), start);
        let (mut model, mut open) = (Model::default(), std::collections::VecDeque::new());
        let mut now_ms = 0;
        for (pause_ms, act) in acts {
            now_ms += pause_ms;
            let now = start + Duration::from_millis(now_ms);
            ledger.slide(now);
            match act {
                Act::Reserve(cost) => match ledger.take(cost, now) {
                    Ok(slice) => {
                        prop_assert!(fits(model.within(now_ms, 60_000), cost));
                        open.push_back((model.charges.len(), slice, cost));
                        model.charges.push((now_ms, Amount { calls: 1, cost: u128::from(cost) }));
                    }
                    Err(over) => {
                        prop_assert!(!fits(model.within(now_ms, 61_000), cost));
                        let wait = over.wait.unwrap();
                        let early = now + wait - Duration::from_nanos(1);
                        prop_assert!(ledger.clone().take(cost, early).is_err(), "{over:?}");
                        prop_assert!(ledger.clone().take(cost, now + wait).is_ok(), "{over:?}");
                    }
                },
                Act::Settle(actual) => {
                    let Some((charge, slice, cost)) = open.pop_front() else { continue };
                    ledger.settle(slice, cost, actual, now);
                    let (kept, excess) = (actual.min(cost), actual.saturating_sub(cost));
                    model.charges[charge].1.cost = u128::from(kept);
                    model.charges.push((now_ms, Amount { calls: 0, cost: u128::from(excess) }));
                }
                Act::Cancel => {
                    let Some((charge, slice, cost)) = open.pop_front() else { continue };
                    ledger.cancel(slice, cost, now);
                    model.charges[charge].1 = Amount::default();
                }
                Act::Drop => drop(open.pop_front()),
            }
            let (least, most) = (model.within(now_ms, 60_000), model.within(now_ms, 61_000));
            prop_assert!(least.calls <= ledger.sum.calls && ledger.sum.calls <= most.calls);
            prop_assert!(least.cost <= ledger.sum.cost && ledger.sum.cost <= most.cost);
        }
    }
}
