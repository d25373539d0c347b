//! A JSON object as it stands in its bytes: where each member is, without reading what is in it.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// The members of an object, in order, duplicates included.
#[derive(Debug)]
pub(super) struct Object<'a> {
    pub(super) members: Vec<(Key<'a>, &'a RawValue)>,
}

/// A member's name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Key<'a>(pub(super) Cow<'a, str>);

impl<'a> Object<'a> {
    /// Reads a body.
    pub(super) fn read(body: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(body)
    }

    /// The members with this name.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &'a RawValue> {
        self.members.iter().filter(move |(key, _)| key.0 == name).map(|(_, value)| *value)
    }

    /// The last member with this name: what parsers that keep one keep.
    pub(super) fn last(&self, name: &str) -> Option<&'a RawValue> {
        self.members.iter().rev().find(|(key, _)| key.0 == name).map(|(_, value)| *value)
    }
}

/// Where a value stands in the bytes that it was read from.
pub(super) fn place(body: &[u8], value: &RawValue) -> Range<usize> {
    let text = value.get();
    let begin = text.as_ptr().addr() - body.as_ptr().addr();
    begin..begin + text.len()
}

/// Whether a value is `null`.
pub(super) fn is_null(value: &RawValue) -> bool {
    value.get() == "null"
}

/// Where the value of the last member before `end` may be followed by another member, and whether
/// there is one before: for an object whose closing brace is the last byte of `object`.
pub(super) fn room_at_end(object: &Object<'_>, body: &[u8]) -> (usize, bool) {
    match object.members.last() {
        Some((_, value)) => (place(body, value).end, true),
        None => (body.iter().rposition(|byte| *byte == b'}').unwrap_or(body.len()), false),
    }
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Object { members })
            }
        }
        deserializer.deserialize_map(Members)
    }
}

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl<'de> Visitor<'de> for Name {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(name)))
            }

            fn visit_str<E>(self, name: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(name.to_owned())))
            }
        }
        deserializer.deserialize_str(Name)
    }
}
