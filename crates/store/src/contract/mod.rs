//! The conformance suite: what every backend must do, whatever it is made of.
//!
//! A backend is done when [`contract_tests!`](crate::contract_tests) is green for it. Each check gets
//! an empty store of its own. Checks let time pass with `tokio::time::sleep` and never assert how long
//! something took, so that they run with paused time and with a database's clock alike.

pub mod archive;
pub mod catalog;
pub mod facts;
pub mod journal;
pub mod keys;
pub mod lease;
pub mod ledger;
pub mod mail;
pub mod upkeep;

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
                a_list_is_filtered_by_what_a_run_is_labelled_with
                runs_are_found_by_words_of_their_text
                c12_a_problem_is_shown_and_filtered_by
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
                an_expired_owner_writes_nothing_before_the_next_claim_either
                c5_tenants_take_turns
                g12_caps_hold_over_all_nodes
                c5_waiting_is_worth_priority
                c5_an_interrupted_run_goes_before_what_came_after_it
                a_paused_run_is_claimed_by_nobody
            }
            mail {
                a_letter_is_kept_once_and_taken_once
                a_letter_wakes_a_parked_run_and_no_other
                a_run_with_mail_is_not_parked
                an_append_sends_letters_with_its_events
                a_letter_that_cannot_be_kept_is_refused
            }
            facts {
                c13_a_fact_is_what_was_written_last
                c13_facts_are_written_with_the_events_of_a_run
                c13_facts_are_listed_by_scope_and_prefix
                c13_a_fact_holds_for_its_time
                a_fact_that_is_too_large_is_refused
            }
            ledger {
                g9_what_is_held_and_spent_stays_within_the_limit
                g9_a_hold_is_on_all_of_its_accounts_or_on_none
                g9_holding_and_settling_again_changes_nothing
                g9_a_hold_that_nothing_was_done_under_leaves_nothing
                p10_what_no_limit_is_on_is_charged_once_without_a_hold
                g9_more_than_was_held_is_charged_all_the_same
                g9_what_is_not_settled_in_time_is_charged_in_full
                p10_tallies_are_charged_without_a_limit
                g9_an_account_that_is_named_twice_is_put_right_once
                accounts_and_entries_are_listed_page_by_page
                of_many_holds_at_once_only_as_many_as_fit_are_granted
                what_is_old_is_pruned_unless_it_holds_something
                what_the_ledger_cannot_keep_is_refused
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
                r11_an_answer_outlives_the_run_that_it_came_with
                r11_an_answer_is_forgotten_after_its_time
                r11_of_many_claims_at_once_one_wins
            }
            upkeep {
                only_runs_that_are_over_are_pruned
                a_prune_takes_what_it_was_asked_for_oldest_first
                a_run_ends_anew_when_it_was_resumed
                everything_of_a_pruned_run_goes_with_it
                a_blob_shared_with_a_run_that_goes_on_stays
                a_run_stays_while_its_parent_or_a_child_goes_on
                a_long_log_is_pruned_in_pieces
                a_prune_that_is_given_up_is_finished_by_the_next
            }
            archive {
                what_is_taken_in_is_what_was_given_out
                what_was_taken_in_goes_on
                holds_that_were_taken_in_are_settled_or_run_out
                a_dump_is_of_one_moment
                a_store_that_holds_anything_takes_nothing_in
                a_store_with_an_account_takes_nothing_in
                a_restore_that_is_not_finished_leaves_nothing
                records_that_do_not_fit_are_refused
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
    let summary = Bytes::from_static(b"{}");
    HeadUpdate { state: state.to_owned(), disposition, problem: None, summary }
}

/// A ready run with one event.
pub(crate) fn new_run() -> NewRun {
    let (events, head) = (vec![event("created")], face("queued", Disposition::Ready));
    NewRun::new("acme".to_owned(), "clerk".to_owned(), events, head)
}

/// An append under an epoch, of one event.
pub(crate) fn append(run: RunId, epoch: u64, expected_seq: u64) -> Append {
    let fence = Fence::Holding { epoch };
    Append { events: vec![event("more")], ..Append::new(run, fence, expected_seq) }
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
