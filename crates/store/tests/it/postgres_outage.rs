//! Databases that are away: refused, silent, or in the hands of another server.

use std::sync::Arc;
use std::time::Duration;

use steadfast_store::{
    Catalog as _, Journal as _, Leases as _, NodeId, PostgresOptions, PostgresStore, RunFilter,
    Store as _, StoreError, with_patience,
};
use tokio::time::{Instant, sleep, timeout};

use crate::postgres::{
    DEADLINE, LONG, administrator, append, connect, create, fresh_store, new_run, nothing_is_lost,
};
use crate::postgres_proxy::Proxy;
use crate::postgres_server::{Server, shared};

/// How long an impatient caller waits.
const SHORT: Duration = Duration::from_millis(300);

fn is_unavailable(error: &StoreError) {
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    assert!(error.to_string().contains("127.0.0.1"), "{error}");
    assert!(!error.to_string().contains("horse"), "{error}");
}

/// Polls a future that is not ready, so that what it sends is sent.
macro_rules! begin {
    ($future:ident) => {
        std::future::poll_fn(|context| {
            assert!($future.as_mut().poll(context).is_pending(), "it has not waited");
            std::task::Poll::Ready(())
        })
        .await
    };
}

#[tokio::test]
async fn an_impatient_caller_is_answered_while_a_patient_one_goes_on_waiting() {
    let Some(server) = Server::start() else { return };
    let store = connect(&server, "steadfast", LONG).await.unwrap();
    let run = create(&store).await;
    server.halt("fast");
    let mut appending = store.append(append(run, 0, 1));
    let mut looking = store.head(run);
    begin!(appending);
    begin!(looking);
    let impatient = with_patience(SHORT, async {
        let read = store.head(run).await.map(drop).unwrap_err();
        let written = store.create(new_run()).await.map(drop).unwrap_err();
        let renewed = store.renew(&NodeId::generate(), LONG).await.unwrap_err();
        [read, written, renewed]
    });
    for error in timeout(DEADLINE, impatient).await.unwrap() {
        is_unavailable(&error);
    }
    begin!(appending);
    begin!(looking);
    server.resume();
    assert_eq!(appending.await.unwrap().head_seq, 2);
    assert!(looking.await.unwrap().is_some());
    // What was refused was not written later.
    assert_eq!(store.list(RunFilter::default()).await.unwrap().runs.len(), 1);
}

#[tokio::test]
async fn an_impatient_caller_is_answered_when_others_have_all_the_places() {
    let Some(server) = Server::start() else { return };
    let options = PostgresOptions { readers: 1, patience: LONG, ..PostgresOptions::default() };
    let store = PostgresStore::connect(&server.url(), options).await.unwrap();
    let run = create(&store).await;
    server.halt("fast");
    let mut looking = store.head(run);
    begin!(looking);
    let impatient = with_patience(SHORT, store.list(RunFilter::default()));
    let both = async {
        tokio::select! {
            _ = &mut looking => panic!("it has no database to look into"),
            refused = impatient => refused.map(drop).unwrap_err(),
        }
    };
    is_unavailable(&timeout(DEADLINE, both).await.unwrap());
    server.resume();
    assert!(looking.await.unwrap().is_some());
}

async fn through(proxy: &Proxy, server: &Server, patience: Duration) -> Arc<PostgresStore> {
    let options = PostgresOptions { patience, ..PostgresOptions::default() };
    Arc::new(PostgresStore::connect(&server.url_at(proxy.port()), options).await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_connections_go_silent() {
    let Some(server) = Server::start() else { return };
    let proxy = Proxy::to(server.port);
    let store = through(&proxy, &server, Duration::from_secs(10)).await;
    nothing_is_lost(&store, async |load| {
        for _ in 0..2 {
            proxy.silence();
            load.more(200).await;
        }
        proxy.deafen();
        sleep(SHORT).await;
        proxy.hear();
        load.more(200).await;
    })
    .await;
}

#[tokio::test]
async fn a_read_over_a_connection_that_went_silent_is_made_again_on_another() {
    let Some(server) = Server::start() else { return };
    let proxy = Proxy::to(server.port);
    let store = through(&proxy, &server, LONG).await;
    let run = create(&store).await;
    assert!(store.head(run).await.unwrap().is_some());
    proxy.silence();
    let read = timeout(DEADLINE, with_patience(SHORT, store.head(run))).await.unwrap();
    assert!(read.unwrap().is_some());
}

#[tokio::test]
async fn a_server_that_stands_still_is_unavailable_and_comes_back_by_itself() {
    let Some(server) = Server::start() else { return };
    let proxy = Proxy::to(server.port);
    let store = through(&proxy, &server, LONG).await;
    let run = create(&store).await;
    assert!(store.head(run).await.unwrap().is_some());
    proxy.deafen();
    let mut appending = store.append(append(run, 0, 1));
    begin!(appending);
    let impatient =
        with_patience(SHORT, async { tokio::join!(store.head(run), store.create(new_run())) });
    let both = async {
        tokio::select! {
            // It may have been committed when its answer was lost, and then it says so.
            doubtful = &mut appending => panic!("{doubtful:?}"),
            refused = impatient => refused,
        }
    };
    let (read, written) = timeout(DEADLINE, both).await.unwrap();
    is_unavailable(&read.map(drop).unwrap_err());
    is_unavailable(&written.map(drop).unwrap_err());
    proxy.hear();
    let appended = timeout(DEADLINE, appending).await.unwrap();
    assert_eq!(appended.unwrap().head_seq, 2);
    let read = timeout(DEADLINE, store.head(run)).await.unwrap();
    assert_eq!(read.unwrap().unwrap().head_seq, 2);
}

/// Makes a server refuse every write, as one that another has taken over from, or lets it write again.
async fn read_only(administrator: &tokio_postgres::Client, on: bool) {
    let value = if on { "on" } else { "off" };
    administrator.batch_execute("SET default_transaction_read_only TO off").await.unwrap();
    let set = format!("ALTER SYSTEM SET default_transaction_read_only TO {value}");
    administrator.batch_execute(&set).await.unwrap();
    administrator.batch_execute("SELECT pg_reload_conf()").await.unwrap();
}

#[tokio::test]
async fn a_server_that_only_reads_is_unavailable_and_what_is_written_waits_for_one_that_writes() {
    let Some(server) = Server::start() else { return };
    let store = connect(&server, "steadfast", LONG).await.unwrap();
    let run = create(&store).await;
    let administrator = administrator(&server).await;
    read_only(&administrator, true).await;
    // The server's processes take the change in when they come to it.
    let deadline = Instant::now() + DEADLINE;
    let mut seq = 1;
    let refused = loop {
        let appending = with_patience(SHORT, store.append(append(run, 0, seq)));
        match timeout(DEADLINE, appending).await.unwrap() {
            Ok(appended) => seq = appended.head_seq,
            Err(error) => break error,
        }
        assert!(Instant::now() < deadline, "the server goes on writing");
    };
    is_unavailable(&refused);
    let mut appending = store.append(append(run, 0, seq));
    begin!(appending);
    read_only(&administrator, false).await;
    assert_eq!(timeout(DEADLINE, appending).await.unwrap().unwrap().head_seq, seq + 1);
    assert_eq!(store.read(run, 0, usize::MAX).await.unwrap().len() as u64, seq + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_a_server_only_reads_for_a_while() {
    let Some(server) = Server::start() else { return };
    let store = Arc::new(connect(&server, "steadfast", Duration::from_secs(10)).await.unwrap());
    let administrator = administrator(&server).await;
    nothing_is_lost(&store, async |load| {
        for _ in 0..3 {
            read_only(&administrator, true).await;
            sleep(SHORT).await;
            read_only(&administrator, false).await;
            load.more(200).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_node_whose_writes_go_to_another_server_reads_and_listens_there_too() {
    let Some(server) = shared() else { return };
    let store = fresh_store(server, "moved").await;
    let run = create(&store).await;
    assert!(store.head(run).await.unwrap().is_some());
    let administrator = administrator(server).await;
    let own = "SELECT pid FROM pg_stat_activity WHERE application_name = 'moved'";
    let pids = async || -> Vec<i32> {
        let rows = administrator.query(own, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    };
    // The writer, a reader and the listener.
    let deadline = Instant::now() + DEADLINE;
    while pids().await.len() < 3 {
        assert!(Instant::now() < deadline, "the listener does not come");
        sleep(Duration::from_millis(20)).await;
    }
    let before = pids().await;
    let writer = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
         WHERE application_name = 'moved' AND query = 'COMMIT'";
    assert_eq!(administrator.query_one(writer, &[]).await.unwrap().get::<_, i64>(0), 1);
    while store.renew(&NodeId::generate(), LONG).await.is_err() {
        assert!(Instant::now() < deadline, "the store does not come back");
    }
    assert!(store.head(run).await.unwrap().is_some());
    while pids().await.iter().any(|pid| before.contains(pid)) {
        assert!(Instant::now() < deadline, "an old connection is kept");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_node_that_died_is_remembered_for_a_week_and_then_forgotten() {
    let Some(server) = shared() else { return };
    let store = fresh_store(server, "buried").await;
    let (lately, long_ago, living) = (NodeId::generate(), NodeId::generate(), NodeId::generate());
    for node in [&lately, &long_ago] {
        store.renew(node, LONG).await.unwrap();
    }
    let schema = store.describe();
    let schema = schema.split("schema ").nth(1).unwrap().split(',').next().unwrap();
    let administrator = administrator(server).await;
    for (node, days) in [(&lately, 6), (&long_ago, 8)] {
        let age = format!(
            "UPDATE {schema}.node SET expires_at = \
             (extract(epoch FROM now() - interval '{days} days') * 1000)::bigint WHERE id = $1"
        );
        assert_eq!(administrator.execute(&age, &[&node.as_str()]).await.unwrap(), 1);
    }
    store.renew(&living, LONG).await.unwrap();
    let rows = administrator.query(&format!("SELECT id FROM {schema}.node"), &[]).await.unwrap();
    let mut left: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    left.sort_unstable();
    let mut expected = [lately.to_string(), living.to_string()];
    expected.sort_unstable();
    assert_eq!(left, expected);
    // Only the living count, and who comes back is told what it has missed.
    assert_eq!(store.nodes().await.unwrap(), 1);
    let renewed = store.renew(&lately, LONG).await;
    assert!(matches!(renewed, Err(StoreError::NodeLost { .. })), "{renewed:?}");
}
