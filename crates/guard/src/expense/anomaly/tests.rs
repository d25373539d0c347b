use proptest::prelude::*;
use tokio::time::advance;

use super::watch::{MINUTE, SLICE, SLICES};
use super::*;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(60 * 60);

type Heard = Arc<Mutex<Vec<Alert>>>;

/// A watch, and what its hook heard.
fn watch(policy: AnomalyPolicy) -> (Anomaly, Heard) {
    let heard = Heard::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&heard);
    let watch = Anomaly::new("tool", policy, move |alert| told.lock().push(alert.clone())).unwrap();
    (watch, heard)
}

fn take(heard: &Heard) -> Vec<Alert> {
    std::mem::take(&mut *heard.lock())
}

/// A minute with calls at equal distances, each of the same cost.
async fn minute(watch: &Anomaly, calls: u32, cost: u64) {
    for _ in 0..calls {
        watch.record_call();
        watch.record_cost(cost);
        advance(MINUTE / calls).await;
    }
    if calls == 0 {
        advance(MINUTE).await;
    }
}

async fn minutes(watch: &Anomaly, minutes: u32, calls: u32) {
    for _ in 0..minutes {
        minute(watch, calls, 0).await;
    }
}

/// A watch to which ten calls a minute are usual.
async fn learned() -> (Anomaly, Heard) {
    let (watch, heard) = watch(AnomalyPolicy::default());
    minutes(&watch, 20, 10).await;
    assert_eq!(take(&heard), []);
    (watch, heard)
}

fn is_raised(alert: &Alert, by: AlertCause) -> bool {
    matches!(alert.event, AlertEvent::Raised { cause } if cause == by)
}

const fn is_cleared(alert: &Alert) -> bool {
    matches!(alert.event, AlertEvent::Cleared { .. })
}

#[tokio::test(start_paused = true)]
async fn r15_an_episode_is_raised_once_and_cleared_once_with_its_figures() {
    let (watch, heard) = learned().await;
    minutes(&watch, 5, 100).await;
    let raised = take(&heard);
    assert_eq!(raised.len(), 1, "{raised:?}");
    assert!(is_raised(&raised[0], AlertCause::Baseline), "{raised:?}");
    assert_eq!((raised[0].measure, raised[0].last_minute), (AlertMeasure::Calls, 31));
    let usual = raised[0].baseline.unwrap();
    assert!((9.9..=10.1).contains(&usual), "{usual}");
    assert!(watch.snapshot().calls.raised);
    minutes(&watch, 10, 10).await;
    let cleared = take(&heard);
    assert_eq!(cleared.len(), 1, "{cleared:?}");
    let AlertEvent::Cleared { lasted, peak } = cleared[0].event else { panic!("{cleared:?}") };
    assert!(lasted > MINUTE * 10 && lasted < MINUTE * 12, "{lasted:?}");
    // 55 to 60 s of a hundred a minute
    assert!((92..=100).contains(&peak), "{peak}");
    assert!(!watch.snapshot().calls.raised);
    minutes(&watch, 5, 100).await;
    assert_eq!(take(&heard).len(), 1, "the next episode");
}

#[tokio::test(start_paused = true)]
async fn r15_what_is_far_above_the_usual_and_few_calls_all_the_same_raises_nothing() {
    let (watch, heard) = watch(AnomalyPolicy::default());
    minutes(&watch, 20, 1).await;
    minutes(&watch, 5, 18).await;
    assert_eq!(take(&heard), []);
    minute(&watch, 24, 0).await;
    assert_eq!(take(&heard).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn r15_nothing_flaps_between_the_two_levels() {
    let (watch, heard) = learned().await;
    for _ in 0..10 {
        minute(&watch, 34, 0).await;
        minute(&watch, 28, 0).await;
    }
    let heard_of = take(&heard);
    assert_eq!(heard_of.len(), 1, "{heard_of:?}");
    // bursts with quiet between them that is shorter than `clear_after`
    for _ in 0..10 {
        minute(&watch, 60, 0).await;
        minutes(&watch, 3, 1).await;
    }
    assert_eq!(take(&heard), [], "one episode all along");
}

#[tokio::test(start_paused = true)]
async fn r15_a_quiet_night_leaves_the_usual_and_the_mornings_first_calls_raise_nothing() {
    #[derive(Debug)]
    enum Night {
        Empty,
        LookedAt,
        FewCalls,
    }
    for (night, kept) in [(Night::Empty, 0.99), (Night::LookedAt, 0.99), (Night::FewCalls, 0.5)] {
        let (watch, heard) = watch(AnomalyPolicy::default());
        minutes(&watch, 8 * 60, 30).await;
        let evening = watch.snapshot().calls.baseline.unwrap();
        for _ in 0..10 * 60 {
            match night {
                Night::Empty => advance(MINUTE).await,
                Night::LookedAt => {
                    watch.check();
                    advance(MINUTE).await;
                }
                Night::FewCalls => minute(&watch, 1, 0).await,
            }
        }
        let morning = watch.snapshot().calls.baseline.unwrap();
        assert!(morning >= evening * kept, "{night:?}: {evening}, {morning} in the morning");
        minutes(&watch, 60, 40).await;
        assert_eq!(take(&heard), [], "{night:?}");
        minute(&watch, 300, 0).await;
        assert_eq!(take(&heard).len(), 1, "{night:?}: it has not gone blind");
    }
}

#[tokio::test(start_paused = true)]
async fn r15_days_without_a_call_end_an_episode_at_the_next_call_before_anything_else() {
    let (watch, heard) = learned().await;
    minute(&watch, 100, 0).await;
    assert_eq!(take(&heard).len(), 1);
    advance(HOUR * 24 * 40).await;
    watch.record_call();
    let cleared = take(&heard);
    assert!(cleared.len() == 1 && is_cleared(&cleared[0]), "{cleared:?}");
    assert_eq!(cleared[0].last_minute, 0);
}

#[tokio::test(start_paused = true)]
async fn r15_a_look_without_a_call_finds_the_end_of_an_episode() {
    let (watch, heard) = learned().await;
    minute(&watch, 100, 0).await;
    take(&heard);
    advance(MINUTE * 5).await;
    watch.check();
    assert_eq!(take(&heard), [], "the last minute has been empty for four minutes");
    advance(MINUTE).await;
    let _look = watch.snapshot();
    assert_eq!(take(&heard), [], "a snapshot tells nobody");
    watch.check();
    watch.check();
    let cleared = take(&heard);
    assert!(cleared.len() == 1 && is_cleared(&cleared[0]), "{cleared:?}");
}

#[tokio::test(start_paused = true)]
async fn r15_the_first_minutes_raise_nothing_but_a_ceiling_holds_at_once() {
    let policy = AnomalyPolicy { max_calls: Some(500), ..AnomalyPolicy::default() };
    let (watch, heard) = watch(policy);
    minute(&watch, 1, 0).await;
    minute(&watch, 400, 0).await;
    assert_eq!(take(&heard), []);
    assert_eq!(watch.snapshot().calls.baseline, None);
    minute(&watch, 1000, 0).await;
    let raised = take(&heard);
    assert!(raised.len() == 1 && is_raised(&raised[0], AlertCause::Ceiling), "{raised:?}");
    assert_eq!((raised[0].last_minute, raised[0].baseline), (501, None));
    assert!(raised[0].to_string().ends_with("is 501, above the ceiling of 500"), "{}", raised[0]);
}

#[tokio::test(start_paused = true)]
async fn r15_spend_is_watched_apart_from_the_calls() {
    let (watch, heard) = watch(AnomalyPolicy::default());
    for _ in 0..20 {
        minute(&watch, 30, 100).await;
    }
    assert_eq!(take(&heard), []);
    minute(&watch, 30, 500).await;
    let raised = take(&heard);
    assert_eq!(raised.len(), 1, "{raised:?}");
    assert_eq!(raised[0].measure, AlertMeasure::Cost);
    assert!(raised[0].last_minute > 9000 && watch.snapshot().cost.raised);
    assert!(!watch.snapshot().calls.raised);
}

#[tokio::test(start_paused = true)]
async fn r15_few_dear_calls_raise_an_alert_from_the_given_spend_on_only() {
    for (min_cost, alerts) in [(None, 0), (Some(10_000), 0), (Some(4_000), 1)] {
        let (watch, heard) = watch(AnomalyPolicy { min_cost, ..AnomalyPolicy::default() });
        for _ in 0..20 {
            minute(&watch, 2, 500).await;
        }
        minute(&watch, 2, 2_500).await;
        assert_eq!(take(&heard).len(), alerts, "{min_cost:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn r15_a_level_that_lasts_becomes_usual_and_ends_its_own_episode() {
    let (watch, heard) = learned().await;
    minutes(&watch, 30, 50).await;
    assert_eq!(take(&heard).len(), 1);
    assert!(watch.snapshot().calls.raised, "half an hour is not enough");
    minutes(&watch, 90, 50).await;
    let cleared = take(&heard);
    assert!(cleared.len() == 1 && is_cleared(&cleared[0]), "{cleared:?}");
    assert!(watch.snapshot().calls.limit.unwrap() > 100.0);
}

#[tokio::test(start_paused = true)]
async fn r15_one_outbreak_does_not_become_usual() {
    let (watch, heard) = learned().await;
    minute(&watch, 5000, 0).await;
    minutes(&watch, 1, 1).await;
    assert_eq!(take(&heard).len(), 1);
    let usual = watch.snapshot().calls.baseline.unwrap();
    assert!(usual < 11.0, "{usual}");
}

#[tokio::test(start_paused = true)]
async fn r15_a_hook_that_panics_hurts_no_call_and_is_counted() {
    let policy = AnomalyPolicy { max_calls: Some(1), ..AnomalyPolicy::default() };
    let hook = |_: &Alert| std::panic::resume_unwind(Box::new("the pager is down"));
    let watch = Anomaly::new("tool", policy, hook).unwrap();
    for _ in 0..5 {
        watch.record_call();
    }
    let snapshot = watch.snapshot();
    assert_eq!((snapshot.calls.last_minute, snapshot.hook_panics), (5, 1));
}

#[tokio::test(start_paused = true)]
async fn r15_a_hook_may_use_the_watch_and_one_that_blocks_holds_up_no_other_call() {
    let policy = AnomalyPolicy { max_calls: Some(1), ..AnomalyPolicy::default() };
    let (entered, at_hook) = std::sync::mpsc::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (own, released) = (Arc::new(std::sync::OnceLock::<Anomaly>::new()), Mutex::new(released));
    let inside = Arc::clone(&own);
    let hook = move |_: &Alert| {
        let seen = inside.get().unwrap().snapshot().calls.last_minute;
        entered.send(seen).unwrap();
        released.lock().recv().unwrap();
    };
    let watch = own.get_or_init(|| Anomaly::new("tool", policy, hook).unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            watch.record_call();
            watch.record_call();
        });
        assert_eq!(at_hook.recv().unwrap(), 2);
        watch.record_call();
        assert_eq!(watch.snapshot().calls.last_minute, 3, "while the hook blocks");
        release.send(()).unwrap();
    });
    assert!(at_hook.try_recv().is_err(), "once an episode");
}

#[test]
fn r15_of_a_thousand_racing_calls_one_raises_the_alert() {
    let policy = AnomalyPolicy { max_calls: Some(500), ..AnomalyPolicy::default() };
    let (watch, heard) = watch(policy);
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| (0..50).for_each(|_| watch.record_call()));
        }
    });
    let raised = take(&heard);
    assert_eq!(raised.len(), 1, "{raised:?}");
    assert_eq!(raised[0].last_minute, 501);
}

#[test]
fn r15_amounts_beyond_counting_and_a_clock_that_goes_back_are_harmless() {
    let (policy, start) = (AnomalyPolicy::default(), Instant::now());
    let mut watch = Watch::new(start);
    let later = start + HOUR;
    for now in [later, start, later] {
        watch.record(1, u64::MAX, &policy, now);
    }
    assert_eq!((watch.calls.last_minute(), watch.cost.last_minute()), (3, u64::MAX));
    watch.record(1, 1, &policy, later + HOUR);
    assert_eq!((watch.calls.last_minute(), watch.cost.last_minute()), (1, 1));
    assert!(watch.cost.baseline.is_finite());
}

proptest! {
    /// Whatever comes: begins and ends take turns, the last minute is never more than a list of all calls
    /// has in 60 s and never less than it has in 55 s, and what begins has passed the level.
    #[test]
    fn r15_begins_and_ends_take_turns_and_the_last_minute_agrees_with_a_list_of_all_calls(
        calls in prop::collection::vec((0_u64..90_000, 1_u64..60), 1..300),
    ) {
        let policy = AnomalyPolicy { learn_minutes: 3, ..AnomalyPolicy::default() };
        let start = Instant::now();
        let (mut watch, mut all, mut now_ms) = (Watch::new(start), Vec::new(), 0);
        let mut raised = false;
        for (pause_ms, calls) in calls {
            now_ms += pause_ms;
            let now = start + Duration::from_millis(now_ms);
            for (_, found) in watch.record(calls, 0, &policy, now).into_iter().flatten() {
                let begins = matches!(found.event, AlertEvent::Raised { .. });
                prop_assert_eq!(begins, !raised);
                raised = begins;
                let last_minute = found.last_minute as f64;
                prop_assert_eq!(begins, last_minute >= found.limit, "{:?}", found);
                prop_assert!(begins || last_minute < found.limit * policy.clear_share);
            }
            all.push((now_ms, calls));
            let within = |length_ms| {
                let recent = all.iter().filter(|(at_ms, _)| now_ms - at_ms < length_ms);
                recent.map(|(_, calls)| calls).sum::<u64>()
            };
            let last_minute = watch.calls.last_minute();
            prop_assert!(within(55_000) <= last_minute && last_minute <= within(60_001));
            prop_assert_eq!(raised, watch.calls.episode.is_some());
        }
    }
}

#[test]
fn r15_no_slice_of_the_last_minute_is_longer_than_it_should_be() {
    assert_eq!(SLICE * u32::try_from(SLICES).unwrap(), MINUTE);
    let mut watch = Watch::new(Instant::now());
    let (policy, start) = (AnomalyPolicy::default(), watch.anchor);
    watch.record(1, 0, &policy, start + SECOND * 4);
    watch.slide(&policy, start + SECOND * 59);
    assert_eq!(watch.calls.last_minute(), 1);
    watch.slide(&policy, start + SECOND * 60);
    assert_eq!(watch.calls.last_minute(), 0);
}
