//! What a write must fulfil, as pure checks: every backend applies the same ones, inside the
//! transaction that writes.

use crate::{
    Append, Blob, BlobHash, Disposition, Fence, HeadUpdate, NewEvent, NewRun, RunId, StoreError,
    VALUE_BYTES_MAX,
};

/// The part of an index card that decides whether an append is admitted.
pub(crate) struct Standing {
    pub(crate) epoch: u64,
    pub(crate) head_seq: u64,
    pub(crate) held: bool,
    pub(crate) ended: bool,
}

/// What of a new run can be refused without looking at the store.
pub(crate) fn check_new_run(run: &NewRun) -> Result<(), StoreError> {
    if run.head.disposition == Disposition::Held {
        return Err(misuse("a new run has no owner: only a claim makes a run held"));
    }
    check_sizes(run.id, &run.events, &run.blobs, None, Some(&run.head))
}

/// What of an append can be refused without looking at the store.
pub(crate) fn check_append(append: &Append) -> Result<(), StoreError> {
    if append.events.is_empty()
        && append.blobs.is_empty()
        && append.checkpoint.is_none()
        && append.head.is_none()
    {
        return Err(misuse("an append must write something"));
    }
    if append.fence == Fence::Seize {
        match &append.head {
            None => return Err(misuse("an append that seizes a run must update its head")),
            Some(head) if head.disposition == Disposition::Held => {
                return Err(misuse("an append that seizes a run must not leave it held"));
            }
            Some(_) => {}
        }
    }
    check_sizes(
        append.run,
        &append.events,
        &append.blobs,
        append.checkpoint.as_ref().map(bytes::Bytes::len),
        append.head.as_ref(),
    )
}

/// Whether an append may be written to a run that stands like this; the epoch after it.
pub(crate) fn admit(append: &Append, run: &Standing) -> Result<u64, StoreError> {
    let epoch = match append.fence {
        Fence::Holding { epoch } if epoch != run.epoch => {
            let (held, current) = (epoch, run.epoch);
            return Err(StoreError::Fenced { run: append.run, held, current });
        }
        Fence::Holding { .. } if run.ended => {
            return Err(misuse("the run has ended: only an append that seizes it may follow"));
        }
        Fence::Holding { epoch } => epoch,
        Fence::Seize => run.epoch + 1,
    };
    if append.expected_seq != run.head_seq {
        let (expected, actual) = (append.expected_seq, run.head_seq);
        return Err(StoreError::Conflict { run: append.run, expected, actual });
    }
    let becomes_held = matches!(&append.head, Some(head) if head.disposition == Disposition::Held);
    if becomes_held && !run.held {
        return Err(misuse("only a claim makes a run held"));
    }
    Ok(epoch)
}

fn check_sizes(
    run: RunId,
    events: &[NewEvent],
    blobs: &[Blob],
    checkpoint: Option<usize>,
    head: Option<&HeadUpdate>,
) -> Result<(), StoreError> {
    let sizes = events
        .iter()
        .map(|event| ("event body", event.body.len()))
        .chain(blobs.iter().map(|blob| ("blob", blob.bytes.len())))
        .chain(checkpoint.map(|size| ("checkpoint", size)))
        .chain(head.map(|head| ("summary", head.summary.len())));
    for (what, size_bytes) in sizes {
        if size_bytes > VALUE_BYTES_MAX {
            let limit_bytes = VALUE_BYTES_MAX;
            return Err(StoreError::TooLarge { run, what, size_bytes, limit_bytes });
        }
    }
    // A blob under a foreign hash would answer `Corrupt` to everybody who has the right bytes.
    if blobs.iter().any(|blob| BlobHash::of(&blob.bytes) != blob.hash) {
        return Err(misuse("a blob's hash is not the hash of its bytes"));
    }
    Ok(())
}

pub(crate) const fn misuse(problem: &'static str) -> StoreError {
    StoreError::Misuse { problem }
}
