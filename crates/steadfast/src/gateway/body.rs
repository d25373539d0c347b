//! A request's body, up to a limit.

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use steadfast_providers::wire::{Failure, FailureKind};

/// A body that is too large is read on, and thrown away, up to so many times the limit: many clients read no
/// answer before they have sent everything.
const READ_ON: usize = 4;

/// Reads it.
pub(super) async fn read(body: Body, limit: usize) -> Result<Bytes, Failure> {
    let mut chunks = body.into_data_stream();
    let (mut first, mut more, mut length) = (Bytes::new(), BytesMut::new(), 0_usize);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| {
            Failure::new(FailureKind::CallerGone, format!("the request broke off: {error}"))
        })?;
        let before = length;
        length = length.saturating_add(chunk.len());
        if length > limit {
            (first, more) = (Bytes::new(), BytesMut::new());
            if length > limit.saturating_mul(READ_ON) {
                break;
            }
        } else if before == 0 {
            first = chunk;
        } else {
            if more.is_empty() {
                more.extend_from_slice(&std::mem::take(&mut first));
            }
            more.extend_from_slice(&chunk);
        }
    }
    if length > limit {
        let message = format!("the request is larger than {limit} bytes");
        return Err(Failure::new(FailureKind::BodyTooLarge, message));
    }
    Ok(if more.is_empty() { first } else { more.freeze() })
}
