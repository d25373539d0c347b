//! What is to be done about the times that have passed since a schedule was last looked at.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use steadfast_store::Timestamp;

use super::cron::Cron;

/// How much later than its time a firing is still in time, in milliseconds.
const IN_TIME_MS: i64 = 60_000;

/// Most times that are made up for at once.
pub const CATCH_UP_MAX: usize = 100;

/// How far back is looked for times, in milliseconds, one after the other: an hour, a day, a month, a
/// year, all of it. Those that fire often are found near, and nothing is counted through.
const LOOK_BACK_MS: [i64; 5] = [3_600_000, 86_400_000, 31 * 86_400_000, 366 * 86_400_000, i64::MAX];

/// What becomes of times that were missed because nothing ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// They are left out.
    None,
    /// The latest of them is made up for.
    #[default]
    Last,
    /// All are made up for, the latest [`CATCH_UP_MAX`] at most.
    All,
}

/// What is to be done now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    /// Times to fire for, the earliest first.
    pub(super) fire: Vec<Timestamp>,
    /// The newest time that has passed, fired for or not.
    pub(super) seen: Option<Timestamp>,
    /// Whether any time is left out.
    pub(super) left_out: bool,
}

/// What is due, if nothing after `last` has been dealt with.
pub(super) fn due(cron: &Cron, last: Timestamp, now: Timestamp, catch_up: CatchUp) -> Due {
    let wanted = if catch_up == CatchUp::All { CATCH_UP_MAX } else { 1 };
    let mut passed = newest(cron, last, now, wanted + 1);
    let has_more = passed.len() > wanted;
    if has_more {
        passed.pop_front();
    }
    let seen = passed.back().copied();
    let is_late = seen.is_some_and(|seen| now.0 - seen.0 > IN_TIME_MS);
    match catch_up {
        CatchUp::None if is_late => Due { fire: Vec::new(), seen, left_out: true },
        CatchUp::None | CatchUp::Last | CatchUp::All => {
            Due { fire: passed.into(), seen, left_out: has_more }
        }
    }
}

/// The newest times after `last` that have passed, at most so many.
fn newest(cron: &Cron, last: Timestamp, now: Timestamp, count: usize) -> VecDeque<Timestamp> {
    let mut found = VecDeque::new();
    for back_ms in LOOK_BACK_MS {
        found.clear();
        let from = Timestamp(now.0.saturating_sub(back_ms).max(last.0));
        let mut time = from;
        while let Some(next) = cron.next(time).filter(|next| *next <= now) {
            found.push_back(next);
            if found.len() > count {
                found.pop_front();
            }
            time = next;
        }
        if found.len() == count || from == last {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY_MS: i64 = 86_400_000;
    /// 2026-01-01, 0:00 UTC.
    const START_MS: i64 = 1_767_225_600_000;

    fn daily() -> Cron {
        Cron::parse("0 6 * * *", "UTC").expect("good")
    }

    fn at(day: i64, hour: i64) -> Timestamp {
        Timestamp(START_MS + day * DAY_MS + hour * 3_600_000)
    }

    #[test]
    fn a_time_that_has_just_come_fires_whatever_the_rule() {
        for rule in [CatchUp::None, CatchUp::Last, CatchUp::All] {
            let due = due(&daily(), at(0, 6), Timestamp(at(1, 6).0 + 5), rule);
            assert_eq!((due.fire, due.left_out), (vec![at(1, 6)], false), "{rule:?}");
        }
    }

    #[test]
    fn missed_times_are_left_out_or_made_up_for_by_the_rule() {
        let missed = |rule| due(&daily(), at(0, 6), at(4, 7), rule);
        let none = missed(CatchUp::None);
        assert_eq!((none.fire, none.seen, none.left_out), (vec![], Some(at(4, 6)), true));
        let last = missed(CatchUp::Last);
        assert_eq!((last.fire, last.seen, last.left_out), (vec![at(4, 6)], Some(at(4, 6)), true));
        let all = missed(CatchUp::All);
        assert_eq!((all.fire, all.left_out), ((1..=4).map(|day| at(day, 6)).collect(), false));
    }

    #[test]
    fn nothing_is_due_before_the_next_time() {
        for rule in [CatchUp::None, CatchUp::Last, CatchUp::All] {
            assert_eq!(due(&daily(), at(0, 6), at(1, 5), rule), Due::default());
        }
    }

    #[test]
    fn all_has_a_limit_and_says_that_some_are_left_out() {
        let minutely = Cron::parse("* * * * *", "UTC").expect("good");
        let year = due(&minutely, at(0, 0), at(365, 0), CatchUp::All);
        assert_eq!((year.fire.len(), year.left_out), (CATCH_UP_MAX, true));
        assert_eq!(year.fire.last(), Some(&at(365, 0)));
    }

    proptest! {
        #[test]
        fn whenever_one_looks_every_time_is_fired_for_once(
            looks in proptest::collection::vec(1..200_000_i64, 1..40),
        ) {
            let cron = Cron::parse("*/7 * * * *", "UTC").expect("good");
            let (mut last, mut now, mut fired) = (at(0, 0), at(0, 0), Vec::new());
            for step_s in looks {
                now = Timestamp(now.0 + step_s * 20);
                let due = due(&cron, last, now, CatchUp::All);
                fired.extend(due.fire);
                last = due.seen.unwrap_or(last);
            }
            let mut expected = Vec::new();
            let mut time = at(0, 0);
            while let Some(next) = cron.next(time).filter(|next| *next <= now) {
                expected.push(next);
                time = next;
            }
            prop_assert_eq!(fired, expected);
        }
    }
}
