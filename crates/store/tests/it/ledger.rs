//! The ledger where several nodes use it, and where its rows are damaged.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use steadfast_store::{
    Account, Amounts, EntryFilter, EntryId, Held, Hold, Ledger as _, Limits, PostgresStore,
    Settled, Settlement, SqliteOptions, SqliteStore, Store as _, StoreError, Upkeep as _,
};
use tokio::task::JoinSet;

use crate::postgres::{administrator, open};
use crate::postgres_server::{fresh_schema, shared};

/// The tokens of each hold, and how many of them fit.
const EACH: u64 = 20;
const FITTING: u64 = 50;

fn account(name: &str) -> Account {
    Account { name: name.to_owned(), since: 0 }
}

fn hold(accounts: &[&str], keep: Duration) -> Hold {
    let limits = Limits { tokens: Some(EACH * FITTING), money: None };
    Hold {
        id: EntryId::generate(),
        amounts: Amounts { tokens: EACH, money: 1 },
        limited: accounts.iter().map(|name| (account(name), limits)).collect(),
        tallies: vec![account("tally")],
        keep,
        subject: Some("somebody".to_owned()),
        body: Bytes::from_static(b"estimated"),
    }
}

fn settlement(id: EntryId) -> Settlement {
    let (amounts, body) = (Amounts { tokens: EACH, money: 1 }, Bytes::from_static(b"measured"));
    Settlement { id, amounts, tallies: None, body: Some(body), unheld: None }
}

const HOUR: Duration = Duration::from_hours(1);

/// Holds, and settles every other one at once with what it held; whether it was granted.
async fn take(store: &PostgresStore, number: u64) -> bool {
    let accounts = if number.is_multiple_of(2) { ["tenant", "agent"] } else { ["agent", "tenant"] };
    let one = hold(&accounts, HOUR);
    let id = one.id;
    let granted = match &store.hold(vec![one]).await.unwrap()[..] {
        [Held::Granted(_)] => true,
        [Held::Refused { .. }] => false,
        other => panic!("{other:?}"),
    };
    if granted && number % 4 < 2 {
        assert_eq!(store.settle(vec![settlement(id)]).await.unwrap(), [Settled::Charged]);
    }
    granted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g9_of_200_holds_on_two_nodes_at_once_exactly_those_that_fit_are_granted() {
    let Some(server) = shared() else { return };
    let schema = fresh_schema();
    let nodes = [open(server, &schema).await.unwrap(), open(server, &schema).await.unwrap()];
    let nodes = nodes.map(Arc::new);
    let watcher = administrator(server).await;
    let watch = format!("SELECT spent_tokens + held_tokens FROM {schema}.account WHERE name = $1");
    let watch = watcher.prepare(&watch).await.unwrap();
    let mut taking = JoinSet::new();
    for number in 0..200 {
        let node = Arc::clone(&nodes[usize::from(number % 3 == 0)]);
        taking.spawn(async move { take(&node, number).await });
    }
    let (mut granted, mut samples) = (0, 0);
    while !taking.is_empty() {
        for name in ["tenant", "agent"] {
            let rows = watcher.query(&watch, &[&name]).await.unwrap();
            let taken: i64 = rows.first().map_or(0, |row| row.get(0));
            assert!(taken <= (EACH * FITTING).cast_signed(), "`{name}` has {taken}");
            samples += 1;
        }
        while let Some(one) = taking.try_join_next() {
            granted += u64::from(one.unwrap());
        }
    }
    println!("{samples} samples");
    assert_eq!(granted, FITTING);
    let accounts = ["tenant", "agent", "tally"].map(account).to_vec();
    let balances = nodes[0].balances(accounts).await.unwrap();
    for balance in &balances[..2] {
        assert_eq!(balance.spent.tokens + balance.held.tokens, EACH * FITTING, "{balance:?}");
        assert_eq!(balance.spent.tokens, EACH * balance.entries);
    }
    assert_eq!(balances[2].spent, balances[0].spent);
    assert_eq!(nodes[1].examine().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn what_accounts_of_a_database_hold_is_compared_with_their_holds() {
    let Some(server) = shared() else { return };
    let schema = fresh_schema();
    let store = open(server, &schema).await.unwrap();
    store.hold(vec![hold(&["a b", "c"], HOUR), hold(&["c"], HOUR)]).await.unwrap();
    assert_eq!(store.examine().await.unwrap(), Vec::<String>::new());
    let administrator = administrator(server).await;
    let spoil = format!("UPDATE {schema}.account SET held_money = 7 WHERE name = 'c'");
    administrator.batch_execute(&spoil).await.unwrap();
    let found = store.examine().await.unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("`c`") && found[0].contains("holds 40 and 7"), "{found:?}");
    let spoil = format!("DELETE FROM {schema}.account");
    administrator.batch_execute(&spoil).await.unwrap();
    let found = store.examine().await.unwrap();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("`a b`") && found[0].contains("make 20 and 1"), "{found:?}");
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("steadfast.db");
    (directory, path)
}

fn open_file(path: &Path) -> SqliteStore {
    SqliteStore::open(path, SqliteOptions::default()).unwrap()
}

/// Damages a closed store.
fn spoil(path: &Path, sql: &str) {
    let connection = rusqlite::Connection::open(path).unwrap();
    assert!(connection.execute(sql, []).unwrap() > 0, "{sql}");
}

#[tokio::test]
async fn an_account_that_holds_something_else_than_its_holds_is_found() {
    let (_directory, path) = place();
    let store = open_file(&path);
    store.hold(vec![hold(&["tenant", "agent"], HOUR), hold(&["tenant"], HOUR)]).await.unwrap();
    assert_eq!(store.examine().await.unwrap(), Vec::<String>::new());
    store.close().await.unwrap();
    spoil(&path, "DELETE FROM hold WHERE limited LIKE '%agent%'");
    let found = open_file(&path).examine().await.unwrap();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("`tenant`") && found[0].contains("holds 40 and 2"), "{found:?}");
    assert!(found[1].contains("`agent`") && found[1].contains("make 0 and 0"), "{found:?}");
}

#[tokio::test]
async fn a_row_of_the_ledger_that_is_not_what_was_written_is_found() {
    let (_directory, path) = place();
    let store = open_file(&path);
    let (open, ended) = (hold(&["tenant"], HOUR), hold(&["agent"], HOUR));
    let end = settlement(ended.id);
    store.hold(vec![open, ended]).await.unwrap();
    store.settle(vec![end]).await.unwrap();
    store.close().await.unwrap();
    let whole = std::fs::read(&path).unwrap();
    for (damage, what) in [
        ("UPDATE account SET spent_tokens = spent_tokens + 1 WHERE name = 'agent'", "`agent`"),
        ("UPDATE account SET at = at + 1 WHERE name = 'tenant'", "`tenant`"),
        ("UPDATE hold SET expires_at = expires_at + 1", "the hold"),
        ("UPDATE hold SET body = x'00'", "the hold"),
        ("UPDATE hold SET subject = NULL", "the hold"),
        ("UPDATE entry SET subject = 'another'", "the entry"),
        ("UPDATE entry SET money = 9", "the entry"),
    ] {
        std::fs::write(&path, &whole).unwrap();
        spoil(&path, damage);
        let found = open_file(&path).examine().await.unwrap();
        assert_eq!(found.len(), 1, "{damage}: {found:?}");
        assert!(found[0].contains(what) && found[0].contains("backup"), "{damage}: {found:?}");
    }
}

#[tokio::test]
async fn a_damaged_hold_refuses_what_is_settled_with_it_and_lets_others_run_out() {
    let (_directory, path) = place();
    let store = open_file(&path);
    let (sound, sick) = (hold(&["tenant"], Duration::ZERO), hold(&["tenant"], Duration::ZERO));
    let (sound_id, sick_id) = (sound.id, sick.id);
    store.hold(vec![sound, sick]).await.unwrap();
    store.close().await.unwrap();
    let hex = sick_id.to_string().replace('-', "");
    spoil(&path, &format!("UPDATE hold SET tokens = 1 WHERE id = x'{hex}'"));
    let store = open_file(&path);
    let both = vec![settlement(sound_id), settlement(sick_id)];
    let refused = store.settle(both).await;
    assert!(matches!(refused, Err(StoreError::Damaged { .. })), "{refused:?}");
    let balances = store.balances(vec![account("tenant")]).await.unwrap();
    assert_eq!((balances[0].spent.tokens, balances[0].held.tokens), (0, 2 * EACH));
    assert_eq!(store.entries(EntryFilter::default()).await.unwrap(), []);
    let expired = store.expire_holds(10).await.unwrap();
    assert_eq!(expired.iter().map(|entry| entry.id).collect::<Vec<_>>(), [sound_id]);
    let balances = store.balances(vec![account("tenant")]).await.unwrap();
    assert_eq!((balances[0].spent.tokens, balances[0].held.tokens), (EACH, EACH));
}
