//! Where the store is: a file, or a database whose URL may hold a secret.

use std::path::PathBuf;

use secrecy::{ExposeSecret as _, SecretString};
use steadfast_store::{PostgresOptions, PostgresStore};

use super::{Config, ConfigError, secret};

/// Where the store is.
pub(crate) enum StorePlace {
    /// A SQLite file.
    File(PathBuf),
    /// A PostgreSQL database.
    Database {
        /// Its URL, with everything in it.
        url: SecretString,
        /// How it is used.
        options: PostgresOptions,
    },
}

impl Config {
    /// Where the store is, with the environment variable looked up that its URL names.
    ///
    /// # Errors
    /// The variable is not set; a URL that stands here holds a password; the URL cannot be used.
    pub(crate) fn store_place(&self) -> Result<StorePlace, ConfigError> {
        let section = &self.store;
        let Some(reference) = &section.url else {
            return Ok(StorePlace::File(self.resolve(&section.path)));
        };
        StorePlace::database("store.url", reference, section.schema.clone())
    }
}

impl StorePlace {
    /// A database by its URL, or by the environment variable that holds it; `place` is where that is said.
    ///
    /// # Errors
    /// The variable is not set; a URL that stands here holds a password; the URL cannot be used.
    pub(crate) fn database(
        place: &str,
        reference: &str,
        schema: Option<String>,
    ) -> Result<Self, ConfigError> {
        let unusable = |problem: String| ConfigError::Unusable { place: place.to_owned(), problem };
        let named = reference.starts_with("env:");
        let url = if named { secret(place, reference)? } else { SecretString::from(reference) };
        let scheme = url.expose_secret().split_once("://").map(|(scheme, _)| scheme);
        if !matches!(scheme, Some("postgres" | "postgresql")) {
            let problem = "it must be `postgres://USER@HOST:PORT/DATABASE`, or `env:VARIABLE` with \
                           such a URL in the variable";
            return Err(unusable(problem.to_owned()));
        }
        let holds_password = PostgresStore::holds_password(url.expose_secret())
            .map_err(|error| unusable(error.to_string()))?;
        if holds_password && !named {
            return Err(ConfigError::PlainSecret { place: place.to_owned() });
        }
        let mut options = PostgresOptions::default();
        if let Some(schema) = schema {
            options.schema = schema;
        }
        Ok(Self::Database { url, options })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn place(text: &str) -> Result<StorePlace, ConfigError> {
        let path = Path::new("/etc/steadfast/steadfast.toml");
        Config::parse(path, text.to_owned()).and_then(|config| config.store_place())
    }

    #[test]
    fn without_a_url_the_store_is_a_file_beside_the_configuration() {
        let found = place("[store]\npath = \"runs.db\"").expect("usable");
        assert!(
            matches!(found, StorePlace::File(path) if path == Path::new("/etc/steadfast/runs.db"))
        );
    }

    #[test]
    fn a_url_without_a_password_may_stand_in_the_file() {
        let text = "[store]\nurl = \"postgres://clerk@localhost/runs\"\nschema = \"mine\"";
        let found = place(text).expect("usable");
        let StorePlace::Database { options, .. } = found else { panic!("it is a database") };
        assert_eq!(options.schema, "mine");
    }

    #[test]
    fn a_password_may_only_be_named() {
        for url in
            ["postgres://clerk:hunter2@localhost/runs", "postgres://localhost/?password=hunter2"]
        {
            let Err(error) = place(&format!("[store]\nurl = \"{url}\"")) else {
                panic!("{url} was taken")
            };
            assert!(matches!(error, ConfigError::PlainSecret { .. }), "{error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_url_of_something_else_is_refused_without_being_repeated() {
        for url in ["mysql://hunter2@localhost/runs", "hunter2", "postgres://localhost:hunter2/d"] {
            let Err(error) = place(&format!("[store]\nurl = \"{url}\"")) else {
                panic!("{url} was taken")
            };
            assert!(error.to_string().contains("store.url"), "{error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_variable_that_is_not_set_is_named() {
        let Err(error) = place("[store]\nurl = \"env:STEADFAST_NO_SUCH_VARIABLE\"") else {
            panic!("it was taken")
        };
        assert!(error.to_string().contains("STEADFAST_NO_SUCH_VARIABLE"), "{error}");
    }
}
