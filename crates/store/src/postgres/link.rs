//! One connection: how it is made and set up, what it sends in one round trip, and what its errors
//! mean for what was sent.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::future::join_all;
use rustls::ClientConfig;
use rustls::crypto::ring;
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::error::{Severity, SqlState};
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, Connection, NoTls, Row, SimpleQueryMessage, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::address::Address;

/// Longest time that connecting may take, with everything that is set up.
pub(super) const CONNECT: Duration = Duration::from_secs(5);
/// Longest time that one exchange with the server may take.
pub(super) const EXCHANGE: Duration = Duration::from_secs(40);

/// Limits that the server keeps, so that a cut connection holds no lock for ever; they are shorter than
/// [`EXCHANGE`]. A transaction is a few exchanges in a row: a node that leaves one open has been stopped, and
/// what it holds (its place at the head of the claims, say) holds up every other node. A weaker
/// `synchronous_commit` than ours is raised, a stronger one is left.
const SESSION: &str = "
    SET statement_timeout TO '30s';
    SET lock_timeout TO '20s';
    SET idle_in_transaction_session_timeout TO '2s';
    SET tcp_keepalives_idle TO 10;
    SET tcp_keepalives_interval TO 5;
    SET tcp_keepalives_count TO 3;
    SET default_transaction_isolation TO 'read committed';
    SET client_min_messages TO 'warning';
    SELECT set_config('synchronous_commit', 'on', false)
        WHERE current_setting('synchronous_commit') IN ('off', 'local');
";

/// Why something was not done, and what that means for what was to be written.
#[derive(Debug)]
pub(super) enum Failure {
    /// It met another transaction: nothing was written, and the same may be tried again at once.
    Again(String),
    /// The server refuses a value: nothing was written.
    Refused(String),
    /// A stored value is not what the schema says.
    Damaged(String),
    /// The server did not do it, nothing was written, and the connection is still good.
    Failed(String),
    /// The connection is of no more use; nothing was written.
    Lost(String),
    /// The connection is of no more use, and what was written last may be there or not.
    Doubtful(String),
}

impl Failure {
    pub(super) fn problem(&self) -> &str {
        match self {
            Self::Again(problem)
            | Self::Refused(problem)
            | Self::Damaged(problem)
            | Self::Failed(problem)
            | Self::Lost(problem)
            | Self::Doubtful(problem) => problem,
        }
    }

    /// What an error means; `committing` if it may have come after the commit.
    fn of(error: &tokio_postgres::Error, committing: bool) -> Self {
        let gone = |problem| if committing { Self::Doubtful(problem) } else { Self::Lost(problem) };
        let Some(told) = error.as_db_error() else {
            let problem = with_causes(error);
            return if error.is_closed() || is_io(error) {
                gone(problem)
            } else {
                Self::Damaged(problem)
            };
        };
        let problem = format!("{} (SQLSTATE {})", told.message(), told.code().code());
        let fatal = matches!(told.parsed_severity(), Some(Severity::Fatal | Severity::Panic));
        match told.code() {
            // The server answers; it is this connection that it does not take.
            code if *code == SqlState::TOO_MANY_CONNECTIONS || code.code().starts_with("28") => {
                Self::Failed(problem)
            }
            code if fatal || code.code().starts_with("08") => gone(problem),
            code if *code == SqlState::T_R_SERIALIZATION_FAILURE
                || *code == SqlState::T_R_DEADLOCK_DETECTED
                || *code == SqlState::LOCK_NOT_AVAILABLE =>
            {
                Self::Again(problem)
            }
            // A server that has become read-only, and statements that the server has forgotten or whose
            // tables have changed: only a new connection helps.
            code if *code == SqlState::READ_ONLY_SQL_TRANSACTION
                || *code == SqlState::INVALID_SQL_STATEMENT_NAME
                || *code == SqlState::FEATURE_NOT_SUPPORTED =>
            {
                Self::Lost(problem)
            }
            code => match code.code().get(..2) {
                Some("22" | "23" | "54") => Self::Refused(problem),
                _ => Self::Failed(problem),
            },
        }
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::of(&error, false)
    }
}

fn is_io(error: &tokio_postgres::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(found) = cause {
        if found.is::<std::io::Error>() {
            return true;
        }
        cause = found.source();
    }
    false
}

/// An error with what caused it: the library's own text is no more than a heading.
fn with_causes(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(found) = cause {
        let found_text = found.to_string();
        if !text.contains(&found_text) {
            text.push_str(": ");
            text.push_str(&found_text);
        }
        cause = found.source();
    }
    text
}

/// What hears the notifications of a connection.
pub(super) type Hear = Box<dyn Fn(&str) + Send>;

/// One statement to send, with its values.
pub(super) struct Step<'a> {
    pub(super) sql: &'static str,
    pub(super) values: &'a [&'a (dyn ToSql + Sync)],
}

/// A statement with its values, to be sent.
pub(super) const fn step<'a>(sql: &'static str, values: &'a [&'a (dyn ToSql + Sync)]) -> Step<'a> {
    Step { sql, values }
}

/// A connection that has been set up.
pub(super) struct Link {
    client: Client,
    statements: HashMap<&'static str, Statement>,
    committing: AtomicBool,
    /// The server's number for this connection, once it is set up.
    backend: Option<i32>,
    driver: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Link {
    /// Connects, sets the session up, and prepares these statements.
    pub(super) async fn connect(
        address: &Address,
        statements: impl IntoIterator<Item = &'static str>,
        hear: Option<Hear>,
    ) -> Result<Self, Failure> {
        let connecting = async {
            let mut link = Self::bare(address, hear).await?;
            let schema = &address.schema;
            let session =
                format!("{SESSION} SET search_path TO {schema}; SELECT pg_backend_pid();");
            let answers = link.client.simple_query(&session).await?;
            link.backend = answers.iter().rev().find_map(|answer| match answer {
                SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
                _ => None,
            });
            // Once prepared, a statement goes out at the first poll: several keep their order.
            let prepared = statements.into_iter().map(|sql| {
                let client = &link.client;
                async move { client.prepare(sql).await.map(|statement| (sql, statement)) }
            });
            let prepared = join_all(prepared).await;
            link.statements = prepared.into_iter().collect::<Result<_, _>>()?;
            Ok(link)
        };
        match timeout(CONNECT, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(Failure::Lost(format!("it does not answer within {CONNECT:?}"))),
        }
    }

    /// Connects, and nothing else.
    pub(super) async fn bare(address: &Address, hear: Option<Hear>) -> Result<Self, Failure> {
        let (client, driver) = if address.encrypted {
            let tls = MakeRustlsConnect::new(tls()?);
            let (client, connection) = address.config.connect(tls).await?;
            (client, drive(connection, hear))
        } else {
            let (client, connection) = address.config.connect(NoTls).await?;
            (client, drive(connection, hear))
        };
        let committing = AtomicBool::new(false);
        Ok(Self { client, statements: HashMap::new(), committing, backend: None, driver })
    }

    pub(super) const fn client(&self) -> &Client {
        &self.client
    }

    /// The server's number for this connection.
    pub(super) const fn backend(&self) -> Option<i32> {
        self.backend
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Whether a commit was sent whose answer has not come.
    pub(super) fn is_committing(&self) -> bool {
        self.committing.load(Ordering::Acquire)
    }

    /// Sends statements in one round trip and gives the rows of each.
    pub(super) async fn query<const N: usize>(
        &self,
        steps: [Step<'_>; N],
    ) -> Result<[Vec<Row>; N], Failure> {
        let rows = join_all(steps.iter().map(|step| self.send(step))).await;
        let rows = rows.into_iter().collect::<Result<Vec<_>, _>>()?;
        rows.try_into().map_err(|_| Failure::Failed("an answer is missing".to_owned()))
    }

    /// Begins a transaction with these statements, in one round trip.
    pub(super) async fn begin<const N: usize>(
        &self,
        steps: [Step<'_>; N],
    ) -> Result<[Vec<Row>; N], Failure> {
        let begin = self.client.batch_execute("BEGIN");
        let (begun, rows) = tokio::join!(biased; begin, self.query(steps));
        begun?;
        rows
    }

    /// Sends the last statements of a transaction and commits it, in one round trip. A statement that
    /// fails makes the commit a rollback.
    pub(super) async fn commit(&self, steps: &[Step<'_>]) -> Result<Vec<Vec<Row>>, Failure> {
        self.committing.store(true, Ordering::Release);
        let rows = join_all(steps.iter().map(|step| self.send_raw(step)));
        let commit = self.client.batch_execute("COMMIT");
        let (rows, committed) = tokio::join!(biased; rows, commit);
        let outcome = rows
            .into_iter()
            .map(|sent| sent.map_err(|unsent| unsent.into_failure(true)))
            .collect::<Result<Vec<_>, _>>()
            .and_then(|rows| match committed {
                Ok(()) => Ok(rows),
                Err(error) => Err(Failure::of(&error, true)),
            });
        self.committing.store(false, Ordering::Release);
        outcome
    }

    pub(super) async fn rollback(&self) -> Result<(), Failure> {
        Ok(self.client.batch_execute("ROLLBACK").await?)
    }

    async fn send(&self, step: &Step<'_>) -> Result<Vec<Row>, Failure> {
        self.send_raw(step).await.map_err(|unsent| unsent.into_failure(false))
    }

    async fn send_raw(&self, step: &Step<'_>) -> Result<Vec<Row>, Unsent> {
        let statement = self.statements.get(step.sql).ok_or(Unsent::Unprepared(step.sql))?;
        self.client.query(statement, step.values).await.map_err(Unsent::Error)
    }
}

/// Why a statement was not done.
enum Unsent {
    Unprepared(&'static str),
    Error(tokio_postgres::Error),
}

impl Unsent {
    /// `committing` if a commit was sent behind it: what the server has answered with an error it has
    /// not committed, what it has not answered it may have.
    fn into_failure(self, committing: bool) -> Failure {
        match self {
            Self::Unprepared(sql) => {
                Failure::Refused(format!("a statement is not prepared: {sql}"))
            }
            Self::Error(error) => Failure::of(&error, committing && error.as_db_error().is_none()),
        }
    }
}

fn tls() -> Result<ClientConfig, Failure> {
    let unusable = |error: rustls::Error| Failure::Lost(format!("TLS cannot be set up: {error}"));
    Ok(ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_platform_verifier())
        .map_err(unusable)?
        .with_no_client_auth())
}

/// Moves bytes for as long as the client lives.
fn drive<S, T>(mut connection: Connection<S, T>, hear: Option<Hear>) -> JoinHandle<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let moving = poll_fn(move |context| {
        loop {
            match connection.poll_message(context) {
                Poll::Ready(Some(Ok(AsyncMessage::Notification(notification)))) => {
                    if let Some(hear) = &hear {
                        hear(notification.payload());
                    }
                }
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    });
    #[expect(clippy::disallowed_methods, reason = "owned by the link, which ends it")]
    tokio::spawn(moving)
}
