use std::cell::Cell;
use std::convert::Infallible;
use std::future::pending;
use std::panic;

use proptest::prelude::*;
use tokio::time::{Instant, sleep};

use super::*;
use crate::{CallContext, Effect, Fallback, Guard, Policy, PolicyError};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
#[error("down")]
struct Down;

impl Classify for Down {
    fn class(&self) -> ErrorClass {
        ErrorClass::Unavailable
    }
}

fn check(on_error: OnCheckError) -> PreCheck {
    PreCheck::new("rule", PreCheckPolicy { on_error, ..PreCheckPolicy::default() }).unwrap()
}

async fn says(answer: CheckAnswer) -> Result<CheckAnswer, Infallible> {
    sleep(SECOND).await;
    Ok(answer)
}

#[tokio::test(start_paused = true)]
async fn r15_a_pre_check_lets_through_or_refuses_with_the_hooks_class_and_reason() {
    for on_error in [OnCheckError::Refuse, OnCheckError::Allow] {
        let check = check(on_error);
        assert_eq!(check.run(says(CheckAnswer::Go)).await.unwrap(), CheckPassed::Checked);
        let forbidden = check.run(says(CheckAnswer::Forbidden("too dear".to_owned()))).await;
        let forbidden = forbidden.unwrap_err();
        assert_eq!(forbidden.class(), ErrorClass::Permission);
        assert_eq!(forbidden.to_string(), "the pre-check `rule` refuses: too dear");
        let invalid = check.run(says(CheckAnswer::Invalid("no id".to_owned()))).await.unwrap_err();
        assert_eq!(invalid.class(), ErrorClass::InvalidRequest);
    }
}

#[tokio::test(start_paused = true)]
async fn r15_a_pre_check_that_is_late_refuses_after_its_own_limit_unless_told_otherwise() {
    let start = Instant::now();
    let stuck = || pending::<Result<CheckAnswer, Infallible>>();
    let late = check(OnCheckError::default()).run(stuck()).await.unwrap_err();
    assert_eq!(start.elapsed(), SECOND * 2);
    assert_eq!(late.class(), ErrorClass::Unavailable);
    assert!(matches!(late, CheckRefused::Late { limit, .. } if limit == SECOND * 2), "{late}");
    let passed = check(OnCheckError::Allow).run(stuck()).await.unwrap();
    assert_eq!((passed, start.elapsed()), (CheckPassed::Unchecked, SECOND * 4));
}

#[tokio::test(start_paused = true)]
async fn r15_a_pre_check_that_fails_or_panics_refuses_unless_told_otherwise() {
    let fails = || async { Err::<CheckAnswer, _>(Down) };
    let panics = || async { panic::resume_unwind(Box::new("half done")) };
    let allow = check(OnCheckError::Allow);
    assert_eq!(allow.run(boxed(fails())).await.unwrap(), CheckPassed::Unchecked);
    assert_eq!(allow.run::<Down>(panics()).await.unwrap(), CheckPassed::Unchecked);
    let refuse = check(OnCheckError::Refuse);
    let source = |refused: CheckRefused| {
        assert_eq!(refused.class(), ErrorClass::Unavailable);
        std::error::Error::source(&refused).unwrap().to_string()
    };
    assert_eq!(source(refuse.run(boxed(fails())).await.unwrap_err()), "down");
    assert_eq!(source(refuse.run::<Down>(panics()).await.unwrap_err()), "it panicked");
}

/// Any error may be a hook's, a boxed one too.
async fn boxed(
    hook: impl Future<Output = Result<CheckAnswer, Down>>,
) -> Result<CheckAnswer, Box<dyn std::error::Error + Send + Sync>> {
    Ok(hook.await?)
}

/// One way with everything around it, and a cheaper one behind it.
async fn ask(
    check: &PreCheck,
    answer: CheckAnswer,
    budget: &CallBudget,
    guard: &Guard,
) -> Result<(&'static str, Vec<Option<ErrorClass>>), Vec<Option<ErrorClass>>> {
    let dear = async {
        check.run(says(answer)).await?;
        let reservation = budget.reserve(60)?;
        let call = |_| async { Ok::<_, Down>("dear") };
        let answer = guard.call(CallContext::new(Effect::Read), call).await?;
        reservation.settle(50);
        Ok::<_, ExpenseError<Down>>(answer.value)
    };
    let cheap = async { Ok::<_, ExpenseError<Down>>("cheap") };
    let ways = Fallback::new().way("dear", dear).way("cheap", cheap);
    let classes = |skipped: Vec<crate::Skipped<'_>>| skipped.iter().map(|one| one.class).collect();
    match ways.answer(Instant::now() + SECOND * 10).await {
        Ok(answer) => Ok((answer.value, classes(answer.skipped))),
        Err(error) => Err(classes(error.skipped)),
    }
}

#[tokio::test(start_paused = true)]
async fn r15_a_refusal_before_the_call_goes_on_to_the_cheaper_way_and_leaves_the_guard_alone() {
    let policy = BudgetPolicy { cost: Some(100), ..BudgetPolicy::default() };
    let budget = CallBudget::new("dear", policy).unwrap();
    let guard = Guard::new("dear", Policy::default()).unwrap();
    let check = check(OnCheckError::Refuse);
    assert_eq!(ask(&check, CheckAnswer::Go, &budget, &guard).await, Ok(("dear", vec![])));
    let over = ask(&check, CheckAnswer::Go, &budget, &guard).await;
    assert_eq!(over, Ok(("cheap", vec![Some(ErrorClass::QuotaExhausted)])));
    let why = || "why".to_owned();
    let forbidden = ask(&check, CheckAnswer::Forbidden(why()), &budget, &guard).await;
    assert_eq!(forbidden, Ok(("cheap", vec![Some(ErrorClass::Permission)])));
    let invalid = ask(&check, CheckAnswer::Invalid(why()), &budget, &guard).await;
    assert_eq!(invalid, Err(vec![Some(ErrorClass::InvalidRequest)]), "wrong on any way");
    assert_eq!(budget.snapshot().cost, 50);
    assert_eq!((guard.snapshot().window_calls, guard.snapshot().cooldown_ms), (1, None));
    guard.force_open();
    let wide = CallBudget::new("dear", BudgetPolicy::default()).unwrap();
    let open = ask(&check, CheckAnswer::Go, &wide, &guard).await;
    assert_eq!(open, Ok(("cheap", vec![Some(ErrorClass::Unavailable)])));
    assert_eq!(wide.snapshot().cost, 60, "nobody said that the call never left");
}

#[tokio::test(start_paused = true)]
async fn r15_a_pre_check_whose_future_is_dropped_drops_its_hook() {
    struct Gone<'a>(&'a Cell<bool>);
    impl Drop for Gone<'_> {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }
    let gone = Cell::new(false);
    let hook = async {
        let _gone = Gone(&gone);
        pending::<Result<CheckAnswer, Infallible>>().await
    };
    let check = check(OnCheckError::Allow);
    tokio::time::timeout(SECOND, check.run(hook)).await.unwrap_err();
    assert!(gone.get());
}

#[test]
fn r15_the_policies_read_units_and_refuse_unknown_keys() {
    let budget: BudgetPolicy = toml::from_str("cost = 5000\nwindow = \"1day\"").unwrap();
    let day = Duration::from_secs(24 * 60 * 60);
    assert_eq!(budget, BudgetPolicy { calls: None, cost: Some(5000), window: day });
    let check: PreCheckPolicy =
        toml::from_str("timeout = \"500ms\"\non_error = \"allow\"").unwrap();
    assert_eq!((check.timeout, check.on_error), (SECOND / 2, OnCheckError::Allow));
    let anomaly: AnomalyPolicy = toml::from_str("factor = 4.0\nclear_after = \"1m\"").unwrap();
    assert_eq!((anomaly.factor, anomaly.clear_after), (4.0, SECOND * 60));
    assert!(toml::from_str::<BudgetPolicy>("costs = 1").is_err());
    assert!(toml::from_str::<PreCheckPolicy>("limit = \"1s\"").is_err());
    assert!(toml::from_str::<AnomalyPolicy>("minimum = 1").is_err());
    for text in [toml::to_string(&BudgetPolicy::default()), toml::to_string(&budget)] {
        toml::from_str::<BudgetPolicy>(&text.unwrap()).unwrap().validate().unwrap();
    }
    let text = toml::to_string(&AnomalyPolicy::default()).unwrap();
    assert_eq!(toml::from_str::<AnomalyPolicy>(&text).unwrap(), AnomalyPolicy::default());
    let text = toml::to_string(&PreCheckPolicy::default()).unwrap();
    assert_eq!(toml::from_str::<PreCheckPolicy>(&text).unwrap(), PreCheckPolicy::default());
}

fn refused(validated: Result<(), PolicyError>, key: &str) {
    let error = validated.unwrap_err();
    assert_eq!(error.key, key);
    assert!(error.to_string().contains("set it"), "{error}");
}

#[test]
fn r15_values_of_zero_and_beyond_counting_are_refused_by_their_key() {
    let budget = BudgetPolicy::default();
    for amount in [0, (1 << 50) + 1, u64::MAX] {
        refused(BudgetPolicy { calls: Some(amount), ..budget }.validate(), "budget.calls");
        refused(BudgetPolicy { cost: Some(amount), ..budget }.validate(), "budget.cost");
        let anomaly = AnomalyPolicy::default();
        refused(AnomalyPolicy { min_calls: amount, ..anomaly }.validate(), "anomaly.min_calls");
        refused(AnomalyPolicy { min_cost: Some(amount), ..anomaly }.validate(), "anomaly.min_cost");
        let max_calls = AnomalyPolicy { max_calls: Some(amount), ..anomaly };
        refused(max_calls.validate(), "anomaly.max_calls");
        refused(AnomalyPolicy { max_cost: Some(amount), ..anomaly }.validate(), "anomaly.max_cost");
    }
    for window in [Duration::ZERO, Duration::from_micros(999), Duration::MAX] {
        refused(BudgetPolicy { window, ..budget }.validate(), "budget.window");
    }
    for timeout in [Duration::ZERO, Duration::MAX] {
        let policy = PreCheckPolicy { timeout, ..PreCheckPolicy::default() };
        refused(policy.validate(), "pre_check.timeout");
        assert!(PreCheck::new("rule", policy).is_err());
    }
    let zero = BudgetPolicy { calls: Some(0), ..budget };
    assert_eq!(CallBudget::new("tool", zero).unwrap_err().key, "budget.calls");
}

#[test]
fn r15_an_anomaly_policy_that_contradicts_itself_is_refused_by_its_key() {
    let policy = AnomalyPolicy::default();
    for factor in [f64::NAN, 1.0, -3.0, f64::INFINITY] {
        refused(AnomalyPolicy { factor, ..policy }.validate(), "anomaly.factor");
    }
    for clear_share in [f64::NAN, 0.0, 1.0] {
        refused(AnomalyPolicy { clear_share, ..policy }.validate(), "anomaly.clear_share");
    }
    for minutes in [0, 10_081, u32::MAX] {
        let learn = AnomalyPolicy { learn_minutes: minutes, ..policy };
        refused(learn.validate(), "anomaly.learn_minutes");
        let rise = AnomalyPolicy { rise_minutes: minutes, ..policy };
        refused(rise.validate(), "anomaly.rise_minutes");
        let fall = AnomalyPolicy { fall_minutes: minutes, ..policy };
        refused(fall.validate(), "anomaly.fall_minutes");
    }
    let clear_after = Duration::MAX;
    refused(AnomalyPolicy { clear_after, ..policy }.validate(), "anomaly.clear_after");
    let wrong = AnomalyPolicy { factor: 0.0, ..policy };
    assert_eq!(Anomaly::new("tool", wrong, |_| {}).unwrap_err().key, "anomaly.factor");
}

proptest! {
    #[test]
    fn r15_every_budget_that_is_allowed_takes_its_first_call(
        calls in prop::option::of(1_u64..=1 << 50),
        cost in prop::option::of(1_u64..=1 << 50),
        window_ms in 1_u64..=365 * 24 * 60 * 60 * 1000,
    ) {
        let policy = BudgetPolicy { calls, cost, window: Duration::from_millis(window_ms) };
        let budget = CallBudget::new("tool", policy).unwrap();
        budget.reserve(cost.unwrap_or(u64::MAX)).unwrap().cancel();
    }
}
