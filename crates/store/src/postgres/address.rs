//! Where the database is, and how it is spoken of: the password stays in here.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{ChannelBinding, Host, SslMode, TargetSessionAttrs};

use crate::StoreError;
use crate::error::DATABASE;

/// How long bytes may stay unanswered by the other side's machine before the connection is given up.
const SILENCE: Duration = Duration::from_secs(10);

/// A database, and who uses it.
#[derive(Clone)]
pub(super) struct Address {
    pub(super) config: Config,
    pub(super) schema: String,
    pub(super) encrypted: bool,
    shown: String,
    secret: Option<String>,
}

impl fmt::Display for Address {
    /// Host, port, database and user; never the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl Address {
    /// Reads a `postgres://` URL. What is wrong with one that cannot be used is told without its text.
    pub(super) fn parse(url: &str, schema: &str) -> Result<Self, StoreError> {
        let unusable = |problem: &str| StoreError::Unavailable {
            place: "the PostgreSQL store".to_owned(),
            problem: problem.to_owned(),
        };
        let mut config: Config = url.parse().map_err(|_| {
            unusable(
                "its URL cannot be used: write `postgres://USER:PASSWORD@HOST:PORT/DATABASE`, with \
                 special characters of the password as %XX",
            )
        })?;
        if !is_name(schema) {
            return Err(unusable(
                "the name of its schema cannot be used: take 1 to 40 of `a` to `z`, `0` to `9` and \
                 `_`, beginning with a letter",
            ));
        }
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(unusable("its URL names no host"));
        }
        let near = config.get_hosts().iter().all(is_near)
            && config.get_hostaddrs().iter().all(IpAddr::is_loopback);
        let encrypted = match config.get_ssl_mode() {
            SslMode::Disable => false,
            SslMode::Require => true,
            // What leaves the machine is not sent in the clear unless somebody says so.
            _ => !near,
        };
        config.ssl_mode(if encrypted { SslMode::Require } else { SslMode::Disable });
        if !encrypted {
            config.channel_binding(ChannelBinding::Disable);
        }
        // After a failover the address may lead to a server that only reads.
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        config.keepalives(true).keepalives_idle(SILENCE).keepalives_interval(SILENCE / 3);
        config.keepalives_retries(3).tcp_user_timeout(SILENCE);
        if config.get_application_name().is_none() {
            config.application_name("steadfast");
        }
        let secret = config.get_password().and_then(|bytes| String::from_utf8(bytes.to_vec()).ok());
        let shown = shown(&config, schema);
        Ok(Self { config, schema: schema.to_owned(), encrypted, shown, secret })
    }

    /// A text that came from somewhere else, without the password.
    fn scrub(&self, text: &str) -> String {
        match &self.secret {
            Some(secret) if !secret.is_empty() => text.replace(secret.as_str(), "***"),
            _ => text.to_owned(),
        }
    }

    pub(super) fn unavailable(&self, problem: &str) -> StoreError {
        StoreError::Unavailable { place: self.to_string(), problem: self.scrub(problem) }
    }

    /// It cannot be reached, and has been waited for so long.
    pub(super) fn away(&self, problem: &str, waited: Duration) -> StoreError {
        self.unavailable(&format!("{problem} (waited {waited:?} for it)"))
    }

    pub(super) fn damaged(&self, problem: &str) -> StoreError {
        let (place, problem) = (self.to_string(), self.scrub(problem));
        StoreError::Damaged { what: "a stored value", place, problem }
    }
}

/// A name that needs no quoting and leaves room for what is put behind it.
fn is_name(text: &str) -> bool {
    text.len() <= 40
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

fn is_near(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => {
            name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
        }
        #[cfg(unix)]
        Host::Unix(_) => true,
    }
}

fn shown(config: &Config, schema: &str) -> String {
    let names = config.get_hosts().iter().map(|host| match host {
        Host::Tcp(name) => name.clone(),
        #[cfg(unix)]
        Host::Unix(path) => path.display().to_string(),
    });
    let mut hosts: Vec<String> = names.collect();
    if hosts.is_empty() {
        hosts.extend(config.get_hostaddrs().iter().map(ToString::to_string));
    }
    let ports = config.get_ports();
    let port = |index: usize| ports.get(index).or_else(|| ports.first()).copied().unwrap_or(5432);
    let places: Vec<String> =
        hosts.iter().enumerate().map(|(index, host)| format!("{host}:{}", port(index))).collect();
    let user = config.get_user().unwrap_or_default();
    let database = config.get_dbname().unwrap_or(user);
    format!("{DATABASE} at {}, database {database}, schema {schema}, user {user}", places.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str) -> Address {
        Address::parse(url, "steadfast").unwrap()
    }

    #[test]
    fn an_address_is_shown_without_its_password() {
        let found = address("postgres://clerk:hunter2@db.example:5433/runs");
        assert_eq!(
            found.to_string(),
            "PostgreSQL at db.example:5433, database runs, schema steadfast, user clerk"
        );
        let error = found.unavailable("no password matches hunter2").to_string();
        assert!(error.contains("db.example:5433") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_url_that_cannot_be_used_is_not_repeated() {
        for url in [
            "postgres://clerk:hunter2@db.example:notaport/runs",
            "postgres://clerk:hunter2@db.example/runs?hunter2=1",
            "postgres:///runs?password=hunter2",
            "hunter2",
        ] {
            let Err(error) = Address::parse(url, "steadfast") else { panic!("{url} was taken") };
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn what_leaves_the_machine_is_encrypted_unless_somebody_says_otherwise() {
        for (url, encrypted) in [
            ("postgres://u@127.0.0.1/d", false),
            ("postgres://u@[::1]/d", false),
            ("postgres://u@localhost/d", false),
            ("postgres://u@%2Ftmp/d", false),
            ("postgres://u@db.example/d", true),
            ("postgres://u@localhost,db.example/d", true),
            ("postgres://u@db.example/d?sslmode=prefer", true),
            ("postgres://u@db.example/d?sslmode=disable", false),
            ("postgres://u@localhost/d?sslmode=require", true),
        ] {
            assert_eq!(address(url).encrypted, encrypted, "{url}");
        }
    }

    #[test]
    fn the_name_of_a_schema_is_plain() {
        for name in ["", "Upper", "1st", "a b", "a;drop", "public\"", &"x".repeat(41)] {
            assert!(Address::parse("postgres://u@localhost/d", name).is_err(), "{name}");
        }
    }
}
