//! Whatever is done to them, the store in memory and the store in a file answer alike.

use std::fmt::Debug;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::Config;
use steadfast_store::{
    Append, Blob, Caps, Created, Disposition, FactName, FactWrite, Fence, HeadUpdate, Mail,
    MemoryStore, NewEvent, NewRun, NodeId, Prune, RunFilter, RunHead, RunId, SqliteOptions,
    SqliteStore, Store, Timestamp,
};

/// One operation, as dice: what it means is decided in [`perform`].
type Dice = (u8, u8, u8, u8, u8);

/// An id as of the beginning of time: a store may take it that an id is not later than its run.
fn run_id(dice: u8) -> RunId {
    RunId::from_bytes(u128::from(dice).to_be_bytes())
}

fn node_id(dice: u8) -> NodeId {
    NodeId::from(format!("node-{dice}"))
}

fn face(dice: u8, start: Timestamp) -> HeadUpdate {
    let wake_at = Some(Timestamp(start.0 + i64::from(dice) * 10));
    let (state, disposition) = match dice % 6 {
        0 => ("queued", Disposition::Ready),
        1 => ("queued", Disposition::Parked { wake_at: None }),
        2 => ("asleep", Disposition::Parked { wake_at }),
        3 => ("done", Disposition::Ended),
        _ => ("running", Disposition::Held),
    };
    let problem = (dice == 3).then(|| "odd".to_owned());
    HeadUpdate { state: state.to_owned(), disposition, problem, summary: Bytes::from(vec![dice]) }
}

fn events(count: u8) -> Vec<NewEvent> {
    let event = |n| NewEvent { kind: "noted".into(), version: u16::from(n), body: vec![n].into() };
    (0..count).map(event).collect()
}

/// Times are compared by their distance from the start of the store.
fn since(start: Timestamp, at: Timestamp) -> Timestamp {
    Timestamp(at.0 - start.0)
}

fn head(start: Timestamp, mut head: RunHead) -> RunHead {
    head.created_at = since(start, head.created_at);
    head.updated_at = since(start, head.updated_at);
    if let Disposition::Parked { wake_at: Some(at) } = &mut head.disposition {
        *at = since(start, *at);
    }
    head
}

fn show(result: impl Debug) -> String {
    format!("{result:?}")
}

async fn append(store: &dyn Store, start: Timestamp, dice: Dice) -> String {
    let (_, run, kind, what, off) = dice;
    let run = run_id(run);
    let known = store.head(run).await.unwrap();
    let (epoch, seq) = known.map_or((0, 0), |head| (head.epoch, head.head_seq));
    let append = Append {
        run,
        fence: match kind {
            0 => Fence::Seize,
            1 => Fence::Holding { epoch: epoch + 1 },
            _ => Fence::Holding { epoch },
        },
        expected_seq: if off == 0 { seq + 1 } else { seq },
        events: events(off % 3),
        blobs: if what % 4 == 0 { vec![Blob::new(vec![off].into())] } else { Vec::new() },
        checkpoint: (what % 3 == 0).then(|| vec![what].into()),
        head: (what % 2 == 0).then(|| face(off, start)),
        keys: Vec::new(),
        mail: if what == 1 { vec![letter(run_id(off % 5), off)] } else { Vec::new() },
        taken: if what > 5 { vec![i64::from(off)] } else { Vec::new() },
        facts: if what == 5 { vec![fact(off)] } else { Vec::new() },
    };
    show(store.append(append).await.map(|done| (done.head_seq, done.epoch, since(start, done.at))))
}

async fn create(store: &dyn Store, start: Timestamp, dice: Dice) -> String {
    let (_, run, key, priority, first) = dice;
    let new = NewRun {
        session: (first == 1).then(|| "session".to_owned()),
        tags: if first > 3 { vec![format!("tag-{}", first % 2)] } else { Vec::new() },
        parent: (first == 2).then(|| run_id(1)),
        text: format!("text {first}"),
        id: run_id(run),
        tenant: format!("tenant-{}", priority % 2),
        agent: format!("agent-{}", first % 2),
        priority: i32::from(priority % 3),
        key: (key < 2).then(|| format!("key-{key}")),
        events: events(first % 3),
        blobs: Vec::new(),
        head: face(first, start),
    };
    show(store.create(new).await.map(|created| match created {
        Created::New(new) => ("new", head(start, new)),
        Created::Existing(old) => ("existing", head(start, old)),
    }))
}

async fn perform(store: &dyn Store, start: Timestamp, dice: Dice) -> String {
    let (what, run, node, a, b) = dice;
    match what {
        0..=2 => create(store, start, dice).await,
        3..=6 => append(store, start, dice).await,
        7 => show(store.renew(&node_id(node), Duration::from_millis(u64::from(a) * 10)).await),
        8 | 9 => show(store.claim(&node_id(node), usize::from(b), &caps(a)).await.map(|heads| {
            heads.into_iter().map(|claimed| head(start, claimed)).collect::<Vec<_>>()
        })),
        10 => show(store.retire(&node_id(node)).await),
        11 => {
            let filter = RunFilter {
                tenant: (a % 2 == 0).then(|| "tenant-0".to_owned()),
                agent: (a % 3 == 0).then(|| "agent-1".to_owned()),
                states: if b > 2 { vec!["queued".to_owned()] } else { Vec::new() },
                session: (a == 1).then(|| "session".to_owned()),
                tag: (a == 5).then(|| "tag-0".to_owned()),
                parent: (a == 7).then(|| run_id(1)),
                any_problem: a == 3,
                text: if b == 5 { vec!["EXT 4".to_owned()] } else { Vec::new() },
                ..RunFilter::default()
            };
            let filter = RunFilter {
                before: (node == 0).then(|| run_id(run)),
                limit: usize::from(b),
                ..filter
            };
            let page = store.list(filter).await;
            show(page.map(|page| {
                let rows = page.runs.into_iter().map(|row| head(start, row)).collect::<Vec<_>>();
                (rows, page.next)
            }))
        }
        14 => show(store.send(letter(run_id(run), a)).await),
        15 => {
            let facts = store.write_facts(vec![fact(a)]).await;
            let name = FactName { scope: "s".to_owned(), key: format!("{}", b % 3) };
            let mut found = store.fact(&name).await.unwrap();
            found.iter_mut().for_each(|fact| {
                fact.at = since(start, fact.at);
                fact.expires_at = fact.expires_at.map(|at| since(start, at));
            });
            show((facts, found))
        }
        16 => {
            let states = if b > 4 { vec!["done".to_owned()] } else { Vec::new() };
            let ended_before = Timestamp(store.now().0 - i64::from(node));
            show(store.prune(&Prune { states, ended_before, limit: usize::from(a % 4) }).await)
        }
        12 => show(store.count_by_state(u64::from(b)).await),
        _ => show(store.next_wake().await.map(|at| at.map(|at| since(start, at)))),
    }
}

fn caps(dice: u8) -> Caps {
    let per_tenant = (dice < 3).then_some(usize::from(dice));
    Caps { per_tenant, ..Caps::default() }
}

fn letter(to: RunId, dice: u8) -> Mail {
    Mail { to, id: format!("{dice}"), kind: "said".to_owned(), body: vec![dice].into() }
}

fn fact(dice: u8) -> FactWrite {
    FactWrite {
        name: FactName { scope: "s".to_owned(), key: format!("{}", dice % 3) },
        value: (dice != 6).then(|| vec![dice].into()),
        keep: (dice == 4).then(|| Duration::from_millis(12)),
    }
}

/// Everything that can be read of the runs.
async fn contents(store: &dyn Store, start: Timestamp) -> Vec<String> {
    let mut all = Vec::new();
    for run in (0..5).map(run_id) {
        all.push(show(store.head(run).await.map(|found| found.map(|found| head(start, found)))));
        all.push(show(store.read(run, 1, 7).await.map(|mut events| {
            events.iter_mut().for_each(|event| event.at = since(start, event.at));
            events
        })));
        all.push(show(store.letters(run, 9).await.map(|mut letters| {
            letters.iter_mut().for_each(|letter| letter.at = since(start, letter.at));
            letters
        })));
        all.push(show(store.checkpoints(run).await.map(|mut kept| {
            kept.iter_mut().for_each(|kept| kept.at = since(start, kept.at));
            kept
        })));
    }
    all
}

async fn compare(operations: Vec<Dice>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("steadfast.db");
    let file = SqliteStore::open(path, SqliteOptions::default()).unwrap();
    let memory = MemoryStore::new();
    let (file_start, memory_start) = (file.now(), memory.now());
    for dice in operations {
        let expected = perform(&memory, memory_start, dice).await;
        assert_eq!(perform(&file, file_start, dice).await, expected, "after {dice:?}");
        tokio::time::advance(Duration::from_millis(u64::from(dice.4) * 3)).await;
    }
    let expected = contents(&memory, memory_start).await;
    assert_eq!(contents(&file, file_start).await, expected);
}

proptest! {
    #![proptest_config(Config { cases: 32, failure_persistence: None, ..Config::default() })]

    #[test]
    fn both_stores_give_equal_answers(
        operations in prop::collection::vec((0..17_u8, 0..5_u8, 0..4_u8, 0..8_u8, 0..7_u8), 1..80)
    ) {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
            .block_on(compare(operations));
    }
}
