//! Between what the runtime knows and what the store keeps: JSON, with long texts set aside as blobs.
//!
//! A string of more than [`INLINE_BYTES_MAX`] is replaced by `{"$blob": HASH, "size_bytes": N}` and
//! stored once by its hash, so that an event that repeats it, a checkpoint, and another run that says
//! the same all share one copy. No user-controlled value is ever stored as an object, so the marker
//! cannot be forged: arguments and contents are strings.

use std::str::FromStr;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use steadfast_store::{Blob, BlobHash, NewEvent, Store, StoreError, StoredEvent};

use crate::event::{EVENT_VERSION, RunEvent};

/// Longest string that stays inside an event, in bytes.
pub const INLINE_BYTES_MAX: usize = 4096;

const MARKER: &str = "$blob";

/// Something packed for the store.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(crate) body: Bytes,
    pub(crate) blobs: Vec<Blob>,
}

/// Packs a value: long strings become blobs.
///
/// # Errors
/// The value cannot be written as JSON (a map with keys that are no strings; none here has one).
pub(crate) fn pack(value: &impl Serialize) -> Result<Packed, serde_json::Error> {
    let mut tree = serde_json::to_value(value)?;
    let mut blobs = Vec::new();
    set_aside(&mut tree, &mut blobs);
    Ok(Packed { body: Bytes::from(serde_json::to_vec(&tree)?), blobs })
}

fn set_aside(value: &mut Value, blobs: &mut Vec<Blob>) {
    match value {
        Value::String(text) if text.len() > INLINE_BYTES_MAX => {
            let blob = Blob::new(Bytes::from(std::mem::take(text)));
            *value = json!({ MARKER: blob.hash.to_string(), "size_bytes": blob.bytes.len() });
            blobs.push(blob);
        }
        Value::Array(items) => items.iter_mut().for_each(|item| set_aside(item, blobs)),
        Value::Object(fields) => fields.values_mut().for_each(|field| set_aside(field, blobs)),
        _ => {}
    }
}

/// Packs an event.
///
/// # Errors
/// As [`pack`].
pub(crate) fn pack_event(event: &RunEvent) -> Result<(NewEvent, Vec<Blob>), serde_json::Error> {
    let Packed { body, blobs } = pack(event)?;
    Ok((NewEvent { kind: event.kind().into(), version: EVENT_VERSION, body }, blobs))
}

/// Unpacks a value, fetching the texts that were set aside.
///
/// # Errors
/// [`StoreError::Damaged`] if it is not what was written; otherwise what reading a blob says.
pub(crate) async fn unpack<T: DeserializeOwned>(
    store: &dyn Store,
    what: &'static str,
    body: &[u8],
) -> Result<T, StoreError> {
    let damaged = |problem: String| StoreError::Damaged { what, place: store.describe(), problem };
    let mut tree: Value = serde_json::from_slice(body).map_err(|e| damaged(e.to_string()))?;
    let mut wanted = Vec::new();
    collect(&tree, &mut wanted);
    for hash in wanted {
        let hash = BlobHash::from_str(&hash).map_err(|e| damaged(e.to_string()))?;
        let bytes = store.blob(hash).await?;
        let bytes = bytes.ok_or_else(|| damaged(format!("blob {hash} is missing")))?;
        let text = String::from_utf8(bytes.to_vec()).map_err(|e| damaged(e.to_string()))?;
        put_back(&mut tree, &hash.to_string(), &text);
    }
    serde_json::from_value(tree).map_err(|e| damaged(e.to_string()))
}

/// The blobs that a body refers to, as they are in the store, so that another run can refer to them, too.
///
/// # Errors
/// As [`unpack`].
pub(crate) async fn blobs_of(store: &dyn Store, body: &[u8]) -> Result<Vec<Blob>, StoreError> {
    let what = "an event";
    let damaged = |problem: String| StoreError::Damaged { what, place: store.describe(), problem };
    let tree: Value = serde_json::from_slice(body).map_err(|e| damaged(e.to_string()))?;
    let mut wanted = Vec::new();
    collect(&tree, &mut wanted);
    let mut blobs = Vec::with_capacity(wanted.len());
    for hash in wanted {
        let hash = BlobHash::from_str(&hash).map_err(|e| damaged(e.to_string()))?;
        let bytes = store.blob(hash).await?;
        let bytes = bytes.ok_or_else(|| damaged(format!("blob {hash} is missing")))?;
        blobs.push(Blob { hash, bytes });
    }
    Ok(blobs)
}

/// Unpacks an event of any version that this code knows.
///
/// # Errors
/// As [`unpack`]; an event of a newer version is [`StoreError::Damaged`] and says so.
pub(crate) async fn unpack_event(
    store: &dyn Store,
    stored: &StoredEvent,
) -> Result<RunEvent, StoreError> {
    if stored.version > EVENT_VERSION {
        return Err(StoreError::Damaged {
            what: "an event",
            place: store.describe(),
            problem: format!(
                "event {} has version {} and this release knows versions up to {EVENT_VERSION}: \
                 use the release that wrote it, or a newer one",
                stored.seq, stored.version
            ),
        });
    }
    unpack(store, "an event", &stored.body).await
}

fn marked(value: &Value) -> Option<&str> {
    value.as_object()?.get(MARKER)?.as_str()
}

fn collect(value: &Value, wanted: &mut Vec<String>) {
    if let Some(hash) = marked(value) {
        if !wanted.iter().any(|known| known == hash) {
            wanted.push(hash.to_owned());
        }
        return;
    }
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect(item, wanted)),
        Value::Object(fields) => fields.values().for_each(|field| collect(field, wanted)),
        _ => {}
    }
}

fn put_back(value: &mut Value, hash: &str, text: &str) {
    if marked(value) == Some(hash) {
        *value = Value::String(text.to_owned());
        return;
    }
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| put_back(item, hash, text)),
        Value::Object(fields) => fields.values_mut().for_each(|f| put_back(f, hash, text)),
        _ => {}
    }
}
