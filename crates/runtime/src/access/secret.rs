//! A secret: `sk-steadfast-`, the key's id, and 256 bits of the operating system's randomness.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use blake3::Hash;

use crate::error::RuntimeError;

/// What every secret begins with, so that people and scanners know one.
const PREFIX: &str = "sk-steadfast-";

/// What every id begins with.
const ID_PREFIX: &str = "k_";

/// Letters and digits of an id: no two look alike. 32 of them, so that a byte's lower bits choose evenly.
const ID_LETTERS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Letters of an id after its prefix: 50 bits.
const ID_LENGTH: usize = 10;

/// Random bytes of a secret: nobody guesses it, so a plain hash keeps it.
const SECRET_BYTES: usize = 32;

/// The random bytes as base64 without padding.
const SECRET_LENGTH: usize = (SECRET_BYTES * 4).div_ceil(3);

/// The secret of a key, whole. Its debug form hides it; nothing keeps it.
#[derive(Clone, PartialEq, Eq)]
pub struct KeySecret(String);

impl KeySecret {
    /// The secret itself, to be shown once.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for KeySecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeySecret(hidden)")
    }
}

fn random<const N: usize>() -> Result<[u8; N], RuntimeError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| RuntimeError::NoRandomness { problem: error.to_string() })?;
    Ok(bytes)
}

/// An id that nobody has.
pub(super) fn fresh_id() -> Result<String, RuntimeError> {
    let letters = random::<ID_LENGTH>()?.map(|byte| char::from(ID_LETTERS[usize::from(byte & 31)]));
    Ok(letters.iter().fold(ID_PREFIX.to_owned(), |mut id, letter| {
        id.push(*letter);
        id
    }))
}

/// A secret for a key, and what is kept of it.
pub(super) fn fresh_secret(id: &str) -> Result<(KeySecret, Hash), RuntimeError> {
    let bytes = random::<SECRET_BYTES>()?;
    let secret = format!("{PREFIX}{id}-{}", URL_SAFE_NO_PAD.encode(bytes));
    let hash = hash(&secret);
    Ok((KeySecret(secret), hash))
}

/// What is kept of a secret.
pub(super) fn hash(secret: &str) -> Hash {
    blake3::hash(secret.as_bytes())
}

/// Whether it could be an id.
pub(super) fn is_id(text: &str) -> bool {
    text.strip_prefix(ID_PREFIX).is_some_and(|letters| {
        letters.len() == ID_LENGTH && letters.bytes().all(|byte| ID_LETTERS.contains(&byte))
    })
}

/// The id in a secret; `None` if it is none by its form. Nothing of it is looked up for this.
pub(super) fn id_in(secret: &str) -> Option<&str> {
    let rest = secret.strip_prefix(PREFIX)?;
    let (id, random) = rest.split_at_checked(ID_PREFIX.len() + ID_LENGTH)?;
    let random = random.strip_prefix('-')?;
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (is_id(id) && random.len() == SECRET_LENGTH && random.bytes().all(letter)).then_some(id)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_secrets_are_alike_and_each_names_its_key() {
        let mut seen = BTreeSet::new();
        for _ in 0..200 {
            let id = fresh_id().expect("there is randomness");
            let (secret, kept) = fresh_secret(&id).expect("there is randomness");
            assert!(is_id(&id), "{id}");
            assert_eq!(id_in(secret.expose()), Some(id.as_str()));
            assert_eq!(hash(secret.expose()), kept);
            assert_eq!(secret.expose().len(), PREFIX.len() + 12 + 1 + 43);
            assert!(seen.insert(id) && seen.insert(secret.expose().to_owned()));
        }
    }

    #[test]
    fn what_has_not_the_form_of_a_secret_is_none() {
        let (secret, _) = fresh_secret("k_0123456789").expect("there is randomness");
        let good = secret.expose();
        assert!(id_in(good).is_some());
        let other_id = good.replace("k_0123456789", "k_012345678u");
        for text in [
            "",
            "sk-steadfast-",
            "sk-steadfast-k_0123456789",
            "sk-steadfast-k_0123456789-",
            &good[..good.len() - 1],
            &format!("{good}A"),
            &good.replace("sk-", "pk-"),
            &other_id,
            &format!("{}é", &good[..good.len() - 2]),
            "sk-steadfast-k_01234567é-",
        ] {
            assert_eq!(id_in(text), None, "{text}");
        }
    }

    #[test]
    fn a_secret_hides_where_it_is_printed() {
        let (secret, _) = fresh_secret("k_0123456789").expect("there is randomness");
        assert_eq!(format!("{secret:?}"), "KeySecret(hidden)");
    }
}
