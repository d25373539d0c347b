//! The conformance suite: what every backend must do, whatever it is made of.
//!
//! A backend is done when [`contract_tests!`](crate::contract_tests) is green for it. Each check gets
//! an empty store of its own. Checks let time pass with `tokio::time::sleep` and never assert how long
//! something took, so that they run with paused time and with a database's clock alike.

pub mod catalog;
pub mod journal;
pub mod keys;
pub mod lease;

use bytes::Bytes;

use crate::{
    Append, Created, Disposition, Fence, HeadUpdate, NewEvent, NewRun, RunHead, RunId, Store,
    StoreError,
};

/// What a check ends with; what it finds wrong, it asserts.
pub type Outcome = Result<(), StoreError>;

/// Makes one test per check. `$open` is an async function that gives an empty store as
/// `Arc<dyn Store>`, and something that is dropped after it; or `None`, once it has said why the test is
/// skipped. Time is paused, unless the tests are given
/// another attribute: a database's clock cannot be paused.
#[macro_export]
macro_rules! contract_tests {
    ($open:path) => {
        $crate::contract_tests! { $open, #[tokio::test(start_paused = true)] }
    };
    ($open:path, #[$test:meta]) => {
        $crate::contract_tests! { $open, #[$test] =>
            journal {
                creating_with_a_key_is_idempotent
                creating_with_a_key_concurrently_makes_one_run
                an_id_is_taken_once
                a_new_run_is_not_held
                sequence_numbers_have_no_holes
                an_append_is_fenced_by_its_epoch
                an_append_to_a_longer_log_conflicts
                seizing_raises_the_epoch_and_frees_the_run
                an_ended_run_takes_no_append_of_a_holder
                only_a_claim_makes_a_run_held
                a_refused_append_costs_only_its_caller
                c3_checkpoint_10_is_newer_than_9
                blobs_are_kept_once_and_under_their_own_hash
                what_is_too_large_is_refused
                an_unknown_run_is_not_found
                a_dropped_append_leaves_a_usable_run
                many_runs_append_at_once
                a_closed_store_is_unavailable
            }
            catalog {
                an_empty_store_has_nothing
                a_head_shows_what_was_written
                a_list_is_paged_newest_first
                a_list_is_filtered
                counting_stops_at_the_cap
                a_store_has_one_id
            }
            lease {
                a_claim_takes_by_priority_then_by_waiting
                a_claim_raises_the_epoch
                a_node_without_a_lease_claims_nothing
                an_expired_node_loses_its_runs_and_its_name
                a_renewed_node_keeps_its_runs
                a_retired_node_gives_its_runs_back
                a_released_run_is_ready_at_once
                a_release_under_an_old_epoch_changes_nothing
                a_parked_run_wakes_at_its_time
                the_next_wake_is_the_earliest
                one_run_is_claimed_by_one_node
            }
            keys {
                r11_a_key_is_claimed_once_and_answered_ever_after
                r11_the_same_key_for_something_else_is_a_conflict
                r11_a_released_key_is_free_again
                r11_an_owner_may_claim_again_what_it_has_claimed
                r11_only_a_named_owner_is_seized_from
                r11_who_asks_is_told_whether_the_owners_node_lives
                r11_a_settlement_by_a_former_owner_changes_nothing
                r11_a_recorded_answer_never_changes
                r11_an_append_settles_its_keys_with_its_events
                r11_an_answer_is_forgotten_after_its_time
                r11_of_many_claims_at_once_one_wins
            }
        }
    };
    // One check after the other, because the attribute cannot be repeated over two lists at once.
    ($open:path, #[$test:meta] => $($module:ident { $($check:ident)* })*) => {
        $($crate::contract_tests! { $open, #[$test] => $module: $($check)* })*
    };
    ($open:path, #[$test:meta] => $module:ident: $($check:ident)*) => {
        $($crate::contract_tests! { $open, #[$test] => $module, $check })*
    };
    ($open:path, #[$test:meta] => $module:ident, $check:ident) => {
            #[$test]
            async fn $check() -> $crate::contract::Outcome {
                let opened: Option<(std::sync::Arc<dyn $crate::Store>, _)> = $open().await.into();
                let Some((store, _guard)) = opened else { return Ok(()) };
                $crate::contract::$module::$check(store).await
            }
    };
}

/// An event with a body.
pub(crate) fn event(body: &'static str) -> NewEvent {
    NewEvent { kind: "noted".into(), version: 1, body: Bytes::from_static(body.as_bytes()) }
}

/// A face of an index card.
pub(crate) fn face(state: &str, disposition: Disposition) -> HeadUpdate {
    HeadUpdate { state: state.to_owned(), disposition, summary: Bytes::from_static(b"{}") }
}

/// A ready run with one event.
pub(crate) fn new_run() -> NewRun {
    NewRun {
        id: RunId::generate(),
        tenant: "acme".to_owned(),
        agent: "clerk".to_owned(),
        priority: 0,
        key: None,
        events: vec![event("created")],
        blobs: Vec::new(),
        head: face("queued", Disposition::Ready),
    }
}

/// An append under an epoch, of one event.
pub(crate) fn append(run: RunId, epoch: u64, expected_seq: u64) -> Append {
    Append {
        run,
        fence: Fence::Holding { epoch },
        expected_seq,
        events: vec![event("more")],
        blobs: Vec::new(),
        checkpoint: None,
        head: None,
        keys: Vec::new(),
    }
}

pub(crate) async fn create(store: &dyn Store, run: NewRun) -> Result<RunHead, StoreError> {
    let (Created::New(head) | Created::Existing(head)) = store.create(run).await?;
    Ok(head)
}

pub(crate) async fn head(store: &dyn Store, run: RunId) -> Result<RunHead, StoreError> {
    store.head(run).await?.ok_or(StoreError::NotFound { run })
}

macro_rules! assert_refused {
    ($result:expr, $pattern:pat $(if $guard:expr)?) => {{
        let result = $result;
        assert!(matches!(result, Err($pattern) $(if $guard)?), "got {result:?}");
    }};
}
pub(crate) use assert_refused;
