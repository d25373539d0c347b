//! Access keys: what programs show to be let in, whom they act for and what they may do (SCOPE D).
//!
//! A key is a record with a short public id. Its secret is shown once and kept as a hash. Everything is in
//! the store, in a scope of facts that no agent and no route for facts reaches, in entries of their own:
//! what the key is, its secrets, that it was revoked, when it was last used. A command writes only the
//! entry that it is about, so that an edit on one node cannot bring back what another has revoked.

mod book;
mod key;
mod limits;
mod ring;
mod secret;

#[cfg(test)]
mod tests;

pub use self::book::{GRACE_DEFAULT, IssuedKey, KeyQuery, OLD_SECRETS_MAX};
pub use self::key::{AccessKey, KeyBudget, KeyEdit, KeyLimits, KeySpec, KeyState};
pub use self::ring::{KeyRefused, KeyRing, SEEN_WITHIN};
pub use self::secret::KeySecret;
