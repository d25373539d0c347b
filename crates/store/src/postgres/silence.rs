//! Connections that have gone silent. A network may swallow what is sent and acknowledge it all the same, and a
//! server may stand still: then no answer comes and no error either. So when an exchange takes long, the
//! server is asked on a second connection what it makes of the first one.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::SimpleQueryMessage;

use super::address::Address;
use super::link::{CONNECT, EXCHANGE, Failure, Link};

/// How long an exchange may take before the server is asked, and asked again.
const SILENCE: Duration = Duration::from_secs(2);
/// How long after the server has said that it waits for us it is asked once more.
const DOUBT: Duration = Duration::from_secs(1);

/// What the server makes of a connection.
enum Seen {
    /// It is at work on what it was sent, or nobody can tell.
    Working,
    /// It waits for something to do, since then.
    Idle(String),
    /// It cannot be reached, or has no such connection.
    Gone(String),
}

/// Does something on a connection. If the server is away, or neither works on it nor answers, or if it
/// takes longer than [`EXCHANGE`], it is [`Failure::Lost`], or [`Failure::Doubtful`] if a commit was sent.
pub(super) async fn exchange<T>(
    link: &Link,
    address: &Address,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let mut work = pin!(work);
    let end = Instant::now() + EXCHANGE;
    let mut idle_since = None;
    let problem = loop {
        let pause = if idle_since.is_some() { DOUBT } else { SILENCE };
        let looked = async {
            sleep(pause).await;
            look(link, address).await
        };
        let seen = tokio::select! {
            biased;
            done = &mut work => return done,
            seen = looked => seen,
        };
        match seen {
            Seen::Gone(problem) => break problem,
            // Had anything arrived there meanwhile, or an answer left, the time would be another one.
            Seen::Idle(since) if idle_since.as_ref() == Some(&since) => {
                break "what is sent over the connection does not arrive, or no answer does"
                    .to_owned();
            }
            Seen::Idle(since) => idle_since = Some(since),
            Seen::Working => idle_since = None,
        }
        if Instant::now() >= end {
            break format!("it gave no answer within {EXCHANGE:?}");
        }
    };
    Err(if link.is_committing() { Failure::Doubtful(problem) } else { Failure::Lost(problem) })
}

async fn look(link: &Link, address: &Address) -> Seen {
    let Some(backend) = link.backend() else { return Seen::Working };
    let asked = async {
        let asking = Link::bare(address, None).await?;
        let question =
            format!("SELECT state, state_change::text FROM pg_stat_activity WHERE pid = {backend}");
        Ok::<_, Failure>(asking.client().simple_query(&question).await?)
    };
    match timeout(CONNECT, asked).await {
        Ok(Ok(rows)) => understand(&rows),
        // It answers, if only that it has no place for one more.
        Ok(Err(Failure::Lost(problem))) => Seen::Gone(problem),
        Ok(Err(_)) => Seen::Working,
        Err(_) => Seen::Gone(format!("the server does not answer within {CONNECT:?}")),
    }
}

fn understand(rows: &[SimpleQueryMessage]) -> Seen {
    let row = rows.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let Some(row) = row else {
        return Seen::Gone("the server has ended the connection".to_owned());
    };
    match (row.get(0), row.get(1)) {
        (Some(state), Some(since)) if state.starts_with("idle") => Seen::Idle(since.to_owned()),
        _ => Seen::Working,
    }
}
