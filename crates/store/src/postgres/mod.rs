//! A store in a PostgreSQL database, for as many nodes as there are.
//!
//! `address` says where it is without saying the password, `link` is one connection and what its errors
//! mean, `schema` holds the tables. `writer` owns the one connection of a node that writes: what waits is
//! a `task`, and each kind of write is a file: `create`, `append`, `mail`, `lease`, `claim`, `keys`, `facts`,
//! `flag`, `ledger`, `overdue`, `prune`. `silence` tells a slow answer from none. `read` is what the others read, `account`
//! what rows of the ledger are, `archive` and `restore` give everything out and take everything in (into `tables`), `notify` how
//! nodes wake each other, `clock` what the database's clock says.

mod account;
mod address;
mod append;
mod archive;
mod claim;
mod clock;
mod create;
mod facts;
mod flag;
mod keys;
mod lease;
mod ledger;
mod link;
mod mail;
mod notify;
mod overdue;
mod prune;
mod read;
mod restore;
mod schema;
mod silence;
mod tables;
mod task;
mod writer;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;
use uuid::Uuid;

use self::address::Address;
use self::append::Appending;
use self::clock::DatabaseClock;
use self::link::{Failure, Link};
use self::notify::{Listener, Outbox};
use self::read::Readers;
use self::writer::Handle;
use crate::{
    Append, Appended, BlobHash, Caps, Catalog, Changes, Checkpoint, Created, Fact, FactFilter,
    FactName, FactWrite, Facts, Journal, KeyClaim, KeySettlement, KeyStanding, Keys, Leases,
    Letter, Mail, Mailbox, NewRun, NodeId, Page, RunFilter, RunHead, RunId, Sent, Store,
    StoreError, StoredEvent, Timestamp, rules,
};

/// How a [`PostgresStore`] uses its database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresOptions {
    /// The schema that holds the tables; made if it is not there. `steadfast`, by default.
    pub schema: String,
    /// Reads that may run side by side; each has a connection of its own. 4, by default; at least 1.
    pub readers: usize,
    /// How long a call waits for a database that is away before it is [`StoreError::Unavailable`], unless
    /// its caller has [less patience](crate::with_patience). 10 s, by default.
    pub patience: Duration,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self { schema: "steadfast".to_owned(), readers: 4, patience: Duration::from_secs(10) }
    }
}

/// A store in a PostgreSQL database. Any number of nodes may use it at once; leases, wake-up times and
/// everything that is written carry the database's time, whatever the nodes' clocks say.
///
/// A write is acknowledged after its commit has reached the database's disk. When the connection is lost,
/// what was not sent waits for the next one, up to [`PostgresOptions::patience`]; an append that was being
/// committed is [`StoreError::Unavailable`] and may or may not have happened. Unlike a file's,
/// this store comes back by itself.
///
/// Dropping it without [`Store::close`] finishes what was accepted, as long as the tokio runtime lives.
pub struct PostgresStore {
    id: String,
    address: Arc<Address>,
    clock: DatabaseClock,
    writer: Handle,
    readers: Readers,
    listener: Listener,
    /// The tickets of claims whose answers have not been heard.
    tickets: Mutex<HashMap<NodeId, i64>>,
    /// The moment that everything is read at, and the connection that keeps it, if it is only looked at.
    moment: Option<(Link, String)>,
}

/// Why a store that is only looked at writes nothing.
const LOOKED_AT: &str = "it is only looked at";

impl PostgresStore {
    /// Connects to the database at a `postgres://` URL, and makes the tables or brings them up to date.
    ///
    /// Without `sslmode` in the URL, connections that leave the machine use TLS and check the server's
    /// certificate against the system's.
    ///
    /// # Errors
    /// [`StoreError::Newer`]; [`StoreError::NotAStore`] if the schema holds something else;
    /// [`StoreError::Unavailable`] if the URL cannot be used or the database cannot be reached. No error
    /// holds the password.
    pub async fn connect(url: &str, options: PostgresOptions) -> Result<Self, StoreError> {
        let PostgresOptions { schema, readers, patience } = options;
        let address = Arc::new(Address::parse(url, &schema)?);
        let id = schema::open(&address).await?;
        let outbox = Arc::new(Outbox::default());
        let (renewed, renewals) = watch::channel(0);
        let writer =
            Handle::start(Arc::clone(&address), patience, Arc::clone(&outbox), renewed).await?;
        let readers = Readers::new(Arc::clone(&address), patience, readers, renewals.clone());
        let clock = DatabaseClock::new(readers.read(|link| read::now(link)).await?);
        let listener = Listener::start(Arc::clone(&address), outbox, renewals);
        let tickets = Mutex::new(HashMap::new());
        Ok(Self { id, address, clock, writer, readers, listener, tickets, moment: None })
    }

    /// Opens a store for looking at it as it is at this moment, also while nodes use it: every read sees
    /// the same state, and every write is refused. Makes and changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Newer`]; [`StoreError::NotAStore`] if there is no store; [`StoreError::Unavailable`]
    /// if an older release wrote it and no node has brought it up to date, if the URL cannot be used or
    /// the database cannot be reached.
    pub async fn inspect(url: &str, options: PostgresOptions) -> Result<Self, StoreError> {
        let PostgresOptions { schema, readers, patience } = options;
        let address = Arc::new(Address::parse(url, &schema)?);
        let place = || address.to_string();
        let Some((version, id)) = schema::found(&address).await? else {
            let problem = format!("the schema `{schema}` holds no store; name another database");
            return Err(StoreError::NotAStore { place: place(), problem });
        };
        if version > schema::VERSION {
            let known = schema::VERSION;
            return Err(StoreError::Newer { place: place(), found: version, known });
        }
        if version < schema::VERSION {
            return Err(address.unavailable(&format!(
                "it has schema version {version}: start a node of this release, which brings it up \
                 to version {}",
                schema::VERSION
            )));
        }
        let (keeper, moment) =
            export(&address).await.map_err(|failure| archive::told(&address, &failure))?;
        let readers = Readers::at(moment.clone(), Arc::clone(&address), patience, readers);
        let clock = DatabaseClock::new(readers.read(|link| read::now(link)).await?);
        let writer = Handle::none(Arc::clone(&address), LOOKED_AT);
        let (listener, tickets) = (Listener::none(), Mutex::new(HashMap::new()));
        let moment = Some((keeper, moment));
        Ok(Self { id, address, clock, writer, readers, listener, tickets, moment })
    }

    /// Whether there is a store, of whatever version.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if the URL cannot be used or the database cannot be reached.
    pub async fn exists(url: &str, options: &PostgresOptions) -> Result<bool, StoreError> {
        let address = Address::parse(url, &options.schema)?;
        Ok(schema::found(&address).await?.is_some())
    }

    /// How many nodes have a lease that holds.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub async fn nodes(&self) -> Result<u64, StoreError> {
        self.readers.read(|link| read::nodes(link)).await
    }

    /// Whether a URL holds a password.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if it cannot be used; the error does not repeat it.
    pub fn holds_password(url: &str) -> Result<bool, StoreError> {
        let address = Address::parse(url, &PostgresOptions::default().schema)?;
        Ok(address.config.get_password().is_some())
    }
}

/// A connection that keeps the moment at which it was made, and the moment's name for others.
async fn export(address: &Address) -> Result<(Link, String), Failure> {
    let link = Link::connect(address, [], None).await?;
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;";
    // It stands still for as long as somebody looks.
    let begin = format!("{begin} SET LOCAL idle_in_transaction_session_timeout TO 0;");
    link.client().batch_execute(&begin).await?;
    let row = link.client().query_one("SELECT pg_export_snapshot()", &[]).await?;
    Ok((link, row.try_get(0)?))
}

#[async_trait]
impl Journal for PostgresStore {
    async fn create(&self, run: NewRun) -> Result<Created, StoreError> {
        rules::check_new_run(&run)?;
        self.writer.write(run).await
    }

    async fn append(&self, append: Append) -> Result<Appended, StoreError> {
        rules::check_append(&append)?;
        self.writer.write(Appending(append)).await
    }

    async fn read(
        &self,
        run: RunId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let events = self.readers.read(|link| read::events(link, run, after, limit)).await?;
        events.ok_or(StoreError::NotFound { run })
    }

    async fn checkpoints(&self, run: RunId) -> Result<Vec<Checkpoint>, StoreError> {
        let checkpoints = self.readers.read(|link| read::checkpoints(link, run)).await?;
        checkpoints.ok_or(StoreError::NotFound { run })
    }

    async fn blob(&self, hash: BlobHash) -> Result<Option<Bytes>, StoreError> {
        match self.readers.read(|link| read::blob(link, hash)).await? {
            Some(bytes) if BlobHash::of(&bytes) != hash => Err(StoreError::Corrupt { hash }),
            found => Ok(found),
        }
    }
}

#[async_trait]
impl Catalog for PostgresStore {
    async fn head(&self, run: RunId) -> Result<Option<RunHead>, StoreError> {
        self.readers.read(|link| read::head(link, run)).await
    }

    async fn list(&self, filter: RunFilter) -> Result<Page, StoreError> {
        self.readers.read(|link| read::list(link, filter.clone())).await
    }

    async fn count_by_state(&self, cap: u64) -> Result<Vec<(String, u64)>, StoreError> {
        self.readers.read(|link| read::count_by_state(link, cap)).await
    }

    async fn flag(&self, run: RunId, problem: Option<String>) -> Result<(), StoreError> {
        self.writer.write(flag::Flag { run, problem }).await
    }
}

#[async_trait]
impl Mailbox for PostgresStore {
    async fn send(&self, mail: Mail) -> Result<Sent, StoreError> {
        rules::check_mail(&mail)?;
        self.writer.write(mail).await
    }

    async fn letters(&self, run: RunId, limit: usize) -> Result<Vec<Letter>, StoreError> {
        let letters = self.readers.read(|link| read::letters(link, run, limit)).await?;
        letters.ok_or(StoreError::NotFound { run })
    }
}

#[async_trait]
impl Facts for PostgresStore {
    async fn fact(&self, name: &FactName) -> Result<Option<Fact>, StoreError> {
        self.readers.read(|link| read::fact(link, name.clone())).await
    }

    async fn facts(&self, filter: FactFilter) -> Result<Vec<Fact>, StoreError> {
        self.readers.read(|link| read::facts(link, filter.clone())).await
    }

    async fn write_facts(&self, facts: Vec<FactWrite>) -> Result<(), StoreError> {
        rules::check_facts(&facts)?;
        self.writer.write(facts::WriteFacts(facts)).await
    }

    async fn purge_facts(&self, limit: usize) -> Result<usize, StoreError> {
        self.writer.write(facts::Purge { limit }).await
    }
}

#[async_trait]
impl Leases for PostgresStore {
    async fn renew(&self, node: &NodeId, ttl: Duration) -> Result<(), StoreError> {
        let now = self.writer.write(lease::Renew { node: node.clone(), ttl }).await?;
        self.clock.follow(now);
        Ok(())
    }

    async fn retire(&self, node: &NodeId) -> Result<(), StoreError> {
        self.writer.write(lease::Retire { node: node.clone() }).await?;
        self.tickets.lock().remove(node);
        Ok(())
    }

    async fn release(&self, run: RunId, epoch: u64) -> Result<(), StoreError> {
        self.writer.write(lease::Release { run, epoch }).await
    }

    async fn claim(
        &self,
        node: &NodeId,
        limit: usize,
        caps: &Caps,
    ) -> Result<Vec<RunHead>, StoreError> {
        // Kept until an answer is heard: what an unheard claim took is in the next one's answer.
        let ticket = *self.tickets.lock().entry(node.clone()).or_insert_with(new_ticket);
        let (node, caps) = (node.clone(), caps.clone());
        let claim = claim::Claim { node: node.clone(), limit, caps, ticket };
        let claimed = self.writer.write(claim).await;
        if matches!(claimed, Ok(_) | Err(StoreError::NodeLost { .. })) {
            self.tickets.lock().remove(&node);
        }
        claimed
    }

    async fn next_wake(&self) -> Result<Option<Timestamp>, StoreError> {
        self.readers.read(|link| read::next_wake(link)).await
    }
}

/// The random half of a fresh id.
fn new_ticket() -> i64 {
    let (_, random) = Uuid::now_v7().as_u64_pair();
    i64::from_ne_bytes(random.to_ne_bytes())
}

#[async_trait]
impl Keys for PostgresStore {
    async fn claim_key(&self, claim: KeyClaim) -> Result<KeyStanding, StoreError> {
        self.writer.write(claim).await
    }

    async fn settle_key(&self, settlement: KeySettlement) -> Result<(), StoreError> {
        rules::check_settlement(&settlement)?;
        self.writer.write(settlement).await
    }

    async fn purge_keys(&self, limit: usize) -> Result<usize, StoreError> {
        self.writer.write(keys::Purge { limit }).await
    }
}

#[async_trait]
impl Store for PostgresStore {
    fn id(&self) -> String {
        self.id.clone()
    }

    fn describe(&self) -> String {
        self.address.to_string()
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    async fn changed(&self) -> Changes {
        self.listener.changed().await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.writer.close().await;
        self.readers.close();
        self.listener.stop();
        Ok(())
    }
}
